import ArgumentParser
import Base
import Coordination
import FoundationEssentials
import HTTPKit
import Logging
import Master
import Resources
import ServiceLifecycle

struct MasterCommand: Role {
    static let configuration = CommandConfiguration(
        commandName: "master", abstract: "Runs a Mesos master.",
        discussion: "Takes the flags of mesos-master; --help lists them.")

    @Argument(parsing: .captureForPassthrough, help: "Flags of mesos-master: --work_dir=DIR, --port=5050, ...")
    var arguments: [String] = []

    func services(logger: Logger) async throws -> [any Service] {
        if arguments.contains("--help") { throw CleanExit.message(MesosFlags.usage("mesos-master", Self.flags)) }
        if arguments.contains("--version") { throw CleanExit.message("mesos \(MasterConfiguration.version)") }
        let flags = try MesosFlags(arguments, known: Self.flags)
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

    private static let flags: [MesosFlags.Flag] = [
        .init(name: "ip", help: "Address to listen on (all by default)."),
        .init(name: "port", help: "Port to listen on (5050)."),
        .init(name: "advertise_ip", help: "Address at which others reach this master."),
        .init(name: "advertise_port", help: "Port at which others reach this master."),
        .init(name: "hostname", help: "Host name at which others reach this master."),
        .init(name: "hostname_lookup", help: "Accepted for compatibility.", isBoolean: true),
        .init(name: "work_dir", help: "Directory of the registry. Required unless --store or --zk is given."),
        .init(name: "store", help: "Where the registry is kept: embedded:PATH, memory: or zk://HOSTS/PATH."),
        .init(name: "zk", help: "ZooKeeper URL zk://host:port,.../path."),
        .init(name: "quorum", help: "Accepted for compatibility."),
        .init(name: "cluster", help: "The cluster's name."),
        .init(name: "registry", help: "in_memory keeps the registry in memory; replicated_log is the default."),
        .init(name: "agent_ping_timeout", help: "Interval of pings (15secs).", aliases: ["slave_ping_timeout"]),
        .init(
            name: "max_agent_ping_timeouts", help: "Pings an agent may miss (5).",
            aliases: ["max_slave_ping_timeouts"]),
        .init(
            name: "agent_reregister_timeout", help: "How long agents have to come back after a restart (10mins).",
            aliases: ["slave_reregister_timeout"]),
        .init(name: "offer_timeout", help: "Unanswered offers are rescinded after this time."),
        .init(name: "roles", help: "The roles that frameworks may use, separated by commas."),
        .init(name: "weights", help: "role=weight pairs, separated by commas."),
        .init(name: "root_submissions", help: "Whether root may run frameworks (true).", isBoolean: true),
        .init(name: "filter_gpu_resources", help: "Offer GPU agents only to GPU frameworks (true).", isBoolean: true),
        .init(name: "min_allocatable_resources", help: "Smallest offers (cpus:0.01|mem:32)."),
        .init(name: "max_completed_frameworks", help: "Completed frameworks remembered (50)."),
        .init(name: "max_completed_tasks_per_framework", help: "Completed tasks remembered (1000)."),
        .init(name: "max_unreachable_tasks_per_framework", help: "Unreachable tasks remembered (1000)."),
        .init(name: "log_dir", help: "Accepted for compatibility; logs go to standard error."),
        .init(name: "logging_level", help: "Accepted for compatibility."),
        .init(name: "quiet", help: "Accepted for compatibility.", isBoolean: true),
        .init(name: "webui_dir", help: "Accepted for compatibility."),
        .init(name: "allocation_interval", help: "Accepted for compatibility; allocation follows events at once."),
        .init(name: "registry_store_timeout", help: "Accepted for compatibility."),
        .init(name: "registry_fetch_timeout", help: "Accepted for compatibility."),
        .init(name: "zk_session_timeout", help: "Accepted for compatibility."),
    ]
}
