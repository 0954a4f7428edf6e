import Allocator
import Base
import FoundationEssentials
import MasterCore
import MesosAPI
import Resources

/// One master core with the frameworks and agents of a test; persists at once, allocates when asked to.
struct Harness {
    var core: MasterCore
    var now = Instant.zero
    var rng = SeededRandom(seed: 1)
    /// Everything since the last `drain`.
    private(set) var actions: [MasterCore.Action] = []
    private(set) var registry: [RegistryChange] = []
    /// Whether what is to be persisted waits for `persist()`.
    var holdsWrites = false
    private var held: [UInt64] = []
    private var connections = 0

    init(
        agents: [RegistryAgent] = [], frameworks: [RegistryFramework] = [], id: String = "m",
        change: (inout MasterOptions) -> Void = { _ in }
    ) {
        var info = MesosMasterInfo()
        info.id = id
        info.ip = 0
        info.port = 5050
        var options = MasterOptions(info: info)
        options.agentReregisterTimeout = .seconds(60)
        change(&options)
        core = MasterCore(options: options, agents: agents, frameworks: frameworks, now: now, epochOffset: 1_000_000)
    }

    @discardableResult
    mutating func apply(_ event: MasterCore.Event) -> MasterRefusal? {
        var refusal: MasterRefusal?
        var queue = [event]
        while !queue.isEmpty {
            for action in core.apply(queue.removeFirst(), now: now, rng: &rng) {
                actions.append(action)
                switch action {
                case .persist(let changes, let number):
                    registry += changes
                    if holdsWrites { held.append(number) } else { queue.append(.persisted(number)) }
                case .allocate: queue.append(.allocate)
                case .refuse(let reason): refusal = reason
                case .event, .closeScheduler, .message, .closeAgent, .publish, .notice, .stepDown: break
                }
            }
        }
        return refusal
    }

    /// Everything that was held is durable, and what follows is no longer held.
    mutating func persist() {
        holdsWrites = false
        let numbers = held
        held = []
        for number in numbers { apply(.persisted(number)) }
    }

    mutating func connection(_ prefix: String) -> ConnectionID {
        connections += 1
        return ConnectionID("\(prefix)\(connections)")
    }

    /// Lets time pass in ticks of one second; agents whose stream is in `ponging` answer every ping.
    mutating func pass(_ seconds: Int, ponging: [ConnectionID] = []) {
        for _ in 0..<seconds {
            now = now + .seconds(1)
            apply(.tick)
            for connection in ponging {
                var pong = ClusterAgentMessage()
                pong.pong = .init()
                apply(.agent(pong, connection))
            }
        }
    }

    mutating func drain() { actions = [] }

    func events(_ connection: ConnectionID) -> [SchedulerEvent] {
        actions.compactMap { if case .event(let event, connection) = $0 { event } else { nil } }
    }

    func offers(_ connection: ConnectionID) -> [MesosOffer] { events(connection).flatMap(\.offers.offers) }

    func updates(_ connection: ConnectionID) -> [MesosTaskStatus] {
        events(connection).filter { $0.type == .update }.map(\.update.status)
    }

    func messages(_ connection: ConnectionID) -> [ClusterMasterMessage] {
        actions.compactMap { if case .message(let message, connection) = $0 { message } else { nil } }
    }

    func closed(_ connection: ConnectionID) -> Bool {
        actions.contains(.closeAgent(connection)) || actions.contains(.closeScheduler(connection))
    }

    // MARK: Frameworks

    mutating func subscribe(
        id: String? = nil, failover: Double = 0, capabilities: [MesosFrameworkInfo.Capability.TypeEnum] = [],
        change: (inout MesosFrameworkInfo) -> Void = { _ in }
    ) -> (id: MesosFrameworkID, connection: ConnectionID) {
        var call = SchedulerCall()
        call.type = .subscribe
        call.subscribe.frameworkInfo.user = "u"
        call.subscribe.frameworkInfo.name = "f"
        call.subscribe.frameworkInfo.failoverTimeout = failover
        call.subscribe.frameworkInfo.capabilities = capabilities.map { type in
            var capability = MesosFrameworkInfo.Capability()
            capability.type = type
            return capability
        }
        if let id {
            call.frameworkID = MesosFrameworkID(id)
            call.subscribe.frameworkInfo.id = MesosFrameworkID(id)
        }
        change(&call.subscribe.frameworkInfo)
        let connection = connection("s")
        apply(.subscribe(call, connection, principal: nil))
        let subscribed = events(connection).first { $0.type == .subscribed }
        return (subscribed?.subscribed.frameworkID ?? MesosFrameworkID(""), connection)
    }

    @discardableResult
    mutating func call(
        _ framework: (id: MesosFrameworkID, connection: ConnectionID), _ type: SchedulerCall.TypeEnum,
        _ fill: (inout SchedulerCall) -> Void = { _ in }
    ) -> MasterRefusal? {
        var call = SchedulerCall()
        call.type = type
        call.frameworkID = framework.id
        fill(&call)
        return apply(.call(call, framework.connection, principal: nil))
    }

    // MARK: Agents

    static func agentInfo(_ hostname: String, id: MesosAgentID? = nil) -> MesosAgentInfo {
        var info = MesosAgentInfo()
        info.hostname = hostname
        info.port = 5051
        info.resources = [
            MesosResource("cpus", 4), MesosResource("mem", 1024),
            MesosResource("ports", IntegerRanges([31000...31009])),
        ]
        if let id { info.id = id }
        return info
    }

    mutating func register(_ hostname: String = "h1") -> (id: MesosAgentID, connection: ConnectionID) {
        var message = ClusterAgentMessage()
        message.register.agentInfo = Harness.agentInfo(hostname)
        message.register.version = "1.11.0"
        message.register.pid = "slave(1)@\(hostname):5051"
        let connection = connection("a")
        apply(.agent(message, connection))
        let registered = messages(connection).first { $0.registered.hasAgentID }
        return (registered?.registered.agentID ?? MesosAgentID(""), connection)
    }

    mutating func reregister(
        _ id: MesosAgentID, _ hostname: String = "h1", frameworks: [MesosFrameworkInfo] = [], tasks: [MesosTask] = []
    ) -> (id: MesosAgentID, connection: ConnectionID) {
        var message = ClusterAgentMessage()
        message.reregister.agentInfo = Harness.agentInfo(hostname, id: id)
        message.reregister.version = "1.11.0"
        message.reregister.pid = "slave(1)@\(hostname):5051"
        message.reregister.frameworks = frameworks
        message.reregister.tasks = tasks
        let connection = connection("a")
        apply(.agent(message, connection))
        return (id, connection)
    }

    // MARK: Tasks

    static func task(_ id: String, agent: MesosAgentID, cpus: Double = 1) -> MesosTaskInfo {
        var task = MesosTaskInfo()
        task.name = id
        task.taskID = MesosTaskID(id)
        task.agentID = agent
        task.resources = [MesosResource("cpus", cpus), MesosResource("mem", 64)]
        task.command.value = "sleep 1"
        return task
    }

    @discardableResult
    mutating func launch(
        _ framework: (id: MesosFrameworkID, connection: ConnectionID), _ tasks: [MesosTaskInfo], offers: [MesosOfferID],
        refuse: Double? = nil
    ) -> MasterRefusal? {
        call(framework, .accept) { call in
            var operation = MesosOffer.Operation()
            operation.type = .launch
            operation.launch.taskInfos = tasks
            call.accept.offerIds = offers
            call.accept.operations = [operation]
            if let refuse { call.accept.filters.refuseSeconds = refuse }
        }
    }

    static let uuid = Data((0..<16).map { UInt8($0) })

    mutating func update(
        _ framework: MesosFrameworkID, _ agent: (id: MesosAgentID, connection: ConnectionID), _ task: String,
        _ state: MesosTaskState, uuid: Data? = Harness.uuid, latest: MesosTaskState? = nil
    ) {
        var message = ClusterAgentMessage()
        message.statusUpdate.frameworkID = framework
        message.statusUpdate.status.taskID = MesosTaskID(task)
        message.statusUpdate.status.state = state
        message.statusUpdate.status.source = .executor
        message.statusUpdate.status.agentID = agent.id
        if let uuid { message.statusUpdate.status.uuid = uuid }
        if let latest { message.statusUpdate.latestState = latest }
        apply(.agent(message, agent.connection))
    }

    mutating func acknowledge(
        _ framework: (id: MesosFrameworkID, connection: ConnectionID), _ agent: MesosAgentID, _ task: String,
        uuid: Data = Harness.uuid
    ) {
        call(framework, .acknowledge) { call in
            call.acknowledge.agentID = agent
            call.acknowledge.taskID = MesosTaskID(task)
            call.acknowledge.uuid = uuid
        }
    }

    /// A framework with one task running on one agent.
    mutating func running(
        failover: Double = 3600, capabilities: [MesosFrameworkInfo.Capability.TypeEnum] = [.partitionAware]
    ) -> (
        framework: (id: MesosFrameworkID, connection: ConnectionID),
        agent: (id: MesosAgentID, connection: ConnectionID)
    ) {
        let agent = register()
        let framework = subscribe(failover: failover, capabilities: capabilities)
        let offer = offers(framework.connection)[0]
        launch(framework, [Harness.task("t", agent: agent.id)], offers: [offer.id])
        update(framework.id, agent, "t", .taskRunning)
        acknowledge(framework, agent.id, "t")
        drain()
        return (framework, agent)
    }
}

extension MasterCore {
    /// What is offered or used on an agent, without allocation_info.
    func taken(_ agent: MesosAgentID) -> Resources {
        allocator.allocated(on: agent).reduce(into: Resources()) { $0 += $1.resources.unallocated }
    }
}
