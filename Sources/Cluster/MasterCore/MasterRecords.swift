import Base
public import MesosAPI
public import Resources

public struct TaskKey: Hashable, Comparable, Sendable {
    public var framework: MesosFrameworkID
    public var task: MesosTaskID

    public static func < (left: TaskKey, right: TaskKey) -> Bool {
        (left.framework, left.task) < (right.framework, right.task)
    }
}

public struct ExecutorKey: Hashable, Comparable, Sendable {
    public var framework: MesosFrameworkID
    public var executor: MesosExecutorID

    public static func < (left: ExecutorKey, right: ExecutorKey) -> Bool {
        (left.framework, left.executor) < (right.framework, right.executor)
    }
}

/// A framework as the master knows it. Lists handed out by `MasterCore` are sorted by id.
public struct FrameworkRecord: Sendable {
    public internal(set) var info: MesosFrameworkInfo
    public internal(set) var connection: ConnectionID?
    /// Known only from agents or the registry since this master began.
    public internal(set) var isRecovered: Bool
    public internal(set) var suppressed: Set<String> = []
    public internal(set) var constraints = SchedulerOfferConstraints()
    /// Seconds since the epoch.
    public internal(set) var registeredTime: Double
    public internal(set) var reregisteredTime: Double?
    public internal(set) var unregisteredTime: Double?
    public internal(set) var tasks: [MesosTaskID: MesosTask] = [:]
    public internal(set) var unreachableTasks: [MesosTaskID: MesosTask] = [:]
    /// Oldest first.
    public internal(set) var completedTasks: [MesosTask] = []
    public internal(set) var offers: Set<MesosOfferID> = []

    var nextHeartbeat = Instant.distantFuture
    /// When a disconnected framework is given up.
    var failoverDeadline: Instant?
    /// Its removal is being written to the registry: it gets no offers and may not come back.
    var isLeaving = false

    public var id: MesosFrameworkID { info.id }
    public var isConnected: Bool { connection != nil }

    init(info: MesosFrameworkInfo, isRecovered: Bool, at time: Double) {
        self.info = info
        self.isRecovered = isRecovered
        registeredTime = time
    }
}

/// A registered agent.
public struct AgentRecord: Sendable {
    public internal(set) var info: MesosAgentInfo
    public internal(set) var version: String
    public internal(set) var pid: String
    public internal(set) var capabilities: [MesosAgentInfo.Capability]
    public internal(set) var connection: ConnectionID?
    public internal(set) var total: Resources
    public internal(set) var registeredTime: Double
    public internal(set) var reregisteredTime: Double?
    /// False after DEACTIVATE_AGENT.
    public internal(set) var isActive = true
    public internal(set) var tasks: Set<TaskKey> = []
    public internal(set) var executors: [ExecutorKey: MesosExecutorInfo] = [:]
    public internal(set) var offers: Set<MesosOfferID> = []

    var lastPong: Instant
    var nextPing: Instant
    var pingSequence: UInt64 = 0
    /// Kills that could not be sent, for when the agent is back.
    var pendingKills: [TaskKey: MesosKillPolicy?] = [:]

    public var id: MesosAgentID { info.id }
    public var isConnected: Bool { connection != nil }
}

/// An offer that a framework holds.
public struct OfferRecord: Sendable {
    public internal(set) var id: MesosOfferID
    public internal(set) var framework: MesosFrameworkID
    public internal(set) var agent: MesosAgentID
    public internal(set) var role: String
    /// With allocation_info.
    public internal(set) var resources: Resources
    var deadline: Instant?
}

/// An agent that was given up but may come back.
public struct UnreachableAgent: Sendable {
    public var info: MesosAgentInfo
    /// Seconds since the epoch.
    public var since: Double
}
