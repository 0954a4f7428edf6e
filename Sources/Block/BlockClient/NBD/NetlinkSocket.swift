import BlockIO
import CBlockIO
import Glibc

/// A socket of generic netlink for one question at a time. Blocks; not for the reactor's thread.
final class NetlinkSocket {
    /// The kernel answers within the call that asks; this is for a kernel that does not.
    private static let patienceMilliseconds: Int32 = 10_000
    private static let datagramMax = 64 << 10

    private let descriptor: Int32
    private var sequence: UInt32 = 0

    init() throws(BlockIOError) {
        descriptor = cbio_open_generic_netlink(NetlinkSocket.patienceMilliseconds)
        guard descriptor >= 0 else { throw .system(errno, "open a netlink socket") }
    }

    deinit { close(descriptor) }

    /// Asks and waits for the end of the answer.
    ///
    /// - Parameters:
    ///   - what: the request, for errors.
    ///   - make: makes the message with the number that it gets.
    /// - Returns: the messages that came before the end.
    /// - Throws: `.system` with what the kernel refused it for, or with ETIMEDOUT.
    func ask(
        _ what: String, _ make: (UInt32) -> [UInt8]
    ) throws(BlockIOError) -> [(command: UInt8, attributes: [NetlinkAttribute])] {
        sequence += 1
        let message = make(sequence)
        guard send(descriptor, message, message.count, 0) == message.count else { throw .system(errno, what) }
        var messages: [(command: UInt8, attributes: [NetlinkAttribute])] = []
        var datagram = [UInt8](repeating: 0, count: NetlinkSocket.datagramMax)
        while true {
            // The true length, even of what is cut off.
            let length = recv(descriptor, &datagram, datagram.count, Int32(MSG_TRUNC))
            if length < 0 && errno == EINTR { continue }
            guard length >= 0 else { throw .system(errno == EAGAIN ? ETIMEDOUT : errno, what) }
            guard length <= datagram.count else { throw BlockIOError(.malformed, "\(what): an answer too long") }
            for reply in try NetlinkReply.list(Array(datagram[..<length]), sequence: sequence) {
                switch reply {
                case .message(let command, let attributes): messages.append((command, attributes))
                case .ended(0): return messages
                case .ended(let error): throw .system(error, what)
                }
            }
        }
    }

    /// The number of a family. The kernel may load a module for it.
    func family(_ name: String) throws(BlockIOError) -> UInt16 {
        let replies = try ask("netlink family \(name)") { GenericNetlinkControl.resolve(name, sequence: $0) }
        guard let reply = replies.first else { throw BlockIOError(.malformed, "netlink says nothing of \(name)") }
        return try GenericNetlinkControl.familyNumber(in: reply.attributes)
    }
}
