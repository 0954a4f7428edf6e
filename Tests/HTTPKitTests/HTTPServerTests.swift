import Base
import HTTPKit
import Hummingbird
import NIOCore
import NIOHTTP1
import TestKit
import Testing

/// What the server says to clients that do not ask as they should.
@Suite(.timeLimit(.minutes(2))) struct HTTPServerTests {
    private struct Unforeseen: Error {}

    private func router() -> HTTPRouter {
        let router = HTTPRouter(context: HTTPContext.self)
        router.post("/limited") { request, _ in
            Response.text(String(try await request.bytes(limit: 1000).count))
        }
        router.post("/usual") { request, _ in Response.text(String(try await request.bytes().count)) }
        router.get("/text") { _, _ -> Response in throw HTTPFailure(.badRequest, text: "no") }
        router.get("/json") { _, _ -> Response in
            throw HTTPFailure(.conflict, json: ["message": "no"], headers: [.retryAfter: "1"])
        }
        router.get("/unforeseen") { _, _ -> Response in throw Unforeseen() }
        return router
    }

    @Test(arguments: Transport.allCases) func bodiesBeyondTheLimitAre413(_ transport: Transport) async throws {
        let directory = try TemporaryDirectory()
        try await withServer(router(), at: transport.address(in: directory)) { address in
            func post(_ path: String, _ count: Int) async throws -> HTTPReply {
                try await HTTPCaller().call(.POST, address, path, body: [UInt8](repeating: 0x20, count: count))
            }
            #expect(try await post("/limited", 1000).text == "1000")
            let refused = try await post("/limited", 1001)
            #expect(refused.status == 413)
            #expect(refused.text == "The body exceeds 1000 bytes.")
            #expect(try await post("/usual", 2 << 20).text == String(2 << 20))
            #expect(try await post("/usual", 2 << 20 + 1).status == 413)
            #expect(try await post("/limited", 10).text == "10", "and the server serves on")

            // A body of unknown length is measured as it comes.
            let chunked = try RawConnection(address)
            try await chunked.send(
                "POST /limited HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n")
            let chunk = "100\r\n" + String(repeating: "y", count: 256) + "\r\n"
            for _ in 0..<4 { try await chunked.send(chunk) }
            try await chunked.send("0\r\n\r\n")
            let answer = String(decoding: try await chunked.receiveAll(), as: UTF8.self)
            #expect(answer.hasPrefix("HTTP/1.1 413 "), "\(answer)")
        }
    }

    @Test func errorsOfHandlersBecomeAnswers() async throws {
        try await withServer(router()) { address in
            let text = try await HTTPCaller().call(.GET, address, "/text")
            #expect(text.status == 400 && text.text == "no")
            #expect(text.headers.first(name: "content-type") == "text/plain; charset=utf-8")
            let json = try await HTTPCaller().call(.GET, address, "/json")
            #expect(try json.status == 409 && json.json() == ["message": "no"])
            #expect(json.headers.first(name: "content-type") == "application/json")
            #expect(json.headers.first(name: "retry-after") == "1")
            #expect(try await HTTPCaller().call(.GET, address, "/unforeseen").status == 500)
        }
    }

    @Test(arguments: Transport.allCases) func garbageIsRefusedAndOthersServed(_ transport: Transport) async throws {
        let directory = try TemporaryDirectory()
        try await withServer(router(), at: transport.address(in: directory)) { address in
            for text in [
                "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "POST /limited HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
                "POST /limited HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
                "POST /limited HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
                "GET / HTTP/1.1\r\nx: " + String(repeating: "y", count: 200 << 10) + "\r\n\r\n",
            ] {
                let connection = try RawConnection(address)
                try await connection.send(text)
                let answer = String(decoding: try await connection.receiveAll(), as: UTF8.self)
                #expect(answer.isEmpty || answer.hasPrefix("HTTP/1.1 4"), "\(text.prefix(60)): \(answer)")
            }
            var random = SeededRandom(seed: 22)
            for round in 0..<100 {
                let connection = try RawConnection(address)
                // Half of the rounds get as far as a body.
                if round % 2 == 0 {
                    try await connection.send(
                        "POST /limited HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
                }
                let garbage = (0..<Int.random(in: 1...500, using: &random)).map { _ in
                    UInt8.random(in: 0...255, using: &random)
                }
                try await connection.send(garbage)
                connection.finishSending()
                _ = try await connection.receiveAll()
            }
            #expect(try await HTTPCaller().call(.POST, address, "/limited", body: [1]).text == "1")
        }
    }
}
