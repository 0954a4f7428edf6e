public import HTTPKit
public import Hummingbird
import Logging
import ServiceLifecycle

/// Serves `router` while `body` runs, on a free port unless `address` says otherwise.
public func withServer(
    _ router: HTTPRouter, at address: HTTPAddress = .tcp(host: "127.0.0.1", port: 0),
    _ body: @escaping @Sendable (HTTPAddress) async throws -> Void
) async throws {
    let (ports, announce) = AsyncStream.makeStream(of: Int.self, bufferingPolicy: .bufferingOldest(1))
    let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
    let server = HTTPServer(
        name: "test", address: address, router: router, logger: logger, onServerRunning: { announce.yield($0) })
    // A server that is cancelled while a connection arrives takes the process with it (a precondition of NIO): it is
    // told to accept no more first.
    var configuration = ServiceGroupConfiguration(services: [.init(service: server)], logger: logger)
    configuration.maximumGracefulShutdownDuration = .milliseconds(200)
    let services = ServiceGroup(configuration: configuration)
    try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { try await services.run() }
        group.addTask {
            for await port in ports {
                if case .tcp(let host, _) = address {
                    return try await body(.tcp(host: host, port: port))
                }
                return try await body(address)
            }
        }
        defer { group.cancelAll() }
        // The body is the only one that ends by itself.
        try await group.next()
        await services.triggerGracefulShutdown()
        _ = try? await group.next()
    }
}
