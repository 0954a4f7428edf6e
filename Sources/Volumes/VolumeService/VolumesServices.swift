import Base
import Glibc
import HTTPKit
import Hummingbird
import LinuxOS
public import Logging
import NIOHTTP1
import ScaleIODriver
public import ServiceLifecycle
import VolumeDriver

/// The volumes role: the Docker plugin's sockets, the libStorage API, and the sweep that looks after half-done work.
public struct VolumesServices: Sendable {
    public let manager: VolumeManager
    private let configuration: VolumesConfiguration
    private let tasks = TaskBoard()
    private let logger: Logger

    public init(configuration: VolumesConfiguration, logger: Logger) {
        self.init(
            configuration: configuration, driver: ScaleIODriver(configuration: configuration.scaleIO, logger: logger),
            host: LinuxFilesystemHost(), logger: logger)
    }

    init(
        configuration: VolumesConfiguration, driver: any VolumeDriver, host: any FilesystemHost, logger: Logger
    ) {
        self.configuration = configuration
        self.logger = logger
        manager = VolumeManager(
            driver: driver, host: host, settings: configuration.volumes,
            ledgerPath: configuration.directories.library + "/mounts.json", logger: logger)
    }

    /// Makes the directories, repairs the ledger and answers the services to run: with plugin sockets, so that
    /// containers find their volumes, and the libStorage API.
    public func prepare() async throws -> [any Service] {
        let host = LinuxFilesystemHost()
        for directory in [
            configuration.directories.library, configuration.directories.run, configuration.volumes.mountDirectory,
            configuration.pluginDirectory,
        ] { try await host.makeDirectory(directory, mode: 0o755) }
        try await manager.repair()
        var services: [any Service] = [tasks]
        for name in configuration.pluginNames {
            let router = HTTPRouter(context: HTTPContext.self)
            DockerPlugin(
                manager: manager, serviceName: configuration.serviceName, listsAll: name == configuration.listedAs,
                logger: logger
            ).addRoutes(to: router)
            let path = "\(configuration.pluginDirectory)/\(name).sock"
            try claimSocket(path)
            services.append(SocketRemoval(path: path))
            services.append(HTTPServer(name: "rexray", address: .unix(path: path), router: router, logger: logger))
        }
        services += try await libStorageServices(configuration.endpoints)
        if let first = configuration.endpoints.first {
            services.append(SpecFile(path: configuration.directories.specFile, address: first))
        }
        services.append(Sweeper(manager: manager, interval: configuration.sweepInterval))
        return services
    }

    /// The libStorage API alone, for a command line that found no running service.
    public func prepareEmbedded(socket: String) async throws -> [any Service] {
        let host = LinuxFilesystemHost()
        for directory in [configuration.directories.library, configuration.directories.run] {
            try await host.makeDirectory(directory, mode: 0o755)
        }
        try await manager.repair()
        return [tasks] + (try await libStorageServices([.unix(path: socket)]))
    }

    private func libStorageServices(_ endpoints: [HTTPAddress]) async throws -> [any Service] {
        var services: [any Service] = []
        for endpoint in endpoints {
            let router = HTTPRouter(context: HTTPContext.self)
            LibStorageServer(
                manager: manager, serviceName: configuration.serviceName, tasks: tasks,
                taskTimeout: configuration.taskTimeout, logger: logger
            ).addRoutes(to: router)
            if case .unix(let path) = endpoint {
                try claimSocket(path)
                services.append(SocketRemoval(path: path))
            }
            services.append(HTTPServer(name: "libstorage", address: endpoint, router: router, logger: logger))
        }
        return services
    }

    /// Removes a socket that a crash left behind; one that answers belongs to a running service.
    private func claimSocket(_ path: String) throws {
        guard !isServed(path) else {
            throw VolumeDriverError(.busy, "Another service answers at \(path): only one can mount this host's volumes")
        }
        guard unlink(path) == 0 || errno == ENOENT else {
            throw LinuxError(errno: errno, "The stale socket \(path) could not be removed")
        }
    }
}

/// Whether somebody listens at the unix socket.
private func isServed(_ path: String) -> Bool {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let room = MemoryLayout.size(ofValue: address.sun_path)
    guard path.utf8.count < room else { return false }
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
    let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else { return false }
    defer { close(descriptor) }
    return withUnsafePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) == 0
        }
    }
}

/// Takes the socket away when its server has stopped: Docker would wait for a plugin that is not there.
private struct SocketRemoval: Service {
    let path: String

    func run() async throws {
        try? await gracefulShutdown()
        unlink(path)
    }
}

/// The file that tells the command line where the running service listens.
private struct SpecFile: Service {
    let path: String
    let address: HTTPAddress

    func run() async throws {
        let text =
            switch address {
            case .unix(let path): "unix://\(path)\n"
            case .tcp(let host, let port): "tcp://\(host):\(port)\n"
            }
        try await MountLedgerFile(path: path).write(Array(text.utf8))
        try? await gracefulShutdown()
        unlink(path)
    }
}

private struct Sweeper: Service {
    let manager: VolumeManager
    let interval: Duration

    func run() async throws {
        await cancelWhenGracefulShutdown {
            while !Task.isCancelled {
                await manager.sweep()
                try? await Task.sleep(for: interval)
            }
        }
    }
}
