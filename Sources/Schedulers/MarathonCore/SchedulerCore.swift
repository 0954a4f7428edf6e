public import Base
public import OrderedCollections

/// Marathon without IO: apps, deployments, instances, the launch queue and health, driven by `apply`.
///
/// Invariants, checked after every input:
/// - at most one deployment holds an app;
/// - an app that holds an exclusive volume never has two instances whose tasks may both run, unless it asks for
/// several;
/// - an instance is gone from memory only together with its record.
public struct SchedulerCore: Sendable {
    public let configuration: CoreConfiguration
    /// Sorted by id, as every collection here that is iterated.
    public internal(set) var apps: [AppID: AppSpec] = [:]
    public internal(set) var instances: OrderedDictionary<String, Instance> = [:]
    public internal(set) var deployments: [Deployment] = []
    public internal(set) var failures: [AppID: TaskFailure] = [:]
    /// Oldest first. Also holds the versions that instances still run.
    var versions: [AppID: [AppSpec]] = [:]
    var instanceIDs: [AppID: OrderedSet<String>] = [:]
    var queue: [AppID: QueueEntry] = [:]
    var backoffs: [AppID: Backoff] = [:]
    public internal(set) var rootVersion = Timestamp(milliseconds: 0)
    public internal(set) var isConnected = false
    public internal(set) var counters = Counters()

    // What the input that is being applied has brought about.
    var dirtyApps: Set<AppID> = []
    var writes: [String: JSONValue?] = [:]
    var effects: [Action] = []
    var acknowledgements: [Action] = []

    // Offers.
    var isSuppressed = false
    var lastRevive: Timestamp?
    var revivedFor: [AppID: Int] = [:]
    var nextReconciliation: Timestamp?
    var nextInquiry: Timestamp?
    /// Instances of which nothing has been heard since the present subscription began. A new master gives no answer for
    /// those on agents that have not come back to it yet.
    var unconfirmed: Set<String> = []

    /// Totals since the start, for metrics.
    public struct Counters: Sendable {
        public var deployments = 0
        public var deploymentsDismissed = 0
        public var tasksLaunched = 0
        public var offersIncoming = 0
        public var offersDeclined = 0
        public var offersUsed = 0
        public var revives = 0
        public var suppresses = 0
        public var taskUpdates: [TaskState: Int] = [:]
    }

    public init(configuration: CoreConfiguration) { self.configuration = configuration }

    /// The wall-clock time of an instant.
    public func timestamp(_ now: Instant) -> Timestamp { configuration.clockOrigin + (now - .zero) }

    /// Takes one input and answers with what to do about it, in order.
    public mutating func apply(_ input: Input, now: Instant, rng: inout some RandomNumberGenerator) -> [Action] {
        let time = timestamp(now)
        var reply: Action?
        switch input {
        case .command(let command, let request):
            let former = self
            do throws(CommandError) {
                let answer = try perform(command, time: time, rng: &rng)
                try checkSize()
                reply = .reply(request: request, .success(answer))
            } catch {
                self = former
                reply = .reply(request: request, .failure(error))
            }
        case .connected: connect(time)
        case .disconnected: isConnected = false
        case .offers(let offers): consider(offers, time: time, rng: &rng)
        case .report(let report): take(report, time: time)
        case .agentLost(let agent): inquire(instances.values.filter { $0.agentID == agent })
        case .probed(let instance, let index, let failure):
            takeProbe(instance: instance, index: index, failure: failure, time: time)
        case .tick: tick(time)
        }
        converge(time)
        balanceOffers(time)
        return drain(reply: reply)
    }

    /// Refuses a command whose writes no store would take at once: half a command must never be stored.
    private func checkSize() throws(CommandError) {
        let bytes = writes.reduce(0) { $0 + $1.key.utf8.count + ($1.value?.bytes.count ?? 0) }
        guard writes.keys.allSatisfy({ $0.utf8.count <= CoreConfiguration.keyLengthMax }) else {
            throw .spec(.invalid("/id", "The id is too long to be stored."))
        }
        guard bytes <= configuration.commandBytesMax else {
            let limit = configuration.commandBytesMax
            throw .spec(.invalid("/", "The change takes \(bytes) bytes; \(limit) can be stored."))
        }
    }

    /// Everything that was recorded, writes first.
    private mutating func drain(reply: Action?) -> [Action] {
        var actions: [Action] = []
        if !writes.isEmpty {
            actions.append(
                .persist(writes.sorted { $0.key < $1.key }.map { StoreWrite(key: $0.key, value: $0.value) }))
        }
        actions.append(contentsOf: acknowledgements)
        actions.append(contentsOf: effects)
        if let reply { actions.append(reply) }
        writes.removeAll(keepingCapacity: true)
        effects.removeAll(keepingCapacity: true)
        acknowledgements.removeAll(keepingCapacity: true)
        return actions
    }

    // MARK: Access that keeps the indices and the store in step

    /// The instances of an app in the order of their launch.
    public func instances(of app: AppID) -> [Instance] {
        (instanceIDs[app] ?? []).compactMap { instances[$0] }
    }

    mutating func save(_ instance: Instance) {
        if instances.updateValue(instance, forKey: instance.id) == nil {
            instanceIDs[instance.appID, default: []].append(instance.id)
        }
        writes["instances/" + instance.id] = .some(instance.record)
        dirtyApps.insert(instance.appID)
    }

    mutating func forget(_ instance: Instance) {
        guard instances.removeValue(forKey: instance.id) != nil else { return }
        instanceIDs[instance.appID]?.remove(instance.id)
        if instanceIDs[instance.appID]?.isEmpty ?? false { instanceIDs[instance.appID] = nil }
        writes["instances/" + instance.id] = .some(nil)
        dirtyApps.insert(instance.appID)
        pruneVersions(of: instance.appID)
    }

    /// The definition that an instance was launched with.
    public func spec(of instance: Instance) -> AppSpec? {
        versions[instance.appID]?.last { $0.version == instance.appVersion }
    }

    public func versions(of app: AppID) -> [AppSpec] { versions[app] ?? [] }

    public func app(_ id: AppID, version: Timestamp) -> AppSpec? { versions[id]?.last { $0.version == version } }

    mutating func set(_ app: AppSpec) {
        apps[app.id] = app
        writes["apps/" + app.id.safe] = .some(app.json)
        if versions[app.id]?.last != app {
            versions[app.id, default: []].append(app)
            writes["versions/\(app.id.safe)/\(app.version)"] = .some(app.json)
        }
        pruneVersions(of: app.id)
        dirtyApps.insert(app.id)
    }

    mutating func remove(_ id: AppID) {
        apps[id] = nil
        queue[id] = nil
        backoffs[id] = nil
        writes["apps/" + id.safe] = .some(nil)
        if failures.removeValue(forKey: id) != nil { writes["failures/" + id.safe] = .some(nil) }
        pruneVersions(of: id)
        dirtyApps.insert(id)
    }

    /// Keeps the newest versions and those that instances still run; of a removed app only the latter.
    private mutating func pruneVersions(of id: AppID) {
        guard let all = versions[id] else { return }
        let kept = apps[id] == nil ? 0 : configuration.versionsMax
        guard all.count > kept else { return }
        let running = Set(instances(of: id).map(\.appVersion))
        var result: [AppSpec] = []
        for (index, spec) in all.enumerated() {
            if index >= all.count - kept || running.contains(spec.version) {
                result.append(spec)
            } else {
                writes["versions/\(id.safe)/\(spec.version)"] = .some(nil)
            }
        }
        versions[id] = result.isEmpty ? nil : result
    }

    func deploymentIndex(holding app: AppID) -> Int? {
        deployments.firstIndex { $0.changes.contains { $0.app == app } }
    }

    mutating func publish(_ type: String, _ time: Timestamp, _ members: JSONValue.Object) {
        effects.append(.publish(Event(type, at: time, members)))
    }

    // MARK: Connection and time

    private mutating func connect(_ time: Timestamp) {
        isConnected = true
        isSuppressed = false
        revivedFor = [:]
        lastRevive = nil
        unconfirmed = Set(instances.keys)
        reconcile(time)
        for instance in instances.values where instance.goal == .decommissioned { sendKill(instance.id, time: time) }
        dirtyApps.formUnion(apps.keys)
    }

    /// Explicitly for the tasks that we know, so that lost ones come to light, then implicitly for those that we do
    /// not.
    private mutating func reconcile(_ time: Timestamp) {
        nextReconciliation = time + configuration.reconciliationInterval
        let known = instances.values.map { (taskID: $0.taskID, agentID: $0.agentID) }
        if !known.isEmpty { effects.append(.reconcile(known)) }
        effects.append(.reconcile([]))
    }

    private mutating func tick(_ time: Timestamp) {
        if isConnected, let next = nextReconciliation, next <= time { reconcile(time) }
        for instance in Array(instances.values) { review(instance, time: time) }
        inquire(time)
        for (app, backoff) in backoffs.sorted(by: { $0.key < $1.key }) {
            let forgetAfter = backoff.until + .seconds(apps[app]?.maxLaunchDelaySeconds ?? 0)
            if forgetAfter < time { backoffs[app] = nil }
            if backoff.until <= time { dirtyApps.insert(app) }
        }
    }

    /// Asks for launches that nothing has been heard of (the call may have been lost, and masters announce no STAGING)
    /// and for what a new master has not confirmed.
    private mutating func inquire(_ time: Timestamp) {
        guard isConnected, (nextInquiry ?? time) <= time else { return }
        nextInquiry = time + .seconds(5)
        unconfirmed.formIntersection(instances.keys)
        inquire(
            instances.values.filter {
                unconfirmed.contains($0.id) || $0.condition == .provisioned && $0.stagedAt + .seconds(5) < time
            })
    }

    private mutating func inquire(_ silent: [Instance]) {
        if !silent.isEmpty { effects.append(.reconcile(silent.map { (taskID: $0.taskID, agentID: $0.agentID) })) }
    }

    /// Counts down what time does to one instance.
    private mutating func review(_ instance: Instance, time: Timestamp) {
        switch instance.condition {
        case .provisioned, .staging, .starting:
            let limit =
                instance.condition == .provisioned ? configuration.launchConfirmTimeout : configuration.launchTimeout
            if instance.goal == .running, instance.stagedAt + limit < time {
                kill(instance.id, time: time)
            }
        case .running: probeIfDue(instance, time: time)
        case .unreachable, .unreachableInactive: expireUnreachable(instance, time: time)
        case .killing: break
        }
        if isConnected, instance.goal == .decommissioned, let sent = instances[instance.id]?.killSentAt,
            sent + configuration.killRetryTimeout <= time
        {
            sendKill(instance.id, time: time)
        }
    }
}
