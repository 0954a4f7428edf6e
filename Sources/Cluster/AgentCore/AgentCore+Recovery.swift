import Base
public import MesosAPI
import OrderedCollections

/// What an agent finds on disk when it starts, and what became of its containers meanwhile.
public struct RecoveredState: Sendable {
    public struct Task: Sendable {
        public var info: MesosTaskInfo
        /// Every update ever checkpointed, in order, and the uuids of those acknowledged.
        public var updates: [MesosTaskStatus] = []
        public var acknowledged: [[UInt8]] = []

        public init(info: MesosTaskInfo) { self.info = info }
    }

    public enum Container: Sendable {
        case running(ContainerReport)
        case exited(ContainerExit)
        /// There is no trace that it ever ran.
        case neverStarted
    }

    public struct Executor: Sendable {
        public var info: MesosExecutorInfo
        public var containerID: String
        public var isCommand: Bool
        public var tasks: [Task]
        public var container: Container

        public init(
            info: MesosExecutorInfo, containerID: String, isCommand: Bool, tasks: [Task], container: Container
        ) {
            self.info = info
            self.containerID = containerID
            self.isCommand = isCommand
            self.tasks = tasks
            self.container = container
        }
    }

    public struct Framework: Sendable {
        public var info: MesosFrameworkInfo
        public var executors: [Executor]

        public init(info: MesosFrameworkInfo, executors: [Executor]) {
            self.info = info
            self.executors = executors
        }
    }

    public var agentID: String?
    public var frameworks: [Framework]

    public init(agentID: String? = nil, frameworks: [Framework] = []) {
        self.agentID = agentID
        self.frameworks = frameworks
    }
}

extension AgentCore {
    mutating func recover(
        _ state: RecoveredState, now: Instant, rng: inout some RandomNumberGenerator, _ actions: inout [Action]
    ) {
        guard link == .recovering else { return }
        agentID = state.agentID
        for framework in state.frameworks {
            let id = framework.info.id.value
            frameworks[id] = FrameworkRecord(info: framework.info)
            for executor in framework.executors { restore(executor, framework: id) }
            // Only now that all records are there: what follows may end executors and forget the framework.
            for executor in framework.executors {
                resume(executor, framework: framework.info, now: now, rng: &rng, &actions)
            }
            removeFrameworkIfEmpty(id)
        }
        scheduleConnection(now: now, rng: &rng)
        connect(&actions)
    }

    private mutating func restore(_ recovered: RecoveredState.Executor, framework: String) {
        let key = ExecutorKey(framework: framework, executor: recovered.info.executorID.value)
        var executor = ExecutorRecord(
            info: recovered.info, containerID: recovered.containerID, kind: recovered.isCommand ? .command : .custom)
        for task in recovered.tasks {
            let taskKey = TaskKey(framework: framework, task: task.info.taskID.value)
            var record = TaskRecord(info: task.info)
            record.isDelivered = true
            var stream = UpdateStream(executor: key.executor)
            for status in task.updates where stream.append(status) { record.note(status) }
            for uuid in task.acknowledged { _ = stream.acknowledge(uuid) }
            executor.tasks[taskKey.task] = record
            if !task.updates.isEmpty, !stream.isFinished { streams[taskKey] = stream }
        }
        frameworks[framework]?.executors[key.executor] = executor
        containers[recovered.containerID] = key
    }

    private mutating func resume(
        _ recovered: RecoveredState.Executor, framework: MesosFrameworkInfo, now: Instant,
        rng: inout some RandomNumberGenerator, _ actions: inout [Action]
    ) {
        let key = ExecutorKey(framework: framework.id.value, executor: recovered.info.executorID.value)
        guard let executor = executor(key) else { return }
        switch recovered.container {
        case .running(let report): adopt(key, executor, report, framework, now: now, rng: &rng, &actions)
        case .exited(let exit):
            update(key) { $0.phase = .running }
            // A task that was being killed when the agent went down was ended by that, whatever its status says.
            if executor.tasks.values.first?.state == .taskKilling { update(key) { $0.end = .killed } }
            containerExited(recovered.containerID, exit, now: now, rng: &rng, &actions)
        case .neverStarted
        where executor.tasks.values.contains { $0.state == .taskRunning || $0.state == .taskKilling }:
            update(key) { $0.phase = .running }
            let exit = ContainerExit.unknown(message: "The container was not found after the agent restarted")
            containerExited(recovered.containerID, exit, now: now, rng: &rng, &actions)
        case .neverStarted:
            let isAware = frameworks[key.framework]?.has(.partitionAware) == true
            for (id, task) in executor.tasks where !task.state.isTerminal {
                report(
                    key, id, isAware ? .taskDropped : .taskLost, source: .agent, reason: .agentRestarted,
                    message: "Task launched during agent restart", now: now, rng: &rng, &actions)
            }
            update(key) { $0.phase = .terminated }
            retireIfFinished(key, &actions)
        }
    }

    private mutating func adopt(
        _ key: ExecutorKey, _ executor: ExecutorRecord, _ report: ContainerReport, _ framework: MesosFrameworkInfo,
        now: Instant, rng: inout some RandomNumberGenerator, _ actions: inout [Action]
    ) {
        update(key) { $0.report = report }
        switch executor.kind {
        case .custom:
            let deadline = now + configuration.executorReregistrationTimeout
            update(key) {
                $0.phase = .registering(deadline: deadline)
                $0.isReregistering = true
            }
            actions.append(.adopt(order(for: key, executor, framework)))
        case .command:
            update(key) { $0.phase = .running }
            actions.append(.adopt(order(for: key, executor, framework)))
            guard let task = executor.tasks.values.first else { return }
            start(key, task.info, now: now)
            switch task.state {
            case .taskKilling:
                end(key, .killed, grace: killGrace(of: task.info, override: nil), now: now, &actions)
            case .taskStaging, .taskStarting:
                // The container had come up, but the agent went down before it could say so.
                self.report(
                    key, task.info.taskID.value, .taskRunning, source: .executor, isFirstRunning: true, now: now,
                    rng: &rng, &actions)
            case .taskRunning, .taskFinished, .taskFailed, .taskKilled, .taskError, .taskLost, .taskDropped,
                .taskUnreachable, .taskGone, .taskGoneByOperator, .taskUnknown:
                break
            }
        }
        if configuration.cleansUpOnRecovery { shutDownExecutor(key, now: now, &actions) }
    }
}
