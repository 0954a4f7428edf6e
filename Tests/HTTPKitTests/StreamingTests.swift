import Base
import HTTPKit
import HTTPTypes
import Hummingbird
import NIOCore
import NIOHTTP1
import Synchronization
import TestKit
import Testing

/// Where a test serves.
enum Transport: CaseIterable, Sendable {
    case tcp, unix

    func address(in directory: TemporaryDirectory) -> HTTPAddress {
        switch self {
        case .tcp: .tcp(host: "127.0.0.1", port: 0)
        case .unix: .unix(path: directory.file("s.sock"))
        }
    }
}

/// A route `/stream` whose feeds a test fills, and what became of its answers.
final class StreamRoute: Sendable {
    struct State {
        var feeds: [BoundedFeed] = []
        /// Answers whose writing is over, one way or another.
        var ended = 0
        /// Feeds that said so.
        var ends = 0
    }

    let state = Mutex(State())
    let limit: Int

    init(limit: Int) { self.limit = limit }

    func router() -> HTTPRouter {
        let router = HTTPRouter(context: HTTPContext.self)
        router.get("/ping") { _, _ in Response.text("pong") }
        router.get("/stream") { request, _ in self.stream(request) }
        router.post("/stream") { request, _ in
            _ = try await request.bytes()
            return self.stream(request)
        }
        return router
    }

    private func stream(_ request: Request) -> Response {
        let feed = BoundedFeed(limit: limit)
        feed.onEnd { self.state.withLock { $0.ends += 1 } }
        state.withLock { $0.feeds.append(feed) }
        var response = Response.stream(feed, request: request, headers: [.contentType: "text/event-stream"])
        let body = response.body
        response.body = ResponseBody { writer in
            defer { self.state.withLock { $0.ended += 1 } }
            try await body.write(writer)
        }
        return response
    }

    func feed(_ index: Int = 0) async throws -> BoundedFeed {
        try await eventually("a reader") { state.withLock { $0.feeds.count > index ? $0.feeds[index] : nil } }
    }
}

enum Framing: CaseIterable, Sendable {
    case recordIO, serverSentEvents

    func frame(_ text: String) -> [UInt8] {
        switch self {
        case .recordIO: RecordIO.encode(Array(text.utf8))
        case .serverSentEvents: ServerSentEvent.encode(event: "e", data: text)
        }
    }
}

@Suite(.timeLimit(.minutes(2))) struct StreamingTests {
    private static let request = "GET /stream HTTP/1.1\r\nhost: x\r\n\r\n"

    @Test(arguments: Transport.allCases, Framing.allCases)
    func aReaderThatNeverReadsIsDisconnectedAndWhatItMissedFreed(_ transport: Transport, _ framing: Framing)
        async throws
    {
        let directory = try TemporaryDirectory()
        let route = StreamRoute(limit: 256)
        let chunk = framing.frame(String(repeating: "x", count: 64 << 10))
        try await withServer(route.router(), at: transport.address(in: directory)) { address in
            let reader = try RawConnection(address, receiveBuffer: 4096)
            #expect(try await reader.send(StreamingTests.request))
            let feed = try await route.feed()
            var offered = 0
            try await eventually("the overflow", every: .milliseconds(1)) {
                offered += 1
                return !feed.offer(chunk)
            }
            #expect(!feed.offer(chunk))
            // The reader still sits there: the server must not wait for it.
            try await eventually("the end of the answer") { route.state.withLock { $0.ended == 1 } }
            #expect(route.state.withLock { $0.ends } == 1)
            #expect(try await HTTPCaller().call(.GET, address, "/ping").text == "pong")
            // What waited in the feed is gone; only what the kernel holds still comes.
            let received = try await reader.receiveAll()
            #expect(received.count < 256 * chunk.count)
            #expect(!received.suffix(5).elementsEqual(Array("0\r\n\r\n".utf8)), "a cut stream does not end properly")
        }
    }

    @Test(arguments: Transport.allCases)
    func aReaderThatReadsGetsEverythingInOrder(_ transport: Transport) async throws {
        let directory = try TemporaryDirectory()
        let route = StreamRoute(limit: 4096)
        try await withServer(route.router(), at: transport.address(in: directory)) { address in
            async let answer = HTTPCaller().call(.POST, address, "/stream", body: [1, 2, 3])
            let feed = try await route.feed()
            for number in 0..<2000 { #expect(feed.offer(RecordIO.encode(Array("\(number)".utf8)))) }
            feed.finish()
            #expect(!feed.offer([0]))
            let reply = try await answer
            var decoder = RecordIO.Decoder()
            let records = try decoder.append(reply.body)
            #expect(records.map { String(decoding: $0, as: UTF8.self) } == (0..<2000).map(String.init))
            #expect(decoder.isAtBoundary)
        }
    }

    @Test(arguments: Transport.allCases) func aReaderThatLeavesEndsItsFeed(_ transport: Transport) async throws {
        let directory = try TemporaryDirectory()
        let route = StreamRoute(limit: 16)
        try await withServer(route.router(), at: transport.address(in: directory)) { address in
            for index in 0..<5 {
                do {
                    let reader = try RawConnection(address)
                    #expect(try await reader.send(StreamingTests.request))
                    let feed = try await route.feed(index)
                    #expect(feed.offer(ServerSentEvent.heartbeat))
                    #expect(!(try await reader.receive(atLeast: 1)).isEmpty)
                }
                // Nothing is offered: the server finds out by the connection alone.
                try await eventually("the end of the answer") {
                    route.state.withLock { $0.ended == index + 1 && $0.ends == index + 1 }
                }
                #expect(!(try await route.feed(index)).offer([0]))
            }
        }
    }
}
