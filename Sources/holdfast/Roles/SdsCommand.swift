import ArgumentParser
import BlockIO
import BlockServer
import Glibc
import LinuxOS
import Logging
import ServiceLifecycle

struct SdsCommand: Role {
    static let configuration = CommandConfiguration(commandName: "sds", abstract: "Runs a block store server.")

    enum Engine: String, ExpressibleByArgument, CaseIterable {
        case auto, uring, threads

        var engine: DeviceEngine {
            switch self {
            case .auto: .automatic
            case .uring: .uring
            case .threads: .threads
            }
        }
    }

    @OptionGroup var managers: ManagerAddresses

    @Option(help: "Where clients and other servers connect.")
    var listen = "0.0.0.0:7072"

    @Option(help: "The address host:port under which others reach --listen; required when that is 0.0.0.0.")
    var advertise: String?

    @Option(help: "This server's name; default: the host's name.")
    var name: String?

    @Option(name: .customLong("protection-domain"), help: "Made by the manager when absent.")
    var protectionDomain = "pd1"

    @Option(name: .customLong("storage-pool"), help: "Made by the manager when absent.")
    var storagePool = "default"

    @Option(
        name: .customLong("fault-set"),
        help: "Servers of the same fault set may fail together; counts at the first introduction. Made when absent.")
    var faultSet = ""

    @Option(
        name: .customLong("device"),
        help: "A file or a raw disk, PATH or PATH,pool=NAME when not of --storage-pool; may be given several times.")
    var devices: [String] = []

    @Option(
        name: .customLong("device-size"),
        help: "Size of device files that do not exist yet, like 10g: they are made sparse.")
    var deviceSize: String?

    @Option(help: "How devices are driven: auto (io_uring where there is one), uring or threads.")
    var engine = Engine.auto

    func validate() throws {
        if devices.isEmpty { throw ValidationError("--device is required") }
        _ = try devices.map(DeviceArgument.init)
        if let deviceSize, byteCount(deviceSize) == nil {
            throw ValidationError("--device-size \(deviceSize) is no size; write 10g or 512m")
        }
        if listen.hasPrefix("0.0.0.0") && advertise == nil {
            throw ValidationError("--advertise is required when --listen is 0.0.0.0")
        }
    }

    func services(logger: Logger) async throws -> [any Service] {
        guard let address = SocketAddress(listen, defaultPort: 7072) else {
            throw ValidationError("--listen \(listen) is no address")
        }
        var configuration = BlockServerService.Configuration(
            managers: try managers.addresses(), listen: address, name: name ?? hostName(),
            protectionDomain: protectionDomain, storagePool: storagePool, devices: [])
        for device in try devices.map(DeviceArgument.init) {
            configuration.devices.append(device.path)
            configuration.devicePools[device.path] = device.pool
        }
        configuration.faultSet = faultSet
        configuration.deviceSize = deviceSize.flatMap(byteCount)
        configuration.engine = engine.engine
        if let advertise {
            guard let address = SocketAddress(advertise, defaultPort: 7072) else {
                throw ValidationError("--advertise \(advertise) is no address")
            }
            // Others connect to numeric addresses only. The resolver may take its time.
            configuration.advertise = try await offPool { try address.resolved().description }
        }
        return [BlockServerService(configuration, logger: logger)]
    }
}

/// `PATH` or `PATH,pool=NAME`.
struct DeviceArgument: Equatable {
    var path: String
    /// Nil: the server's.
    var pool: String?

    init(_ text: String) throws {
        guard let comma = text.lastIndex(of: ","), text[text.index(after: comma)...].hasPrefix("pool=") else {
            path = text
            return
        }
        path = String(text[..<comma])
        let name = String(text[comma...].dropFirst(",pool=".count))
        guard !path.isEmpty, !name.isEmpty else { throw ValidationError("--device \(text) names no path or no pool") }
        pool = name
    }
}

/// Where the managers of the block store are.
struct ManagerAddresses: ParsableArguments {
    @Option(name: .customLong("mdm"), help: "Address host:port of a manager, or several with commas.")
    var mdm = "127.0.0.1:6611"

    func addresses() throws -> [SocketAddress] {
        try mdm.split(separator: ",").map { part in
            guard let address = SocketAddress(String(part), defaultPort: 6611) else {
                throw ValidationError("--mdm \(part) is no address")
            }
            return address
        }
    }
}

/// A number with a unit k, m, g or t (powers of 1024); nil when it is none.
func byteCount(_ text: String) -> UInt64? {
    let shifts: [Character: UInt64] = ["k": 10, "m": 20, "g": 30, "t": 40]
    let lower = text.lowercased()
    if let last = lower.last, let shift = shifts[last] { return UInt64(lower.dropLast()).map { $0 << shift } }
    return UInt64(lower)
}

func hostName() -> String {
    var name = [CChar](repeating: 0, count: 256)
    guard gethostname(&name, name.count - 1) == 0 else { return "localhost" }
    return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}
