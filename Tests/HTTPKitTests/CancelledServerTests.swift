import HTTPKit
import Hummingbird
import Logging
import TestKit
import Testing

/// What becomes of connections that a server has accepted when it is cancelled.
@Suite(.timeLimit(.minutes(1))) struct CancelledServerTests {
    @Test(arguments: Transport.allCases) func connectionsThatNobodyHandlesYetAreClosed(
        _ transport: Transport
    ) async throws {
        let directory = try TemporaryDirectory()
        for _ in 0..<10 {
            let (ports, announce) = AsyncStream.makeStream(of: Int.self, bufferingPolicy: .bufferingOldest(1))
            let server = HTTPServer(
                name: "test", address: transport.address(in: directory), router: HTTPRouter(context: HTTPContext.self),
                logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
                onServerRunning: { announce.yield($0) })
            let running = Task { try await server.run() }
            let port = try #require(await ports.first { _ in true })
            let address = transport == .tcp ? .tcp(host: "127.0.0.1", port: port) : transport.address(in: directory)
            let connections = try (0..<64).map { _ in try RawConnection(address) }
            running.cancel()
            _ = await running.result
            for connection in connections { _ = try await connection.receiveAll() }
        }
    }
}
