import ArgumentParser
import BlockIO
import BlockManager
import Coordination
import LinuxOS
import Logging
import ServiceLifecycle

struct MdmCommand: Role {
    static let configuration = CommandConfiguration(
        commandName: "mdm", abstract: "Runs the block store's manager and its REST gateway.")

    @Option(help: "Where the objects are kept: embedded:PATH (a SQLite file) or zk://HOST:PORT,.../PATH (a cluster).")
    var store = "embedded:/var/lib/holdfast/mdm.db"

    @Option(help: "Where servers and clients connect.")
    var listen = "0.0.0.0:6611"

    @Option(help: "Where others are told to connect, host:port; default: --listen.")
    var advertise: String?

    @Option(help: "This manager's name, another one on each host of a cluster; default: the host's name.")
    var name: String?

    @Option(name: .customLong("system-name"), help: "The name of a system that is created by this start.")
    var systemName = "holdfast"

    @Option(name: .customLong("work-dir"), help: "Keeps the gateway's certificate and password.")
    var workDirectory = "/var/lib/holdfast/gateway"

    @Option(
        name: [.customLong("zk-session-timeout"), .customLong("zk_session_timeout")],
        help: "After which a silent leader is given up, with --store zk://.")
    var sessionTimeout = "10secs"

    @OptionGroup var gateway: GatewayOptions

    func validate() throws {
        if store.hasPrefix("zk://"), advertise == nil, listen.hasPrefix("0.0.0.0") {
            throw ValidationError("--advertise is required when --listen is 0.0.0.0 and there are several managers")
        }
    }

    func services(logger: Logger) async throws -> [any Service] {
        guard let address = SocketAddress(listen, defaultPort: 6611) else {
            throw ValidationError("--listen \(listen) is no address")
        }
        guard let sessionTimeout = MesosFlags.duration(sessionTimeout), sessionTimeout > .zero else {
            throw ValidationError("--zk-session-timeout \(sessionTimeout) is no duration; write 10secs")
        }
        var configuration = ManagerService.Configuration(listen: address)
        configuration.systemName = systemName
        configuration.name = name ?? hostName()
        if let advertise {
            guard let address = SocketAddress(advertise, defaultPort: 6611) else {
                throw ValidationError("--advertise \(advertise) is no address")
            }
            // Others connect to numeric addresses only. The resolver may take its time.
            configuration.advertise = try await offPool { try address.resolved().description }
        }
        configuration.gateway = gateway.advertised(beside: configuration.advertise)
        let location = store
        let backend = try await offPool {
            try CoordinationBackend.open(location, sessionTimeout: sessionTimeout, logger: logger)
        }
        let manager = try ManagerService(configuration, backend: backend, logger: logger)
        return [manager]
            + (try await gateway.services(
                manager: manager, store: backend.store, directory: workDirectory, logger: logger))
    }
}
