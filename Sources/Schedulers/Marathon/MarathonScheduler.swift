import Base
import Coordination
import FoundationEssentials
import HTTPKit
import Logging
import MarathonCore
import MesosAPI
import MesosClient
import OrderedCollections
import Synchronization
import Telemetry

/// Owns the core: feeds it with what happens and carries out what it decides.
///
/// The core's actions form batches. One loop stores them and only then answers requests and publishes events; calls to
/// the master go through a second loop, so that a silent master holds up neither.
actor MarathonScheduler {
    private let configuration: MarathonConfiguration
    private let store: any MetadataStore
    private let leadership: LeaderEpoch
    private let client: SchedulerClient
    private let builder: TaskBuilder
    private let gauges: MarathonGauges
    private let logger: Logger
    nonisolated let hub: EventHub

    private var core: SchedulerCore
    private var rng = SystemRandomNumberGenerator()
    private let origin: ContinuousClock.Instant

    private var nextRequest: UInt64 = 0
    private var requests: [UInt64: CheckedContinuation<Result<CommandReply, CommandError>, Never>] = [:]
    private var failure: MarathonError?
    private var isStopped = false

    // Overflow policy: the batch queue ends the leadership (nothing may be lost from it), the call queue drops and counts
    // (the core repeats kills and reconciles), the probe queue answers "overloaded".
    private nonisolated let batches: AsyncStream<[Action]>
    private let batchContinuation: AsyncStream<[Action]>.Continuation
    private nonisolated let calls: AsyncStream<Action>
    private let callContinuation: AsyncStream<Action>.Continuation
    private nonisolated let probes: AsyncStream<Probe>
    private let probeContinuation: AsyncStream<Probe>.Continuation
    private(set) var droppedCalls = 0
    private(set) var frameworkID: String?
    private(set) var masterAddress: String?
    private(set) var startedAt: Timestamp

    init(
        configuration: MarathonConfiguration, store: any MetadataStore, leadership: LeaderEpoch, gauges: MarathonGauges,
        logger: Logger
    ) async throws(MarathonError) {
        self.configuration = configuration
        self.store = store
        self.leadership = leadership
        self.gauges = gauges
        self.logger = logger
        hub = EventHub(outstandingMax: configuration.eventStreamOutstandingMax)
        origin = .now
        var coreConfiguration = configuration.core
        coreConfiguration.clockOrigin = Timestamp(milliseconds: WallTime.now().milliseconds)
        startedAt = coreConfiguration.clockOrigin
        let stored = try await MarathonScheduler.load(store, prefix: configuration.storePrefix, as: leadership)
        frameworkID = stored.frameworkID
        do throws(RecordError) {
            core = try SchedulerCore(configuration: coreConfiguration, records: stored.records)
        } catch {
            throw MarathonError(.unreadable, "The stored state cannot be read", cause: error)
        }
        guard stored.frameworkID != nil || core.instances.isEmpty else {
            throw MarathonError(.frameworkIDMissing, "There are instances in the store but no framework id")
        }
        var builder = TaskBuilder()
        builder.environmentPrefix = configuration.environmentPrefix
        self.builder = builder
        var options = SchedulerClient.Options(
            masters: configuration.masters,
            framework: MarathonScheduler.framework(configuration, id: stored.frameworkID))
        if let principal = configuration.principal, let secret = configuration.secret {
            options.credential = (principal: principal, secret: secret)
        }
        options.backoffMax = .seconds(2)
        options.heartbeatInterval = configuration.heartbeatInterval
        options.missedHeartbeatsMax = Double(configuration.heartbeatFailureThreshold)
        client = SchedulerClient(options, logger: logger)
        (batches, batchContinuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingOldest(65536))
        (calls, callContinuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingOldest(16384))
        (probes, probeContinuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingOldest(16384))
    }

    private static func framework(_ configuration: MarathonConfiguration, id: String?) -> MesosFrameworkInfo {
        var info = MesosFrameworkInfo()
        info.user = configuration.user
        info.name = configuration.frameworkName
        if let id { info.id.value = id }
        info.failoverTimeout = configuration.failoverTimeout.inSeconds
        info.checkpoint = configuration.checkpoint
        info.hostname = configuration.hostname
        if let url = configuration.webUIURL { info.webuiURL = url }
        if let principal = configuration.principal { info.principal = principal }
        info.roles = [configuration.core.rules.role]
        var types: [MesosFrameworkInfo.Capability.TypeEnum] = [.partitionAware, .regionAware, .multiRole]
        if configuration.core.rules.features.contains("task_killing") { types.append(.taskKillingState) }
        if configuration.core.rules.features.contains("gpu_resources") { types.append(.gpuResources) }
        info.capabilities = types.map { type in
            var capability = MesosFrameworkInfo.Capability()
            capability.type = type
            return capability
        }
        return info
    }

    private static func load(
        _ store: any MetadataStore, prefix: String, as leadership: LeaderEpoch
    ) async throws(MarathonError) -> (records: [(key: String, value: JSONValue)], frameworkID: String?) {
        var records: [(key: String, value: JSONValue)] = []
        var frameworkID: String?
        do {
            // No earlier leader can write any more once this has been taken.
            try await store.commit([], as: leadership)
            for (key, value) in try await store.list(prefix: prefix) {
                let name = String(key.dropFirst(prefix.count))
                if name == "leader" || name.hasPrefix("leader/") { continue }
                if name == "framework-id" {
                    frameworkID = String(decoding: value.bytes, as: UTF8.self)
                } else {
                    records.append((name, try JSONValue(parsing: value.bytes)))
                }
            }
        } catch let error as StoreError {
            throw MarathonError(storing: "The stored state could not be loaded", error)
        } catch {
            throw MarathonError(.unreadable, "The stored state is no JSON", cause: error)
        }
        return (records, frameworkID)
    }

    // MARK: Running

    /// Schedules until cancelled; throws when it cannot go on without risking what is stored.
    func run() async throws(MarathonError) {
        do {
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask { try await self.performBatches() }
                group.addTask { await self.makeCalls() }
                group.addTask { await self.runProbes() }
                group.addTask { try await self.keepTime() }
                group.addTask { try await self.follow() }
                group.addTask { try await self.subscribe() }
                defer {
                    group.cancelAll()
                    stop()
                }
                try await group.next()
            }
        } catch let error as MarathonError {
            throw error
        } catch {
            throw MarathonError(.leadershipLost, "The scheduler was stopped", cause: error)
        }
    }

    private func subscribe() async throws(MarathonError) {
        do throws(MesosClientError) {
            try await client.run()
        } catch {
            guard error.code == .unsubscribed else {
                throw MarathonError(.masterUnreachable, "The leading master gives no sign of life", cause: error)
            }
            // The master's words for its reasons are part of its protocol.
            let code: MarathonError.Code =
                if error.message.contains("failed over") {
                    .leadershipLost
                } else if error.message.contains("removed") || error.message.contains("Completed framework") {
                    .frameworkRemoved
                } else {
                    .refused
                }
            throw MarathonError(code, "The master ended the registration", cause: error)
        }
    }

    /// Ends what waits for us.
    private func stop() {
        hub.close()
        isStopped = true
        let waiting = requests
        requests = [:]
        for continuation in waiting.values {
            continuation.resume(
                returning: .failure(.unavailable("The leadership ended before it was known whether this took effect")))
        }
    }

    private var now: Instant { Instant(nanoseconds: UInt64(clamping: (ContinuousClock.now - origin).wholeNanoseconds)) }

    /// The wall-clock time as the core sees it.
    var time: Timestamp { core.timestamp(now) }

    /// Applies one input; its actions are queued in the same order.
    func handle(_ input: Input) {
        let actions = core.apply(input, now: now, rng: &rng)
        guard !actions.isEmpty else { return }
        switch batchContinuation.yield(actions) {
        case .enqueued: break
        case .dropped, .terminated:
            failure = MarathonError(.overloaded, "More changes arrived than could be stored")
            batchContinuation.finish()
        @unknown default: break
        }
    }

    /// Carries out a command; returns once its consequences are stored.
    func submit(_ command: Command) async throws(CommandError) -> CommandReply {
        guard !isStopped else { throw .unavailable("The leadership has ended") }
        nextRequest += 1
        let request = nextRequest
        let result = await withCheckedContinuation { continuation in
            requests[request] = continuation
            handle(.command(command, request: request))
        }
        return try result.get()
    }

    /// Reads the state.
    func read<Value>(_ body: (SchedulerCore, Timestamp) -> Value) -> Value { body(core, time) }

    /// Publishes an event of the service itself.
    func publish(_ type: String, _ members: JSONValue) { hub.publish(.make(type, at: time, members)) }

    private func performBatches() async throws {
        for await batch in batches { try await perform(batch) }
        if let failure { throw failure }
    }

    private func perform(_ batch: [Action]) async throws(MarathonError) {
        for action in batch {
            switch action {
            case .persist(let writes): try await persist(writes)
            case .reply(let request, let result): requests.removeValue(forKey: request)?.resume(returning: result)
            case .publish(let event): hub.publish(event)
            case .probe(let probe):
                if case .enqueued = probeContinuation.yield(probe) { continue }
                handle(.probed(instanceID: probe.instanceID, index: probe.index, failure: "Too many health checks"))
            case .accept, .decline, .revive, .suppress, .kill, .acknowledge, .reconcile:
                if case .enqueued = callContinuation.yield(action) { continue }
                droppedCalls += 1
            }
        }
    }

    private func persist(_ writes: [StoreWrite]) async throws(MarathonError) {
        let changes = writes.map { write -> StoreChange in
            let key = configuration.storePrefix + write.key
            guard let value = write.value else { return .delete(key: key, expected: .any) }
            return .put(key: key, bytes: value.bytes, expected: .any)
        }
        do throws(StoreError) {
            for part in MarathonScheduler.commits(changes) { try await store.commit(part, as: leadership) }
        } catch {
            throw MarathonError(storing: "State could not be stored", error)
        }
    }

    /// What one user's command writes fits one commit (`CoreConfiguration.commandBytesMax`); what follows from many
    /// events at once may need several.
    private static func commits(_ changes: [StoreChange]) -> [[StoreChange]] {
        var result: [[StoreChange]] = []
        var bytes = 0
        for change in changes {
            // With what an engine writes around each change.
            var size = change.key.utf8.count + 150
            if case .put(_, let value, _) = change { size += value.count }
            if let last = result.last, last.count < MetadataLimits.changesMax,
                bytes + size <= MetadataLimits.valueLengthMax
            {
                result[result.count - 1].append(change)
                bytes += size
            } else {
                result.append([change])
                bytes = size
            }
        }
        return result
    }

    private func keepTime() async throws {
        var ticks = 0
        while true {
            try await Task.sleep(for: .milliseconds(200))
            handle(.tick)
            ticks += 1
            if ticks % 5 == 0 { gauges.update(core, uptime: (ContinuousClock.now - origin).inSeconds) }
            if ticks % 50 == 0 { hub.heartbeat() }
        }
    }

    private func runProbes() async {
        let prober = HealthProber()
        await withTaskGroup(of: Void.self) { group in
            var running = 0
            for await probe in probes {
                if running >= configuration.healthChecksMax {
                    await group.next()
                    running -= 1
                }
                running += 1
                group.addTask {
                    let failure = await prober.check(probe)
                    await self.handle(.probed(instanceID: probe.instanceID, index: probe.index, failure: failure))
                }
            }
        }
    }

    // MARK: The master

    private func follow() async throws {
        for await signal in client.signals {
            switch signal {
            case .subscribed(let id, let master):
                let isFirst = frameworkID == nil
                if frameworkID != id.value { try await store(frameworkID: id.value) }
                frameworkID = id.value
                masterAddress = master.map { "\($0.hasHostname ? $0.hostname : $0.address.ip):\($0.port)" }
                logger.notice("registered", metadata: ["framework.id": "\(id.value)"])
                publish(
                    isFirst ? "scheduler_registered_event" : "scheduler_reregistered_event",
                    ["frameworkId": .string(id.value), "master": .optional(masterAddress)])
                handle(.connected)
            case .disconnected(let reason):
                logger.notice("disconnected from the master", metadata: ["reason": "\(reason)"])
                publish("scheduler_disconnected_event", [:])
                handle(.disconnected)
            case .event(let event): take(event)
            }
        }
    }

    private func store(frameworkID: String) async throws(MarathonError) {
        do throws(StoreError) {
            let key = configuration.storePrefix + "framework-id"
            try await store.commit([.put(key: key, bytes: Array(frameworkID.utf8), expected: .any)], as: leadership)
        } catch {
            throw MarathonError(storing: "The framework id could not be stored", error)
        }
    }

    private func take(_ event: SchedulerEvent) {
        switch event.type {
        case .offers:
            let seconds = WallTime.now().seconds
            handle(.offers(event.offers.offers.map { AgentOffer($0, wallSeconds: seconds) }))
        case .update: handle(.report(TaskReport(event.update.status)))
        case .error: logger.error("the master refuses us", metadata: ["message": "\(event.error.message)"])
        case .failure where event.failure.hasAgentID && !event.failure.hasExecutorID:
            handle(.agentLost(event.failure.agentID.value))
        case .unknown, .subscribed, .inverseOffers, .rescind, .rescindInverseOffer, .updateOperationStatus, .message,
            .failure, .heartbeat:
            // A rescinded offer that we have just accepted comes back as a dropped task.
            break
        }
    }

    private func makeCalls() async {
        for await action in calls {
            do throws(MesosClientError) {
                try await make(action)
            } catch {
                logger.info("call failed", metadata: ["error": "\(error)"])
                guard case .accept(_, _, let launches) = action else { continue }
                switch error.code {
                case .notSubscribed, .refused: for launch in launches { reportDropped(launch) }
                // The master may have taken it all the same: reconciliation will tell.
                case .unreachable, .unsubscribed, .malformed: break
                }
            }
        }
    }

    /// A launch that the master cannot have seen.
    private func reportDropped(_ launch: Launch) {
        var report = TaskReport(taskID: launch.instance.taskID, agentID: launch.instance.agentID, state: .dropped)
        report.reason = "REASON_INVALID_OFFERS"
        report.message = "The offer could not be accepted"
        handle(.report(report))
    }

    private func make(_ action: Action) async throws(MesosClientError) {
        switch action {
        case .accept(let offer, _, let launches):
            try await client.launch(launches.map(builder.task), from: [offerID(offer)])
        case .decline(let offers, let refuse):
            try await client.decline(offers.map(offerID), refuse: refuse.inSeconds)
        case .revive: try await client.revive()
        case .suppress: try await client.suppress()
        case .kill(let task, let agent): try await client.kill(taskID(task), agent: agent.map(agentID))
        case .acknowledge(let task, let agent, let uuid):
            var status = MesosTaskStatus()
            status.taskID = taskID(task)
            status.agentID = agentID(agent)
            status.uuid = Data(uuid)
            try await client.acknowledge(status)
        case .reconcile(let tasks):
            try await client.reconcile(tasks.map { (task: taskID($0.taskID), agent: agentID($0.agentID)) })
        case .persist, .reply, .publish, .probe: break
        }
    }

    private nonisolated func offerID(_ value: String) -> MesosOfferID {
        var id = MesosOfferID()
        id.value = value
        return id
    }

    private nonisolated func taskID(_ value: String) -> MesosTaskID {
        var id = MesosTaskID()
        id.value = value
        return id
    }

    private nonisolated func agentID(_ value: String) -> MesosAgentID {
        var id = MesosAgentID()
        id.value = value
        return id
    }
}
