import Agent
import Base
import FoundationEssentials
import HTTPKit
import Logging
import MasterLocator
import MesosAPI
import NIOHTTP1
import ServiceLifecycle
import SwiftProtobuf
import TestKit
import Testing

/// An agent without a master.
private func withAgent(_ body: @escaping @Sendable (HTTPAddress) async throws -> Void) async throws {
    try await withAgent(of: .addresses([.unix(path: "/nonexistent/no-master")]), body)
}

/// What the agent says to executors and operators that do not ask as they should.
@Suite(.serialized, .timeLimit(.minutes(2))) struct BadInputTests {
    private static let calls = ["/api/v1", "/api/v1/executor", "/slave(1)/api/v1", "/slave(1)/api/v1/executor"]
    private let caller = HTTPCaller()

    private func post(
        _ address: HTTPAddress, _ path: String, _ body: [UInt8], type: String? = "application/json",
        accept: String = "application/json"
    ) async throws -> HTTPReply {
        var headers: HTTPHeaders = ["accept": accept]
        if let type { headers.add(name: "content-type", value: type) }
        return try await caller.call(.POST, address, path, headers: headers, body: body)
    }

    private func expectHealth(_ address: HTTPAddress) async throws {
        let reply = try await post(address, "/api/v1", Array(#"{"type":"GET_HEALTH"}"#.utf8))
        #expect(try reply.json()["get_health"]?["healthy"] == true)
    }

    @Test func malformedAndWronglyTypedCalls() async throws {
        try await withAgent { [self] address in
            for path in BadInputTests.calls {
                #expect(try await post(address, path, [], type: nil).status == 400)
                #expect(try await post(address, path, [], type: "text/plain").status == 415)
                for body in [
                    "", "{", "[]", "null", "\"x\"", "{}", #"{"type":"EXPLODE"}"#, #"{"type":5}"#, #"{"type":null}"#,
                    #"{"type":"UPDATE","update":[]}"#, #"{"type":"SUBSCRIBE","framework_id":"x"}"#,
                    #"{"type":"SUBSCRIBE","framework_id":{"value":"f"},"executor_id":{"value":"e"}}"#,
                    #"{"type":"SUBSCRIBE","framework_id":{"value":"f"},"executor_id":{"value":"e"},"subscribe":{}}"#,
                    #"{"type":"MESSAGE","framework_id":{"value":"f"},"executor_id":{"value":"e"},"message":{"data":"*"}}"#,
                    String(repeating: "[", count: 100_000),
                ] {
                    let reply = try await post(address, path, Array(body.utf8))
                    #expect((400..<500).contains(reply.status), "\(path) \(body.prefix(60)): \(reply.status)")
                    #expect(!reply.body.isEmpty, "\(path) \(body.prefix(60))")
                }
                let long = [UInt8](repeating: 0x20, count: 2 << 20 + 1)
                #expect(try await post(address, path, long).status == 413)
            }
            let call = Array(#"{"type":"GET_HEALTH"}"#.utf8)
            #expect(try await post(address, "/api/v1", call, accept: "text/plain").status == 406)
            #expect(try await caller.call(.GET, address, "/api/v1").status >= 400)
            try await expectHealth(address)
        }
    }

    @Test func randomBytesAndCutMessages() async throws {
        var subscribe = ExecutorCall()
        subscribe.type = .subscribe
        subscribe.frameworkID.value = "framework"
        subscribe.executorID.value = "executor"
        subscribe.subscribe = .init()
        let whole: [UInt8] = try subscribe.serializedBytes()
        try await withAgent { [self] address in
            var random = SeededRandom(seed: 61)
            for path in BadInputTests.calls {
                for type in ["application/json", "application/x-protobuf"] {
                    for _ in 0..<40 {
                        let garbage = (0..<Int.random(in: 1...200, using: &random)).map { _ in
                            UInt8.random(in: 0...255, using: &random)
                        }
                        #expect((400..<500).contains(try await post(address, path, garbage, type: type).status))
                    }
                }
                for count in whole.indices {
                    let cut = Array(whole[..<count])
                    let reply = try await post(address, path, cut, type: "application/x-protobuf")
                    #expect((400..<500).contains(reply.status), "\(path) cut to \(count): \(reply.status)")
                }
            }
            try await expectHealth(address)
        }
    }

    @Test func filesOutsideTheSandboxesAreNotShown() async throws {
        try await withAgent { [self] address in
            for path in ["/etc/passwd", "../../etc/passwd", "%00", "/", "%ff%fe", ""] {
                for name in ["browse", "read", "download"] {
                    let reply = try await caller.call(.GET, address, "/files/\(name)?path=\(path)&offset=0&length=10")
                    #expect([400, 404].contains(reply.status), "\(name) \(path): \(reply.status)")
                }
            }
            #expect(try await caller.call(.GET, address, "/files/read").status == 400)
            try await expectHealth(address)
        }
    }
}
