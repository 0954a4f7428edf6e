import Base
import OrderedCollections

extension SchedulerCore {
    /// Takes a status update, acknowledged once its consequences are stored.
    mutating func take(_ report: TaskReport, time: Timestamp) {
        counters.taskUpdates[report.state, default: 0] += 1
        if let uuid = report.uuid, let agent = report.agentID {
            acknowledgements.append(.acknowledge(taskID: report.taskID, agentID: agent, uuid: uuid))
        }
        guard let id = instanceID(ofTask: report.taskID), var instance = instances[id] else {
            takeUnknown(report, time: time)
            return
        }
        unconfirmed.remove(id)
        if report.state.isTerminal, !isAgentSilence(report) {
            end(instance, report, time: time)
            return
        }
        let former = instance
        switch report.state {
        case .unreachable, .lost:
            // The update of an agent that was declared dead; also LOST from masters that know no UNREACHABLE.
            if instance.condition != .unreachable, instance.condition != .unreachableInactive {
                instance.condition = .unreachable
                instance.unreachableSince = time
            }
        case .staging: if instance.condition == .provisioned { instance.condition = .staging }
        case .starting: instance.condition = .starting
        case .running: instance.condition = .running
        case .killing: instance.condition = .killing
        case .finished, .failed, .killed, .error, .dropped, .gone, .goneByOperator, .unknown: break
        }
        if report.state != .unreachable, report.state != .lost { instance.unreachableSince = nil }
        if instance.goal == .decommissioned, instance.unreachableSince == nil { instance.condition = .killing }
        instance.state = report.state == .lost ? .unreachable : report.state
        if report.state == .running {
            if instance.startedAt == nil { instance.startedAt = time }
            if !report.addresses.isEmpty { instance.addresses = report.addresses }
        }
        if let healthy = report.healthy { takeAgentHealth(&instance, healthy: healthy, report, time: time) }
        guard instance != former else { return }
        save(instance)
        if former.state != instance.state { publishStatus(instance, report, time: time) }
        if former.condition != instance.condition {
            publishCondition(instance, instance.condition.rawValue, time: time)
        }
        if instance.goal == .decommissioned, former.unreachableSince != nil, instance.unreachableSince == nil {
            sendKill(id, time: time)
        }
        expireUnreachable(instance, time: time)
    }

    /// LOST that only says that the agent is silent: from masters without partition awareness.
    private func isAgentSilence(_ report: TaskReport) -> Bool {
        guard report.state == .lost else { return false }
        switch report.reason {
        case "REASON_AGENT_DISCONNECTED", "REASON_AGENT_REMOVED", "REASON_RECONCILIATION": return true
        default: return false
        }
    }

    /// `a_b.instance-<uuid>._app.1` belongs to instance `a_b.instance-<uuid>`: the separators count from the right.
    func instanceID(ofTask task: String) -> String? {
        let parts = task.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count >= 4, parts[parts.count - 2] == "_app" else { return nil }
        return parts.dropLast(2).joined(separator: ".")
    }

    /// A task that we have forgotten or never known: whatever of it still lives is killed.
    private mutating func takeUnknown(_ report: TaskReport, time: Timestamp) {
        switch report.state {
        case .staging, .starting, .running:
            effects.append(.kill(taskID: report.taskID, agentID: report.agentID))
        case .killing, .unreachable: break
        case .finished, .failed, .killed, .error, .lost, .dropped, .gone, .goneByOperator, .unknown:
            guard let id = instanceID(ofTask: report.taskID) else { return }
            publish(
                "unknown_instance_terminated_event", time,
                [
                    "instanceId": .string(id), "runSpecId": .string(appID(ofInstance: id).description),
                    "condition": .string(report.state.terminalCondition),
                ])
        }
    }

    private func appID(ofInstance id: String) -> AppID {
        let parts = id.split(separator: ".", omittingEmptySubsequences: false).dropLast()
        return AppID(segments: parts.joined(separator: ".").split(separator: "_").map(String.init))
    }

    private mutating func end(_ instance: Instance, _ report: TaskReport, time: Timestamp) {
        var ended = instance
        ended.state = report.state
        let wasWanted = instance.goal == .running
        if instance.healthFailure != nil || (wasWanted && report.state.isFailure) {
            let message = instance.healthFailure.map { "Task was killed since health check failed. Reason: \($0)" }
            record(
                TaskFailure(
                    appID: instance.appID, host: instance.host, agentID: instance.agentID,
                    message: message ?? String(report.message.prefix(10_000)), state: report.state.rawValue,
                    taskID: instance.taskID, timestamp: time, version: instance.appVersion))
        }
        if instance.healthFailure != nil || (wasWanted && countsForBackoff(report)) {
            delayLaunches(of: instance, time: time)
        }
        publishStatus(ended, report, time: time)
        publishCondition(ended, report.state.terminalCondition, time: time)
        forget(instance)
        if apps[instance.appID] == nil, instances(of: instance.appID).isEmpty {
            publish("app_terminated_event", time, ["appId": .string(instance.appID.description)])
        }
    }

    /// The app's own endings count, also FINISHED; those that the cluster caused before or without a start do not.
    private func countsForBackoff(_ report: TaskReport) -> Bool {
        switch report.state {
        case .finished, .failed, .error: true
        case .lost, .dropped, .gone:
            switch report.reason {
            case "REASON_INVALID_OFFERS", "REASON_AGENT_REMOVED", "REASON_AGENT_DISCONNECTED", "REASON_RECONCILIATION",
                "REASON_AGENT_RESTARTED":
                false
            default: true
            }
        case .killed, .goneByOperator, .unknown, .staging, .starting, .running, .killing, .unreachable: false
        }
    }

    private mutating func record(_ failure: TaskFailure) {
        guard apps[failure.appID] != nil else { return }
        failures[failure.appID] = failure
        writes["failures/" + failure.appID.safe] = .some(failure.json)
    }

    /// The first failure delays by `backoffSeconds`, each further one by `backoffFactor` more, up to the maximum.
    private mutating func delayLaunches(of instance: Instance, time: Timestamp) {
        guard let app = apps[instance.appID], app.lastConfigChangeAt == instance.configVersion else { return }
        let former = backoffs[app.id].flatMap { $0.configVersion == app.lastConfigChangeAt ? $0 : nil }
        let seconds = min(
            former.map { $0.delaySeconds * app.backoffFactor } ?? Double(app.backoffSeconds),
            Double(app.maxLaunchDelaySeconds))
        backoffs[app.id] = Backoff(
            configVersion: app.lastConfigChangeAt, delaySeconds: seconds,
            until: time + .milliseconds(Int64(seconds * 1000)))
    }

    // MARK: Unreachable

    /// Applies the strategy of the instance's app. Zero times act at once: exclusive volumes rely on it, since their
    /// storage keeps the silent writer out by itself.
    mutating func expireUnreachable(_ instance: Instance, time: Timestamp) {
        guard let since = instance.unreachableSince, var instance = instances[instance.id] else { return }
        if instance.goal == .decommissioned {
            expunge(instance, time: time)
            return
        }
        guard case .replace(let inactive, let expungeAfter) = spec(of: instance)?.unreachableStrategy ?? .disabled
        else { return }
        if since + .seconds(expungeAfter) <= time {
            expunge(instance, time: time)
        } else if instance.condition == .unreachable, since + .seconds(inactive) <= time {
            instance.condition = .unreachableInactive
            save(instance)
            publishCondition(instance, instance.condition.rawValue, time: time)
        }
    }

    /// Forgets an instance whose agent is silent. Should its task come back, it is killed as unknown.
    private mutating func expunge(_ instance: Instance, time: Timestamp) {
        if isConnected { effects.append(.kill(taskID: instance.taskID, agentID: instance.agentID)) }
        publishCondition(instance, "Unreachable", time: time)
        forget(instance)
    }

    // MARK: Killing

    /// Marks an instance as no longer wanted and has its task killed.
    mutating func kill(_ id: String, healthFailure: String? = nil, time: Timestamp) {
        guard var instance = instances[id], instance.goal == .running else { return }
        instance.goal = .decommissioned
        instance.healthFailure = healthFailure
        if instance.unreachableSince != nil {
            expunge(instance, time: time)
            return
        }
        instance.condition = .killing
        save(instance)
        sendKill(id, time: time)
    }

    /// Repeated until the end is reported, since kills may get lost.
    mutating func sendKill(_ id: String, time: Timestamp) {
        guard var instance = instances[id] else { return }
        instance.killSentAt = time
        instances[id] = instance
        if isConnected { effects.append(.kill(taskID: instance.taskID, agentID: instance.agentID)) }
    }

    // MARK: Health

    /// The address at which Marathon itself checks an instance.
    private func probe(of instance: Instance, check: HealthCheck, index: Int, app: AppSpec) -> Probe? {
        var host = instance.host
        var port = check.port
        if port == nil {
            let portIndex = check.portIndex ?? 0
            if instance.hostPorts.indices.contains(portIndex), let hostPort = instance.hostPorts[portIndex] {
                port = hostPort
            } else if let mappings = app.container?.portMappings, mappings.indices.contains(portIndex) {
                host = instance.addresses.first?.ip ?? host
                port = mappings[portIndex].containerPort
            }
        } else if app.networkMode != .host {
            host = instance.addresses.first?.ip ?? host
        }
        guard let port, (1...65535).contains(port) else { return nil }
        let kind: Probe.Kind
        switch check.transport {
        case .tcp: kind = .tcp
        case .http: kind = .http(path: check.path ?? "/", isTLS: false, ignores1xx: check.ignoreHttp1xx)
        case .https: kind = .http(path: check.path ?? "/", isTLS: true, ignores1xx: check.ignoreHttp1xx)
        case .command, .mesosHTTP, .mesosHTTPS, .mesosTCP: return nil
        }
        return Probe(
            instanceID: instance.id, index: index, kind: kind, host: host, port: port,
            timeout: .seconds(check.timeoutSeconds))
    }

    mutating func probeIfDue(_ instance: Instance, time: Timestamp) {
        guard instance.goal == .running, let app = spec(of: instance), !app.healthChecks.isEmpty else { return }
        var instance = instance
        ensureHealth(&instance, app: app)
        for (index, check) in app.healthChecks.enumerated() where !check.transport.isRunByAgent {
            guard !instance.health[index].isProbing else { continue }
            let first = (instance.startedAt ?? time) + .seconds(min(check.intervalSeconds, 5))
            guard (instance.health[index].nextProbe ?? first) <= time,
                let probe = probe(of: instance, check: check, index: index, app: app)
            else { continue }
            instance.health[index].isProbing = true
            effects.append(.probe(probe))
        }
        instances[instance.id] = instance
    }

    private func ensureHealth(_ instance: inout Instance, app: AppSpec) {
        while instance.health.count < app.healthChecks.count { instance.health.append(HealthState()) }
    }

    mutating func takeProbe(instance id: String, index: Int, failure: String?, time: Timestamp) {
        guard var instance = instances[id], let app = spec(of: instance), instance.health.indices.contains(index),
            app.healthChecks.indices.contains(index)
        else { return }
        instance.health[index].isProbing = false
        instance.health[index].nextProbe = time + .seconds(app.healthChecks[index].intervalSeconds)
        instances[id] = instance
        guard instance.goal == .running, instance.condition == .running else { return }
        note(&instance, check: app.healthChecks[index], index: index, failure: failure, time: time)
    }

    private mutating func takeAgentHealth(
        _ instance: inout Instance, healthy: Bool, _ report: TaskReport, time: Timestamp
    ) {
        guard let app = spec(of: instance), let index = app.healthChecks.firstIndex(where: \.transport.isRunByAgent)
        else { return }
        ensureHealth(&instance, app: app)
        let before = instance.health[index].isAlive
        update(&instance.health[index], failure: healthy ? nil : report.message, time: time)
        if before != instance.health[index].isAlive { publishHealth(instance, alive: healthy, time: time) }
    }

    private func update(_ state: inout HealthState, failure: String?, time: Timestamp) {
        if let failure {
            state.consecutiveFailures += 1
            state.lastFailure = time
            state.lastFailureCause = failure
        } else {
            state.consecutiveFailures = 0
            if state.firstSuccess == nil { state.firstSuccess = time }
            state.lastSuccess = time
        }
    }

    private mutating func note(
        _ instance: inout Instance, check: HealthCheck, index: Int, failure: String?, time: Timestamp
    ) {
        let graceEnd = (instance.startedAt ?? time) + .seconds(check.gracePeriodSeconds)
        if failure != nil, instance.health[index].firstSuccess == nil, time < graceEnd { return }
        let before = instance.health[index].isAlive
        update(&instance.health[index], failure: failure, time: time)
        // A failure in the very millisecond of a success must not read as alive.
        if failure != nil, let success = instance.health[index].lastSuccess, success >= time {
            instance.health[index].lastFailure = success
        }
        instances[instance.id] = instance
        if before != instance.health[index].isAlive {
            dirtyApps.insert(instance.appID)
            publishHealth(instance, alive: failure == nil, time: time)
        }
        guard let failure, check.maxConsecutiveFailures > 0,
            instance.health[index].consecutiveFailures >= check.maxConsecutiveFailures
        else { return }
        publish(
            "failed_health_check_event", time,
            [
                "appId": .string(instance.appID.description), "taskId": .string(instance.id),
                "instanceId": .string(instance.id), "healthCheck": check.json,
            ])
        publish(
            "unhealthy_instance_kill_event", time,
            [
                "appId": .string(instance.appID.description), "taskId": .string(instance.taskID),
                "instanceId": .string(instance.id), "version": .string(instance.appVersion.description),
                "reason": .string(failure), "host": .string(instance.host), "slaveId": .string(instance.agentID),
            ])
        kill(instance.id, healthFailure: failure, time: time)
    }

    /// Running, and every health check of its app has last succeeded.
    func isReady(_ instance: Instance) -> Bool {
        guard instance.goal == .running, instance.condition == .running, let app = spec(of: instance) else {
            return false
        }
        guard !app.healthChecks.isEmpty else { return true }
        return instance.health.count == app.healthChecks.count && instance.health.allSatisfy { $0.isAlive == true }
    }

    // MARK: Events

    private mutating func publishStatus(_ instance: Instance, _ report: TaskReport, time: Timestamp) {
        publish(
            "status_update_event", time,
            [
                "slaveId": .string(instance.agentID), "taskId": .string(instance.taskID),
                "taskStatus": .string(report.state.rawValue), "message": .string(String(report.message.prefix(10_000))),
                "appId": .string(instance.appID.description), "host": .string(instance.host),
                "ipAddresses": .array(instance.addresses.map(\.json)),
                "ports": .array(instance.ports.map { .integer(Int64($0)) }),
                "version": .string(instance.appVersion.description),
            ])
    }

    mutating func publishCondition(_ instance: Instance, _ condition: String, time: Timestamp) {
        publish(
            "instance_changed_event", time,
            [
                "instanceId": .string(instance.id), "condition": .string(condition),
                "runSpecId": .string(instance.appID.description), "agentId": .string(instance.agentID),
                "host": .string(instance.host), "runSpecVersion": .string(instance.appVersion.description),
            ])
    }

    private mutating func publishHealth(_ instance: Instance, alive: Bool, time: Timestamp) {
        publish(
            "health_status_changed_event", time,
            [
                "appId": .string(instance.appID.description), "instanceId": .string(instance.id),
                "version": .string(instance.appVersion.description), "alive": .bool(alive),
            ])
        publish(
            "instance_health_changed_event", time,
            [
                "instanceId": .string(instance.id), "runSpecId": .string(instance.appID.description),
                "runSpecVersion": .string(instance.appVersion.description), "healthy": .bool(alive),
            ])
    }
}

extension TaskReport.Address {
    var json: JSONValue { ["ipAddress": .string(ip), "protocol": .string(version)] }
}
