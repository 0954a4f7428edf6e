import Base
import HTTPKit
import Logging
import MasterLocator
import MesosAPI
import MesosClient
import NIOHTTP1
import SwiftProtobuf
import TestKit
import Testing

/// What the master says to frameworks, agents and operators that do not ask as they should.
@Suite(.serialized, .timeLimit(.minutes(2))) struct BadInputTests {
    private static let paths = ["/api/v1/scheduler", "/api/v1", "/holdfast/v1/agent"]

    private static func post(_ address: HTTPAddress, _ path: String, _ body: [UInt8], _ type: String) async throws
        -> HTTPReply
    {
        try await HTTPCaller().call(
            .POST, address, path, headers: ["content-type": type, "accept": "application/json"], body: body)
    }

    private static func expectService(_ address: HTTPAddress) async throws {
        var call = SchedulerCall()
        call.type = .subscribe
        call.subscribe.frameworkInfo.user = "u"
        call.subscribe.frameworkInfo.name = "proper"
        let scheduler = try await Peer.open(address, "/api/v1/scheduler", .json, call)
        #expect(try await scheduler.next(SchedulerEvent.self).type == .subscribed)
    }

    @Test func malformedAndWronglyTypedCalls() async throws {
        try await withMaster { address in
            for path in BadInputTests.paths {
                for body in [
                    "", "{", "[]", "null", "{}", #"{"type":"EXPLODE"}"#, #"{"type":5}"#,
                    #"{"type":"SUBSCRIBE","subscribe":[]}"#, #"{"type":"SUBSCRIBE","subscribe":{"framework_info":7}}"#,
                    #"{"type":"SUBSCRIBE","subscribe":{"framework_info":{"user":5,"name":"f"}}}"#,
                    #"{"type":"ACCEPT","framework_id":{"value":"f"}}"#,
                    #"{"type":"ACKNOWLEDGE","framework_id":{"value":"f"},"acknowledge":{"uuid":"*","agent_id":{},"task_id":{}}}"#,
                    #"{"type":"KILL","framework_id":{"value":"f"},"kill":{"task_id":{"value":[]}}}"#,
                    String(repeating: "{\"a\":", count: 100_000),
                ] {
                    // To an operator this is a whole call, and what it does not know is ignored.
                    if path == "/api/v1", body.contains("SUBSCRIBE") { continue }
                    let reply = try await BadInputTests.post(address, path, Array(body.utf8), "application/json")
                    #expect((400..<500).contains(reply.status), "\(path) \(body.prefix(60)): \(reply.status)")
                    #expect(!reply.body.isEmpty)
                }
            }
            try await BadInputTests.expectService(address)
        }
    }

    @Test func randomBytesAndCutMessages() async throws {
        var subscribe = SchedulerCall()
        subscribe.type = .subscribe
        subscribe.subscribe.frameworkInfo.user = "u"
        subscribe.subscribe.frameworkInfo.name = "f"
        let framework: [UInt8] = try subscribe.serializedBytes()
        var register = ClusterAgentMessage()
        register.register.agentInfo.hostname = "h1"
        register.register.version = "1.11.0"
        register.register.pid = "slave(1)@127.0.0.1:5051"
        let agent: [UInt8] = try register.serializedBytes()
        try await withMaster { address in
            var random = SeededRandom(seed: 62)
            for path in BadInputTests.paths {
                for type in ["application/json", "application/x-protobuf"] {
                    for _ in 0..<40 {
                        let garbage = (0..<Int.random(in: 1...200, using: &random)).map { _ in
                            UInt8.random(in: 0...255, using: &random)
                        }
                        let reply = try await BadInputTests.post(address, path, garbage, type)
                        #expect((400..<500).contains(reply.status), "\(path) \(type) \(garbage): \(reply.status)")
                    }
                }
            }
            for (path, whole) in [("/api/v1/scheduler", framework), ("/holdfast/v1/agent", agent)] {
                for count in whole.indices {
                    let reply = try await BadInputTests.post(
                        address, path, Array(whole[..<count]), "application/x-protobuf")
                    #expect((400..<500).contains(reply.status), "\(path) cut to \(count): \(reply.status)")
                }
            }
            #expect(try await HTTPCaller().call(.GET, address, "/state").json()["slaves"] == [])
            try await BadInputTests.expectService(address)
        }
    }

    /// A framework whose master sends broken records hangs up and subscribes again.
    @Test func aSchedulerOutlivesABrokenStream() async throws {
        let directory = try TemporaryDirectory()
        let listener = try RawListener(path: directory.file("master"))
        var info = MesosFrameworkInfo()
        info.user = "u"
        info.name = "f"
        var options = SchedulerClient.Options(masters: .addresses([listener.address]), framework: info)
        options.mediaType = .json
        options.backoffMin = .milliseconds(5)
        let client = SchedulerClient(options, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        let running = Task { try? await client.run() }
        defer { running.cancel() }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nmesos-stream-id: s\r\n\r\n"
        let subscribed = #"{"type":"SUBSCRIBED","subscribed":{"framework_id":{"value":"f1"}}}"#
        var broken: [[UInt8]] = [
            "", "x", "12a\n", "999999999999\n{}", "2\n{}", "5\n{\"a\"", "2\n[]", "4\nnull", "100\nshort",
            "17\n{\"type\":\"OFFERS\"}3\n{\"x",
        ].map { Array($0.utf8) }
        var random = SeededRandom(seed: 63)
        for _ in 0..<20 { broken.append((0..<60).map { _ in UInt8.random(in: 0...255, using: &random) }) }
        for stream in broken {
            let connection = try await listener.accept()
            _ = try await connection.receive(atLeast: 1)
            try await connection.send(Array(head.utf8) + stream)
            connection.finishSending()
        }
        let proper = try await listener.accept()
        _ = try await proper.receive(atLeast: 1)
        try await proper.send(Array(head.utf8) + RecordIO.encode(Array(subscribed.utf8)))
        for await signal in client.signals {
            guard case .subscribed(let id, _) = signal else { continue }
            #expect(id.value == "f1")
            return
        }
        Issue.record("the signals ended")
    }
}
