import Base
import HTTPKit
import Hummingbird
import NIOCore
import NIOHTTP1
import Synchronization
import TestKit
import Testing

/// What calls say about peers that do not answer as they should.
@Suite(.timeLimit(.minutes(2))) struct HTTPCallerTests {
    private let caller = HTTPCaller()

    private func code(
        _ path: String, at address: HTTPAddress, deadline: Duration = .seconds(20), bodyLimit: Int = 1 << 20
    ) async -> HTTPCallError.Code? {
        do {
            _ = try await caller.call(.GET, address, path, deadline: deadline, bodyLimit: bodyLimit)
            return nil
        } catch {
            return error.code
        }
    }

    @Test(arguments: Transport.allCases) func answersOfEveryKind(_ transport: Transport) async throws {
        let directory = try TemporaryDirectory()
        let router = HTTPRouter(context: HTTPContext.self)
        router.post("/json") { request, context in
            let body = try await request.bytes()
            return Response.json(
                [
                    "length": .integer(Int64(body.count)), "query": .optional(request.uri.query),
                    "remote": .optional(context.remoteIP), "type": .optional(request.headers[.contentType]),
                ], status: .created)
        }
        router.get("/text") { _, _ in Response.text("no {JSON") }
        router.get("/away") { _, _ in Response(status: .found, headers: [.location: "/text"]) }
        try await withServer(router, at: transport.address(in: directory)) { [self] address in
            let reply = try await caller.call(.POST, address, "/json?a=b%20c", json: ["k": 1])
            #expect(reply.status == 201 && reply.isSuccess)
            let isTCP = transport == .tcp
            #expect(
                try reply.json() == [
                    "length": 7, "query": "a=b%20c", "remote": isTCP ? "127.0.0.1" : .null, "type": "application/json",
                ])
            let text = try await caller.call(.GET, address, "/text")
            #expect(throws: JSONError.self) { try text.json() }
            #expect(try await caller.call(.GET, address, "/away").status == 302, "redirects are the caller's to see")
            #expect(try await caller.call(.GET, address, "/none").status == 404)
        }
    }

    @Test(arguments: Transport.allCases) func aServerThatNeverAnswersIsGivenUp(_ transport: Transport) async throws {
        let directory = try TemporaryDirectory()
        let router = HTTPRouter(context: HTTPContext.self)
        router.get("/never") { _, _ in
            try await Task.sleep(for: .seconds(3600))
            return Response.text("late")
        }
        try await withServer(router, at: transport.address(in: directory)) { [self] address in
            #expect(await code("/never", at: address, deadline: .milliseconds(200)) == .timedOut)
            do throws(HTTPCallError) {
                _ = try await caller.stream(.GET, address, "/never", deadline: .milliseconds(200))
                Issue.record("an answer")
            } catch {
                #expect(error.code == .timedOut)
            }
        }
    }

    /// The head comes at once, the body for ever.
    @Test(arguments: Transport.allCases, [true, false])
    func aBodyThatDoesNotEndIsGivenUp(_ transport: Transport, trickles: Bool) async throws {
        let directory = try TemporaryDirectory()
        let route = StreamRoute(limit: 1 << 20)
        try await withServer(route.router(), at: transport.address(in: directory)) { [self] address in
            // Long enough for the head to arrive on a busy machine.
            async let code = code("/stream", at: address, deadline: .seconds(2), bodyLimit: 1 << 30)
            let feed = try await route.feed()
            if trickles { try await eventually("the reader's leaving") { !feed.offer([0x20]) } }
            #expect(await code == .timedOut)
            try await eventually("the end of the answer") { route.state.withLock { $0.ended == 1 } }
        }
    }

    @Test func answersBeyondTheLimitAreRefused() async throws {
        let router = HTTPRouter(context: HTTPContext.self)
        router.get("/long") { _, _ in Response.text(String(repeating: "x", count: 1001)) }
        try await withServer(router) { [self] address in
            #expect(await code("/long", at: address, bodyLimit: 1000) == .malformed)
            #expect(await code("/long", at: address, bodyLimit: 1001) == nil)
        }
    }

    @Test func wrongAddressesAndAbsentServersAreTold() async throws {
        let directory = try TemporaryDirectory()
        #expect(await code("/", at: .unix(path: directory.file("none"))) == .unreachable)
        #expect(await code("/", at: .unix(path: "/" + String(repeating: "x", count: 300))) == .unreachable)
        #expect(await code("no-slash", at: .unix(path: directory.file("none"))) == .invalidAddress)
        #expect(await code("/", at: .tcp(host: "", port: 1)) == .invalidAddress)
        // A listener that nobody accepts from: connected, never answered.
        let listener = try RawListener(path: directory.file("deaf"))
        #expect(await code("/", at: listener.address, deadline: .milliseconds(200)) == .timedOut)
    }

    /// Only a request that never had a connection was certainly not carried out.
    @Test func whetherARequestWasSentIsTold() async throws {
        let prompt = HTTPCaller(client: HTTPCaller.promptClient)
        func isUnsent(_ address: HTTPAddress) async -> Bool? {
            do throws(HTTPCallError) {
                _ = try await prompt.call(.POST, address, "/", body: [1], deadline: .seconds(10))
                return nil
            } catch {
                return error.code == .malformed || error.code == .invalidAddress ? nil : error.isUnsent
            }
        }
        #expect(await isUnsent(.tcp(host: "127.0.0.1", port: try freePort())) == true)
        let directory = try TemporaryDirectory()
        let listener = try RawListener(path: directory.file("rude"))
        async let answer = isUnsent(listener.address)
        let connection = try await listener.accept()
        _ = try await connection.receive(atLeast: 10)
        connection.finishSending()
        #expect(await answer == false)
    }

    @Test func serversThatSpeakSomethingElseAreErrors() async throws {
        let directory = try TemporaryDirectory()
        let listener = try RawListener(path: directory.file("odd"))
        func answer(_ bytes: [UInt8]) async throws -> HTTPCallError.Code? {
            async let code = code("/", at: listener.address, deadline: .seconds(30))
            let connection = try await listener.accept()
            _ = try await connection.receive(atLeast: 10)
            try await connection.send(bytes)
            connection.finishSending()
            return await code
        }
        for text in [
            "", "\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", "HTTP/1.1 200", "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
        ] {
            let code = try await answer(Array(text.utf8))
            #expect(code != nil && code != .timedOut, "\(text.debugDescription)")
        }
        var random = SeededRandom(seed: 21)
        for _ in 0..<50 {
            let garbage = (0..<Int.random(in: 1...500, using: &random)).map { _ in
                UInt8.random(in: 0...255, using: &random)
            }
            let code = try await answer(garbage)
            #expect(code != nil && code != .timedOut, "\(garbage)")
        }
    }
}
