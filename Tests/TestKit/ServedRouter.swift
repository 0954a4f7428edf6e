public import HTTPKit
public import Hummingbird
import Logging

/// Serves `router` while `body` runs, on a free port unless `address` says otherwise.
public func withServer(
    _ router: HTTPRouter, at address: HTTPAddress = .tcp(host: "127.0.0.1", port: 0),
    _ body: @escaping @Sendable (HTTPAddress) async throws -> Void
) async throws {
    let (ports, announce) = AsyncStream.makeStream(of: Int.self, bufferingPolicy: .bufferingOldest(1))
    let server = HTTPServer(
        name: "test", address: address, router: router, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
        onServerRunning: { announce.yield($0) })
    try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { try await server.run() }
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
    }
}
