public import BlockCore
public import Logging

/// What a data connection tells its owner, on the reactor's thread.
public protocol DataLinkOwner: AnyObject {
    func connected(_ link: DataLink)
    /// A whole message; `payload` exactly when the header says that one follows.
    func arrived(_ header: DataHeader, payload: IOBuffer?, on link: DataLink)
    func closed(_ link: DataLink, reason: String)
}

/// A connection that carries `DataHeader`s and payloads: client to server and server to server.
/// Bytes that are no such message close it, with a log line.
public final class DataLink: ByteSocketHandler {
    public let id: LinkID
    private weak var owner: (any DataLinkOwner)?
    private let logger: Logger
    private var socket: ByteSocket?
    private var header: DataHeader?

    /// Takes over an accepted socket.
    public init(
        accepted descriptor: Int32, peer: String, id: LinkID, on reactor: Reactor, owner: any DataLinkOwner,
        logger: Logger
    ) throws(BlockIOError) {
        self.id = id
        self.owner = owner
        self.logger = logger
        self.peer = peer
        socket = try ByteSocket.adopt(descriptor, peer: peer, on: reactor, handler: self)
    }

    /// Connects to `address`; a connection that is not there after two seconds counts as failed.
    public init(
        to address: SocketAddress, id: LinkID, on reactor: Reactor, owner: any DataLinkOwner, logger: Logger
    ) throws(BlockIOError) {
        self.id = id
        self.owner = owner
        self.logger = logger
        let socket = try ByteSocket.connect(to: address, on: reactor, handler: self)
        self.socket = socket
        peer = address.description
        reactor.after(.seconds(2)) { [weak socket] in
            guard let socket, !socket.isOpen else { return }
            socket.close(reason: "timed out")
        }
    }

    /// The other side, for log lines.
    public private(set) var peer = "unknown"

    public func send(_ header: DataHeader, _ payload: IOBuffer? = nil, _ range: Range<Int>? = nil) {
        guard let socket else { return }
        withUnsafeTemporaryAllocation(byteCount: DataHeader.encodedSize, alignment: 8) { bytes in
            header.encode(into: bytes)
            socket.send(UnsafeRawBufferPointer(bytes))
        }
        if let payload { socket.send(payload, range) }
    }

    /// Closes once what is queued is handed to the kernel, as far as it takes it without waiting.
    public func close(reason: String) { socket?.closeAfterSending(reason: reason) }

    /// Takes no more messages until `resumeReading`; one whose header has arrived may still come.
    public func pauseReading() { socket?.pauseReading() }

    public func resumeReading() { socket?.resumeReading() }

    public func connected(_ socket: ByteSocket) { owner?.connected(self) }

    public func bytesArrived(on socket: ByteSocket) {
        guard socket.available.count >= DataHeader.encodedSize else { return }
        do throws(WireError) {
            let decoded = try DataHeader(decoding: socket.available)
            socket.consume(DataHeader.encodedSize)
            if decoded.payloadLength > 0 {
                header = decoded
                socket.fill(socket.reactor.buffers.take(decoded.payloadLength))
            } else {
                owner?.arrived(decoded, payload: nil, on: self)
            }
        } catch {
            logger.warning("data connection closed", metadata: ["peer": "\(socket.peer)", "violation": "\(error)"])
            socket.close(reason: error.description)
        }
    }

    public func filled(_ buffer: IOBuffer, on socket: ByteSocket) {
        guard let header else { preconditionFailure("a payload without its header") }
        self.header = nil
        owner?.arrived(header, payload: buffer, on: self)
    }

    public func closed(_ socket: ByteSocket, reason: String) {
        self.socket = nil
        owner?.closed(self, reason: reason)
    }
}
