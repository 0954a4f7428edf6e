import Allocator
import Base
import MesosAPI
import Resources

// MARK: - Subscription

extension MasterCore {
    /// Subscribes a framework, new or known; refusals are an ERROR event on the stream, as the protocol wants.
    mutating func subscribe(_ call: SchedulerCall, _ connection: ConnectionID, principal: String?) {
        var info = call.subscribe.frameworkInfo
        let isNew = info.id.value.isEmpty || frameworks[info.id] == nil
        if !info.hasPrincipal, let principal { info.principal = principal }
        if let fault = fault(in: info, call.subscribe) {
            reject(connection, fault)
            return
        }
        let suppressed = Set(call.subscribe.suppressedRoles)
        if info.hasID, !info.id.value.isEmpty {
            if isCompleted(info.id) || frameworks[info.id]?.isLeaving == true {
                reject(connection, "Framework has been removed")
                return
            }
            guard resubscribe(&info, connection) else { return }
        } else {
            info.id = newFrameworkID()
            frameworks[info.id] = FrameworkRecord(info: info, isRecovered: false, at: time)
            note("framework subscribed", ["framework.id": info.id.value, "framework.name": info.name])
        }
        frameworks[info.id]?.connection = connection
        frameworks[info.id]?.suppressed = suppressed
        frameworks[info.id]?.constraints = call.subscribe.offerConstraints
        frameworks[info.id]?.failoverDeadline = nil
        frameworks[info.id]?.nextHeartbeat = now + options.heartbeatInterval
        frameworkByConnection[connection] = info.id
        greet(info.id, connection)
        allocator.addFramework(
            info, suppressed: suppressed, constraints: call.subscribe.offerConstraints, isActive: true)
        persist([.framework(RegistryFramework(info: info, isRemoved: false, since: time))], then: .nothing)
        publishFramework(info.id, isNew: isNew)
    }

    private mutating func publishFramework(_ id: MesosFrameworkID, isNew: Bool) {
        guard let framework = frameworks[id] else { return }
        let message = frameworkMessage(framework)
        if isNew {
            publish(.frameworkAdded) { $0.frameworkAdded.framework = message }
        } else {
            publish(.frameworkUpdated) { $0.frameworkUpdated.framework = message }
        }
    }

    /// SUBSCRIBED and the first HEARTBEAT.
    private mutating func greet(_ id: MesosFrameworkID, _ connection: ConnectionID) {
        var subscribed = SchedulerEvent()
        subscribed.type = .subscribed
        subscribed.subscribed.frameworkID = id
        subscribed.subscribed.heartbeatIntervalSeconds = options.heartbeatInterval.inSeconds
        subscribed.subscribed.masterInfo = options.info
        actions.append(.event(subscribed, connection))
        var heartbeat = SchedulerEvent()
        heartbeat.type = .heartbeat
        actions.append(.event(heartbeat, connection))
    }

    /// Takes a known framework over and leaves `info` as it is from now on; false if the master refuses.
    private mutating func resubscribe(_ info: inout MesosFrameworkInfo, _ connection: ConnectionID) -> Bool {
        let id = info.id
        guard let known = frameworks[id] else {
            frameworks[id] = FrameworkRecord(info: info, isRecovered: false, at: time)
            note("framework subscribed under the id it brought", ["framework.id": id.value])
            return true
        }
        if known.info.hasPrincipal, known.info.principal != info.principal {
            reject(connection, "Changing framework's principal is not allowed.")
            return false
        }
        if let old = known.connection {
            rejectStream(old, "Framework failed over")
            frameworkByConnection[old] = nil
        }
        for offer in known.offers.sorted() { removeOffer(offer, rescind: false) }
        info.user = known.info.user
        info.checkpoint = known.info.checkpoint
        frameworks[id]?.info = info
        frameworks[id]?.isRecovered = false
        let time = time
        frameworks[id]?.reregisteredTime = time
        for agent in agents.keys.sorted() {
            var update = ClusterMasterMessage.UpdateFramework()
            update.framework = info
            send(agent, .updateFramework(update))
        }
        note("framework subscribed again", ["framework.id": id.value])
        return true
    }

    private mutating func reject(_ connection: ConnectionID, _ message: String) {
        rejectStream(connection, message)
        note("subscription refused", ["stream": connection.value, "reason": message])
    }

    private mutating func rejectStream(_ connection: ConnectionID, _ message: String) {
        var event = SchedulerEvent()
        event.type = .error
        event.error.message = message
        actions.append(.event(event, connection))
        actions.append(.closeScheduler(connection))
    }

    private func fault(in info: MesosFrameworkInfo, _ subscribe: SchedulerCall.Subscribe) -> String? {
        if let fault = FrameworkValidation.fault(in: info, options: options) { return fault }
        for role in subscribe.suppressedRoles where !info.subscribedRoles.contains(role) {
            return "Suppressed role '\(role)' is not contained in the list of roles"
        }
        return subscribe.offerConstraints.fault(roles: info.subscribedRoles)
    }

    /// The framework's stream broke: offers end, and unless it comes back in time it is removed.
    mutating func schedulerGone(_ connection: ConnectionID) {
        guard let id = frameworkByConnection.removeValue(forKey: connection), let framework = frameworks[id],
            framework.connection == connection
        else { return }
        for offer in framework.offers.sorted() { removeOffer(offer, rescind: false) }
        allocator.setFrameworkActive(id, false)
        frameworks[id]?.connection = nil
        frameworks[id]?.failoverDeadline = now + FrameworkValidation.failoverTimeout(of: framework.info)
        note("framework disconnected", ["framework.id": id.value])
    }

    /// How long a framework that was subscribed with an earlier master has to come back: its failover timeout counted
    /// anew, but no less than agents have, since it did not choose to leave.
    func returnTime(of info: MesosFrameworkInfo) -> Duration {
        max(FrameworkValidation.failoverTimeout(of: info), options.agentReregisterTimeout)
    }

    /// Ends a framework and all it has, for good, as soon as the registry has it: a master that was deposed meanwhile
    /// must not end what its successor keeps.
    mutating func removeFramework(_ id: MesosFrameworkID) {
        guard let framework = frameworks[id], !framework.isLeaving else { return }
        frameworks[id]?.isLeaving = true
        for offer in framework.offers.sorted() { removeOffer(offer, rescind: false) }
        allocator.setFrameworkActive(id, false)
        let removed = RegistryFramework(info: framework.info, isRemoved: true, since: time)
        persist([.framework(removed)], then: .removeFramework(id))
    }

    mutating func finishRemoval(of id: MesosFrameworkID) {
        guard let framework = frameworks[id] else { return }
        var shutdown = ClusterMasterMessage.ShutdownFramework()
        shutdown.frameworkID = id
        for agent in agents.keys.sorted() { send(agent, .shutdownFramework(shutdown)) }
        for task in framework.tasks.keys.sorted() {
            guard let record = frameworks[id]?.tasks[task] else { continue }
            if !record.state.isTerminal {
                var status = masterStatus(
                    task, .taskKilled, .frameworkRemoved, "Framework \(id) removed", agent: record.agentID)
                status.clearUuid()
                update(id, task, status: status, latest: .taskKilled)
            }
            removeTask(TaskKey(framework: id, task: task))
        }
        for agent in agents.keys.sorted() {
            for key in (agents[agent]?.executors ?? [:]).keys.sorted() where key.framework == id {
                removeExecutor(key, on: agent)
            }
        }
        if let connection = framework.connection {
            frameworkByConnection[connection] = nil
            actions.append(.closeScheduler(connection))
        }
        allocator.removeFramework(id)
        guard var ended = frameworks.removeValue(forKey: id) else { return }
        ended.connection = nil
        ended.unregisteredTime = time
        completedFrameworks.append(ended)
        var forgotten: [RegistryChange] = []
        while completedFrameworks.count > options.completedFrameworksMax {
            forgotten.append(.removeFramework(completedFrameworks.removeFirst().id))
        }
        if !forgotten.isEmpty { persist(forgotten, then: .nothing) }
        publish(.frameworkRemoved) { $0.frameworkRemoved.frameworkInfo = ended.info }
        note("framework removed", ["framework.id": id.value])
    }
}

// MARK: - Calls

extension MasterCore {
    mutating func handle(_ call: SchedulerCall, _ connection: ConnectionID?, principal: String?) {
        let id = call.frameworkID
        guard let framework = frameworks[id], !framework.isLeaving else {
            return refuse(400, "Framework cannot be found")
        }
        if let principal, framework.info.principal != principal {
            return refuse(
                400,
                "Authenticated principal '\(principal)' does not match principal '\(framework.info.principal)' "
                    + "set in `FrameworkInfo`")
        }
        guard let current = framework.connection else { return refuse(403, "Framework is not subscribed") }
        guard let connection else {
            return refuse(400, "All non-subscribe calls should include the 'Mesos-Stream-Id' header")
        }
        guard connection == current else {
            return refuse(
                400,
                "The stream ID '\(connection)' included in this request didn't match the stream ID currently "
                    + "associated with framework ID \(id)")
        }
        switch call.type {
        case .teardown: removeFramework(id)
        case .accept: accept(id, call.accept)
        case .decline: decline(id, call.decline)
        case .revive: revive(framework, call.revive.roles)
        case .suppress: suppress(framework, call.suppress.roles)
        case .kill: kill(id, call.kill)
        case .shutdown: shutdown(id, call.shutdown)
        case .acknowledge: acknowledge(id, call.acknowledge)
        case .reconcile: reconcile(id, call.reconcile)
        case .reconcileOperations: reconcileOperations(id, call.reconcileOperations)
        case .message: forward(id, call.message)
        case .updateFramework: updateFramework(framework, call.updateFramework)
        case .request, .acceptInverseOffers, .declineInverseOffers, .acknowledgeOperationStatus:
            count("messages_resource_request")
        case .subscribe, .unknown: refuse(501, "")
        }
    }

    private mutating func decline(_ id: MesosFrameworkID, _ decline: SchedulerCall.Decline) {
        count("messages_decline_offers")
        let refusal = refusal(decline.hasFilters ? decline.filters : nil)
        for offer in decline.offerIds where offers[offer]?.framework == id {
            removeOffer(offer, rescind: false, refusal: refusal)
        }
    }

    /// Until when resources given back with these filters are not wanted.
    func refusal(_ filters: MesosFilters?) -> Allocator.Refusal {
        var seconds = filters?.refuseSeconds ?? 5
        if seconds.isNaN || seconds < 0 { seconds = 5 }
        if seconds == 0 { return .none }
        return .until(now + .seconds(min(seconds, 365 * 86400)))
    }

    private mutating func revive(_ framework: FrameworkRecord, _ roles: [String]) {
        count("messages_revive_offers")
        guard roles.allSatisfy(framework.info.subscribedRoles.contains) else { return }
        let suppressed = framework.suppressed
        frameworks[framework.id]?.suppressed = roles.isEmpty ? [] : suppressed.subtracting(roles)
        allocator.revive(framework.id, roles: roles)
    }

    private mutating func suppress(_ framework: FrameworkRecord, _ roles: [String]) {
        count("messages_suppress_offers")
        guard roles.allSatisfy(framework.info.subscribedRoles.contains) else { return }
        frameworks[framework.id]?.suppressed.formUnion(roles.isEmpty ? framework.info.subscribedRoles : roles)
        allocator.suppress(framework.id, roles: roles)
    }

    private mutating func updateFramework(_ framework: FrameworkRecord, _ call: SchedulerCall.UpdateFramework) {
        var info = call.frameworkInfo
        info.id = framework.id
        if let fault = FrameworkValidation.fault(in: info, options: options) { return refuse(400, fault) }
        if info.user != framework.info.user { return refuse(400, "Updating 'FrameworkInfo.user' is unsupported") }
        if info.checkpoint != framework.info.checkpoint {
            return refuse(400, "Updating 'FrameworkInfo.checkpoint' is unsupported")
        }
        if framework.info.hasPrincipal, info.principal != framework.info.principal {
            return refuse(400, "Changing framework's principal is not allowed.")
        }
        if let fault = call.offerConstraints.fault(roles: info.subscribedRoles) { return refuse(400, fault) }
        let suppressed = Set(call.suppressedRoles)
        frameworks[framework.id]?.info = info
        frameworks[framework.id]?.suppressed = suppressed
        frameworks[framework.id]?.constraints = call.offerConstraints
        allocator.addFramework(info, suppressed: suppressed, constraints: call.offerConstraints, isActive: true)
        persist([.framework(RegistryFramework(info: info, isRemoved: false, since: time))], then: .nothing)
        publishFramework(framework.id, isNew: false)
        for agent in agents.keys.sorted() {
            var update = ClusterMasterMessage.UpdateFramework()
            update.framework = info
            send(agent, .updateFramework(update))
        }
    }

    private mutating func shutdown(_ id: MesosFrameworkID, _ call: SchedulerCall.Shutdown) {
        guard agents[call.agentID]?.executors[ExecutorKey(framework: id, executor: call.executorID)] != nil else {
            return
        }
        var message = ClusterMasterMessage.ShutdownExecutor()
        message.frameworkID = id
        message.executorID = call.executorID
        send(call.agentID, .shutdownExecutor(message))
    }

    private mutating func forward(_ id: MesosFrameworkID, _ call: SchedulerCall.Message) {
        guard agents[call.agentID]?.isConnected == true else {
            count("invalid_framework_to_executor_messages")
            return
        }
        count("valid_framework_to_executor_messages")
        var message = ClusterMasterMessage.FrameworkMessage()
        message.frameworkID = id
        message.executorID = call.executorID
        message.data = call.data
        send(call.agentID, .frameworkMessage(message))
    }

    /// Operations on reservations and volumes are never under way here, so every one asked for is unknown or its
    /// agent's fate.
    private mutating func reconcileOperations(_ id: MesosFrameworkID, _ call: SchedulerCall.ReconcileOperations) {
        for operation in call.operations {
            var status = MesosOperationStatus()
            status.operationID = operation.operationID
            status.state = .operationUnknown
            status.message = "Reconciliation: Operation is unknown"
            if operation.hasAgentID {
                status.agentID = operation.agentID
                if goneAgents[operation.agentID] != nil { status.state = .operationGoneByOperator }
                if unreachableAgents[operation.agentID] != nil { status.state = .operationUnreachable }
                if recoveredAgents[operation.agentID] != nil { status.state = .operationRecovering }
            }
            send(id) { event in
                event.type = .updateOperationStatus
                event.updateOperationStatus.status = status
            }
        }
    }
}
