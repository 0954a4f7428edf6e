import Base
import BlockIO
import Logging

/// The client's control socket: one JSON object per line in, one per line out. What `drv_cfg` and volume drivers ask.
///
/// A line that is no request is answered with `{"error": ...}`; one that does not end closes the connection.
final class ControlSocket {
    private static let lineMax = 64 << 10
    private static let connectionsMax = 64

    private final class Connection: ByteSocketHandler {
        unowned let owner: ControlSocket
        var socket: ByteSocket?
        init(_ owner: ControlSocket) { self.owner = owner }

        func bytesArrived(on socket: ByteSocket) {
            guard let end = socket.available.firstIndex(of: UInt8(ascii: "\n")) else { return }
            let line = [UInt8](socket.available[..<end])
            socket.consume(end + 1)
            socket.send(Array((owner.answer(line).text + "\n").utf8))
        }

        func filled(_ buffer: IOBuffer, on socket: ByteSocket) { preconditionFailure("no buffer was given") }
        func closed(_ socket: ByteSocket, reason: String) { owner.connections[ObjectIdentifier(self)] = nil }
    }

    private let logger: Logger
    private let respond: (String) -> JSONValue?
    private var listener: Listener?
    private var connections: [ObjectIdentifier: Connection] = [:]

    /// - Parameter respond: the answer to a command; nil when there is no such command.
    init(
        path: String, on reactor: Reactor, logger: Logger, respond: @escaping (String) -> JSONValue?
    ) throws(BlockIOError) {
        self.logger = logger
        self.respond = respond
        if let slash = path.lastIndex(of: "/") { makeDirectories(String(path[..<slash])) }
        let address = SocketAddress.unix(path: path)
        let (descriptor, _) = try address.listen()
        listener = try Listener(descriptor, address: address, on: reactor) { [weak self] connection, _ in
            self?.accept(connection, on: reactor)
        }
    }

    private func accept(_ descriptor: Int32, on reactor: Reactor) {
        let connection = Connection(self)
        do {
            let socket = try ByteSocket.adopt(
                descriptor, peer: "local", on: reactor, handler: connection, inputCapacity: ControlSocket.lineMax)
            guard connections.count < ControlSocket.connectionsMax else {
                return socket.close(reason: "too many connections")
            }
            connection.socket = socket
            connections[ObjectIdentifier(connection)] = connection
        } catch {
            logger.warning("control connection refused", metadata: ["error": "\(error)"])
        }
    }

    private func answer(_ line: [UInt8]) -> JSONValue {
        let request: JSONValue
        do {
            request = try JSONValue(parsing: line)
        } catch {
            return ["error": .string("not JSON: \(error)")]
        }
        guard let command = request["command"]?.string else { return ["error": "the member \"command\" is missing"] }
        return respond(command) ?? ["error": .string("unknown command \(command)")]
    }

    func close() {
        listener?.close()
        for connection in connections.values { connection.socket?.close(reason: "stopping") }
    }
}
