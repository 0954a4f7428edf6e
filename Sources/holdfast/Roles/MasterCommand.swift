import Agent
import Allocator
import ArgumentParser
import Base
import FoundationEssentials
import HTTPKit
import LinuxOS
import Logging
import Master
import MasterCore
import Resources
import ServiceLifecycle

struct MasterCommand: Role {
    static let configuration = CommandConfiguration(
        commandName: "master", abstract: "Runs a Mesos master.",
        discussion: "Every option is also read from the environment as MESOS_<NAME>.")

    @Option(name: .customLong("ip"), help: "Address to listen on (all by default).")
    var ip: String?

    @Option(name: .customLong("port"), help: "Port to listen on (5050).")
    var port: String?

    @Option(
        name: [.customLong("advertise_ip"), .customLong("advertise-ip")],
        help: "Address at which others reach this master.")
    var advertiseIP: String?

    @Option(
        name: [.customLong("advertise_port"), .customLong("advertise-port")],
        help: "Port at which others reach this master.")
    var advertisePort: String?

    @Option(name: .customLong("hostname"), help: "Host name at which others reach this master.")
    var hostname: String?

    @Option(
        name: [.customLong("hostname_lookup"), .customLong("hostname-lookup")], help: "Accepted for compatibility.")
    var hostnameLookup: String?

    @Option(
        name: [.customLong("work_dir"), .customLong("work-dir")],
        help: "Directory of the registry. Required unless --store or --zk is given.")
    var workDir: String?

    @Option(name: .customLong("store"), help: "Where the registry is kept: embedded:PATH, memory: or zk://HOSTS/PATH.")
    var store: String?

    @Option(name: .customLong("zk"), help: "ZooKeeper URL zk://host:port,.../path.")
    var zk: String?

    @Option(
        name: .customLong("quorum"),
        help: "Accepted for compatibility: ZooKeeper keeps the registry, by its own quorum.")
    var quorum: String?

    @Option(name: .customLong("cluster"), help: "The cluster's name.")
    var cluster: String?

    @Option(
        name: .customLong("registry"), help: "in_memory keeps the registry in memory; replicated_log is the default.")
    var registry: String?

    @Option(
        name: [
            .customLong("agent_ping_timeout"), .customLong("agent-ping-timeout"), .customLong("slave_ping_timeout"),
        ], help: "Interval of pings (15secs).")
    var agentPingTimeout: String?

    @Option(
        name: [
            .customLong("max_agent_ping_timeouts"), .customLong("max-agent-ping-timeouts"),
            .customLong("max_slave_ping_timeouts"),
        ], help: "Pings an agent may miss (5).")
    var maxAgentPingTimeouts: String?

    @Option(
        name: [
            .customLong("agent_reregister_timeout"), .customLong("agent-reregister-timeout"),
            .customLong("slave_reregister_timeout"),
        ], help: "How long agents have to come back after a failover (10mins).")
    var agentReregisterTimeout: String?

    @Option(
        name: [
            .customLong("recovery_agent_removal_limit"), .customLong("recovery-agent-removal-limit"),
            .customLong("recovery_slave_removal_limit"),
        ], help: "Share of agents that may be given up after a failover; beyond it the master steps down (100%).")
    var recoveryAgentRemovalLimit: String?

    @Option(
        name: [
            .customLong("agent_removal_rate_limit"), .customLong("agent-removal-rate-limit"),
            .customLong("slave_removal_rate_limit"),
        ], help: "Most agents that become unreachable in a time, as 1/10mins (no limit).")
    var agentRemovalRateLimit: String?

    @Option(
        name: [.customLong("registry_gc_interval"), .customLong("registry-gc-interval")],
        help: "How often old agents are dropped from the registry (15mins).")
    var registryGCInterval: String?

    @Option(
        name: [
            .customLong("registry_max_agent_age"), .customLong("registry-max-agent-age"),
            .customLong("registry_max_slave_age"),
        ], help: "How long unreachable and gone agents stay in the registry (2weeks).")
    var registryMaxAgentAge: String?

    @Option(
        name: [
            .customLong("registry_max_agent_count"), .customLong("registry-max-agent-count"),
            .customLong("registry_max_slave_count"),
        ], help: "Unreachable and gone agents kept in the registry (102400).")
    var registryMaxAgentCount: String?

    @Option(
        name: [.customLong("registry_fetch_timeout"), .customLong("registry-fetch-timeout")],
        help: "Accepted for compatibility; the registry is read for as long as the leadership lasts.")
    var registryFetchTimeout: String?

    @Option(
        name: [.customLong("registry_store_timeout"), .customLong("registry-store-timeout")],
        help: "Accepted for compatibility; a write that fails ends the leadership.")
    var registryStoreTimeout: String?

    @Option(
        name: [.customLong("offer_timeout"), .customLong("offer-timeout")],
        help: "Unanswered offers are rescinded after this time.")
    var offerTimeout: String?

    @Option(name: .customLong("roles"), help: "The roles that frameworks may use, separated by commas.")
    var roles: String?

    @Option(name: .customLong("weights"), help: "role=weight pairs, separated by commas.")
    var weights: String?

    @Option(
        name: [.customLong("root_submissions"), .customLong("root-submissions")],
        help: "Whether root may run frameworks (true).")
    var rootSubmissions: String?

    @Option(
        name: [.customLong("filter_gpu_resources"), .customLong("filter-gpu-resources")],
        help: "Offer GPU agents only to GPU frameworks (true).")
    var filterGPUResources: String?

    @Option(
        name: [.customLong("min_allocatable_resources"), .customLong("min-allocatable-resources")],
        help: "Smallest offers (cpus:0.01|mem:32).")
    var minAllocatableResources: String?

    @Option(
        name: [.customLong("max_completed_frameworks"), .customLong("max-completed-frameworks")],
        help: "Completed frameworks remembered (50).")
    var maxCompletedFrameworks: String?

    @Option(
        name: [.customLong("max_completed_tasks_per_framework"), .customLong("max-completed-tasks-per-framework")],
        help: "Completed tasks remembered (1000).")
    var maxCompletedTasksPerFramework: String?

    @Option(
        name: [.customLong("max_unreachable_tasks_per_framework"), .customLong("max-unreachable-tasks-per-framework")],
        help: "Unreachable tasks remembered (1000).")
    var maxUnreachableTasksPerFramework: String?

    @Option(
        name: [.customLong("log_dir"), .customLong("log-dir")],
        help: "Accepted for compatibility; logs go to standard error.")
    var logDir: String?

    @Option(
        name: [.customLong("allocation_interval"), .customLong("allocation-interval")],
        help: "Accepted for compatibility; allocation follows events at once.")
    var allocationInterval: String?

    @Option(
        name: [.customLong("zk_session_timeout"), .customLong("zk-session-timeout")],
        help: "Accepted for compatibility.")
    var zkSessionTimeout: String?

    /// The options in force by their Mesos names; the environment fills in what the command line leaves out.
    private var flags: MesosFlags {
        MesosFlags([
            ("ip", ip),
            ("port", port),
            ("advertise_ip", advertiseIP),
            ("advertise_port", advertisePort),
            ("hostname", hostname),
            ("hostname_lookup", hostnameLookup),
            ("work_dir", workDir),
            ("store", store),
            ("zk", zk),
            ("quorum", quorum),
            ("cluster", cluster),
            ("registry", registry),
            ("agent_ping_timeout", agentPingTimeout),
            ("max_agent_ping_timeouts", maxAgentPingTimeouts),
            ("agent_reregister_timeout", agentReregisterTimeout),
            ("recovery_agent_removal_limit", recoveryAgentRemovalLimit),
            ("agent_removal_rate_limit", agentRemovalRateLimit),
            ("registry_gc_interval", registryGCInterval),
            ("registry_max_agent_age", registryMaxAgentAge),
            ("registry_max_agent_count", registryMaxAgentCount),
            ("registry_fetch_timeout", registryFetchTimeout),
            ("registry_store_timeout", registryStoreTimeout),
            ("offer_timeout", offerTimeout),
            ("roles", roles),
            ("weights", weights),
            ("root_submissions", rootSubmissions),
            ("filter_gpu_resources", filterGPUResources),
            ("min_allocatable_resources", minAllocatableResources),
            ("max_completed_frameworks", maxCompletedFrameworks),
            ("max_completed_tasks_per_framework", maxCompletedTasksPerFramework),
            ("max_unreachable_tasks_per_framework", maxUnreachableTasksPerFramework),
            ("log_dir", logDir),
            ("allocation_interval", allocationInterval),
            ("zk_session_timeout", zkSessionTimeout),
        ])
    }

    func services(logger: Logger) async throws -> [any Service] {
        let flags = flags
        try Self.check(flags)
        let configuration = try Self.masterConfiguration(flags)
        if let quorum = flags["quorum"] {
            logger.notice(
                "--quorum has no effect: the registry is in the metadata store, which counts its own servers",
                metadata: ["quorum": "\(quorum)"])
        }
        let backend = try await offPool { try MasterStore.open(flags, logger: logger) }
        return [MasterService(configuration, backend: backend, logger: logger)]
    }

    private static func masterConfiguration(_ flags: MesosFlags) throws -> MasterConfiguration {
        let port = try flags.integer("port", default: 5050)
        let ip = flags["ip"] ?? "0.0.0.0"
        let hostname = flags["hostname"] ?? ProcessInfo.processInfo.hostName
        let advertisedIP = flags["advertise_ip"] ?? (ip == "0.0.0.0" ? HostFacts.address() : ip)
        var rng = SystemRandomNumberGenerator()
        var configuration = MasterConfiguration(
            id: randomUUID(using: &rng), address: .tcp(host: ip, port: port),
            hostname: flags["hostname"] == nil && ip != "0.0.0.0" ? advertisedIP : hostname, ip: advertisedIP,
            port: try flags.integer("advertise_port", default: port))
        configuration.cluster = flags["cluster"]
        configuration.flags = flags.sorted
        try setAgentOptions(&configuration.options, flags)
        configuration.options.completedFrameworksMax = try flags.integer("max_completed_frameworks", default: 50)
        configuration.options.completedTasksMax = try flags.integer(
            "max_completed_tasks_per_framework", default: 1000)
        configuration.options.unreachableTasksMax = try flags.integer(
            "max_unreachable_tasks_per_framework", default: 1000)
        if flags["offer_timeout"] != nil {
            configuration.options.offerTimeout = try flags.duration("offer_timeout", default: .seconds(30))
        }
        if let roles = flags["roles"] {
            configuration.options.roles = Set(roles.split(separator: ",").map(String.init))
        }
        configuration.options.weights = try weights(flags["weights"] ?? "")
        configuration.options.allowsRoot = try flags.bool("root_submissions", default: true)
        configuration.options.allocator.filterGPUs = try flags.bool("filter_gpu_resources", default: true)
        if let minimum = flags["min_allocatable_resources"] {
            configuration.options.allocator.minAllocatable = try minimum.split(separator: "|").map { text in
                Dictionary(
                    uniqueKeysWithValues: try Resources(parsing: String(text)).scalarQuantities.map {
                        ($0.name, $0.quantity)
                    })
            }
        }
        return configuration
    }

    /// Flags that change nothing here, but whose mistakes operators should hear of.
    private static func check(_ flags: MesosFlags) throws {
        _ = try flags.integer("quorum", default: 1, atLeast: 1)
        for name in ["zk_session_timeout", "registry_fetch_timeout", "registry_store_timeout"] {
            _ = try flags.duration(name, default: .seconds(10), isPositive: true)
        }
        if let zk = flags["zk"], !zk.hasPrefix("zk://"), !zk.hasPrefix("file://") {
            throw ValidationError("Failed to load flag 'zk': Expecting 'zk://' at the beginning of the URL")
        }
        if let registry = flags["registry"], !["in_memory", "replicated_log"].contains(registry) {
            throw ValidationError("'\(registry)' is not a supported option for registry persistence")
        }
        if flags["registry"] == "in_memory", flags["zk"] != nil, flags["store"] == nil {
            throw ValidationError("--registry=in_memory does not go with --zk: the next leader would know no agents")
        }
    }

    private static func setAgentOptions(_ options: inout MasterOptions, _ flags: MesosFlags) throws {
        options.agentPingInterval = try flags.duration(
            "agent_ping_timeout", default: options.agentPingInterval, isPositive: true)
        options.agentPingsMissedMax = try flags.integer(
            "max_agent_ping_timeouts", default: options.agentPingsMissedMax, atLeast: 1)
        options.agentReregisterTimeout = try flags.duration(
            "agent_reregister_timeout", default: options.agentReregisterTimeout, isPositive: true)
        options.registryCollectionInterval = try flags.duration(
            "registry_gc_interval", default: options.registryCollectionInterval, isPositive: true)
        options.registryAgentAgeMax = try flags.duration(
            "registry_max_agent_age", default: options.registryAgentAgeMax, isPositive: true)
        options.registryAgentCountMax = try flags.integer(
            "registry_max_agent_count", default: options.registryAgentCountMax, atLeast: 0)
        if let text = flags["recovery_agent_removal_limit"] {
            guard text.hasSuffix("%"), let percent = Double(text.dropLast()), (0...100).contains(percent) else {
                throw ValidationError(
                    "Invalid value '\(text)' for --recovery_agent_removal_limit. Must be between 0% and 100%")
            }
            options.recoveryAgentRemovalLimit = percent / 100
        }
        if let text = flags["agent_removal_rate_limit"] {
            let parts = text.split(separator: "/", omittingEmptySubsequences: false).map(String.init)
            guard parts.count == 2, let count = Int(parts[0]), count > 0, let time = MesosFlags.duration(parts[1]),
                time > .zero
            else {
                throw ValidationError(
                    "Invalid agent_removal_rate_limit: '\(text)'. Format is <Number of agents>/<Duration>")
            }
            options.agentRemovalInterval = time / count
        }
    }

    /// "role=weight,role=weight".
    private static func weights(_ text: String) throws -> [String: Double] {
        var result: [String: Double] = [:]
        for pair in text.split(separator: ",") {
            let parts = pair.split(separator: "=")
            guard parts.count == 2, let weight = Double(parts[1]), weight > 0, weight.isFinite else {
                throw ValidationError("Failed to load flag 'weights': '\(pair)' is no role=weight")
            }
            result[String(parts[0])] = weight
        }
        return result
    }
}
