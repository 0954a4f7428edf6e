public import Base
public import MesosAPI
public import OrderedCollections

/// The agent as a state machine: frameworks, executors and tasks, the streams of their status updates, and the link to
/// the master.
///
/// What always holds:
/// - A task's updates reach the scheduler in order, each repeated until acknowledged; after a final one none follows.
/// - Everything that recovery needs is a `.checkpoint` action which precedes every action that depends on it, and
/// actions are to be
///   performed in order.
/// - Losing the master stops no task. Only a message of the master, a failed health check or the task's own limits do.
/// - A container is ended only by an action; its tasks become final only when the container is known to be gone or
/// never to start.
public struct AgentCore: Sendable {
    public struct Configuration: Sendable {
        /// As the agent offers itself; `id` is added once known.
        public var info: MesosAgentInfo
        public var version: String
        public var capabilities: [MesosAgentInfo.Capability]
        /// `slave(1)@ip:port`
        public var pid: String
        /// The address that tasks without one of their own are reachable at.
        public var ip: String
        /// Unix time, in seconds, of `Instant.zero`: makes the timestamps of updates.
        public var unixTimeOfZero: Double
        public var registrationBackoff = Duration.seconds(1)
        public var executorRegistrationTimeout = Duration.seconds(60)
        public var executorReregistrationTimeout = Duration.seconds(2)
        public var executorShutdownGracePeriod = Duration.seconds(5)
        /// Recovery ends everything instead of taking it over (`--recover=cleanup`).
        public var cleansUpOnRecovery = false

        public init(
            info: MesosAgentInfo, version: String, capabilities: [MesosAgentInfo.Capability] = [], pid: String,
            ip: String, unixTimeOfZero: Double
        ) {
            self.info = info
            self.version = version
            self.capabilities = capabilities
            self.pid = pid
            self.ip = ip
            self.unixTimeOfZero = unixTimeOfZero
        }
    }

    public enum Event: Sendable {
        /// What was found on disk; must be the first event.
        case recovered(RecoveredState)
        /// A message of the master, `registered` being the first of each link.
        case master(ClusterMasterMessage)
        /// The link broke or could not be made.
        case masterLost
        /// The master answered that it does not lead and knows nobody who does.
        case masterUndecided
        /// A new leader is known.
        case masterFound
        case containerStarted(id: String, ContainerReport)
        /// The container was never started or has been removed without having run the task.
        case containerFailed(id: String, message: String)
        case containerExited(id: String, ContainerExit)
        /// One health check of a command executor's task is over.
        case healthChecked(id: String, success: Bool)
        /// A check of a command executor's task has a new result.
        case checked(id: String, MesosCheckStatusInfo)
        case executorSubscribed(ExecutorKey, ExecutorCall.Subscribe)
        case executorUnsubscribed(ExecutorKey)
        /// An update of a custom executor that has passed `validate`.
        case executorUpdate(ExecutorKey, MesosTaskStatus)
        case executorMessage(ExecutorKey, ExecutorCall.Message)
        /// Time has passed; wanted at `nextDeadline`.
        case tick
    }

    public enum Action: Sendable {
        case checkpoint(Checkpoint)
        /// Make a link to the master with this first message.
        case connect(ClusterAgentMessage)
        /// Give the link up; no `masterLost` is expected for it.
        case disconnect
        case send(ClusterAgentMessage)
        case launch(LaunchOrder)
        /// Take over a container that outlived the agent.
        case adopt(LaunchOrder)
        /// End the container: gently, then by force after `grace`. Repeated with a shorter grace it is ended earlier.
        case stop(container: String, grace: Duration)
        case notify(ExecutorKey, ExecutorEvent)
        /// End the executor's subscription.
        case unsubscribe(ExecutorKey)
        /// The run is over and acknowledged: its container may be removed and its sandbox will be collected some day.
        case retire(LaunchOrder)
        /// All containers are ended and the agent must not come back under its id.
        case retireAgent(message: String)
    }

    /// A change of what is on disk.
    public enum Checkpoint: Sendable {
        case agent(MesosAgentInfo)
        case framework(MesosFrameworkInfo)
        case executor(framework: String, MesosExecutorInfo, container: String, isCommand: Bool)
        case task(framework: String, executor: String, container: String, MesosTaskInfo)
        case update(framework: String, executor: String, container: String, MesosTaskStatus)
        case acknowledgement(framework: String, executor: String, container: String, task: String, uuid: [UInt8])
    }

    /// Everything that making (or finding) a container takes.
    public struct LaunchOrder: Sendable {
        public var container: String
        public var agentID: String
        public var framework: MesosFrameworkInfo
        public var executor: MesosExecutorInfo
        /// The task that the container is; nil for a custom executor.
        public var task: MesosTaskInfo?

        public init(
            container: String, agentID: String, framework: MesosFrameworkInfo, executor: MesosExecutorInfo,
            task: MesosTaskInfo?
        ) {
            self.container = container
            self.agentID = agentID
            self.framework = framework
            self.executor = executor
            self.task = task
        }
    }

    /// Executors kept per framework after they are over, for `/state`.
    public static let completedExecutorsMax = 150
    /// Frameworks kept after their last executor is over.
    public static let completedFrameworksMax = 50

    public enum Link: Hashable, Sendable {
        case recovering
        /// Not connected; the next attempt is due at the instant.
        case waiting(until: Instant)
        case connecting
        /// Connected; without a word until the instant the master counts as lost.
        case registered(silentAt: Instant)
        /// Told to end everything and to forget the agent's id.
        case terminating(message: String)
        case terminated
    }

    public let configuration: Configuration
    public internal(set) var agentID: String?
    public internal(set) var link = Link.recovering
    public internal(set) var master: MesosMasterInfo?
    public internal(set) var frameworks: OrderedDictionary<String, FrameworkRecord> = [:]
    public internal(set) var completedFrameworks: [FrameworkRecord] = []
    public internal(set) var streams: OrderedDictionary<TaskKey, UpdateStream> = [:]
    var containers: [String: ExecutorKey] = [:]
    var attempt = 0
    var pingTimeout = Duration.seconds(75)

    public init(configuration: Configuration) { self.configuration = configuration }

    public var isRegistered: Bool {
        if case .registered = link { true } else { false }
    }

    public mutating func apply(
        _ event: Event, now: Instant, rng: inout some RandomNumberGenerator
    ) -> [Action] {
        var actions: [Action] = []
        switch event {
        case .recovered(let state): recover(state, now: now, rng: &rng, &actions)
        case .master(let message): handle(message, now: now, rng: &rng, &actions)
        case .masterLost: loseMaster(now: now, rng: &rng, &actions)
        case .masterUndecided:
            // That was no registration: pauses stay short, so that the agent is back soon after the election, which
            // this very master may win again without any news of another.
            attempt = min(attempt, 1)
            loseMaster(now: now, rng: &rng, &actions)
        case .masterFound: findMaster(&actions)
        case .containerStarted(let id, let report): containerStarted(id, report, now: now, rng: &rng, &actions)
        case .containerFailed(let id, let message): containerFailed(id, message, now: now, rng: &rng, &actions)
        case .containerExited(let id, let exit): containerExited(id, exit, now: now, rng: &rng, &actions)
        case .healthChecked(let id, let success): healthChecked(id, success, now: now, rng: &rng, &actions)
        case .checked(let id, let status): checked(id, status, now: now, rng: &rng, &actions)
        case .executorSubscribed(let key, let call): executorSubscribed(key, call, now: now, rng: &rng, &actions)
        case .executorUnsubscribed(let key): executorUnsubscribed(key)
        case .executorUpdate(let key, let status): executorUpdate(key, status, now: now, rng: &rng, &actions)
        case .executorMessage(let key, let message): executorMessage(key, message, &actions)
        case .tick: tick(now: now, rng: &rng, &actions)
        }
        finishTermination(&actions)
        return actions
    }

    // MARK: Time

    /// When `tick` is wanted; nil when nothing waits for time to pass.
    public var nextDeadline: Instant? {
        var deadlines: [Instant] = []
        switch link {
        case .waiting(let until): deadlines.append(until)
        case .registered(let silentAt): deadlines.append(silentAt)
        case .recovering, .connecting, .terminating, .terminated: break
        }
        deadlines += streams.values.compactMap(\.retryAt)
        for framework in frameworks.values {
            for executor in framework.executors.values {
                switch executor.phase {
                case .registering(let deadline), .terminating(let deadline): deadlines.append(deadline)
                case .launching, .running, .terminated: break
                }
                deadlines += executor.tasks.values.compactMap(\.completionDeadline)
            }
        }
        return deadlines.min()
    }

    private mutating func tick(now: Instant, rng: inout some RandomNumberGenerator, _ actions: inout [Action]) {
        switch link {
        case .waiting(let until) where until <= now: connect(&actions)
        case .registered(let silentAt) where silentAt <= now:
            actions.append(.disconnect)
            loseMaster(now: now, rng: &rng, &actions)
        case .recovering, .waiting, .connecting, .registered, .terminating, .terminated: break
        }
        for key in streams.keys {
            if let retryAt = streams[key]?.retryAt, retryAt <= now { forward(key, now: now, &actions) }
        }
        for key in executorKeys {
            guard let executor = executor(key) else { continue }
            switch executor.phase {
            case .registering(let deadline) where deadline <= now:
                let reason: EndReason = executor.isReregistering ? .reregistrationTimeout : .registrationTimeout
                end(key, reason, grace: .zero, now: now, &actions)
            case .terminating(let deadline) where deadline <= now:
                update(key) { $0.phase = .terminating(deadline: now + .seconds(60)) }
                actions.append(.stop(container: executor.containerID, grace: .zero))
            case .launching, .registering, .running, .terminating, .terminated: break
            }
            guard executor.kind == .command, let task = executor.tasks.values.first,
                let deadline = task.completionDeadline, deadline <= now
            else { continue }
            update(key, task: task.info.taskID.value) { $0.completionDeadline = nil }
            end(key, .maxCompletionTime, grace: killGrace(of: task.info, override: nil), now: now, &actions)
        }
    }

    // MARK: Access

    var executorKeys: [ExecutorKey] {
        frameworks.flatMap { id, framework in
            framework.executors.keys.map { ExecutorKey(framework: id, executor: $0) }
        }
    }

    public func executor(_ key: ExecutorKey) -> ExecutorRecord? { frameworks[key.framework]?.executors[key.executor] }

    /// The executor that a container is for, while it is known.
    public func executor(ofContainer id: String) -> (ExecutorKey, ExecutorRecord)? {
        guard let key = containers[id], let executor = executor(key) else { return nil }
        return (key, executor)
    }

    func executorKey(ofTask task: String, framework id: String) -> ExecutorKey? {
        guard let framework = frameworks[id] else { return nil }
        for (name, executor) in framework.executors where executor.tasks[task] != nil {
            return ExecutorKey(framework: id, executor: name)
        }
        return nil
    }

    mutating func update(_ key: ExecutorKey, _ change: (inout ExecutorRecord) -> Void) {
        guard frameworks[key.framework]?.executors[key.executor] != nil else { return }
        change(&frameworks[key.framework]!.executors[key.executor]!)
    }

    mutating func update(_ key: ExecutorKey, task: String, _ change: (inout TaskRecord) -> Void) {
        update(key) { executor in
            guard executor.tasks[task] != nil else { return }
            change(&executor.tasks[task]!)
        }
    }

    func order(for key: ExecutorKey, _ executor: ExecutorRecord, _ framework: MesosFrameworkInfo) -> LaunchOrder {
        LaunchOrder(
            container: executor.containerID, agentID: agentID ?? "", framework: framework, executor: executor.info,
            task: executor.kind == .command ? executor.tasks.values.first?.info : nil)
    }
}
