public import Hummingbird
public import Logging
import NIOCore
public import ServiceLifecycle

/// What a handler knows of its request beyond the request itself: logger, path parameters, and the peer's address.
public struct HTTPContext: RequestContext, RemoteAddressRequestContext {
    public var coreContext: CoreRequestContextStorage
    /// The peer's address; nil on a unix socket.
    public let remoteAddress: SocketAddress?

    public init(source: ApplicationRequestContextSource) {
        coreContext = .init(source: source)
        remoteAddress = source.channel.remoteAddress
    }

    /// The peer's IP address without port; nil on a unix socket.
    public var remoteIP: String? { remoteAddress?.ipAddress }
}

public typealias HTTPRouter = Router<HTTPContext>

/// One way to serve HTTP: a router on a TCP address or a unix socket, as a service that stops gracefully.
///
/// Errors thrown by handlers become answers: `HTTPFailure` as it says, anything else 500 with the error's text.
public struct HTTPServer: Service {
    private let application: Application<RouterResponder<HTTPContext>>

    /// - Parameters:
    ///   - name: goes into the `Server` header and the log.
    ///   - tls: serves HTTPS with this certificate; nil serves plain HTTP.
    ///   - onServerRunning: called with the port once the socket accepts (0 for a unix socket); lets tests bind port 0.
    public init(
        name: String, address: HTTPAddress, router: HTTPRouter, logger: Logger, tls: TLSIdentity? = nil,
        onServerRunning: @escaping @Sendable (Int) async -> Void = { _ in }
    ) {
        let bind: BindAddress =
            switch address {
            case .tcp(let host, let port): .hostname(host, port: port)
            case .unix(let path): .unixDomainSocket(path: path)
            }
        application = Application(
            router: router,
            server: tls.map(\.builder) ?? HTTPConnections.builder,
            configuration: ApplicationConfiguration(address: bind, serverName: name),
            onServerRunning: { channel in await onServerRunning(channel.localAddress?.port ?? 0) },
            logger: logger)
    }

    public func run() async throws { try await application.run() }
}
