import Base
import MesosAPI
import OrderedCollections

extension AgentCore {
    // MARK: Launching

    mutating func runTask(
        _ run: ClusterMasterMessage.RunTask, now: Instant, rng: inout some RandomNumberGenerator,
        _ actions: inout [Action]
    ) {
        let id = run.framework.id.value
        guard frameworks[id]?.isTerminating != true else { return }
        if frameworks[id]?.info != run.framework {
            frameworks[id, default: FrameworkRecord(info: run.framework)].info = run.framework
            actions.append(.checkpoint(.framework(run.framework)))
        }
        if run.hasTaskGroup {
            for task in run.taskGroup.tasks {
                var task = task
                task.executor = run.executor
                runTask(task, framework: id, isGroup: true, now: now, rng: &rng, &actions)
            }
        } else if run.hasTask {
            runTask(run.task, framework: id, isGroup: false, now: now, rng: &rng, &actions)
        }
    }

    private mutating func runTask(
        _ task: MesosTaskInfo, framework id: String, isGroup: Bool, now: Instant,
        rng: inout some RandomNumberGenerator, _ actions: inout [Action]
    ) {
        let taskKey = TaskKey(framework: id, task: task.taskID.value)
        // The master repeats itself only when a link broke in the middle: the task is already ours.
        guard executorKey(ofTask: taskKey.task, framework: id) == nil else { return }
        streams[taskKey] = nil
        guard !isGroup, !(task.hasExecutor && task.executor.type == .default) else {
            let status = makeStatus(
                taskKey, executor: nil, .taskError, source: .agent, reason: .taskGroupInvalid,
                message: "Task groups and the default executor are not implemented", now: now, rng: &rng)
            put(status, taskKey, executor: nil, now: now, &actions)
            return
        }
        // Ids become names of directories.
        let ids = [id, taskKey.task] + (task.hasExecutor ? [task.executor.executorID.value] : [])
        if let fault = ids.lazy.compactMap(idFault).first {
            let status = makeStatus(
                taskKey, executor: nil, .taskError, source: .agent, reason: .taskInvalid, message: fault, now: now,
                rng: &rng)
            put(status, taskKey, executor: nil, now: now, &actions)
            return
        }
        let isCommand = !task.hasExecutor
        let info = isCommand ? commandExecutor(for: task, framework: id) : task.executor
        let key = ExecutorKey(framework: id, executor: info.executorID.value)
        if let running = executor(key) {
            add(task, to: key, running, now: now, rng: &rng, &actions)
            return
        }
        let container = randomUUID(using: &rng)
        var executor = ExecutorRecord(info: info, containerID: container, kind: isCommand ? .command : .custom)
        executor.tasks[taskKey.task] = TaskRecord(info: task)
        frameworks[id]?.executors[key.executor] = executor
        containers[container] = key
        guard let framework = frameworks[id]?.info else { return }
        actions.append(.checkpoint(.executor(framework: id, info, container: container, isCommand: isCommand)))
        actions.append(.checkpoint(.task(framework: id, executor: key.executor, container: container, task)))
        actions.append(.launch(order(for: key, executor, framework)))
        if isCommand { report(key, taskKey.task, .taskStarting, source: .executor, now: now, rng: &rng, &actions) }
    }

    /// A further task for an executor that exists.
    private mutating func add(
        _ task: MesosTaskInfo, to key: ExecutorKey, _ executor: ExecutorRecord, now: Instant,
        rng: inout some RandomNumberGenerator, _ actions: inout [Action]
    ) {
        let taskKey = TaskKey(framework: key.framework, task: task.taskID.value)
        let isAcceptable: Bool
        switch executor.phase {
        case .launching, .registering, .running: isAcceptable = executor.kind == .custom
        case .terminating, .terminated: isAcceptable = false
        }
        guard isAcceptable else {
            let isAware = frameworks[key.framework]?.has(.partitionAware) == true
            let status = makeStatus(
                taskKey, executor: key.executor, isAware ? .taskDropped : .taskLost, source: .agent,
                reason: .executorTerminated, message: "Executor is terminating or terminated", now: now, rng: &rng)
            put(status, taskKey, executor: nil, now: now, &actions)
            return
        }
        update(key) { $0.tasks[taskKey.task] = TaskRecord(info: task) }
        actions.append(
            .checkpoint(
                .task(framework: key.framework, executor: key.executor, container: executor.containerID, task)))
        if executor.isSubscribed { deliver(key, &actions) }
    }

    /// The executor that the agent itself plays for a task without one.
    private func commandExecutor(for task: MesosTaskInfo, framework: String) -> MesosExecutorInfo {
        var info = MesosExecutorInfo()
        info.executorID.value = task.taskID.value
        info.frameworkID.value = framework
        info.command = task.command
        if task.hasContainer { info.container = task.container }
        let words = [task.command.value] + task.command.arguments
        let text = task.command.shell ? "sh -c '\(task.command.value)'" : words.joined(separator: " ")
        let shown = text.count > 15 ? String(text.prefix(12)) + "..." : text
        info.name = "Command Executor (Task: \(task.taskID.value)) (Command: \(shown))"
        info.source = task.taskID.value
        if task.hasLabels { info.labels = task.labels }
        if task.hasDiscovery { info.discovery = task.discovery }
        return info
    }

    // MARK: Killing

    mutating func killTask(
        _ kill: ClusterMasterMessage.KillTask, now: Instant, rng: inout some RandomNumberGenerator,
        _ actions: inout [Action]
    ) {
        let taskKey = TaskKey(framework: kill.frameworkID.value, task: kill.taskID.value)
        guard let key = executorKey(ofTask: taskKey.task, framework: taskKey.framework),
            let executor = executor(key), let task = executor.tasks[taskKey.task]
        else {
            guard streams[taskKey] == nil else { return }
            let isAware = frameworks[taskKey.framework]?.has(.partitionAware) == true
            let status = makeStatus(
                taskKey, executor: nil, isAware ? .taskDropped : .taskLost, source: .agent,
                reason: .executorTerminated, message: "Cannot find executor", now: now, rng: &rng)
            put(status, taskKey, executor: nil, now: now, &actions)
            return
        }
        guard !task.state.isTerminal else { return }
        switch executor.kind {
        case .command:
            let policy = kill.hasKillPolicy ? kill.killPolicy : nil
            let grace = killGrace(of: task.info, override: policy)
            if executor.end == nil, executor.phase == .running,
                frameworks[key.framework]?.has(.taskKillingState) == true
            {
                report(key, taskKey.task, .taskKilling, source: .executor, now: now, rng: &rng, &actions)
            }
            end(key, .killed, grace: grace, now: now, &actions)
        case .custom:
            if task.isDelivered {
                if executor.isSubscribed { actions.append(.notify(key, .kill(kill))) }
                return
            }
            report(
                key, taskKey.task, .taskKilled, source: .agent, reason: .taskKilledDuringLaunch,
                message: "Task killed before delivery to executor", now: now, rng: &rng, &actions)
            let isIdle = self.executor(key)?.tasks.values.allSatisfy { $0.state.isTerminal } == true
            if isIdle, !executor.isSubscribed { end(key, .killed, grace: .zero, now: now, &actions) }
        }
    }

    /// How long a task may take to end: the kill's own wish, the task's, or the default of its kind.
    func killGrace(of task: MesosTaskInfo, override: MesosKillPolicy?) -> Duration {
        for policy in [override, task.hasKillPolicy ? task.killPolicy : nil] {
            if let policy, policy.hasGracePeriod {
                return .nanoseconds(max(0, policy.gracePeriod.nanoseconds))
            }
        }
        return task.container.type == .docker && task.hasContainer
            ? configuration.executorShutdownGracePeriod : .seconds(3)
    }

    /// Ends the container. The first reason counts; a later call can only shorten the time.
    mutating func end(
        _ key: ExecutorKey, _ reason: EndReason, grace: Duration, now: Instant, _ actions: inout [Action]
    ) {
        guard let executor = executor(key), executor.phase != .terminated else { return }
        update(key) {
            $0.end = $0.end ?? reason
            if $0.phase != .launching {
                // The containerizer escalates by itself; the deadline only repeats the order should it have failed.
                $0.phase = .terminating(deadline: now + grace + .seconds(60))
            }
        }
        actions.append(.stop(container: executor.containerID, grace: grace))
    }

    // MARK: What containers report

    mutating func containerStarted(
        _ id: String, _ report: ContainerReport, now: Instant, rng: inout some RandomNumberGenerator,
        _ actions: inout [Action]
    ) {
        guard let (key, executor) = executor(ofContainer: id), executor.phase == .launching else { return }
        update(key) { $0.report = report }
        if executor.end != nil {
            update(key) { $0.phase = .terminating(deadline: now + .seconds(60)) }
            return
        }
        switch executor.kind {
        case .custom:
            if executor.isSubscribed {
                update(key) { $0.phase = .running }
            } else {
                let deadline = now + configuration.executorRegistrationTimeout
                update(key) { $0.phase = .registering(deadline: deadline) }
            }
        case .command:
            update(key) { $0.phase = .running }
            guard let task = executor.tasks.values.first else { return }
            start(key, task.info, now: now)
            self.report(
                key, task.info.taskID.value, .taskRunning, source: .executor, isFirstRunning: true, now: now, rng: &rng,
                &actions)
        }
    }

    /// Clocks that run from a task's start.
    func start(_ task: inout TaskRecord, now: Instant) {
        let info = task.info
        if info.hasHealthCheck {
            let check = info.healthCheck
            task.health = HealthMonitor(
                startedAt: now, grace: .seconds(max(0, min(check.gracePeriodSeconds, 1e9))),
                failuresMax: Int(check.consecutiveFailures))
        }
        if info.hasMaxCompletionTime {
            task.completionDeadline = now + .nanoseconds(max(0, info.maxCompletionTime.nanoseconds))
        }
    }

    mutating func start(_ key: ExecutorKey, _ task: MesosTaskInfo, now: Instant) {
        guard var record = executor(key)?.tasks[task.taskID.value] else { return }
        start(&record, now: now)
        update(key, task: task.taskID.value) { $0 = record }
    }

    mutating func containerFailed(
        _ id: String, _ message: String, now: Instant, rng: inout some RandomNumberGenerator,
        _ actions: inout [Action]
    ) {
        guard let (key, executor) = executor(ofContainer: id), executor.phase != .terminated else { return }
        let final: Final
        switch executor.end {
        case .killed?, .shutdown?:
            let text = "Task was killed while its container was launched"
            final = Final(.taskKilled, .agent, .taskKilledDuringLaunch, text)
        case nil, .unhealthy?, .maxCompletionTime?, .registrationTimeout?, .reregistrationTimeout?:
            final = Final(.taskFailed, .agent, .containerLaunchFailed, message)
        }
        finish(key, executor.tasks.mapValues { _ in final }, now: now, rng: &rng, &actions)
    }

    mutating func containerExited(
        _ id: String, _ exit: ContainerExit, now: Instant, rng: inout some RandomNumberGenerator,
        _ actions: inout [Action]
    ) {
        guard let (key, executor) = executor(ofContainer: id), executor.phase != .terminated else { return }
        let isAware = frameworks[key.framework]?.has(.partitionAware) == true
        if executor.kind == .custom {
            var exited = ClusterAgentMessage.ExitedExecutor()
            exited.frameworkID.value = key.framework
            exited.executorID = executor.info.executorID
            exited.status = exit.waitStatus
            if isRegistered { actions.append(.send(ClusterAgentMessage(.exitedExecutor(exited)))) }
            actions.append(.unsubscribe(key))
        }
        let finals = executor.tasks.mapValues { task in
            executor.kind == .command
                ? finalOfCommand(task, executor, exit, isAware: isAware)
                : finalOfCustom(executor, exit, isAware: isAware)
        }
        finish(key, finals, now: now, rng: &rng, &actions)
    }

    struct Final {
        var state: MesosTaskState
        var source: MesosTaskStatus.Source
        var reason: MesosTaskStatus.Reason?
        var message: String
        var isUnhealthy = false
        var isOutOfMemory = false

        init(
            _ state: MesosTaskState, _ source: MesosTaskStatus.Source, _ reason: MesosTaskStatus.Reason?,
            _ message: String
        ) {
            self.state = state
            self.source = source
            self.reason = reason
            self.message = message
        }
    }

    private func finalOfCommand(
        _ task: TaskRecord, _ executor: ExecutorRecord, _ exit: ContainerExit, isAware: Bool
    ) -> Final {
        let noun = task.info.hasContainer && task.info.container.type == .docker ? "Container" : "Command"
        let text: String
        switch exit {
        case .exited(let status): text = "\(noun) exited with status \(status)"
        case .signaled(let number): text = "\(noun) terminated with signal \(signalName(number))"
        case .outOfMemory: text = "\(noun) exceeded its memory limit"
        case .unknown(let message): text = message
        }
        switch executor.end {
        case .killed?, .shutdown?: return Final(.taskKilled, .executor, nil, text)
        case .unhealthy?:
            var final = Final(.taskKilled, .executor, nil, text)
            final.isUnhealthy = true
            return final
        case .maxCompletionTime?: return Final(.taskFailed, .executor, .maxCompletionTimeReached, text)
        case .reregistrationTimeout?:
            return Final(isAware ? .taskGone : .taskLost, .agent, .executorReregistrationTimeout, text)
        case nil, .registrationTimeout?: break
        }
        switch exit {
        case .exited(0): return Final(.taskFinished, .executor, nil, text)
        case .exited, .signaled: return Final(.taskFailed, .executor, nil, text)
        case .outOfMemory:
            var final = Final(.taskFailed, .agent, .containerLimitationMemory, text)
            final.isOutOfMemory = true
            return final
        case .unknown: return Final(isAware ? .taskGone : .taskLost, .agent, .executorReregistrationTimeout, text)
        }
    }

    private func finalOfCustom(_ executor: ExecutorRecord, _ exit: ContainerExit, isAware: Bool) -> Final {
        switch executor.end {
        case .registrationTimeout?:
            return Final(
                .taskFailed, .agent, .executorRegistrationTimeout,
                "Executor did not register within \(Int(configuration.executorRegistrationTimeout.inSeconds))secs")
        case .reregistrationTimeout?:
            return Final(
                isAware ? .taskGone : .taskLost, .agent, .executorReregistrationTimeout,
                "Executor did not re-register after the agent restarted")
        case .killed?, .shutdown?: return Final(.taskKilled, .agent, .executorTerminated, "Executor terminated")
        case .unhealthy?, .maxCompletionTime?, nil: break
        }
        switch exit {
        case .outOfMemory:
            var final = Final(.taskFailed, .agent, .containerLimitationMemory, "Executor exceeded its memory limit")
            final.isOutOfMemory = true
            return final
        case .unknown(let message):
            return Final(isAware ? .taskGone : .taskLost, .agent, .executorReregistrationTimeout, message)
        case .exited, .signaled: return Final(.taskFailed, .agent, .executorTerminated, "Executor terminated")
        }
    }

    /// The container is gone: every task that is not over becomes final.
    private mutating func finish(
        _ key: ExecutorKey, _ finals: OrderedDictionary<String, Final>, now: Instant,
        rng: inout some RandomNumberGenerator, _ actions: inout [Action]
    ) {
        guard let executor = executor(key) else { return }
        update(key) {
            $0.phase = .terminated
            $0.isSubscribed = false
        }
        let isSilent = frameworks[key.framework]?.isTerminating == true
        for (id, task) in executor.tasks where !task.state.isTerminal {
            guard let final = finals[id] else { continue }
            update(key, task: id) { $0.completionDeadline = nil }
            if isSilent {
                update(key, task: id) { $0.state = .taskKilled }
                continue
            }
            let taskKey = TaskKey(framework: key.framework, task: id)
            var status = makeStatus(
                taskKey, executor: key.executor, final.state, source: final.source, reason: final.reason,
                message: final.message, now: now, rng: &rng)
            if final.isUnhealthy { status.healthy = false }
            if final.isOutOfMemory {
                status.limitation.resources = task.info.resources.filter { $0.name == "mem" }
            }
            put(status, taskKey, executor: key, now: now, &actions)
        }
        retireIfFinished(key, &actions)
    }

    // MARK: Health

    mutating func healthChecked(
        _ id: String, _ success: Bool, now: Instant, rng: inout some RandomNumberGenerator, _ actions: inout [Action]
    ) {
        guard let (key, executor) = executor(ofContainer: id), executor.phase == .running, executor.end == nil,
            let task = executor.tasks.values.first, var monitor = task.health
        else { return }
        let verdict = monitor.apply(success: success, now: now)
        update(key, task: task.info.taskID.value) { $0.health = monitor }
        if let healthy = verdict.healthy {
            report(
                key, task.info.taskID.value, .taskRunning, source: .executor, reason: .taskHealthCheckStatusUpdated,
                healthy: healthy, now: now, rng: &rng, &actions)
        }
        if verdict.isFatal {
            if frameworks[key.framework]?.has(.taskKillingState) == true {
                report(
                    key, task.info.taskID.value, .taskKilling, source: .executor, healthy: false, now: now, rng: &rng,
                    &actions)
            }
            end(key, .unhealthy, grace: killGrace(of: task.info, override: nil), now: now, &actions)
        }
    }

    mutating func checked(
        _ id: String, _ check: MesosCheckStatusInfo, now: Instant, rng: inout some RandomNumberGenerator,
        _ actions: inout [Action]
    ) {
        guard let (key, executor) = executor(ofContainer: id), executor.phase == .running, executor.end == nil,
            let task = executor.tasks.values.first
        else { return }
        report(
            key, task.info.taskID.value, .taskRunning, source: .executor, reason: .taskCheckStatusUpdated,
            check: check, now: now, rng: &rng, &actions)
    }
}

extension ContainerExit {
    /// As `waitpid` encodes it; -1 when unknown.
    var waitStatus: Int32 {
        switch self {
        case .exited(let status): status << 8
        case .signaled(let number): number
        case .outOfMemory: 9
        case .unknown: -1
        }
    }
}
