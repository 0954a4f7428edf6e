import AsyncHTTPClient
import Base
import HTTPKit
import Hummingbird
import Logging
import NIOCore
import NIOHTTP1
import Testing

@Suite struct StalledAnswerTests {
    /// A peer that sends head and beginning of an answer, and then nothing more.
    private func withStallingPeer(_ body: @escaping @Sendable (HTTPAddress) async throws -> Void) async throws {
        let router = HTTPRouter(context: HTTPContext.self)
        router.get("/") { _, _ in
            Response(
                status: .ok,
                body: ResponseBody { writer in
                    try await writer.write(ByteBuffer(string: "begun"))
                    try await Task.sleep(for: .seconds(60))
                    try await writer.finish(nil)
                })
        }
        let (ports, port) = AsyncStream<Int>.makeStream(bufferingPolicy: .bufferingOldest(1))
        let server = HTTPServer(
            name: "stalling", address: .tcp(host: "127.0.0.1", port: 0), router: router,
            logger: Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() }),
            onServerRunning: { port.yield($0) })
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await server.run() }
            group.addTask {
                for await port in ports { return try await body(.tcp(host: "127.0.0.1", port: port)) }
            }
            defer { group.cancelAll() }
            try await group.next()
        }
    }

    @Test(.timeLimit(.minutes(1))) func theDeadlineBoundsTheBodyToo() async throws {
        try await withStallingPeer { address in
            let error = await #expect(throws: HTTPCallError.self) {
                try await HTTPCaller().call(.GET, address, "/", deadline: .milliseconds(200))
            }
            #expect(error?.code == .timedOut)
        }
    }

    @Test(.timeLimit(.minutes(1))) func aCancelledCallEnds() async throws {
        try await withStallingPeer { address in
            let call = Task { try await HTTPCaller().call(.GET, address, "/", deadline: .seconds(3600)) }
            call.cancel()
            await #expect(throws: HTTPCallError.self) { try await call.value }
        }
    }
}
