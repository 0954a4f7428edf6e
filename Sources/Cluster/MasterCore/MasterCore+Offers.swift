import Allocator
import Base
import MesosAPI
import Resources

extension MasterCore {
    /// Makes offers of what the allocator handed out: one event per framework.
    mutating func offer(_ allocations: [Allocator.Allocation]) {
        var made: [MesosFrameworkID: [MesosOffer]] = [:]
        for allocation in allocations {
            let resources = allocation.resources.allocated(to: allocation.role)
            guard let framework = frameworks[allocation.framework], framework.isConnected, !framework.isLeaving,
                let agent = agents[allocation.agent], agent.isConnected, !leavingAgents.contains(agent.id)
            else {
                allocator.recover(allocation.framework, agent: allocation.agent, resources)
                continue
            }
            let id = newOfferID()
            offers[id] = OfferRecord(
                id: id, framework: framework.id, agent: agent.id, role: allocation.role, resources: resources,
                deadline: options.offerTimeout.map { now + $0 })
            frameworks[framework.id]?.offers.insert(id)
            agents[agent.id]?.offers.insert(id)
            made[framework.id, default: []].append(offerMessage(id, framework, agent, allocation.role, resources))
        }
        for id in made.keys.sorted() {
            send(id) { event in
                event.type = .offers
                event.offers.offers = made[id] ?? []
            }
        }
    }

    /// The offer as the framework sees it.
    func offerMessage(
        _ id: MesosOfferID, _ framework: FrameworkRecord, _ agent: AgentRecord, _ role: String, _ resources: Resources
    ) -> MesosOffer {
        var offer = MesosOffer()
        offer.id = id
        offer.frameworkID = framework.id
        offer.agentID = agent.id
        offer.hostname = agent.info.hostname
        if let address = agentAddress(agent) {
            offer.url.scheme = "http"
            offer.url.address = address
            offer.url.path = "/slave(1)"
        }
        if agent.info.hasDomain { offer.domain = agent.info.domain }
        offer.resources = presented(resources, to: framework.info)
        offer.attributes = agent.info.attributes
        offer.executorIds = agent.executors.keys.sorted().filter { $0.framework == framework.id }.map(\.executor)
        if framework.info.has(.multiRole) { offer.allocationInfo.role = role }
        return offer
    }

    /// From the agent's pid, `slave(1)@ip:port`.
    func agentAddress(_ agent: AgentRecord) -> MesosAddress? {
        guard let at = agent.pid.lastIndex(of: "@"), let colon = agent.pid.lastIndex(of: ":"), at < colon,
            let port = Int32(agent.pid[agent.pid.index(after: colon)...])
        else { return nil }
        var address = MesosAddress()
        address.hostname = agent.info.hostname
        address.ip = String(agent.pid[agent.pid.index(after: at)..<colon])
        address.port = port
        return address
    }

    /// Takes an offer back.
    ///
    /// - Parameters:
    ///   - rescind: whether the framework is told.
    ///   - refusal: how long it does not want the resources again.
    mutating func removeOffer(_ id: MesosOfferID, rescind: Bool, refusal: Allocator.Refusal = .none) {
        guard let offer = forget(id) else { return }
        allocator.recover(offer.framework, agent: offer.agent, offer.resources, refusal: refusal)
        if rescind {
            send(offer.framework) { event in
                event.type = .rescind
                event.rescind.offerID = id
            }
        }
    }

    /// Removes the offer's records only; its resources are the caller's to use or recover.
    private mutating func forget(_ id: MesosOfferID) -> OfferRecord? {
        guard let offer = offers.removeValue(forKey: id) else { return nil }
        frameworks[offer.framework]?.offers.remove(id)
        agents[offer.agent]?.offers.remove(id)
        return offer
    }

    // MARK: ACCEPT

    mutating func accept(_ id: MesosFrameworkID, _ call: SchedulerCall.Accept) {
        count("messages_accept_offers")
        var accepted: [OfferRecord] = []
        var fault: String?
        for offer in call.offerIds {
            guard let record = offers[offer], record.framework == id else {
                fault = fault ?? "Offer \(offer) is no longer valid"
                continue
            }
            guard !accepted.contains(where: { $0.id == offer }) else {
                fault = fault ?? "Duplicate offer \(offer) in offer list"
                continue
            }
            if let first = accepted.first, first.agent != record.agent {
                fault = fault ?? "Aggregated offers must belong to one single agent"
            }
            if let first = accepted.first, first.role != record.role {
                fault = fault ?? "Aggregated offers must be allocated to the same role"
            }
            accepted.append(record)
        }
        if call.offerIds.isEmpty { fault = "No offers specified" }
        if let fault {
            for offer in accepted { removeOffer(offer.id, rescind: false) }
            dropOperations(
                id, call.operations, reason: .invalidOffers, message: "Task launched with invalid offers: \(fault)",
                agent: accepted.first?.agent)
            return
        }
        guard let first = accepted.first else { return }
        for offer in accepted { _ = forget(offer.id) }
        let offered = accepted.reduce(into: Resources()) { $0 += $1.resources }
        guard let agent = agents[first.agent], agent.isConnected, !leavingAgents.contains(agent.id) else {
            allocator.recover(id, agent: first.agent, offered)
            let known = agents[first.agent] != nil
            dropOperations(
                id, call.operations, reason: known ? .agentDisconnected : .agentRemoved,
                message: known ? "Agent disconnected" : "Agent removed", agent: first.agent)
            return
        }
        var remaining = offered
        for operation in call.operations {
            perform(operation, for: id, on: agent.id, role: first.role, remaining: &remaining)
        }
        allocator.recover(
            id, agent: first.agent, remaining, refusal: refusal(call.hasFilters ? call.filters : nil))
    }

    private mutating func perform(
        _ operation: MesosOffer.Operation, for id: MesosFrameworkID, on agent: MesosAgentID, role: String,
        remaining: inout Resources
    ) {
        switch operation.type {
        case .launch:
            for task in operation.launch.taskInfos {
                let task = TaskValidation.completed(task, framework: id, role: role)
                if operation.hasID {
                    reject(task, of: id, .taskInvalid, "Operation 'id' must not be set for LAUNCH")
                } else {
                    launch(task, for: id, on: agent, remaining: &remaining)
                }
            }
        case .launchGroup:
            launchGroup(operation, for: id, on: agent, role: role, remaining: &remaining)
        case .reserve, .unreserve, .create, .destroy, .growVolume, .shrinkVolume, .createDisk, .destroyDisk, .unknown:
            drop(operation, for: id, agent: agent, message: "Operation is not implemented")
        }
    }

    /// Feedback is given only for operations with an id.
    private mutating func drop(
        _ operation: MesosOffer.Operation, for id: MesosFrameworkID, agent: MesosAgentID?, message: String
    ) {
        note("operation dropped", ["framework.id": id.value, "reason": message])
        guard operation.hasID else { return }
        var status = MesosOperationStatus()
        status.operationID = operation.id
        status.state = .operationDropped
        status.message = message
        if let agent { status.agentID = agent }
        send(id) { event in
            event.type = .updateOperationStatus
            event.updateOperationStatus.status = status
        }
    }

    private mutating func dropOperations(
        _ id: MesosFrameworkID, _ operations: [MesosOffer.Operation], reason: MesosTaskStatus.Reason, message: String,
        agent: MesosAgentID?
    ) {
        let state: MesosTaskState = frameworks[id]?.info.has(.partitionAware) == true ? .taskDropped : .taskLost
        for operation in operations {
            switch operation.type {
            case .launch, .launchGroup:
                let tasks =
                    operation.type == .launch ? operation.launch.taskInfos : operation.launchGroup.taskGroup.tasks
                for task in tasks {
                    sendUpdate(id, masterStatus(task.taskID, state, reason, message, agent: task.agentID))
                    count(state == .taskDropped ? "tasks_dropped" : "tasks_lost")
                }
            case .reserve, .unreserve, .create, .destroy, .growVolume, .shrinkVolume, .createDisk, .destroyDisk,
                .unknown:
                drop(operation, for: id, agent: agent, message: message)
            }
        }
    }

    // MARK: LAUNCH

    private mutating func launch(
        _ task: MesosTaskInfo, for id: MesosFrameworkID, on agent: MesosAgentID, remaining: inout Resources
    ) {
        guard let framework = frameworks[id], let record = agents[agent] else { return }
        if let fault = TaskValidation.fault(in: task, framework: framework, agent: record, remaining: remaining) {
            reject(task, of: id, .taskInvalid, fault)
            return
        }
        var needed = Resources(task.resources)
        var run = ClusterMasterMessage.RunTask()
        run.framework = framework.info
        run.task = task
        run.launchExecutor = true
        if task.hasExecutor {
            let key = ExecutorKey(framework: id, executor: task.executor.executorID)
            if record.executors[key] == nil {
                agents[agent]?.executors[key] = task.executor
                needed += Resources(task.executor.resources)
            } else {
                run.launchExecutor = false
            }
        }
        remaining -= needed
        add(task, of: framework, executor: task.hasExecutor ? task.executor.executorID : nil)
        send(agent, .runTask(run))
    }

    private mutating func launchGroup(
        _ operation: MesosOffer.Operation, for id: MesosFrameworkID, on agent: MesosAgentID, role: String,
        remaining: inout Resources
    ) {
        guard let framework = frameworks[id], let record = agents[agent] else { return }
        let executor = TaskValidation.completed(operation.launchGroup.executor, framework: id, role: role)
        let tasks = operation.launchGroup.taskGroup.tasks.map {
            TaskValidation.completed($0, framework: id, role: role)
        }
        let fault =
            operation.hasID
            ? "Operation 'id' must not be set for LAUNCH_GROUP"
            : TaskValidation.fault(
                inGroup: tasks, executor: executor, framework: framework, agent: record, remaining: remaining)
        if let fault {
            for task in tasks { reject(task, of: id, .taskGroupInvalid, fault) }
            return
        }
        let key = ExecutorKey(framework: id, executor: executor.executorID)
        var run = ClusterMasterMessage.RunTask()
        run.framework = framework.info
        run.executor = executor
        run.taskGroup.tasks = tasks
        run.launchExecutor = record.executors[key] == nil
        if run.launchExecutor {
            agents[agent]?.executors[key] = executor
            remaining -= Resources(executor.resources)
        }
        for task in tasks {
            remaining -= Resources(task.resources)
            add(task, of: framework, executor: executor.executorID)
        }
        send(agent, .runTask(run))
    }

    private mutating func reject(
        _ task: MesosTaskInfo, of id: MesosFrameworkID, _ reason: MesosTaskStatus.Reason, _ message: String
    ) {
        count("tasks_error")
        sendUpdate(id, masterStatus(task.taskID, .taskError, reason, message, agent: task.agentID))
    }

    /// Records a task as STAGING.
    private mutating func add(_ info: MesosTaskInfo, of framework: FrameworkRecord, executor: MesosExecutorID?) {
        var task = MesosTask()
        task.name = info.name
        task.taskID = info.taskID
        task.frameworkID = framework.id
        if let executor { task.executorID = executor }
        task.agentID = info.agentID
        task.state = .taskStaging
        task.resources = info.resources
        if info.hasLabels { task.labels = info.labels }
        if info.hasDiscovery { task.discovery = info.discovery }
        if info.hasContainer { task.container = info.container }
        if info.hasHealthCheck { task.healthCheck = info.healthCheck }
        if info.hasKillPolicy { task.killPolicy = info.killPolicy }
        task.limits = info.limits
        if info.hasCommand, info.command.hasUser { task.user = info.command.user }
        if info.executor.command.hasUser { task.user = info.executor.command.user }
        if !task.hasUser { task.user = framework.info.user }
        frameworks[framework.id]?.tasks[task.taskID] = task
        agents[task.agentID]?.tasks.insert(TaskKey(framework: framework.id, task: task.taskID))
        count("tasks_launched")
        publish(.taskAdded) { $0.taskAdded.task = task }
    }
}
