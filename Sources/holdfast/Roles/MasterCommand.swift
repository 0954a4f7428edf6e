import Allocator
import ArgumentParser
import Base
import Coordination
import FoundationEssentials
import HTTPKit
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

    @Option(name: .customLong("quorum"), help: "Accepted for compatibility.")
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
        ], help: "How long agents have to come back after a restart (10mins).")
    var agentReregisterTimeout: String?

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
        let configuration = try Self.masterConfiguration(flags)
        let backend = try CoordinationBackend.open(try Self.store(flags))
        return [MasterService(configuration, backend: backend, logger: logger)]
    }

    private static func store(_ flags: MesosFlags) throws -> String {
        if let store = flags["store"] { return store }
        if let zk = flags["zk"] { return zk }
        if flags["registry"] == "in_memory" { return "memory:" }
        guard let directory = flags["work_dir"] else {
            throw ValidationError("Flag 'work_dir' is required, but it was not provided")
        }
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        return "embedded:\(directory)/registry.sqlite"
    }

    private static func masterConfiguration(_ flags: MesosFlags) throws -> MasterConfiguration {
        let port = try flags.integer("port", default: 5050)
        let ip = flags["ip"] ?? "0.0.0.0"
        let hostname = flags["hostname"] ?? ProcessInfo.processInfo.hostName
        let advertisedIP = flags["advertise_ip"] ?? (ip == "0.0.0.0" ? "127.0.0.1" : ip)
        var rng = SystemRandomNumberGenerator()
        var configuration = MasterConfiguration(
            id: randomUUID(using: &rng), address: .tcp(host: ip, port: port),
            hostname: flags["hostname"] == nil && ip != "0.0.0.0" ? advertisedIP : hostname, ip: advertisedIP,
            port: try flags.integer("advertise_port", default: port))
        configuration.cluster = flags["cluster"]
        configuration.flags = flags.sorted
        configuration.options.agentPingInterval = try flags.duration("agent_ping_timeout", default: .seconds(15))
        configuration.options.agentPingsMissedMax = try flags.integer("max_agent_ping_timeouts", default: 5)
        configuration.options.agentReregisterTimeout = try flags.duration(
            "agent_reregister_timeout", default: .seconds(600))
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
