import Base
public import MesosAPI
import OrderedCollections

/// Why a call of an executor is refused, in the words of the protocol.
public enum ExecutorRefusal: Error, Hashable, Sendable {
    case unknownFramework
    case unknownExecutor
    case notSubscribed
    case recovering
    case invalid(String)
}

extension AgentCore {
    /// Checks a call before it becomes an event. Answers whom it is from.
    public func validate(_ call: ExecutorCall) throws(ExecutorRefusal) -> ExecutorKey {
        let key = ExecutorKey(framework: call.frameworkID.value, executor: call.executorID.value)
        guard link != .recovering else { throw .recovering }
        guard let framework = frameworks[key.framework] else { throw .unknownFramework }
        guard let executor = framework.executors[key.executor], executor.kind == .custom,
            executor.phase != .terminated
        else { throw .unknownExecutor }
        if call.type == .subscribe { return key }
        guard executor.isSubscribed else { throw .notSubscribed }
        guard call.type == .update else { return key }
        let status = call.update.status
        guard status.uuidBytes.count == 16 else { throw .invalid("Expecting 'uuid' to be a 16 byte UUID") }
        guard status.source == .executor else { throw .invalid("Expecting 'source' to be SOURCE_EXECUTOR") }
        guard status.state != .taskStaging else { throw .invalid("TASK_STAGING is not a state an executor may send") }
        guard !status.hasExecutorID || status.executorID.value == key.executor else {
            throw .invalid("ExecutorID in the status does not match the executor")
        }
        return key
    }

    /// What an executor gets to see first on its stream.
    public func subscribedEvent(_ key: ExecutorKey) -> ExecutorEvent? {
        guard let framework = frameworks[key.framework], let executor = framework.executors[key.executor] else {
            return nil
        }
        var event = ExecutorEvent()
        event.type = .subscribed
        event.subscribed.executorInfo = executor.info
        event.subscribed.executorInfo.frameworkID.value = key.framework
        event.subscribed.frameworkInfo = framework.info
        event.subscribed.agentInfo = configuration.info
        if let agentID { event.subscribed.agentInfo.id.value = agentID }
        event.subscribed.containerID.value = executor.containerID
        return event
    }

    mutating func executorSubscribed(
        _ key: ExecutorKey, _ call: ExecutorCall.Subscribe, now: Instant, rng: inout some RandomNumberGenerator,
        _ actions: inout [Action]
    ) {
        guard let executor = executor(key) else { return }
        update(key) {
            $0.isSubscribed = true
            if case .registering = $0.phase { $0.phase = .running }
        }
        if let event = subscribedEvent(key) { actions.append(.notify(key, event)) }
        if case .terminating = executor.phase {
            actions.append(.notify(key, .shutdown))
            return
        }
        for unacknowledged in call.unacknowledgedUpdates {
            executorUpdate(key, unacknowledged.status, now: now, rng: &rng, &actions)
        }
        // A task that was delivered before but that the executor never saw got lost on the way.
        let listed = Set(call.unacknowledgedTasks.map(\.taskID.value))
        let isAware = frameworks[key.framework]?.has(.partitionAware) == true
        for (id, task) in executor.tasks where task.isDelivered && task.state == .taskStaging && !listed.contains(id) {
            guard self.executor(key)?.tasks[id]?.state == .taskStaging else { continue }
            report(
                key, id, isAware ? .taskDropped : .taskLost, source: .agent, reason: .agentRestarted,
                message: "Task launched during agent restart", now: now, rng: &rng, &actions)
        }
        deliver(key, &actions)
    }

    /// Hands over the tasks that the executor has not been told of.
    mutating func deliver(_ key: ExecutorKey, _ actions: inout [Action]) {
        guard let executor = executor(key) else { return }
        for (id, task) in executor.tasks where !task.isDelivered && !task.state.isTerminal {
            update(key, task: id) { $0.isDelivered = true }
            actions.append(.notify(key, .launch(task.info)))
        }
    }

    mutating func executorUnsubscribed(_ key: ExecutorKey) {
        // The executor may come back; if it does not, its container's end tells.
        update(key) { $0.isSubscribed = false }
    }

    mutating func executorUpdate(
        _ key: ExecutorKey, _ status: MesosTaskStatus, now: Instant, rng: inout some RandomNumberGenerator,
        _ actions: inout [Action]
    ) {
        let taskKey = TaskKey(framework: key.framework, task: status.taskID.value)
        guard let framework = frameworks[key.framework], !framework.isTerminating,
            framework.executors[key.executor]?.tasks[taskKey.task] != nil
        else {
            // Acknowledged all the same: the executor could do nothing but repeat it.
            actions.append(.notify(key, .acknowledged(status)))
            return
        }
        var status = status
        status.source = .executor
        if let agentID { status.agentID.value = agentID }
        status.executorID.value = key.executor
        if !status.hasTimestamp {
            status.timestamp = configuration.unixTimeOfZero + Double(now.nanoseconds) / 1e9
        }
        put(status, taskKey, executor: key, now: now, &actions)
        actions.append(.notify(key, .acknowledged(status)))
        forgetFinishedTasks(key)
    }

    /// A long-lived executor's finished tasks do not wait for its end.
    private mutating func forgetFinishedTasks(_ key: ExecutorKey) {
        update(key) { executor in
            let finished = executor.tasks.filter { $0.value.state.isTerminal }.keys
            for id in finished.dropLast(200) { executor.tasks[id] = nil }
        }
    }

    mutating func executorMessage(
        _ key: ExecutorKey, _ message: ExecutorCall.Message, _ actions: inout [Action]
    ) {
        guard isRegistered else { return }
        var forwarded = ClusterAgentMessage.ExecutorMessage()
        forwarded.frameworkID.value = key.framework
        forwarded.executorID.value = key.executor
        forwarded.data = message.data
        actions.append(.send(ClusterAgentMessage(.executorMessage(forwarded))))
    }
}
