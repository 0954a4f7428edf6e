import BlockIO
import Glibc
import LinuxOS

/// Commands for the kernel's NBD client. All block shortly and may be called from any thread. Replaced in tests.
protocol KernelNBDControl: Sendable {
    /// The index of the device that the kernel chose.
    func connect(_ connection: KernelNBD.Connection) throws(BlockIOError) -> UInt32
    func reconnect(_ index: UInt32, _ connection: KernelNBD.Connection) throws(BlockIOError)
    func resize(_ index: UInt32, to size: UInt64, identifier: String) throws(BlockIOError)
    func disconnect(_ index: UInt32) throws(BlockIOError)
    /// The devices that are connected, with their identifiers; none where the kernel keeps no identifiers.
    func identified() throws(BlockIOError) -> [(index: UInt32, identifier: String)]
}

/// The kernel of this host, by netlink.
struct NetlinkNBDControl: KernelNBDControl {
    let family: UInt16

    func connect(_ connection: KernelNBD.Connection) throws(BlockIOError) -> UInt32 {
        let replies = try NetlinkSocket().ask("connect an NBD device") {
            KernelNBD.connect(connection, family: family, sequence: $0)
        }
        guard let reply = replies.first(where: { $0.command == KernelNBD.Command.connect.rawValue }) else {
            throw BlockIOError(.malformed, "the kernel names no NBD device")
        }
        return try KernelNBD.index(in: reply.attributes)
    }

    func reconnect(_ index: UInt32, _ connection: KernelNBD.Connection) throws(BlockIOError) {
        _ = try NetlinkSocket().ask("reconnect /dev/nbd\(index)") {
            KernelNBD.reconnect(index, connection, family: family, sequence: $0)
        }
    }

    func resize(_ index: UInt32, to size: UInt64, identifier: String) throws(BlockIOError) {
        _ = try NetlinkSocket().ask("resize /dev/nbd\(index)") {
            KernelNBD.resize(index, to: size, identifier: identifier, family: family, sequence: $0)
        }
    }

    func disconnect(_ index: UInt32) throws(BlockIOError) {
        _ = try NetlinkSocket().ask("disconnect /dev/nbd\(index)") {
            KernelNBD.disconnect(index, family: family, sequence: $0)
        }
    }

    func identified() throws(BlockIOError) -> [(index: UInt32, identifier: String)] {
        let replies = try NetlinkSocket().ask("list NBD devices") {
            KernelNBD.status(nil, family: family, sequence: $0)
        }
        guard let reply = replies.first(where: { $0.command == KernelNBD.Command.status.rawValue }) else {
            throw BlockIOError(.malformed, "the kernel lists no NBD devices")
        }
        return try KernelNBD.devices(in: reply.attributes).compactMap { device in
            guard device.isConnected, let text = try? readText("/sys/block/nbd\(device.index)/backend") else {
                return nil
            }
            return (device.index, text)
        }
    }
}
