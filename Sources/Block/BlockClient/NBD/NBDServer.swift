public import BlockIO
public import Logging

/// Serves one block device over NBD on a unix socket (or a TCP port), fixed newstyle, to any number of connections.
///
/// Lives on the reactor's thread. Reads take no more than `NBDConnection.inFlightMax` requests of a connection at a
/// time.
public final class NBDServer: NBDConnectionOwner {
    /// Connections at a time; more are closed at once.
    static let connectionsMax = 64

    public let exportName: String
    public let address: SocketAddress
    let device: any BlockDeviceBackend
    let logger: Logger
    private var listener: Listener?
    private var connections: [ObjectIdentifier: NBDConnection] = [:]

    /// Listens at `address` and serves `device` under `exportName` and under the empty (default) name.
    public init(
        device: any BlockDeviceBackend, exportName: String, at address: SocketAddress, on reactor: Reactor,
        logger: Logger
    ) throws(BlockIOError) {
        self.device = device
        self.exportName = exportName
        self.logger = logger
        let (descriptor, bound) = try address.listen()
        self.address = bound
        listener = try Listener(descriptor, address: bound, on: reactor) { [weak self] connection, peer in
            self?.accept(connection, peer: peer, on: reactor)
        }
    }

    private func accept(_ descriptor: Int32, peer: String, on reactor: Reactor) {
        let connection = NBDConnection(self)
        do {
            let socket = try ByteSocket.adopt(descriptor, peer: peer, on: reactor, handler: connection)
            guard connections.count < NBDServer.connectionsMax else {
                return socket.close(reason: "too many connections")
            }
            connections[ObjectIdentifier(connection)] = connection
            connection.begin(socket)
        } catch {
            logger.warning("NBD connection refused", metadata: ["error": "\(error)"])
        }
    }

    func ended(_ connection: NBDConnection) { connections[ObjectIdentifier(connection)] = nil }

    /// Stops listening and closes every connection; operations under way complete into nothing.
    public func close() {
        listener?.close()
        listener = nil
        for connection in connections.values { connection.close(reason: "the device is gone") }
    }
}
