import Base
public import MesosAPI
import OrderedCollections

extension AgentCore {
    static let registrationBackoffMax = Duration.seconds(60)

    // MARK: The link

    mutating func scheduleConnection(now: Instant, rng: inout some RandomNumberGenerator) {
        let factor = Double(configuration.registrationBackoff.wholeNanoseconds)
        let doublings = min(max(attempt - 1, 0), 16)
        let bound = min(factor * Double(1 << doublings), Double(AgentCore.registrationBackoffMax.wholeNanoseconds))
        // The first attempt goes out at once: it is the one that decides how soon the agent's resources are offered.
        let delay = attempt == 0 ? 0 : Double.random(in: 0...max(bound, 1), using: &rng)
        attempt += 1
        link = .waiting(until: now + .nanoseconds(Int64(delay)))
    }

    mutating func connect(_ actions: inout [Action]) {
        link = .connecting
        actions.append(.connect(registration()))
    }

    mutating func loseMaster(now: Instant, rng: inout some RandomNumberGenerator, _ actions: inout [Action]) {
        switch link {
        case .recovering, .waiting, .terminating, .terminated: return
        case .registered: attempt = 0
        case .connecting: break
        }
        for key in streams.keys { streams[key]?.pause() }
        scheduleConnection(now: now, rng: &rng)
    }

    /// What failed before says nothing about the new leader.
    mutating func findMaster(_ actions: inout [Action]) {
        switch link {
        case .recovering, .terminating, .terminated: return
        case .waiting:
            attempt = 1
            connect(&actions)
        case .connecting, .registered: attempt = 0
        }
    }

    private func registration() -> ClusterAgentMessage {
        var info = configuration.info
        guard let agentID else {
            var register = ClusterAgentMessage.Register()
            register.agentInfo = info
            register.version = configuration.version
            register.capabilities = configuration.capabilities
            register.pid = configuration.pid
            return ClusterAgentMessage(.register(register))
        }
        info.id.value = agentID
        var register = ClusterAgentMessage.Reregister()
        register.agentInfo = info
        register.version = configuration.version
        register.capabilities = configuration.capabilities
        register.pid = configuration.pid
        for (id, framework) in frameworks where !framework.isTerminating {
            register.frameworks.append(framework.info)
            for executor in framework.executors.values {
                if executor.kind == .custom, executor.phase != .terminated {
                    var executorInfo = executor.info
                    executorInfo.frameworkID.value = id
                    register.executors.append(executorInfo)
                }
                for (name, task) in executor.tasks {
                    // What is over and acknowledged the master has forgotten, though a long-lived executor still has
                    // it.
                    let key = TaskKey(framework: id, task: name)
                    if task.state.isTerminal, streams[key] == nil { continue }
                    register.tasks.append(describe(task, framework: id, executor: executor))
                }
            }
        }
        return ClusterAgentMessage(.reregister(register))
    }

    /// A task as masters and `/state` show it.
    public func describe(_ record: TaskRecord, framework: String, executor: ExecutorRecord) -> MesosTask {
        let info = record.info
        var task = MesosTask()
        task.name = info.name
        task.taskID = info.taskID
        task.frameworkID.value = framework
        if executor.kind == .custom { task.executorID = executor.info.executorID }
        task.agentID = info.agentID
        task.state = record.state
        task.resources = info.resources
        task.statuses = record.statuses
        if let first = streams[TaskKey(framework: framework, task: info.taskID.value)]?.pending.first {
            task.statusUpdateState = first.state
            task.statusUpdateUuid = first.uuid
        } else if let last = record.statuses.last {
            task.statusUpdateState = last.state
            task.statusUpdateUuid = last.uuid
        }
        if info.hasLabels { task.labels = info.labels }
        if info.hasDiscovery { task.discovery = info.discovery }
        if info.hasContainer { task.container = info.container }
        if info.hasHealthCheck { task.healthCheck = info.healthCheck }
        if info.hasKillPolicy { task.killPolicy = info.killPolicy }
        if info.command.hasUser {
            task.user = info.command.user
        } else if let owner = frameworks[framework]?.info.user, !owner.isEmpty {
            task.user = owner
        }
        task.limits = info.limits
        return task
    }

    // MARK: Messages

    mutating func handle(
        _ message: ClusterMasterMessage, now: Instant, rng: inout some RandomNumberGenerator, _ actions: inout [Action]
    ) {
        switch link {
        case .recovering, .waiting, .terminating, .terminated: return
        case .connecting:
            switch message.kind {
            case .registered(let registered)?: self.registered(registered, now: now, &actions)
            case .shutdownAgent(let shutdown)?: shutDown(shutdown.message, now: now, &actions)
            default: break
            }
            return
        case .registered: link = .registered(silentAt: now + pingTimeout)
        }
        switch message.kind {
        case .registered(let registered)?: self.registered(registered, now: now, &actions)
        case .ping(let ping)?:
            var pong = ClusterAgentMessage.Pong()
            pong.sequence = ping.sequence
            actions.append(.send(ClusterAgentMessage(.pong(pong))))
        case .runTask(let run)?: runTask(run, now: now, rng: &rng, &actions)
        case .killTask(let kill)?: killTask(kill, now: now, rng: &rng, &actions)
        case .statusUpdateAcknowledgement(let acknowledgement)?: acknowledge(acknowledgement, now: now, &actions)
        case .shutdownFramework(let shutdown)?: shutDownFramework(shutdown.frameworkID.value, now: now, &actions)
        case .shutdownExecutor(let shutdown)?:
            let key = ExecutorKey(framework: shutdown.frameworkID.value, executor: shutdown.executorID.value)
            shutDownExecutor(key, now: now, &actions)
        case .shutdownAgent(let shutdown)?: shutDown(shutdown.message, now: now, &actions)
        case .updateFramework(let update)?:
            guard frameworks[update.framework.id.value] != nil else { return }
            frameworks[update.framework.id.value]?.info = update.framework
            actions.append(.checkpoint(.framework(update.framework)))
        case .frameworkMessage(let message)?:
            let key = ExecutorKey(framework: message.frameworkID.value, executor: message.executorID.value)
            guard executor(key)?.isSubscribed == true else { return }
            actions.append(.notify(key, .message(message)))
        case .reconcileTasks(let reconcile)?: self.reconcile(reconcile, now: now, rng: &rng, &actions)
        case nil: break
        }
    }

    private mutating func registered(
        _ message: ClusterMasterMessage.Registered, now: Instant, _ actions: inout [Action]
    ) {
        attempt = 0
        if message.pingTimeoutSeconds > 0, message.pingTimeoutSeconds < 1e6 {
            pingTimeout = .seconds(message.pingTimeoutSeconds)
        }
        if message.hasMasterInfo { master = message.masterInfo }
        if agentID != message.agentID.value {
            agentID = message.agentID.value
            var info = configuration.info
            info.id = message.agentID
            actions.append(.checkpoint(.agent(info)))
        }
        link = .registered(silentAt: now + pingTimeout)
        for key in streams.keys { forward(key, now: now, &actions) }
    }

    /// The master believes in tasks that this agent did not list. One that the agent knows after all needs no answer.
    private mutating func reconcile(
        _ message: ClusterMasterMessage.ReconcileTasks, now: Instant, rng: inout some RandomNumberGenerator,
        _ actions: inout [Action]
    ) {
        for task in message.tasks {
            let key = TaskKey(framework: task.frameworkID.value, task: task.taskID.value)
            if executorKey(ofTask: key.task, framework: key.framework) != nil { continue }
            if streams[key] != nil { continue }
            let status = makeStatus(
                key, executor: nil, task.partitionAware ? .taskDropped : .taskLost, source: .agent,
                reason: .reconciliation, message: "Reconciliation: Task is unknown to the agent", now: now, rng: &rng)
            put(status, key, executor: nil, now: now, &actions)
        }
    }

    // MARK: Ending all

    mutating func shutDown(_ message: String, now: Instant, _ actions: inout [Action]) {
        link = .terminating(message: message.isEmpty ? "The master asked the agent to shut down" : message)
        actions.append(.disconnect)
        for id in frameworks.keys { shutDownFramework(id, now: now, &actions) }
    }

    mutating func shutDownFramework(_ id: String, now: Instant, _ actions: inout [Action]) {
        guard frameworks[id] != nil else { return }
        frameworks[id]?.isTerminating = true
        // Nobody is left to acknowledge.
        for key in streams.keys where key.framework == id { streams[key] = nil }
        for key in executorKeys where key.framework == id { shutDownExecutor(key, now: now, &actions) }
        removeFrameworkIfEmpty(id)
    }

    /// A custom executor is asked first; its container is ended after the grace period.
    mutating func shutDownExecutor(_ key: ExecutorKey, now: Instant, _ actions: inout [Action]) {
        guard let executor = executor(key) else { return }
        switch executor.phase {
        case .terminating: return
        case .terminated:
            retireIfFinished(key, &actions)
            return
        case .launching, .registering, .running: break
        }
        let grace =
            executor.info.hasShutdownGracePeriod
            ? Duration.nanoseconds(executor.info.shutdownGracePeriod.nanoseconds)
            : configuration.executorShutdownGracePeriod
        guard executor.isSubscribed else {
            let task = executor.kind == .command ? executor.tasks.values.first?.info : nil
            let gentle = task.map { killGrace(of: $0, override: nil) } ?? .zero
            end(key, .shutdown, grace: gentle, now: now, &actions)
            return
        }
        update(key) {
            $0.end = $0.end ?? .shutdown
            $0.phase = .terminating(deadline: now + grace)
        }
        actions.append(.notify(key, .shutdown))
    }

    mutating func finishTermination(_ actions: inout [Action]) {
        guard case .terminating(let message) = link, frameworks.isEmpty else { return }
        link = .terminated
        actions.append(.retireAgent(message: message))
    }
}
