public import Base
public import MesosAPI
public import OrderedCollections

/// A task within its framework. Task ids of different frameworks may be equal.
public struct TaskKey: Hashable, Sendable {
    public var framework: String
    public var task: String

    public init(framework: String, task: String) {
        self.framework = framework
        self.task = task
    }
}

/// An executor within its framework.
public struct ExecutorKey: Hashable, Sendable {
    public var framework: String
    public var executor: String

    public init(framework: String, executor: String) {
        self.framework = framework
        self.executor = executor
    }
}

/// What an agent knows of one framework.
public struct FrameworkRecord: Sendable {
    public var info: MesosFrameworkInfo
    public var executors: OrderedDictionary<String, ExecutorRecord> = [:]
    /// Executors that are over, oldest first; at most `AgentCore.completedExecutorsMax`.
    public var completed: [ExecutorRecord] = []
    /// The master told the agent to end everything of this framework; no updates are sent for it any more.
    public var isTerminating = false

    public init(info: MesosFrameworkInfo) { self.info = info }

    func has(_ capability: MesosFrameworkInfo.Capability.TypeEnum) -> Bool {
        info.has(capability)
    }
}

/// What runs in one container: a framework's own executor with its tasks, or a single task.
public struct ExecutorRecord: Sendable {
    public enum Kind: Hashable, Sendable {
        /// The container is the task: a command or a docker container without executor. The agent plays the executor.
        case command
        /// A program of the framework that speaks the executor API.
        case custom
    }

    public enum Phase: Hashable, Sendable {
        /// The container is being made.
        case launching
        /// The container runs; a custom executor has not subscribed (again) and is given up at the deadline.
        case registering(deadline: Instant)
        case running
        /// Told to end; a custom executor is ended by force at the deadline.
        case terminating(deadline: Instant)
        /// The container is gone. Lasts until the last update of the last task is acknowledged.
        case terminated
    }

    public var info: MesosExecutorInfo
    public var containerID: String
    public var kind: Kind
    public var phase: Phase = .launching
    public var tasks: OrderedDictionary<String, TaskRecord> = [:]
    /// What the containerizer told when the container started.
    public var report = ContainerReport()
    /// True while a custom executor holds its subscription.
    public var isSubscribed = false
    /// It ran before the agent was restarted; the lack of a subscription then means that it was lost with the restart.
    var isReregistering = false
    /// Set once the agent has decided to end the container, with why.
    var end: EndReason?
}

/// Why the agent itself ends a container; decides the final state of its tasks.
enum EndReason: Hashable, Sendable {
    case killed
    case unhealthy
    case maxCompletionTime
    case registrationTimeout
    case reregistrationTimeout
    case shutdown
}

/// One task as the agent sees it.
public struct TaskRecord: Sendable {
    public var info: MesosTaskInfo
    /// The newest state, which may be ahead of what the master has acknowledged.
    public var state: MesosTaskState = .taskStaging
    /// Past statuses without their data; of consecutive equal states the last.
    public var statuses: [MesosTaskStatus] = []
    /// A custom executor has been told of it.
    var isDelivered = false
    var health: HealthMonitor?
    var completionDeadline: Instant?

    public init(info: MesosTaskInfo) { self.info = info }

    mutating func note(_ status: MesosTaskStatus) {
        state = status.state
        var kept = status
        kept.clearData()
        if statuses.last?.state == status.state {
            statuses[statuses.count - 1] = kept
        } else {
            statuses.append(kept)
        }
    }
}

/// What is known of a container once it runs.
public struct ContainerReport: Hashable, Sendable {
    /// Process id of the task or of the container's first process, as the agent's host counts.
    public var pid: UInt32?
    /// The container's own addresses; empty if it shares the host's.
    public var addresses: [String] = []
    /// `docker inspect`, sent along with TASK_RUNNING as the docker executor does.
    public var inspection: [UInt8] = []

    public init(pid: UInt32? = nil, addresses: [String] = [], inspection: [UInt8] = []) {
        self.pid = pid
        self.addresses = addresses
        self.inspection = inspection
    }
}

/// How a container ended.
public enum ContainerExit: Hashable, Sendable {
    case exited(status: Int32)
    case signaled(Int32)
    /// Ended by the kernel for exceeding its memory.
    case outOfMemory
    /// It is over, but nobody could say how: its keeper was killed, or the machine went down.
    case unknown(message: String)
}
