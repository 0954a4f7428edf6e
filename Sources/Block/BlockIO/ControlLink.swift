public import BlockCore
public import Logging

/// What a control connection tells its owner, on the reactor's thread.
public protocol ControlLinkOwner: AnyObject {
    func connected(_ link: ControlLink)
    /// The rest of a `ControlFrame`, after its length. Throwing closes the connection.
    func arrived(_ frame: [UInt8], on link: ControlLink) throws(WireError)
    func closed(_ link: ControlLink, reason: String)
}

/// A connection that carries `ControlFrame`s, between the manager and a server or a client.
/// Bytes that are no such frame close it, with a log line.
public final class ControlLink: ByteSocketHandler {
    /// What a peer may send before the owner has `trusted` it: introductions are short, maps are long.
    static let firstFrameMax = 1 << 20

    public let id: LinkID
    private weak var owner: (any ControlLinkOwner)?
    private let logger: Logger
    private var socket: ByteSocket?
    private let frameMax: Int

    /// Takes over an accepted socket. Frames longer than `firstFrameMax` are refused: peers of a manager send short
    /// ones.
    public init(
        accepted descriptor: Int32, peer: String, id: LinkID, on reactor: Reactor, owner: any ControlLinkOwner,
        logger: Logger
    ) throws(BlockIOError) {
        self.id = id
        self.owner = owner
        self.logger = logger
        frameMax = ControlLink.firstFrameMax
        self.peer = peer
        socket = try ByteSocket.adopt(descriptor, peer: peer, on: reactor, handler: self, inputCapacity: 16 << 10)
    }

    /// Connects to `address`; a connection that is not there after `patience` counts as failed.
    public init(
        to address: SocketAddress, id: LinkID, on reactor: Reactor, owner: any ControlLinkOwner, logger: Logger,
        patience: Duration = .seconds(2)
    ) throws(BlockIOError) {
        self.id = id
        self.owner = owner
        self.logger = logger
        frameMax = ControlFrame.maximumLength
        let socket = try ByteSocket.connect(to: address, on: reactor, handler: self, inputCapacity: 16 << 10)
        self.socket = socket
        peer = address.description
        reactor.after(patience) { [weak socket] in
            guard let socket, !socket.isOpen else { return }
            socket.close(reason: "timed out")
        }
    }

    /// The other side, for log lines.
    public private(set) var peer = "unknown"

    public func send(_ message: MessageToManager) { socket?.send(ControlFrame.encode(message)) }
    public func send(_ message: MessageFromManager) { socket?.send(ControlFrame.encode(message)) }
    /// Closes once what is queued is handed to the kernel, as far as it takes it without waiting.
    public func close(reason: String) { socket?.closeAfterSending(reason: reason) }

    public func connected(_ socket: ByteSocket) { owner?.connected(self) }

    public func bytesArrived(on socket: ByteSocket) {
        guard socket.available.count >= 4 else { return }
        do throws(WireError) {
            let length = try ControlFrame.length(prefix: [UInt8](socket.available[..<4]))
            guard length <= frameMax else { return violation("a frame of \(length) bytes", socket) }
            socket.consume(4)
            socket.fill(IOBuffer(count: length))
        } catch {
            violation(error.description, socket)
        }
    }

    public func filled(_ buffer: IOBuffer, on socket: ByteSocket) {
        do throws(WireError) {
            try owner?.arrived([UInt8](buffer.bytes), on: self)
        } catch {
            violation(error.description, socket)
        }
    }

    private func violation(_ what: String, _ socket: ByteSocket) {
        logger.warning("control connection closed", metadata: ["peer": "\(socket.peer)", "violation": "\(what)"])
        socket.close(reason: what)
    }

    public func closed(_ socket: ByteSocket, reason: String) {
        self.socket = nil
        owner?.closed(self, reason: reason)
    }
}
