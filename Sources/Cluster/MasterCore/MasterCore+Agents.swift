import Allocator
import Base
import MesosAPI
import Resources

/// An agent that asks to be registered.
struct AgentArrival: Sendable {
    var connection: ConnectionID
    /// With its id.
    var info: MesosAgentInfo
    var version: String
    var pid: String
    var capabilities: [MesosAgentInfo.Capability]
    var frameworks: [MesosFrameworkInfo] = []
    var executors: [MesosExecutorInfo] = []
    var tasks: [MesosTask] = []
    var isReregistration = false
}

// MARK: - Registration

extension MasterCore {
    mutating func handle(_ message: ClusterAgentMessage, _ connection: ConnectionID) {
        switch message.kind {
        case .register(let register): self.register(register, connection)
        case .reregister(let reregister): self.reregister(reregister, connection)
        case .unregister, .pong, .statusUpdate, .executorMessage, .exitedExecutor, nil:
            guard let agent = agentByConnection[connection], agents[agent]?.connection == connection else {
                return refuse(403, "Agent is not registered")
            }
            handle(message.kind, from: agent)
        }
    }

    private mutating func handle(_ kind: ClusterAgentMessage.OneOf_Kind?, from agent: MesosAgentID) {
        switch kind {
        case .pong: agents[agent]?.lastPong = now
        case .statusUpdate(let update): statusUpdate(agent, update)
        case .executorMessage(let message):
            count("messages_executor_to_framework")
            send(message.frameworkID) { event in
                event.type = .message
                event.message.agentID = agent
                event.message.executorID = message.executorID
                event.message.data = message.data
            }
        case .exitedExecutor(let exited): executorExited(agent, exited)
        case .unregister(let unregister):
            guard unregister.agentID == agent else { return refuse(400, "Agent is registered as \(agent)") }
            count("messages_unregister_agent")
            removeAgent(agent, message: "Agent \(agents[agent]?.info.hostname ?? "") removed: the agent unregistered")
        case .register, .reregister, nil: refuse(400, "Expecting one kind of message")
        }
    }

    private mutating func register(_ register: ClusterAgentMessage.Register, _ connection: ConnectionID) {
        count("messages_register_agent")
        if let fault = Resources.fault(in: register.agentInfo.resources) { return dismiss(connection, fault) }
        for agent in agents.values.filter({ $0.pid == register.pid }).map(\.id).sorted() {
            removeAgent(agent, message: "Agent removed: a new agent registered at the same address")
        }
        var info = register.agentInfo
        info.id = newAgentID()
        let arrival = AgentArrival(
            connection: connection, info: info, version: register.version, pid: register.pid,
            capabilities: register.capabilities)
        agentByConnection[connection] = info.id
        persist([.agent(entry(info, .admitted))], then: .admit(arrival))
    }

    private mutating func reregister(_ call: ClusterAgentMessage.Reregister, _ connection: ConnectionID) {
        count("messages_reregister_agent")
        let id = call.agentInfo.id
        if idFault(id.value) != nil { return dismiss(connection, "The agent has no valid id") }
        if let fault = Resources.fault(in: call.agentInfo.resources) { return dismiss(connection, fault) }
        if goneAgents[id] != nil { return dismiss(connection, "Agent has been marked gone") }
        let arrival = AgentArrival(
            connection: connection, info: call.agentInfo, version: call.version, pid: call.pid,
            capabilities: call.capabilities, frameworks: call.frameworks, executors: call.executors,
            tasks: call.tasks, isReregistration: true)
        // It asks again when its fate is decided.
        if leavingAgents.contains(id) { return actions.append(.closeAgent(connection)) }
        if let known = agents[id] {
            if known.info.hostname != call.agentInfo.hostname || known.info.port != call.agentInfo.port {
                return dismiss(connection, "Incompatible agent info: hostname or port changed")
            }
        }
        agentByConnection[connection] = id
        let isKnown = agents[id]?.info == call.agentInfo || recoveredAgents[id]?.info == call.agentInfo
        if isKnown {
            admit(arrival)
        } else {
            persist([.agent(entry(call.agentInfo, .admitted))], then: .admit(arrival))
        }
    }

    /// Tells an agent to end for good.
    private mutating func dismiss(_ connection: ConnectionID, _ reason: String) {
        var message = ClusterMasterMessage()
        message.shutdownAgent.message = reason
        actions.append(.message(message, connection))
        actions.append(.closeAgent(connection))
        note("agent refused", ["reason": reason])
    }

    /// The registry has the agent: it counts from now on.
    mutating func admit(_ arrival: AgentArrival) {
        let id = arrival.info.id
        // The agent may have gone, or come back on a newer stream, while the registry was written.
        guard agentByConnection[arrival.connection] == id else {
            if !arrival.isReregistration { persist([.removeAgent(id)], then: .nothing) }
            return
        }
        let previous = agents[id]
        let wasUnreachable = unreachableAgents.removeValue(forKey: id) != nil
        recoveredAgents[id] = nil
        if let old = previous?.connection, old != arrival.connection {
            agentByConnection[old] = nil
            actions.append(.closeAgent(old))
        }
        for offer in (previous?.offers ?? []).sorted() { removeOffer(offer, rescind: true) }
        var record = AgentRecord(
            info: arrival.info, version: arrival.version, pid: arrival.pid, capabilities: arrival.capabilities,
            connection: arrival.connection, total: Resources(arrival.info.resources).unallocated,
            registeredTime: previous?.registeredTime ?? time, lastPong: now, nextPing: now + options.agentPingInterval)
        record.reregisteredTime = arrival.isReregistration ? time : nil
        record.tasks = previous?.tasks ?? []
        record.pendingKills = previous?.pendingKills ?? [:]
        record.isActive = !deactivatedAgents.contains(id)
        agents[id] = record
        adopt(arrival, wasUnreachable: wasUnreachable)
        announce(id, arrival)
        if previous == nil, let agent = agents[id] {
            let message = agentMessage(agent)
            publish(.agentAdded) { $0.agentAdded.agent = message }
        }
        count(arrival.isReregistration ? "slave_reregistrations" : "slave_registrations")
        note(
            arrival.isReregistration ? "agent registered again" : "agent registered",
            ["agent.id": id.value, "agent.hostname": arrival.info.hostname, "agent.pid": arrival.pid])
    }

    /// Tells an admitted agent what it must know first.
    private mutating func announce(_ id: MesosAgentID, _ arrival: AgentArrival) {
        var registered = ClusterMasterMessage.Registered()
        registered.agentID = id
        registered.pingTimeoutSeconds = options.agentPingInterval.inSeconds * Double(options.agentPingsMissedMax)
        registered.masterInfo = options.info
        send(id, .registered(registered))
        let reported = Set(arrival.tasks.map { TaskKey(framework: $0.frameworkID, task: $0.taskID) })
        var reconcile = ClusterMasterMessage.ReconcileTasks()
        for key in (agents[id]?.tasks ?? []).subtracting(reported).sorted() {
            var task = ClusterMasterMessage.ReconcileTasks.Task()
            task.frameworkID = key.framework
            task.taskID = key.task
            task.partitionAware = frameworks[key.framework]?.info.has(.partitionAware) ?? false
            reconcile.tasks.append(task)
        }
        if !reconcile.tasks.isEmpty { send(id, .reconcileTasks(reconcile)) }
        for info in arrival.frameworks.sorted(by: { $0.id < $1.id }) {
            if isCompleted(info.id) {
                var shutdown = ClusterMasterMessage.ShutdownFramework()
                shutdown.frameworkID = info.id
                send(id, .shutdownFramework(shutdown))
            } else if let current = frameworks[info.id], current.info != info {
                var update = ClusterMasterMessage.UpdateFramework()
                update.framework = current.info
                send(id, .updateFramework(update))
            }
        }
        for (key, policy) in (agents[id]?.pendingKills ?? [:]).sorted(by: { $0.key < $1.key }) {
            sendKill(key, policy: policy, to: id)
        }
        agents[id]?.pendingKills = [:]
    }

    /// Takes what the agent runs into the books and counts its use.
    private mutating func adopt(_ arrival: AgentArrival, wasUnreachable: Bool) {
        let id = arrival.info.id
        for info in arrival.frameworks where frameworks[info.id] == nil && !isCompleted(info.id) {
            if idFault(info.id.value) != nil { continue }
            var record = FrameworkRecord(info: info, isRecovered: true, at: time)
            record.failoverDeadline = now + returnTime(of: info)
            frameworks[info.id] = record
            allocator.addFramework(info, isActive: false)
        }
        for reported in arrival.tasks where reported.agentID == id { adopt(reported, on: id, wasUnreachable) }
        for executor in arrival.executors where frameworks[executor.frameworkID] != nil {
            let key = ExecutorKey(framework: executor.frameworkID, executor: executor.executorID)
            var executor = executor
            executor.resources = withRole(executor.resources, of: executor.frameworkID)
            agents[id]?.executors[key] = executor
        }
        guard let agent = agents[id] else { return }
        var used: [MesosFrameworkID: Resources] = [:]
        for key in agent.tasks {
            guard let task = frameworks[key.framework]?.tasks[key.task], !task.state.isTerminal else { continue }
            used[key.framework, default: Resources()] += Resources(task.resources)
        }
        for (key, executor) in agent.executors {
            used[key.framework, default: Resources()] += Resources(executor.resources)
        }
        allocator.addAgent(
            agent.info, total: agent.total, used: used.sorted { $0.key < $1.key }.map { ($0.key, $0.value) })
        allocator.setAgentActive(id, agent.isActive)
    }

    private mutating func adopt(_ reported: MesosTask, on id: MesosAgentID, _ wasUnreachable: Bool) {
        let framework = reported.frameworkID
        guard frameworks[framework] != nil, idFault(reported.taskID.value) == nil else { return }
        var task = reported
        task.resources = withRole(task.resources, of: framework)
        if let known = frameworks[framework]?.tasks[task.taskID] {
            // The same task id elsewhere: the older record stays, the agent's own is not counted.
            guard known.agentID == id else { return }
            frameworks[framework]?.tasks[task.taskID]?.state = task.state
            return
        }
        frameworks[framework]?.unreachableTasks[task.taskID] = nil
        frameworks[framework]?.tasks[task.taskID] = task
        agents[id]?.tasks.insert(TaskKey(framework: framework, task: task.taskID))
        if wasUnreachable {
            var status = masterStatus(
                task.taskID, task.hasStatusUpdateState ? task.statusUpdateState : task.state, .agentReregistered,
                "Unreachable agent re-reregistered", agent: id)
            if task.hasExecutorID { status.executorID = task.executorID }
            sendUpdate(framework, status)
        }
    }

    /// Resources in the new form; what an agent reports without an allocation belongs to the framework's first role.
    private func withRole(_ resources: [MesosResource], of framework: MesosFrameworkID) -> [MesosResource] {
        let role = frameworks[framework]?.info.subscribedRoles.first ?? "*"
        return resources.map { resource in
            var resource = Resources.normalized(resource)
            if !resource.hasAllocationInfo { resource.allocationInfo.role = role }
            return resource
        }
    }
}

// MARK: - Loss

extension MasterCore {
    /// Pings agents, and gives up those that do not answer or did not come back.
    mutating func tickAgents() {
        let patience = options.agentPingInterval * options.agentPingsMissedMax
        for id in agents.keys.sorted() {
            guard let agent = agents[id], !leavingAgents.contains(id) else { continue }
            if now - agent.lastPong >= patience, mayRemoveAgent {
                beginUnreachable(id, info: agent.info)
            } else if agent.nextPing <= now {
                agents[id]?.nextPing = now + options.agentPingInterval
                agents[id]?.pingSequence += 1
                var ping = ClusterMasterMessage.Ping()
                ping.sequence = agent.pingSequence + 1
                send(id, .ping(ping))
            }
        }
        let arriving = arrivingAgents
        let late = recoveredAgents.keys.sorted().filter { id in
            !leavingAgents.contains(id) && !arriving.contains(id)
                && recoveredAgents[id].map { $0.deadline <= now } == true
        }
        guard !late.isEmpty else { return }
        let share = Double(agentsNotBackCount + late.count) / Double(max(agentsRecoveredCount, 1))
        if share > options.recoveryAgentRemovalLimit {
            actions.append(
                .stepDown(
                    "Post-recovery agent removal limit exceeded: of \(agentsRecoveredCount) agents "
                        + "\(agentsNotBackCount + late.count) have not come back"))
            return
        }
        for id in late {
            guard mayRemoveAgent, let info = recoveredAgents[id]?.info else { return }
            agentsNotBackCount += 1
            beginUnreachable(id, info: info)
        }
    }

    /// Whether the limit of removals allows another one now.
    private var mayRemoveAgent: Bool { options.agentRemovalInterval == nil || nextAgentRemoval <= now }

    /// What the registry keeps of an agent.
    private func entry(_ info: MesosAgentInfo, _ state: RegistryAgent.State) -> RegistryAgent {
        RegistryAgent(
            info: info, state: state, since: time,
            isDeactivated: state != .gone && deactivatedAgents.contains(info.id))
    }

    /// Whether the agent (nil: any agent) may soon turn out to run something that is unknown now.
    func isInTransition(_ agent: MesosAgentID?) -> Bool {
        guard let agent else { return !recoveredAgents.isEmpty || !leavingAgents.isEmpty || !arrivingAgents.isEmpty }
        return recoveredAgents[agent] != nil || leavingAgents.contains(agent) || arrivingAgents.contains(agent)
    }

    /// Those that are to be admitted once the registry has them.
    private var arrivingAgents: [MesosAgentID] {
        writes.values.compactMap { if case .admit(let arrival) = $0 { arrival.info.id } else { nil } }
    }

    /// Forgets agents that have been unreachable or gone for very long, or are too many.
    mutating func collectRegistry() {
        guard nextRegistryCollection <= now else { return }
        nextRegistryCollection = now + options.registryCollectionInterval
        let oldest = time - options.registryAgentAgeMax.inSeconds
        var forgotten: [MesosAgentID] = []
        func collect(_ all: [(id: MesosAgentID, since: Double)]) {
            let sorted = all.sorted { ($0.since, $0.id) < ($1.since, $1.id) }
            let excess = sorted.count - options.registryAgentCountMax
            for (index, entry) in sorted.enumerated() where index < excess || entry.since < oldest {
                forgotten.append(entry.id)
            }
        }
        collect(unreachableAgents.map { ($0.key, $0.value.since) })
        collect(goneAgents.map { ($0.key, $0.value) })
        forgotten.removeAll { isInTransition($0) }
        guard !forgotten.isEmpty else { return }
        for id in forgotten {
            unreachableAgents[id] = nil
            goneAgents[id] = nil
            deactivatedAgents.remove(id)
        }
        persist(forgotten.map { .removeAgent($0) }, then: .nothing)
    }

    private mutating func beginUnreachable(_ id: MesosAgentID, info: MesosAgentInfo) {
        leavingAgents.insert(id)
        if let interval = options.agentRemovalInterval { nextAgentRemoval = now + interval }
        allocator.setAgentActive(id, false)
        persist([.agent(entry(info, .unreachable))], then: .unreachable(id))
    }

    mutating func finishUnreachable(_ id: MesosAgentID) {
        let since = time
        leavingAgents.remove(id)
        if let (info, _) = recoveredAgents.removeValue(forKey: id) {
            unreachableAgents[id] = UnreachableAgent(info: info, since: since)
            count("recovery_slave_removals")
            // Its tasks are not known here: frameworks that have some there will ask for them.
            sendAgentFailure(id)
            note("agent did not come back", ["agent.id": id.value])
            return
        }
        guard let agent = agents[id] else { return }
        unreachableAgents[id] = UnreachableAgent(info: agent.info, since: since)
        endTasks(of: agent, keepsTasks: true) { framework in
            framework.has(.partitionAware) ? .taskUnreachable : .taskLost
        } finish: { status in
            status.unreachableTime.nanoseconds = Int64(since * 1e9)
        }
        dropAgent(agent)
        count("slave_unreachable_completed")
        note("agent is unreachable", ["agent.id": id.value, "agent.hostname": agent.info.hostname])
    }

    /// The agent's stream broke. It may come back at once; until then it gets no offers and no tasks.
    mutating func agentGone(_ connection: ConnectionID) {
        guard let id = agentByConnection.removeValue(forKey: connection), let agent = agents[id],
            agent.connection == connection
        else { return }
        agents[id]?.connection = nil
        for offer in agent.offers.sorted() { removeOffer(offer, rescind: true) }
        allocator.setAgentActive(id, false)
        note("agent disconnected", ["agent.id": id.value])
    }

    /// The agent is no more and will not be again: its tasks are lost as soon as the registry has it.
    private mutating func removeAgent(_ id: MesosAgentID, message: String) {
        guard agents[id] != nil, leavingAgents.insert(id).inserted else { return }
        allocator.setAgentActive(id, false)
        persist([.removeAgent(id)], then: .removeAgent(id, message: message))
    }

    mutating func finishRemoval(of id: MesosAgentID, message: String) {
        leavingAgents.remove(id)
        deactivatedAgents.remove(id)
        guard let agent = agents[id] else { return }
        endTasks(of: agent, keepsTasks: false) { _ in
            .taskLost
        } finish: {
            $0.message = message
        }
        dropAgent(agent)
        count("slave_removals")
        note("agent removed", ["agent.id": id.value, "reason": message])
    }

    mutating func markGone(_ id: MesosAgentID) {
        let info: MesosAgentInfo
        if leavingAgents.contains(id) { return refuse(503, "Agent '\(id)' is in transition") }
        if let agent = agents[id] {
            info = agent.info
        } else if let recovered = recoveredAgents[id] {
            info = recovered.info
        } else if let unreachable = unreachableAgents[id] {
            info = unreachable.info
        } else {
            return goneAgents[id] == nil ? refuse(404, "Agent '\(id)' not found") : ()
        }
        leavingAgents.insert(id)
        allocator.setAgentActive(id, false)
        persist([.agent(entry(info, .gone))], then: .gone(id))
    }

    mutating func finishGone(_ id: MesosAgentID) {
        goneAgents[id] = time
        leavingAgents.remove(id)
        deactivatedAgents.remove(id)
        recoveredAgents[id] = nil
        unreachableAgents[id] = nil
        guard let agent = agents[id] else { return }
        endTasks(of: agent, keepsTasks: false) { framework in
            framework.has(.partitionAware) ? .taskGoneByOperator : .taskLost
        } finish: { status in
            if status.state == .taskGoneByOperator { status.reason = .agentRemovedByOperator }
        }
        if let connection = agent.connection { dismiss(connection, "Agent has been marked gone") }
        dropAgent(agent)
        note("agent marked gone", ["agent.id": id.value])
    }

    mutating func setActive(_ id: MesosAgentID, _ isActive: Bool) {
        guard let info = agents[id]?.info ?? recoveredAgents[id]?.info else {
            return refuse(400, "No agent found with specified ID")
        }
        if leavingAgents.contains(id) { return refuse(503, "Agent '\(id)' is in transition") }
        if isActive, !deactivatedAgents.contains(id) { return refuse(400, "Agent is not deactivated") }
        var entry = entry(info, .admitted)
        entry.isDeactivated = !isActive
        persist([.agent(entry)], then: .setAgentActive(id, isActive))
    }

    mutating func finishActivation(of id: MesosAgentID, _ isActive: Bool) {
        if isActive { deactivatedAgents.remove(id) } else { deactivatedAgents.insert(id) }
        guard let agent = agents[id] else { return }
        agents[id]?.isActive = isActive
        if !isActive {
            for offer in agent.offers.sorted() { removeOffer(offer, rescind: true) }
        }
        allocator.setAgentActive(id, isActive && agent.isConnected && !leavingAgents.contains(id))
    }

    /// Ends all tasks of an agent that is given up and tells their frameworks.
    private mutating func endTasks(
        of agent: AgentRecord, keepsTasks: Bool, state: (MesosFrameworkInfo) -> MesosTaskState,
        finish: (inout MesosTaskStatus) -> Void
    ) {
        for key in agent.tasks.sorted() {
            guard let framework = frameworks[key.framework], let task = framework.tasks[key.task] else { continue }
            if task.state.isTerminal {
                removeTask(key)
                continue
            }
            var status = masterStatus(
                key.task, state(framework.info), .agentRemoved, "Agent \(agent.info.hostname) removed", agent: agent.id)
            if task.hasExecutorID { status.executorID = task.executorID }
            finish(&status)
            sendUpdate(key.framework, status)
            update(key.framework, key.task, status: status, latest: nil)
            if keepsTasks { keepUnreachable(key) } else { removeTask(key) }
        }
        for key in agent.executors.keys.sorted() { removeExecutor(key, on: agent.id) }
    }

    private mutating func keepUnreachable(_ key: TaskKey) {
        guard let task = frameworks[key.framework]?.tasks.removeValue(forKey: key.task) else { return }
        agents[task.agentID]?.tasks.remove(key)
        if !task.state.isTerminal {
            allocator.recover(key.framework, agent: task.agentID, Resources(task.resources))
            count("tasks_unreachable")
        }
        frameworks[key.framework]?.unreachableTasks[key.task] = task
        guard let all = frameworks[key.framework]?.unreachableTasks, all.count > options.unreachableTasksMax,
            let oldest = all.values.min(by: { ($0.statuses.last?.timestamp ?? 0) < ($1.statuses.last?.timestamp ?? 0) })
        else { return }
        frameworks[key.framework]?.unreachableTasks[oldest.taskID] = nil
    }

    /// Takes an agent without tasks out of the books and tells everyone.
    private mutating func dropAgent(_ agent: AgentRecord) {
        for offer in (agents[agent.id]?.offers ?? []).sorted() { removeOffer(offer, rescind: true) }
        agents[agent.id] = nil
        allocator.removeAgent(agent.id)
        if let connection = agent.connection {
            agentByConnection[connection] = nil
            actions.append(.closeAgent(connection))
        }
        sendAgentFailure(agent.id)
        publish(.agentRemoved) { $0.agentRemoved.agentID = agent.id }
    }

    private mutating func sendAgentFailure(_ agent: MesosAgentID) {
        for id in frameworks.keys.sorted() {
            send(id) { event in
                event.type = .failure
                event.failure.agentID = agent
            }
        }
    }

    // MARK: Executors

    /// Forgets an executor and frees its own resources.
    mutating func removeExecutor(_ key: ExecutorKey, on agent: MesosAgentID) {
        guard let executor = agents[agent]?.executors.removeValue(forKey: key) else { return }
        allocator.recover(key.framework, agent: agent, Resources(executor.resources))
    }

    private mutating func executorExited(_ agent: MesosAgentID, _ exited: ClusterAgentMessage.ExitedExecutor) {
        count("messages_exited_executor")
        let key = ExecutorKey(framework: exited.frameworkID, executor: exited.executorID)
        guard agents[agent]?.executors[key] != nil else { return }
        removeExecutor(key, on: agent)
        send(exited.frameworkID) { event in
            event.type = .failure
            event.failure.agentID = agent
            event.failure.executorID = exited.executorID
            event.failure.status = exited.status
        }
    }
}
