import Base
import BlockCore
public import BlockIO
import CBlockIO
import Glibc
import LinuxOS
public import Logging
public import ServiceLifecycle

/// The storage client (SDC) of a host as a service: keeps its volumes attached for as long as they are mapped to it.
public final class BlockClientService: Service {
    public struct FrontEnd: OptionSet, Sendable {
        public let rawValue: Int
        public init(rawValue: Int) { self.rawValue = rawValue }
        /// A block device with a link in `deviceDirectory`, made by the driver `deviceDriver`.
        public static let device = FrontEnd(rawValue: 1)
        /// An NBD socket per volume in `nbdDirectory`.
        public static let nbd = FrontEnd(rawValue: 2)
    }

    public struct Configuration: Sendable {
        /// The managers' control addresses, at least one; names are resolved when the service starts.
        public var managers: [SocketAddress]
        /// An upper-case UUID that stays with the host.
        public var guid: String
        public var name: String
        /// The address under which operators know this host.
        public var ip: String
        public var frontEnds: FrontEnd = [.device, .nbd]
        /// Nil: the first that the host has, in the order of `DeviceDriver`.
        public var deviceDriver: DeviceDriver?
        /// Unix socket for `drv_cfg` and drivers; nil for none.
        public var controlPath: String?
        public var deviceDirectory = "/dev/disk/by-id"
        public var nbdDirectory = "/run/holdfast/nbd"
        /// Holds what the device driver needs, such as the FUSE mount point.
        public var workDirectory = "/run/holdfast/sdc"
        /// How long a client waits for its work directory while another, which may be about to end, works in it.
        public var predecessorPatience = Duration.seconds(10)
        /// How long an I/O is held while it cannot be served.
        public var holdTime = Duration.seconds(60)
        /// Keep all memory resident: a client that must page in to write back dirty pages can lock up the host.
        public var locksMemory = false

        public init(managers: [SocketAddress], guid: String, name: String, ip: String) {
            self.managers = managers
            self.guid = guid
            self.name = name
            self.ip = ip
        }
    }

    private let configuration: Configuration
    private let logger: Logger

    public init(_ configuration: Configuration, logger: Logger) {
        self.configuration = configuration
        self.logger = logger
    }

    public func run() async throws {
        if configuration.locksMemory && mlockall(Int32(MCL_CURRENT) | Int32(MCL_FUTURE)) != 0 {
            logger.warning("memory cannot be locked", metadata: ["error": "\(String(cString: strerror(errno)))"])
        }
        let client = try await offPool { [configuration, logger] in
            try RunningClient(configuration, logger: logger)
        }
        // Ends with a refusal of the manager or with the service.
        let (refusals, refuse) = AsyncStream<String>.makeStream(bufferingPolicy: .bufferingNewest(1))
        await withCheckedContinuation { continuation in
            client.reactor.perform {
                client.start { refuse.yield($0) }
                continuation.resume()
            }
        }
        let refusal = await cancelWhenGracefulShutdown {
            for await reason in refusals { return reason as String? }
            return nil
        }
        try await offPool { client.stop() }
        if let refusal { throw BlockIOError(.invalid, "the manager refuses this client: \(refusal)") }
    }
}

/// The parts of a client, from the start of its reactor to its end.
private final class RunningClient: Sendable {
    let reactor: Reactor
    private let configuration: BlockClientService.Configuration
    private let logger: Logger
    private let shell: ClientShell
    private let frontEnds: FrontEnds
    // SAFETY: blocks in `init` and in `awaitDetached`, which is for other threads; otherwise used on the reactor's.
    private nonisolated(unsafe) let host: (any DeviceHost)?
    /// Of the work directory, while there is a host.
    private let lock: DirectoryLock?
    // SAFETY: set in `start`, used and dropped in `stop`, both on the reactor's thread.
    private nonisolated(unsafe) var control: ControlSocket?

    /// Blocks: resolves names and asks the kernel for a driver.
    init(_ configuration: BlockClientService.Configuration, logger: Logger) throws {
        self.configuration = configuration
        self.logger = logger
        let managers = try SocketAddress.resolveAny(configuration.managers, logger: logger)
        reactor = try Reactor(name: "sdc")
        lock = configuration.frontEnds.contains(.device) ? try RunningClient.lock(configuration) : nil
        host =
            configuration.frontEnds.contains(.device)
            ? try RunningClient.host(configuration, on: reactor, logger: logger) : nil
        var core = ClientConfiguration(
            guid: configuration.guid, name: configuration.name, ip: configuration.ip,
            incarnation: UInt64.random(in: 1...UInt64.max))
        core.holdTime = configuration.holdTime
        let managerLink = ManagerLink(managers, on: reactor, logger: logger)
        frontEnds = FrontEnds(configuration, host: host, on: reactor, logger: logger)
        shell = ClientShell(
            core: ClientCore(configuration: core), managerLink: managerLink, volumes: frontEnds,
            on: reactor, logger: logger)
        reactor.start()
    }

    private static func lock(_ configuration: BlockClientService.Configuration) throws(BlockIOError) -> DirectoryLock {
        // Whoever reaches the mount or the keeper in it has the volumes.
        makeDirectories(configuration.workDirectory, mode: 0o700)
        return try DirectoryLock(configuration.workDirectory, patience: configuration.predecessorPatience)
    }

    /// Chooses a driver and finds what a predecessor did with it. The work directory is locked.
    private static func host(
        _ configuration: BlockClientService.Configuration, on reactor: Reactor, logger: Logger
    ) throws(BlockIOError) -> any DeviceHost {
        let record = DriverRecord(workDirectory: configuration.workDirectory)
        let choice = try DriverChoice(wanted: configuration.deviceDriver, predecessor: record.driver, .host)
        var metadata: Logger.Metadata = ["device.driver": "\(choice.chosen.driver.rawValue)"]
        for (driver, reason) in choice.leftOut { metadata["without.\(driver.rawValue)"] = "\(reason)" }
        logger.notice("block devices have a driver", metadata: metadata)
        if let former = record.driver, former != choice.chosen.driver {
            logger.error(
                "devices of a predecessor are given up: they had another driver",
                metadata: ["device.driver": "\(former.rawValue)"])
        }
        try record.write(choice.chosen.driver)
        switch choice.chosen {
        case .ublk(let features):
            guard reactor.openDiskRing() else { throw BlockIOError(.invalid, "ublk without io_uring") }
            return try UblkHost(
                UblkControlDevice(), features: features, workDirectory: configuration.workDirectory,
                holdTime: configuration.holdTime, logger: logger)
        case .nbd(let family):
            return try KernelNBDHost(
                NetlinkNBDControl(family: family), client: configuration.guid, holdTime: configuration.holdTime,
                logger: logger)
        case .fuse:
            return try FuseHost(
                workDirectory: configuration.workDirectory, holdTime: configuration.holdTime, logger: logger)
        }
    }

    /// On the reactor's thread.
    func start(refused: @escaping @Sendable (String) -> Void) {
        frontEnds.fatal = refused
        do {
            try host?.start(on: reactor)
            if let path = configuration.controlPath {
                control = try ControlSocket(path: path, on: reactor, logger: logger) { [weak self] in self?.answer($0) }
            }
            shell.start()
        } catch {
            refused("\(error)")
        }
    }

    private func answer(_ command: String) -> JSONValue? {
        switch command {
        case "query_guid": ["guid": .string(configuration.guid)]
        case "query_vols": ["volumes": .array(frontEnds.description)]
        case "query_mdms":
            [
                "mdms": [
                    [
                        "mdmId": .optional(frontEnds.system?.description),
                        "sdcId": .optional(frontEnds.sdc?.description),
                        "installationId": .optional(frontEnds.system?.description),
                        "ips": .array(configuration.managers.map { .string($0.description) }),
                        "connected": .bool(shell.isManagerConnected),
                    ]
                ]
            ]
        // Mappings are pushed to us: there is nothing to look for.
        case "rescan": ["ok": true]
        default: nil
        }
    }

    /// Takes the volumes away from the host and ends the reactor. Blocks for a moment.
    func stop() {
        reactor.perform { [self] in
            control?.close()
            control = nil
            host?.willStop()
            frontEnds.stop()
            shell.stop()
        }
        host?.awaitDetached()
        if host != nil { DriverRecord(workDirectory: configuration.workDirectory).remove() }
        reactor.perform { [self] in
            host?.close()
            lock?.release()
        }
        reactor.stop()
    }
}
