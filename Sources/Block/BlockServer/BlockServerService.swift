import Base
import BlockCore
public import BlockIO
import LinuxOS
public import Logging
public import ServiceLifecycle
import Synchronization

/// A storage server (SDS) as a service: its devices, its data port and its connection to the manager.
public final class BlockServerService: Service {
    public struct Configuration: Sendable {
        /// The managers' control addresses, at least one; names are resolved when the service starts.
        public var managers: [SocketAddress]
        public var listen: SocketAddress
        /// Where clients and other servers reach the data port; nil: the address that is listened at.
        public var advertise: String?
        public var name: String
        public var protectionDomain: String
        public var storagePool: String
        /// The pools of devices that belong to another one, by the device's path.
        public var devicePools: [String: String] = [:]
        /// Where the server belongs from its first introduction on; empty: in no fault set.
        public var faultSet = ""
        /// Files or raw disks.
        public var devices: [String]
        public var engine = DeviceEngine.automatic
        /// The size in bytes of a device file that does not exist; nil: that is an error.
        public var deviceSize: UInt64?

        public init(
            managers: [SocketAddress], listen: SocketAddress, name: String, protectionDomain: String,
            storagePool: String, devices: [String]
        ) {
            self.managers = managers
            self.listen = listen
            self.name = name
            self.protectionDomain = protectionDomain
            self.storagePool = storagePool
            self.devices = devices
        }
    }

    private let configuration: Configuration
    private let logger: Logger
    private let boundAddress = Mutex<SocketAddress?>(nil)

    /// Nothing is opened before the service runs.
    public init(_ configuration: Configuration, logger: Logger) {
        self.configuration = configuration
        self.logger = logger
    }

    /// The data port's address, once it is bound.
    public var address: SocketAddress? { boundAddress.withLock { $0 } }

    public func run() async throws {
        let server = try await offPool { [configuration, logger] in
            try RunningServer(configuration, logger: logger)
        }
        boundAddress.withLock { $0 = server.address }
        let (refusals, refuse) = AsyncStream<String>.makeStream(bufferingPolicy: .bufferingNewest(1))
        server.start { refuse.yield($0) }
        let refusal = await cancelWhenGracefulShutdown {
            for await reason in refusals { return reason as String? }
            return nil
        }
        server.stop()
        if let refusal { throw BlockIOError(.invalid, "the manager refuses this server: \(refusal)") }
    }
}

/// The parts of a server, from the opening of its devices to its end.
private final class RunningServer: Sendable {
    let address: SocketAddress
    private let reactor: Reactor
    private let descriptor: Int32
    private let shell: ServerShell

    /// Blocks: resolves names, opens and perhaps formats devices.
    init(_ configuration: BlockServerService.Configuration, logger: Logger) throws {
        guard !configuration.devices.isEmpty else { throw BlockIOError(.invalid, "a server needs a device") }
        let managers = try SocketAddress.resolveAny(configuration.managers, logger: logger)
        var opener = DeviceOpener()
        let devices = try opener.open(configuration.devices, sizeWhenAbsent: configuration.deviceSize)
        (descriptor, address) = try configuration.listen.listen()
        reactor = try Reactor(name: "sds")
        let hasRing = configuration.engine != .threads && reactor.openDiskRing()
        if configuration.engine == .uring && !hasRing {
            throw BlockIOError(.invalid, "io_uring is not to be had here")
        }
        var core = ServerConfiguration(
            name: configuration.name, domainName: configuration.protectionDomain,
            address: configuration.advertise ?? address.description,
            incarnation: UInt64.random(in: 1...UInt64.max))
        core.hostBoot = String(decoding: try readFile("/proc/sys/kernel/random/boot_id").prefix(36), as: UTF8.self)
        core.faultSetName = configuration.faultSet
        var files: [DeviceID: DeviceFile] = [:]
        for device in devices {
            files[device.store.device] = device.file
            core.poolNames[device.store.device] =
                configuration.devicePools[device.file.path] ?? configuration.storagePool
            core.devicePaths[device.store.device] = device.file.path
        }
        let label = devices[0].store.label
        shell = ServerShell(
            core: ServerCore(
                configuration: core, sds: label.sds,
                system: label.system == 0 ? nil : SystemID(rawValue: label.system), stores: devices.map(\.store)),
            devices: files, managerLink: ManagerLink(managers, on: reactor, logger: logger), on: reactor, logger: logger
        )
        for device in devices {
            logger.notice(
                "device opened",
                metadata: [
                    "device.id": "\(device.store.device)", "device.path": "\(device.file.path)",
                    "capacity.mebibytes": "\(device.store.label.capacityUnits)",
                    "used.mebibytes": "\(device.store.usedUnits)",
                ])
            if !device.store.keepsChecksums {
                logger.warning(
                    "device of an older format: it keeps no checksums, and damage of its data goes unnoticed",
                    metadata: ["device.id": "\(device.store.device)"])
            }
            if device.store.unreadableSeals > 0 {
                logger.warning(
                    "checksums damaged: the data of some units counts as right when it is next read",
                    metadata: ["device.id": "\(device.store.device)", "units": "\(device.store.unreadableSeals)"])
            }
        }
        logger.notice(
            "server listens", metadata: ["address": "\(address)", "engine": hasRing ? "io_uring" : "threads"])
    }

    func start(refused: @escaping @Sendable (String) -> Void) {
        reactor.start()
        reactor.perform { [shell, descriptor, address] in
            shell.refused = refused
            do {
                try shell.start(listening: descriptor, at: address)
            } catch {
                refused("\(error)")
            }
        }
    }

    func stop() {
        reactor.perform { [shell] in shell.stop() }
        reactor.stop()
    }
}
