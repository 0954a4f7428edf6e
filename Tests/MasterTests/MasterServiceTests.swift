import Base
import Coordination
import HTTPKit
import Logging
import MasterCore
import MesosAPI
import NIOHTTP1
import ServiceLifecycle
import TestKit
import Testing

@testable import Master

/// A master on a port of its own, for the length of `body`.
func withMaster(
    backend: CoordinationBackend? = nil, _ body: @escaping @Sendable (HTTPAddress) async throws -> Void
) async throws {
    let backend = try backend ?? CoordinationBackend.open("memory:")
    let (ports, portSink) = AsyncStream.makeStream(of: Int.self)
    var rng = SystemRandomNumberGenerator()
    var configuration = MasterConfiguration(
        id: randomUUID(using: &rng), address: .tcp(host: "127.0.0.1", port: 0), hostname: "master.test",
        ip: "127.0.0.1", port: 5050)
    configuration.options.heartbeatInterval = .seconds(1)
    let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
    let master = MasterService(configuration, backend: backend, logger: logger) { portSink.yield($0) }
    try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { try await master.run() }
        group.addTask {
            for await port in ports {
                let address = HTTPAddress.tcp(host: "127.0.0.1", port: port)
                try await eventually("the master leads") {
                    try await HTTPCaller().call(.GET, address, "/state").status == 200
                }
                try await body(address)
                return
            }
        }
        defer { group.cancelAll() }
        try await group.next()
    }
}

@Suite(.serialized) struct MasterServiceTests {
    @Test func readersAnswerBareAndBelowMaster() async throws {
        try await withMaster { address in
            let caller = HTTPCaller()
            for path in ["/version", "/master/version", "/version/"] {
                let reply = try await caller.call(.GET, address, path)
                #expect(try reply.json()["version"] == "1.11.0")
                #expect(reply.headers.first(name: "content-type") == "application/json")
            }
            let health = try await caller.call(.GET, address, "/health")
            #expect(health.status == 200 && health.body.isEmpty)
            let state = try await caller.call(.GET, address, "/master/state").json()
            #expect(state["leader"] == "master@127.0.0.1:5050")
            #expect(state["slaves"] == [])
            #expect(try await caller.call(.GET, address, "/redirect").status == 307)
            #expect(try await caller.call(.GET, address, "/redirect/x").status == 404)
            #expect(try await caller.call(.GET, address, "/state.json").status == 404)
            #expect(try await caller.call(.GET, address, "/metrics/snapshot").json()["master/elected"] == 1.0)
            let jsonp = try await caller.call(.GET, address, "/version?jsonp=cb")
            #expect(jsonp.text.hasPrefix("cb({") && jsonp.text.hasSuffix("});"))
        }
    }

    @Test func badCallsGetTheProtocolsAnswers() async throws {
        try await withMaster { address in
            let caller = HTTPCaller()
            func post(_ body: String, _ type: String? = "application/json") async throws -> HTTPReply {
                try await caller.call(
                    .POST, address, "/api/v1/scheduler", headers: type.map { ["content-type": $0] } ?? [:],
                    body: Array(body.utf8))
            }
            let wrongMethod = try await caller.call(.GET, address, "/api/v1/scheduler")
            #expect(wrongMethod.status == 405)
            #expect(wrongMethod.headers.first(name: "allow") == "POST")
            #expect(try await post("{}", nil).text == "Expecting 'Content-Type' to be present")
            #expect(try await post("{}", "text/plain").status == 415)
            #expect(try await post("{").text.hasPrefix("Failed to parse body into JSON: "))
            #expect(
                try await post("{}").text
                    == "Failed to validate scheduler::Call: Expecting 'type' to be present")
            #expect(
                try await post(#"{"type":"KILL"}"#).text
                    == "Failed to validate scheduler::Call: Expecting 'framework_id' to be present")
            #expect(
                try await post(#"{"type":"SUBSCRIBE","subscribe":{}}"#).text
                    == "Failed to convert JSON into Call protobuf: Missing required fields: subscribe.framework_info")
            let unknown = try await post(#"{"type":"REVIVE","framework_id":{"value":"x"}}"#)
            #expect(unknown.status == 400)
            #expect(unknown.text == "Framework cannot be found")
            #expect(unknown.headers.first(name: "content-type") == "text/plain; charset=utf-8")
            #expect(
                try await post("\u{1}\u{2}", "application/x-protobuf").text == "Failed to parse body into Call protobuf"
            )
            var rng = SeededRandom(seed: 5)
            for type in ["application/json", "application/x-protobuf"] {
                for _ in 0..<50 {
                    let garbage = (0..<40).map { _ in UInt8.random(in: 0...255, using: &rng) }
                    let reply = try await caller.call(
                        .POST, address, "/api/v1", headers: ["content-type": type], body: garbage)
                    #expect(reply.status == 400)
                }
            }
        }
    }

    /// Both ends over HTTP: an agent and a framework made of bare streams.
    @Test(arguments: MediaType.allCases) func aTaskFromSubscriptionToKill(media: MediaType) async throws {
        try await withMaster { address in
            var register = ClusterAgentMessage()
            register.register.agentInfo.hostname = "h1"
            register.register.agentInfo.resources = [
                try jsonDecode(MesosResource.self, from: ["name": "cpus", "type": "SCALAR", "scalar": ["value": 2]])
            ]
            register.register.version = "1.11.0"
            register.register.pid = "slave(1)@127.0.0.1:5051"
            let agent = try await Peer.open(address, "/holdfast/v1/agent", media, register)
            let registered = try await agent.next(ClusterMasterMessage.self)
            #expect(!registered.registered.agentID.value.isEmpty)

            var subscribe = SchedulerCall()
            subscribe.type = .subscribe
            subscribe.subscribe.frameworkInfo.user = "u"
            subscribe.subscribe.frameworkInfo.name = "f"
            let scheduler = try await Peer.open(address, "/api/v1/scheduler", media, subscribe)
            #expect(scheduler.contentType == media.rawValue)
            #expect(!scheduler.isSized)
            let first = try await scheduler.next(SchedulerEvent.self)
            #expect(first.type == .subscribed)
            var offers = try await scheduler.next(SchedulerEvent.self)
            while offers.type != .offers { offers = try await scheduler.next(SchedulerEvent.self) }
            let offer = try #require(offers.offers.offers.first)

            var accept = SchedulerCall()
            accept.type = .accept
            accept.frameworkID = first.subscribed.frameworkID
            accept.accept.offerIds = [offer.id]
            var launch = MesosOffer.Operation()
            launch.type = .launch
            var task = MesosTaskInfo()
            task.name = "t"
            task.taskID = MesosTaskID("t")
            task.agentID = offer.agentID
            task.resources = offer.resources
            task.command.value = "true"
            launch.launch.taskInfos = [task]
            accept.accept.operations = [launch]
            let reply = try await scheduler.post(accept)
            #expect(reply.status == 202)
            #expect(reply.body.isEmpty)
            #expect(reply.headers.first(name: "content-type") == nil)
            #expect(try await agent.next(ClusterMasterMessage.self).runTask.task.taskID.value == "t")

            var update = ClusterAgentMessage()
            update.statusUpdate.frameworkID = first.subscribed.frameworkID
            update.statusUpdate.status.taskID = task.taskID
            update.statusUpdate.status.state = .taskRunning
            update.statusUpdate.status.agentID = offer.agentID
            #expect(try await agent.post(update).status == 202)
            var event = try await scheduler.next(SchedulerEvent.self)
            while event.type != .update { event = try await scheduler.next(SchedulerEvent.self) }
            #expect(event.update.status.state == .taskRunning)
            let tasks = try await HTTPCaller().call(.GET, address, "/tasks").json()
            #expect(tasks["tasks"]?[0]?["state"] == "TASK_RUNNING")

            var kill = SchedulerCall()
            kill.type = .kill
            kill.frameworkID = first.subscribed.frameworkID
            kill.kill.taskID = task.taskID
            #expect(try await scheduler.post(kill).status == 202)
            #expect(try await agent.next(ClusterMasterMessage.self).killTask.taskID.value == "t")
        }
    }

    @Test func theRegistrySurvivesTheMaster() async throws {
        let backend = try CoordinationBackend.open("memory:")
        try await withMaster(backend: backend) { address in
            var register = ClusterAgentMessage()
            register.register.agentInfo.hostname = "h1"
            register.register.version = "1.11.0"
            register.register.pid = "slave(1)@127.0.0.1:5051"
            let agent = try await Peer.open(address, "/holdfast/v1/agent", .protobuf, register)
            _ = try await agent.next(ClusterMasterMessage.self)
        }
        try await withMaster(backend: backend) { address in
            let state = try await HTTPCaller().call(.GET, address, "/state").json()
            #expect(state["recovered_slaves"]?[0]?["hostname"] == "h1")
        }
    }
}
