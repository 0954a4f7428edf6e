import HummingbirdCore
import Logging
import NIOCore
import Synchronization

/// An accepted connection on its way from the event loop to its handler.
///
/// NIO ends the process when a `NIOAsyncChannel` is dropped that nobody used, and drops those that wait for a server that
/// is cancelled, or whose socket closes. This one closes its connection instead.
final class AcceptedConnection: ServerChildChannelValue {
    let channel: any Channel
    private let unhandled: Mutex<HTTP1Channel.Value?>

    init(_ connection: HTTP1Channel.Value) {
        channel = connection.channel
        unhandled = Mutex(connection)
    }

    /// The connection, for the one that handles it.
    func take() -> HTTP1Channel.Value? {
        unhandled.withLock { connection in
            defer { connection = nil }
            return connection
        }
    }

    deinit {
        guard let connection = take() else { return }
        // SAFETY: it closes the connection and ends.
        Task { try? await connection.executeThenClose { _, _ in } }
    }
}

/// HTTP/1.1 as Hummingbird serves it, on connections that may be dropped.
struct HTTPConnections: ServerChildChannel {
    private let base: HTTP1Channel

    static let builder = HTTPServerBuilder { responder in Self(base: HTTP1Channel(responder: responder)) }

    func setup(channel: any Channel, logger: Logger) -> EventLoopFuture<AcceptedConnection> {
        base.setup(channel: channel, logger: logger).map { AcceptedConnection($0) }
    }

    func handle(value: AcceptedConnection, logger: Logger) async {
        guard let connection = value.take() else { preconditionFailure("a connection is handled once") }
        await base.handle(value: connection, logger: logger)
    }
}
