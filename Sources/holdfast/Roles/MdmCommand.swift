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

    @Option(help: "Where the objects are kept: embedded:PATH (a SQLite file).")
    var store = "embedded:/var/lib/holdfast/mdm.db"

    @Option(help: "Where servers and clients connect.")
    var listen = "0.0.0.0:6611"

    @Option(name: .customLong("system-name"), help: "The name of a system that is created by this start.")
    var systemName = "holdfast"

    @Option(name: .customLong("work-dir"), help: "Keeps the gateway's certificate and password.")
    var workDirectory = "/var/lib/holdfast/gateway"

    @OptionGroup var gateway: GatewayOptions

    func services(logger: Logger) async throws -> [any Service] {
        guard let address = SocketAddress(listen, defaultPort: 6611) else {
            throw ValidationError("--listen \(listen) is no address")
        }
        var configuration = ManagerService.Configuration(listen: address)
        configuration.systemName = systemName
        let location = store
        let backend = try await offPool { try CoordinationBackend.open(location) }
        let manager = try ManagerService(configuration, backend: backend, logger: logger)
        return [manager] + (try await gateway.services(manager: manager, directory: workDirectory, logger: logger))
    }
}
