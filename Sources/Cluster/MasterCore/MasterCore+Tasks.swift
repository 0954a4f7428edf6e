import Allocator
import Base
import FoundationEssentials
import MesosAPI
import Resources

extension MasterCore {
    // MARK: Updates

    /// A status that the master itself reports; it wants no acknowledgement.
    func masterStatus(
        _ task: MesosTaskID, _ state: MesosTaskState, _ reason: MesosTaskStatus.Reason, _ message: String,
        agent: MesosAgentID?
    ) -> MesosTaskStatus {
        var status = MesosTaskStatus()
        status.taskID = task
        status.state = state
        status.source = .master
        status.reason = reason
        status.message = message
        status.timestamp = time
        if let agent { status.agentID = agent }
        return status
    }

    mutating func sendUpdate(_ id: MesosFrameworkID, _ status: MesosTaskStatus) {
        send(id) { event in
            event.type = .update
            event.update.status = status
        }
    }

    /// An agent's update: goes into the record and on to the framework, which acknowledges it.
    mutating func statusUpdate(_ agent: MesosAgentID, _ update: ClusterAgentMessage.StatusUpdate) {
        count("messages_status_update")
        let id = update.frameworkID
        let task = update.status.taskID
        guard let framework = frameworks[id] else {
            count("invalid_status_updates")
            // Nobody will ever acknowledge it, so that the agent can forget the task.
            if update.status.hasUuid { acknowledge(agent, id, task, uuid: update.status.uuid) }
            if isCompleted(id) {
                var shutdown = ClusterMasterMessage.ShutdownFramework()
                shutdown.frameworkID = id
                send(agent, .shutdownFramework(shutdown))
            }
            return
        }
        count("valid_status_updates")
        if framework.tasks[task]?.agentID == agent {
            self.update(
                id, task, status: update.status, latest: update.hasLatestState ? update.latestState : nil)
        }
        sendUpdate(id, update.status)
        if !update.status.hasUuid, update.status.state.isTerminal {
            removeTask(TaskKey(framework: id, task: task))
        }
    }

    /// Writes a status into the task's record; what it used is free when its newest state is terminal.
    mutating func update(
        _ id: MesosFrameworkID, _ taskID: MesosTaskID, status: MesosTaskStatus, latest: MesosTaskState?
    ) {
        guard var task = frameworks[id]?.tasks[taskID] else { return }
        let wasTerminal = task.state.isTerminal
        let state = latest ?? status.state
        // A late retry of an older update must not revive a task that has ended.
        if !wasTerminal || state.isTerminal { task.state = state }
        if status.hasUuid {
            task.statusUpdateState = status.state
            task.statusUpdateUuid = status.uuid
        } else {
            task.statusUpdateState = status.state
        }
        var stored = status
        stored.clearData()
        let repeats = task.statuses.last?.state == stored.state
        if repeats { task.statuses.removeLast() }
        task.statuses.append(stored)
        frameworks[id]?.tasks[taskID] = task
        if task.state.isTerminal, !wasTerminal {
            allocator.recover(id, agent: task.agentID, Resources(task.resources))
            count(MasterCore.counter(of: task.state))
        }
        let isCheck = status.reason == .taskHealthCheckStatusUpdated || status.reason == .taskCheckStatusUpdated
        if !repeats || isCheck {
            publish(.taskUpdated) { event in
                event.taskUpdated.frameworkID = id
                event.taskUpdated.status = stored
                event.taskUpdated.state = task.state
            }
        }
    }

    /// The metric of tasks that ended in `state`.
    static func counter(of state: MesosTaskState) -> String {
        switch state {
        case .taskStaging: "tasks_staging"
        case .taskStarting: "tasks_starting"
        case .taskRunning: "tasks_running"
        case .taskKilling: "tasks_killing"
        case .taskFinished: "tasks_finished"
        case .taskFailed: "tasks_failed"
        case .taskKilled: "tasks_killed"
        case .taskError: "tasks_error"
        case .taskLost: "tasks_lost"
        case .taskDropped: "tasks_dropped"
        case .taskUnreachable: "tasks_unreachable"
        case .taskGone: "tasks_gone"
        case .taskGoneByOperator: "tasks_gone_by_operator"
        case .taskUnknown: "tasks_unknown"
        }
    }

    /// Forgets a task that has ended; it is shown as completed for a while.
    mutating func removeTask(_ key: TaskKey) {
        guard let task = frameworks[key.framework]?.tasks.removeValue(forKey: key.task) else { return }
        agents[task.agentID]?.tasks.remove(key)
        agents[task.agentID]?.pendingKills[key] = nil
        if !task.state.isTerminal {
            allocator.recover(key.framework, agent: task.agentID, Resources(task.resources))
        }
        frameworks[key.framework]?.completedTasks.append(task)
        if let count = frameworks[key.framework]?.completedTasks.count, count > options.completedTasksMax {
            frameworks[key.framework]?.completedTasks.removeFirst(count - options.completedTasksMax)
        }
    }

    // MARK: Acknowledgements and kills

    mutating func acknowledge(_ id: MesosFrameworkID, _ call: SchedulerCall.Acknowledge) {
        count("messages_status_update_acknowledgement")
        guard agents[call.agentID]?.isConnected == true else {
            count("invalid_status_update_acknowledgements")
            return
        }
        if let task = frameworks[id]?.tasks[call.taskID] {
            guard task.agentID == call.agentID, task.hasStatusUpdateState else {
                count("invalid_status_update_acknowledgements")
                return
            }
            if task.statusUpdateState.isTerminal, task.statusUpdateUuid == call.uuid {
                removeTask(TaskKey(framework: id, task: call.taskID))
            }
        }
        count("valid_status_update_acknowledgements")
        acknowledge(call.agentID, id, call.taskID, uuid: call.uuid)
    }

    private mutating func acknowledge(
        _ agent: MesosAgentID, _ id: MesosFrameworkID, _ task: MesosTaskID, uuid: Data
    ) {
        var message = ClusterMasterMessage.StatusUpdateAcknowledgement()
        message.frameworkID = id
        message.taskID = task
        message.uuid = uuid
        send(agent, .statusUpdateAcknowledgement(message))
    }

    mutating func kill(_ id: MesosFrameworkID, _ call: SchedulerCall.Kill) {
        count("messages_kill_task")
        guard let task = frameworks[id]?.tasks[call.taskID] else {
            reconcile(id, task: call.taskID, agent: call.hasAgentID ? call.agentID : nil)
            return
        }
        if call.hasAgentID, call.agentID != task.agentID { return }
        let key = TaskKey(framework: id, task: call.taskID)
        let policy = call.hasKillPolicy ? call.killPolicy : nil
        guard agents[task.agentID]?.isConnected == true else {
            agents[task.agentID]?.pendingKills[key] = policy
            return
        }
        sendKill(key, policy: policy, to: task.agentID)
    }

    mutating func sendKill(_ key: TaskKey, policy: MesosKillPolicy?, to agent: MesosAgentID) {
        var message = ClusterMasterMessage.KillTask()
        message.frameworkID = key.framework
        message.taskID = key.task
        if let policy { message.killPolicy = policy }
        send(agent, .killTask(message))
    }

    // MARK: Reconciliation

    mutating func reconcile(_ id: MesosFrameworkID, _ call: SchedulerCall.Reconcile) {
        count("messages_reconcile_tasks")
        if call.tasks.isEmpty {
            for task in (frameworks[id]?.tasks ?? [:]).keys.sorted() {
                if let record = frameworks[id]?.tasks[task] { sendReconciliation(id, record) }
            }
            return
        }
        for task in call.tasks { reconcile(id, task: task.taskID, agent: task.hasAgentID ? task.agentID : nil) }
    }

    private mutating func sendReconciliation(_ id: MesosFrameworkID, _ task: MesosTask) {
        var status = masterStatus(
            task.taskID, task.hasStatusUpdateState ? task.statusUpdateState : task.state, .reconciliation,
            "Reconciliation: Latest task state", agent: task.agentID)
        if task.hasExecutorID { status.executorID = task.executorID }
        if let last = task.statuses.last {
            if last.hasHealthy { status.healthy = last.healthy }
            if last.hasCheckStatus { status.checkStatus = last.checkStatus }
            if last.hasLabels { status.labels = last.labels }
            if last.hasContainerStatus { status.containerStatus = last.containerStatus }
        }
        sendUpdate(id, status)
    }

    /// Answers for one task, also for one that the master does not know.
    private mutating func reconcile(_ id: MesosFrameworkID, task: MesosTaskID, agent: MesosAgentID?) {
        guard let framework = frameworks[id] else { return }
        if let record = framework.tasks[task] {
            sendReconciliation(id, record)
            return
        }
        // An agent that may know the task has not reported yet, or its fate is being decided.
        if framework.unreachableTasks[task] == nil, isInTransition(agent) { return }
        let isAware = framework.info.has(.partitionAware)
        func status(_ state: MesosTaskState, _ message: String, _ agent: MesosAgentID?) -> MesosTaskStatus {
            masterStatus(task, isAware ? state : .taskLost, .reconciliation, message, agent: agent)
        }
        if let unreachable = framework.unreachableTasks[task] {
            var answer = status(.taskUnreachable, "Reconciliation: Task is unreachable", unreachable.agentID)
            if let last = unreachable.statuses.last, last.hasUnreachableTime {
                answer.unreachableTime = last.unreachableTime
            }
            sendUpdate(id, answer)
        } else if let agent, agents[agent] != nil {
            sendUpdate(id, status(.taskGone, "Reconciliation: Task is unknown to the agent", agent))
        } else if let agent, let unreachable = unreachableAgents[agent] {
            var answer = status(.taskUnreachable, "Reconciliation: Task is unreachable", agent)
            answer.unreachableTime.nanoseconds = Int64(unreachable.since * 1e9)
            sendUpdate(id, answer)
        } else if let agent, goneAgents[agent] != nil {
            sendUpdate(id, status(.taskGoneByOperator, "Reconciliation: Task is gone", agent))
        } else {
            sendUpdate(id, status(.taskUnknown, "Reconciliation: Task is unknown", agent))
        }
    }
}
