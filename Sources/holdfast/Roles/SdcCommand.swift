import ArgumentParser
import Base
import BlockClient
import BlockIO
import FoundationEssentials
import Logging
import ServiceLifecycle

struct SdcCommand: Role {
    static let configuration = CommandConfiguration(
        commandName: "sdc", abstract: "Runs the block store client of this machine.")

    enum Attach: String, ExpressibleByArgument, CaseIterable {
        case device, nbd, both, none
        /// A device by the driver fuse, whatever else the host has.
        case fuse

        var frontEnds: BlockClientService.FrontEnd {
            switch self {
            case .device, .fuse: .device
            case .nbd: .nbd
            case .both: [.device, .nbd]
            case .none: []
            }
        }
    }

    enum Driver: String, ExpressibleByArgument, CaseIterable {
        case auto, ublk, nbd, fuse

        /// Nil: the first that the host has.
        var chosen: BlockClientService.DeviceDriver? {
            switch self {
            case .auto: nil
            case .ublk: .ublk
            case .nbd: .nbd
            case .fuse: .fuse
            }
        }
    }

    @OptionGroup var managers: ManagerAddresses

    @Option(help: "This client's GUID; default: the one in --guid-file.")
    var guid: String?

    @Option(name: .customLong("guid-file"), help: "Keeps the GUID, over restarts of the host too; made when absent.")
    var guidFile = "/var/lib/holdfast/sdc.guid"

    @Option(help: "This client's name; default: the host's name.")
    var name: String?

    @Option(help: "The address under which operators know this host.")
    var ip = "127.0.0.1"

    @Option(help: "Unix socket that drv_cfg and volume drivers ask.")
    var control = "/run/holdfast/sdc.sock"

    @Option(
        help: "How volumes are shown to this host: device, nbd (a socket each), both or none; fuse is a device by FUSE."
    )
    var attach = Attach.both

    @Option(
        name: .customLong("device-driver"),
        help:
            "What makes block devices: ublk, nbd (the kernel's client), fuse (with loop devices) or auto, the first that is there."
    )
    var deviceDriver = Driver.auto

    @Option(name: .customLong("dev-dir"), help: "Where the links emc-vol-<system>-<volume> are made.")
    var deviceDirectory = "/dev/disk/by-id"

    @Option(name: .customLong("nbd-dir"), help: "Where the NBD sockets are made.")
    var nbdDirectory = "/run/holdfast/nbd"

    @Option(name: .customLong("work-dir"), help: "Holds what the device driver needs, such as the FUSE mount point.")
    var workDirectory = "/run/holdfast/sdc"

    @Option(name: .customLong("hold-seconds"), help: "How long an I/O is held while it cannot be served.")
    var holdSeconds = 60

    func validate() throws {
        if attach == .fuse && deviceDriver != .auto && deviceDriver != .fuse {
            throw ValidationError("--attach fuse and --device-driver \(deviceDriver.rawValue) exclude each other")
        }
    }

    func services(logger: Logger) async throws -> [any Service] {
        var configuration = BlockClientService.Configuration(
            managers: try managers.addresses(), guid: try resolvedGUID(), name: name ?? hostName(), ip: ip)
        configuration.frontEnds = attach.frontEnds
        configuration.deviceDriver = attach == .fuse ? .fuse : deviceDriver.chosen
        configuration.controlPath = control
        configuration.deviceDirectory = deviceDirectory
        configuration.nbdDirectory = nbdDirectory
        configuration.workDirectory = workDirectory
        configuration.holdTime = .seconds(holdSeconds)
        configuration.locksMemory = true
        return [BlockClientService(configuration, logger: logger)]
    }

    /// The given GUID, or the stored one, or a new one that is then stored.
    private func resolvedGUID() throws -> String {
        if let guid { return guid.uppercased() }
        let path = guidFile
        if let data = try? Data(contentsOf: URL(filePath: path)) {
            let text = String(decoding: data, as: UTF8.self).split(whereSeparator: \.isWhitespace).first
            guard let text, text.utf8.count == 36 else { throw ValidationError("\(path) holds no GUID") }
            return text.uppercased()
        }
        var random = SystemRandomNumberGenerator()
        let made = randomUUID(using: &random).uppercased()
        let directory = path.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/")
        if !directory.isEmpty {
            try FileManager.default.createDirectory(
                atPath: directory, withIntermediateDirectories: true, attributes: nil)
        }
        try Data((made + "\n").utf8).write(to: URL(filePath: path), options: .atomic)
        return made
    }
}
