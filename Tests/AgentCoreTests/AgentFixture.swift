import AgentCore
import Base
import MesosAPI

/// A core with a clock and a memory of what it wanted done.
struct AgentFixture {
    var core: AgentCore
    var now = Instant(nanoseconds: 1_000_000_000)
    var rng: SeededRandom
    var actions: [AgentCore.Action] = []

    /// - Parameter seed: another one for an agent process that follows, lest it repeat the uuids of the first.
    init(seed: UInt64 = 7, _ adjust: (inout AgentCore.Configuration) -> Void = { _ in }) {
        rng = SeededRandom(seed: seed)
        var info = MesosAgentInfo()
        info.hostname = "node1"
        var configuration = AgentCore.Configuration(
            info: info, version: "1.11.0", pid: "slave(1)@10.0.0.1:5051", ip: "10.0.0.1", unixTimeOfZero: 1_000)
        adjust(&configuration)
        core = AgentCore(configuration: configuration)
    }

    @discardableResult
    mutating func apply(_ event: AgentCore.Event) -> [AgentCore.Action] {
        let wanted = core.apply(event, now: now, rng: &rng)
        actions += wanted
        return wanted
    }

    @discardableResult
    mutating func master(_ kind: ClusterMasterMessage.OneOf_Kind) -> [AgentCore.Action] {
        var message = ClusterMasterMessage()
        message.kind = kind
        return apply(.master(message))
    }

    /// Recovered from nothing and registered as agent S0.
    mutating func register() {
        apply(.recovered(RecoveredState()))
        registered()
    }

    @discardableResult
    mutating func registered(_ id: String = "S0") -> [AgentCore.Action] {
        var registered = ClusterMasterMessage.Registered()
        registered.agentID.value = id
        registered.pingTimeoutSeconds = 75
        return master(.registered(registered))
    }

    @discardableResult
    mutating func run(_ task: MesosTaskInfo, framework: MesosFrameworkInfo = .test()) -> [AgentCore.Action] {
        var run = ClusterMasterMessage.RunTask()
        run.framework = framework
        run.task = task
        return master(.runTask(run))
    }

    @discardableResult
    mutating func kill(_ task: String, graceSeconds: Int64? = nil) -> [AgentCore.Action] {
        var kill = ClusterMasterMessage.KillTask()
        kill.frameworkID.value = "F"
        kill.taskID.value = task
        if let graceSeconds { kill.killPolicy.gracePeriod.nanoseconds = graceSeconds * 1_000_000_000 }
        return master(.killTask(kill))
    }

    @discardableResult
    mutating func acknowledge(_ status: MesosTaskStatus) -> [AgentCore.Action] {
        var acknowledgement = ClusterMasterMessage.StatusUpdateAcknowledgement()
        acknowledgement.frameworkID.value = "F"
        acknowledgement.taskID = status.taskID
        acknowledgement.uuid = status.uuid
        return master(.statusUpdateAcknowledgement(acknowledgement))
    }

    /// Acknowledges everything that goes out until nothing more comes. Answers the states in their order.
    mutating func acknowledgeAll(_ first: [AgentCore.Action]) -> [MesosTaskStatus] {
        var seen: [MesosTaskStatus] = []
        var wanted = first
        while let status = wanted.updates.first {
            seen.append(status)
            wanted = acknowledge(status)
        }
        return seen
    }
}

extension MesosFrameworkInfo {
    static func test(_ capabilities: [MesosFrameworkInfo.Capability.TypeEnum] = []) -> MesosFrameworkInfo {
        var info = MesosFrameworkInfo()
        info.id.value = "F"
        info.name = "test"
        info.user = "root"
        info.capabilities = capabilities.map { type in
            var capability = MesosFrameworkInfo.Capability()
            capability.type = type
            return capability
        }
        return info
    }
}

extension MesosTaskInfo {
    static func command(_ id: String, _ value: String = "sleep 1000") -> MesosTaskInfo {
        var task = MesosTaskInfo()
        task.name = id
        task.taskID.value = id
        task.agentID.value = "S0"
        task.command.value = value
        return task
    }

    static func custom(_ id: String, executor: String) -> MesosTaskInfo {
        var task = MesosTaskInfo.command(id)
        task.clearCommand()
        task.executor.executorID.value = executor
        task.executor.command.value = "./executor"
        return task
    }
}

extension [AgentCore.Action] {
    /// The status updates among the messages to the master.
    var updates: [MesosTaskStatus] {
        compactMap { action in
            if case .send(let message) = action, case .statusUpdate(let update)? = message.kind {
                update.status
            } else {
                nil
            }
        }
    }

    var launches: [AgentCore.LaunchOrder] {
        compactMap { if case .launch(let order) = $0 { order } else { nil } }
    }

    var stops: [(container: String, grace: Duration)] {
        compactMap { if case .stop(let id, let grace) = $0 { (id, grace) } else { nil } }
    }

    var events: [ExecutorEvent] {
        compactMap { if case .notify(_, let event) = $0 { event } else { nil } }
    }

    var connections: [ClusterAgentMessage] {
        compactMap { if case .connect(let message) = $0 { message } else { nil } }
    }

    var retired: Int { filter { if case .retire = $0 { true } else { false } }.count }

    /// What recovery would find, had the process ended after these actions.
    func recovered(_ condition: RecoveredState.Container) -> RecoveredState {
        var state = RecoveredState()
        for case .checkpoint(let checkpoint) in self {
            switch checkpoint {
            case .agent(let info): state.agentID = info.id.value
            case .framework(let info):
                state.frameworks.removeAll { $0.info.id == info.id }
                state.frameworks.append(RecoveredState.Framework(info: info, executors: []))
            case .executor(_, let info, let container, let isCommand):
                state.frameworks[0].executors.append(
                    RecoveredState.Executor(
                        info: info, containerID: container, isCommand: isCommand, tasks: [], container: condition))
            case .task(_, let executor, _, let info):
                let index = state.frameworks[0].executors.firstIndex { $0.info.executorID.value == executor }
                state.frameworks[0].executors[index!].tasks.append(RecoveredState.Task(info: info))
            case .update(_, let executor, _, let status):
                let index = state.frameworks[0].executors.firstIndex { $0.info.executorID.value == executor }
                let task = state.frameworks[0].executors[index!].tasks.firstIndex { $0.info.taskID == status.taskID }
                state.frameworks[0].executors[index!].tasks[task!].updates.append(status)
            case .acknowledgement(_, let executor, _, let id, let uuid):
                let index = state.frameworks[0].executors.firstIndex { $0.info.executorID.value == executor }
                let task = state.frameworks[0].executors[index!].tasks.firstIndex { $0.info.taskID.value == id }
                state.frameworks[0].executors[index!].tasks[task!].acknowledged.append(uuid)
            }
        }
        return state
    }
}
