import Agent
import AgentCore
import Base
import Containerizer
import Coordination
import HTTPKit
import Logging
import MasterCore
import MasterLocator
import MesosAPI
import MesosClient
import NIOHTTP1
import OrderedCollections
import Synchronization
import TestKit
import Testing

@testable import Master

private let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

/// Containers that run until they are stopped.
private final class PretendedContainers: Containerizer {
    private let running = Mutex<[String: AsyncStream<Void>.Continuation]>([:])
    private let all = Mutex<[String]>([])

    /// Every container ever launched, by its command.
    var launched: [String] { all.withLock { $0 } }
    var runningCount: Int { running.withLock { $0.count } }

    let name = "pretended"
    func supports(_ container: MesosContainerInfo?) -> Bool { true }
    func launch(_ spec: ContainerSpec) async throws(ContainerizerError) -> ContainerReport {
        all.withLock { $0.append(spec.command.value) }
        return ContainerReport()
    }
    func recover(_ spec: ContainerSpec) async throws(ContainerizerError) -> RecoveredState.Container {
        .running(ContainerReport())
    }
    func followOutput(_ spec: ContainerSpec) async {}
    func wait(_ spec: ContainerSpec) async throws(ContainerizerError) -> ContainerExit {
        let (ended, end) = AsyncStream<Void>.makeStream()
        running.withLock { $0[spec.id] = end }
        for await _ in ended {}
        return .signaled(15)
    }
    func stop(_ spec: ContainerSpec, grace: Duration) async throws(ContainerizerError) {
        running.withLock { $0.removeValue(forKey: spec.id) }?.finish()
    }
    func remove(_ spec: ContainerSpec) async throws(ContainerizerError) {}
    func execute(_ spec: ContainerSpec, _ command: MesosCommandInfo, deadline: Duration) async throws -> Int? { 0 }
    func statistics(_ spec: ContainerSpec) async -> MesosResourceStatistics? { nil }
}

/// Several masters on one backend, an agent that follows their election, and a scheduler that knows their addresses.
private struct Ensemble: Sendable {
    let masters: [MasterService]
    let addresses: [HTTPAddress]
    let containers = PretendedContainers()

    /// The one that leads, once exactly one does.
    func leader() async throws -> Int {
        try await eventually("one master leads") {
            var leading: [Int] = []
            for (index, master) in masters.enumerated() where await master.isLeading { leading.append(index) }
            return leading.count == 1 ? leading[0] : nil
        }
    }

    /// Another master leads, and the agent is registered there.
    func moveLeadership() async throws {
        let old = try await leader()
        await masters[old].abdicate()
        try await eventually("another leads") { try await leader() != old }
    }

    func state() async throws -> JSONValue {
        try await HTTPCaller().call(.GET, addresses[try await leader()], "/state").json()
    }

    func waitForAgent() async throws {
        try await eventually("the agent is registered") {
            try await state()["slaves"]?[0]?["active"] == true
        }
    }
}

private func withEnsemble(_ body: @escaping @Sendable (Ensemble) async throws -> Void) async throws {
    let backend = try CoordinationBackend.open("memory:")
    var masters: [MasterService] = []
    var addresses: [HTTPAddress] = []
    let directory = try TemporaryDirectory()
    for index in 0..<3 {
        let port = try freePort()
        let address = HTTPAddress.tcp(host: "127.0.0.1", port: port)
        var configuration = MasterConfiguration(
            id: "master-\(index)", address: address, hostname: "127.0.0.1", ip: "127.0.0.1", port: port)
        configuration.options.heartbeatInterval = .seconds(1)
        configuration.options.agentPingInterval = .seconds(1)
        masters.append(MasterService(configuration, backend: backend, logger: quiet))
        addresses.append(address)
    }
    let ensemble = Ensemble(masters: masters, addresses: addresses)
    var agent = AgentConfiguration(
        master: .elected { backend.election.follow(MasterService.electionPath) }, workDirectory: directory.path,
        bindIP: "127.0.0.1", port: 0, advertisedIP: "127.0.0.1", hostname: "agent.test",
        resources: [
            try jsonDecode(MesosResource.self, from: ["name": "cpus", "type": "SCALAR", "scalar": ["value": 8]])
        ], containerizers: [ensemble.containers])
    agent.switchesUser = false
    let service = AgentService(agent, logger: quiet)
    try await withThrowingTaskGroup(of: Void.self) { group in
        for master in masters { group.addTask { try await master.run() } }
        group.addTask { try await service.run() }
        group.addTask {
            try await ensemble.waitForAgent()
            try await body(ensemble)
        }
        defer { group.cancelAll() }
        try await group.next()
    }
}

/// A scheduler that launches what it is told to, acknowledges, and remembers every update.
private actor TestScheduler {
    private(set) var states: [String: [MesosTaskState]] = [:]
    private(set) var subscriptions = 0
    private var wanted: [String] = []
    private let client: SchedulerClient

    init(_ addresses: [HTTPAddress]) {
        var info = MesosFrameworkInfo()
        info.user = "u"
        info.name = "f"
        info.failoverTimeout = 600
        info.checkpoint = true
        var aware = MesosFrameworkInfo.Capability()
        aware.type = .partitionAware
        info.capabilities = [aware]
        var options = SchedulerClient.Options(masters: .addresses(addresses), framework: info)
        options.backoffMin = .milliseconds(20)
        options.backoffMax = .milliseconds(200)
        client = SchedulerClient(options, logger: quiet)
    }

    func run() async throws {
        async let end: Void = client.run()
        for await signal in client.signals {
            switch signal {
            case .subscribed: subscriptions += 1
            case .event(let event): await take(event)
            case .disconnected: break
            }
        }
        try await end
    }

    func want(_ tasks: [String]) async {
        wanted += tasks
        try? await client.revive()
    }

    func kill(_ task: String) async { try? await client.kill(MesosTaskID(task)) }

    func reconcile(_ task: String) async { try? await client.reconcile([(MesosTaskID(task), nil)]) }

    private func take(_ event: SchedulerEvent) async {
        if event.type == .update {
            states[event.update.status.taskID.value, default: []].append(event.update.status.state)
            try? await client.acknowledge(event.update.status)
        }
        for offer in event.offers.offers {
            let tasks = wanted.map { name in
                var task = MesosTaskInfo()
                task.name = name
                task.taskID = MesosTaskID(name)
                task.agentID = offer.agentID
                var cpus = offer.resources[0]
                cpus.scalar.value = 0.1
                task.resources = [cpus]
                task.command.value = name
                return task
            }
            // A launch whose answer is lost may have happened; it is tried again only under a new name.
            wanted = []
            if tasks.isEmpty {
                try? await client.decline([offer.id], refuse: 3600)
            } else {
                try? await client.launch(tasks, from: [offer.id], refuse: 0)
            }
        }
    }
}

@Suite(.serialized, .timeLimit(.minutes(3))) struct FailoverTests {
    private func withScheduler(
        _ body: @escaping @Sendable (Ensemble, TestScheduler) async throws -> Void
    ) async throws {
        try await withEnsemble { ensemble in
            let scheduler = TestScheduler(ensemble.addresses)
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask { try await scheduler.run() }
                group.addTask { try await body(ensemble, scheduler) }
                defer { group.cancelAll() }
                try await group.next()
            }
        }
    }

    @Test func tasksLiveThroughManyLeaders() async throws {
        try await withScheduler { ensemble, scheduler in
            await scheduler.want(["t0", "t1"])
            try await eventually("the tasks run") { await scheduler.states["t1"]?.last == .taskRunning }
            for round in 1...4 {
                try await ensemble.moveLeadership()
                try await ensemble.waitForAgent()
                try await eventually("the scheduler is back") { await scheduler.subscriptions > round }
                let tasks = try await eventually("the new leader knows the tasks") {
                    let tasks = try await ensemble.state()["frameworks"]?[0]?["tasks"]?.array
                    return tasks?.count == 2 ? tasks : nil
                }
                #expect(tasks.allSatisfy { $0["state"] == "TASK_RUNNING" })
                await scheduler.reconcile("t0")
            }
            #expect(ensemble.containers.launched.sorted() == ["t0", "t1"])
            #expect(ensemble.containers.runningCount == 2)
            await scheduler.kill("t0")
            try await eventually("the kill arrives") { await scheduler.states["t0"]?.last == .taskKilled }
            #expect(await scheduler.states["t1"]?.contains { $0.isTerminal } == false)
            #expect(ensemble.containers.runningCount == 1)
        }
    }

    @Test func launchesKillsAndUpdatesInTheMiddleOfFailovers() async throws {
        try await withScheduler { ensemble, scheduler in
            for round in 0..<6 {
                var attempt = 0
                try await eventually("round \(round) has begun", every: .milliseconds(200)) {
                    attempt += 1
                    await scheduler.want(["\(round).\(attempt)a", "\(round).\(attempt)b"])
                    // In every other round the leader goes while the launch is under way.
                    return round % 2 == 1 || ensemble.containers.launched.contains { $0.hasPrefix("\(round).") }
                }
                for task in ensemble.containers.launched where task.hasSuffix("a") { await scheduler.kill(task) }
                try await ensemble.moveLeadership()
            }
            try await ensemble.waitForAgent()
            // What was launched runs or was killed, once; what never reached the agent nobody starts any more.
            try await eventually("every task is where it should be") {
                let launched = ensemble.containers.launched
                for task in launched {
                    await scheduler.reconcile(task)
                    if task.hasSuffix("a") { await scheduler.kill(task) }
                }
                let states = await scheduler.states
                for task in launched {
                    // Of one whose end is acknowledged the agent knows nothing any more: TASK_UNKNOWN follows.
                    let isWhereItShouldBe =
                        task.hasSuffix("a")
                        ? states[task]?.contains(.taskKilled) : states[task].map { $0.last == .taskRunning }
                    if isWhereItShouldBe != true { return false }
                }
                return ensemble.containers.runningCount == launched.count { $0.hasSuffix("b") }
            }
            let launched = ensemble.containers.launched
            #expect(Set(launched).count == launched.count, "\(launched)")
            #expect(!launched.isEmpty)
            for (task, states) in await scheduler.states where launched.contains(task) {
                #expect(
                    !states.contains { [.taskLost, .taskFailed, .taskUnreachable].contains($0) }, "\(task): \(states)")
            }
        }
    }

    @Test func followersRedirectAndStayUp() async throws {
        try await withEnsemble { ensemble in
            let caller = HTTPCaller()
            let leader = try await ensemble.leader()
            let follower = ensemble.addresses[(leader + 1) % 3]
            let there = "//\(ensemble.addresses[leader])"
            for path in ["/state", "/master/slaves?x=1", "/frameworks", "/tasks"] {
                let reply = try await caller.call(.GET, follower, path)
                #expect(reply.status == 307)
                #expect(reply.headers.first(name: "location") == there + path)
            }
            for path in ["/api/v1", "/api/v1/scheduler", "/master/api/v1/scheduler", "/teardown"] {
                let reply = try await caller.call(.POST, follower, path, body: [])
                #expect(reply.status == 307 && reply.headers.first(name: "location") == there + path)
            }
            for path in ["/redirect", "/master/redirect"] {
                let reply = try await caller.call(.GET, follower, path)
                #expect(reply.status == 307 && reply.headers.first(name: "location") == there)
            }
            for path in ["/health", "/version", "/flags", "/metrics/snapshot"] {
                #expect(try await caller.call(.GET, follower, path).status == 200)
            }
            #expect(try await caller.call(.GET, follower, "/metrics/snapshot").json()["master/elected"] == 0.0)
            try await ensemble.moveLeadership()
            // The one that gave way answers on, and stands for election again.
            let formerly = try await caller.call(.GET, ensemble.addresses[leader], "/state")
            #expect(formerly.status == 307 || formerly.status == 503)
            for _ in 0..<2 { try await ensemble.moveLeadership() }
            #expect(try await ensemble.leader() == leader)
        }
    }
}

@Suite struct AdvertisedInfoTests {
    /// As other programs read it from `json.info_<sequence>`.
    @Test func masterInfoHasTheNamesAndTheAddressOfMesos() {
        let configuration = MasterConfiguration(
            id: "6a1ba7b8", address: .tcp(host: "0.0.0.0", port: 5050), hostname: "one.example", ip: "10.1.2.3",
            port: 5051)
        let json = jsonEncode(configuration.options.info)
        let expected: JSONValue = [
            "address": ["hostname": "one.example", "ip": "10.1.2.3", "port": 5051],
            "capabilities": [["type": "AGENT_UPDATE"]], "hostname": "one.example", "id": "6a1ba7b8",
            // 3.2.1.10 read as one number: the bytes of the address in their order, on a little-endian host.
            "ip": 50_462_986, "pid": "master@10.1.2.3:5051", "port": 5051, "version": "1.11.0",
        ]
        #expect(Set((json.object ?? [:]).keys) == Set((expected.object ?? [:]).keys))
        for (name, value) in expected.object ?? [:] { #expect(json[name] == value, "\(name)") }
        #expect(MasterPlace(info: json)?.address == .tcp(host: "10.1.2.3", port: 5051))
    }
}
