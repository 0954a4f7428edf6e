public import HTTPKit
public import MasterCore
import MesosAPI

/// How a master runs: what the core needs, where it listens, and what it tells operators about itself.
public struct MasterConfiguration: Sendable {
    public var options: MasterOptions
    public var address: HTTPAddress
    public var cluster: String?
    /// Every flag in force, as `/flags` and `/state` show it.
    public var flags: [(name: String, value: String)] = []

    /// - Parameters:
    ///   - id: new for each start.
    ///   - ip: the address that others reach this master at, IPv4.
    public init(id: String, address: HTTPAddress, hostname: String, ip: String, port: Int) {
        var info = MesosMasterInfo()
        info.id = id
        info.ip = MasterConfiguration.packed(ip)
        info.port = UInt32(port)
        info.pid = "master@\(ip):\(port)"
        info.hostname = hostname
        info.version = MasterConfiguration.version
        info.address.hostname = hostname
        info.address.ip = ip
        info.address.port = Int32(port)
        var update = MesosMasterInfo.Capability()
        update.type = .agentUpdate
        info.capabilities = [update]
        options = MasterOptions(info: info)
        self.address = address
    }

    /// The protocol version: clients compare it as dotted integers.
    public static let version = "1.11.0"

    /// An IPv4 address as the protocol's 32-bit number, its first byte lowest; 0 for anything else.
    static func packed(_ ip: String) -> UInt32 {
        let parts = ip.split(separator: ".", omittingEmptySubsequences: false).map { UInt8($0) }
        guard parts.count == 4 else { return 0 }
        var result: UInt32 = 0
        for (index, part) in parts.enumerated() {
            guard let part else { return 0 }
            result |= UInt32(part) << UInt32(8 * index)
        }
        return result
    }
}
