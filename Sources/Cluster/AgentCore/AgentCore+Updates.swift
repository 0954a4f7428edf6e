import Base
import MesosAPI
import OrderedCollections

extension AgentCore {
    /// A status with everything that the agent fills in. Its uuid is new.
    func makeStatus(
        _ key: TaskKey, executor: String?, _ state: MesosTaskState, source: MesosTaskStatus.Source,
        reason: MesosTaskStatus.Reason? = nil, message: String = "", now: Instant,
        rng: inout some RandomNumberGenerator
    ) -> MesosTaskStatus {
        var status = MesosTaskStatus()
        status.taskID.value = key.task
        status.state = state
        status.source = source
        if let reason { status.reason = reason }
        if !message.isEmpty { status.message = message }
        if let agentID { status.agentID.value = agentID }
        if let executor { status.executorID.value = executor }
        status.timestamp = configuration.unixTimeOfZero + Double(now.nanoseconds) / 1e9
        status.uuidBytes = newUUID(using: &rng)
        return status
    }

    private func newUUID(using rng: inout some RandomNumberGenerator) -> [UInt8] {
        var bytes: [UInt8] = []
        for word in [rng.next() as UInt64, rng.next() as UInt64] {
            for shift in stride(from: 56, through: 0, by: -8) { bytes.append(UInt8(truncatingIfNeeded: word >> shift)) }
        }
        bytes[6] = bytes[6] & 0x0F | 0x40
        bytes[8] = bytes[8] & 0x3F | 0x80
        return bytes
    }

    /// An update of a task for which the agent plays the executor.
    mutating func report(
        _ key: ExecutorKey, _ task: String, _ state: MesosTaskState, source: MesosTaskStatus.Source,
        reason: MesosTaskStatus.Reason? = nil, message: String = "", isFirstRunning: Bool = false,
        healthy: Bool? = nil, check: MesosCheckStatusInfo? = nil, now: Instant,
        rng: inout some RandomNumberGenerator, _ actions: inout [Action]
    ) {
        guard frameworks[key.framework]?.isTerminating != true, let executor = executor(key),
            let record = executor.tasks[task]
        else { return }
        let taskKey = TaskKey(framework: key.framework, task: task)
        var status = makeStatus(
            taskKey, executor: key.executor, state, source: source, reason: reason, message: message, now: now,
            rng: &rng)
        if isFirstRunning {
            if !executor.report.inspection.isEmpty { status.dataBytes = executor.report.inspection }
            if record.info.hasContainer, record.info.container.type == .docker,
                let address = executor.report.addresses.first
            {
                var label = MesosLabel()
                label.key = "Docker.NetworkSettings.IPAddress"
                label.value = address
                status.labels.labels = [label]
            }
        }
        // What is known of health and check stays in later updates until it changes.
        if let healthy {
            status.healthy = healthy
        } else if let last = record.statuses.last, last.hasHealthy {
            status.healthy = last.healthy
        }
        if let check {
            status.checkStatus = check
        } else if let last = record.statuses.last, last.hasCheckStatus {
            status.checkStatus = last.checkStatus
        } else if record.info.hasCheck, state == .taskRunning {
            status.checkStatus = AgentCore.emptyCheckStatus(record.info.check)
        }
        put(status, taskKey, executor: key, now: now, &actions)
    }

    /// The status of a check without a result yet.
    static func emptyCheckStatus(_ check: MesosCheckInfo) -> MesosCheckStatusInfo {
        var status = MesosCheckStatusInfo()
        status.type = check.type
        switch check.type {
        case .command: status.command = .init()
        case .http: status.http = .init()
        case .tcp: status.tcp = .init()
        case .unknown: break
        }
        return status
    }

    /// Takes an update into its stream: checkpointed first, then sent if it is its turn. Repetitions are dropped.
    mutating func put(
        _ status: MesosTaskStatus, _ taskKey: TaskKey, executor key: ExecutorKey?, now: Instant,
        _ actions: inout [Action]
    ) {
        var status = status
        var container = ""
        if let key, let executor = executor(key) {
            container = executor.containerID
            fillContainerStatus(&status, executor)
        }
        var stream = streams[taskKey] ?? UpdateStream(executor: key?.executor ?? "")
        let wasIdle = stream.pending.isEmpty
        guard stream.append(status) else { return }
        streams[taskKey] = stream
        if let key {
            update(key, task: taskKey.task) { $0.note(status) }
            actions.append(
                .checkpoint(
                    .update(framework: key.framework, executor: key.executor, container: container, status)))
        }
        if wasIdle { forward(taskKey, now: now, &actions) }
    }

    private func fillContainerStatus(_ status: inout MesosTaskStatus, _ executor: ExecutorRecord) {
        if !status.containerStatus.hasContainerID { status.containerStatus.containerID.value = executor.containerID }
        if let pid = executor.report.pid { status.containerStatus.executorPid = pid }
        guard status.containerStatus.networkInfos.isEmpty else { return }
        var network = MesosNetworkInfo()
        let addresses = executor.report.addresses.isEmpty ? [configuration.ip] : executor.report.addresses
        network.ipAddresses = addresses.map { address in
            var entry = MesosNetworkInfo.IPAddress()
            entry.protocol = address.contains(":") ? .ipv6 : .ipv4
            entry.ipAddress = address
            return entry
        }
        status.containerStatus.networkInfos = [network]
    }

    /// Sends a stream's first update (again). Nothing happens while the master is away.
    mutating func forward(_ key: TaskKey, now: Instant, _ actions: inout [Action]) {
        guard isRegistered, let status = streams[key]?.next(now: now) else { return }
        var message = ClusterAgentMessage.StatusUpdate()
        message.frameworkID.value = key.framework
        message.status = status
        if let executor = streams[key]?.executor, !executor.isEmpty { message.executorID.value = executor }
        message.latestState = streams[key]?.pending.last?.state ?? status.state
        actions.append(.send(ClusterAgentMessage(.statusUpdate(message))))
    }

    mutating func acknowledge(
        _ message: ClusterMasterMessage.StatusUpdateAcknowledgement, now: Instant, _ actions: inout [Action]
    ) {
        let key = TaskKey(framework: message.frameworkID.value, task: message.taskID.value)
        // An acknowledgement of anything but the update under way is late or a repetition.
        guard streams[key]?.acknowledge(message.uuidBytes) == true, let stream = streams[key] else { return }
        let executorKey = executorKey(ofTask: key.task, framework: key.framework)
        if let executorKey, let executor = executor(executorKey) {
            actions.append(
                .checkpoint(
                    .acknowledgement(
                        framework: key.framework, executor: executorKey.executor, container: executor.containerID,
                        task: key.task, uuid: message.uuidBytes)))
        }
        if stream.isFinished {
            streams[key] = nil
            if let executorKey { retireIfFinished(executorKey, &actions) }
        } else {
            forward(key, now: now, &actions)
        }
    }

    // MARK: Forgetting

    /// Forgets tasks whose last update is acknowledged, and the executor when its container is gone and no task is
    /// left.
    mutating func retireIfFinished(_ key: ExecutorKey, _ actions: inout [Action]) {
        guard let executor = executor(key), let framework = frameworks[key.framework]?.info else { return }
        guard executor.phase == .terminated else { return }
        for task in executor.tasks.keys where streams[TaskKey(framework: key.framework, task: task)] != nil { return }
        actions.append(.retire(order(for: key, executor, framework)))
        containers[executor.containerID] = nil
        frameworks[key.framework]?.executors[key.executor] = nil
        frameworks[key.framework]?.completed.append(executor)
        if frameworks[key.framework]?.completed.count ?? 0 > AgentCore.completedExecutorsMax {
            frameworks[key.framework]?.completed.removeFirst()
        }
        removeFrameworkIfEmpty(key.framework)
    }

    mutating func removeFrameworkIfEmpty(_ id: String) {
        guard let framework = frameworks[id], framework.executors.isEmpty else { return }
        frameworks[id] = nil
        completedFrameworks.removeAll { $0.info.id.value == id }
        completedFrameworks.append(framework)
        if completedFrameworks.count > AgentCore.completedFrameworksMax { completedFrameworks.removeFirst() }
    }
}
