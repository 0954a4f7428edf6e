import Base
import LinuxOS
import Logging
import Synchronization

/// The metadata store of a cluster: keys are nodes of a ZooKeeper ensemble, commits are its multis (`CommitCore`).
///
/// Commits of one store go out one after the other. Reads see every commit that returned before them.
final class ZooKeeperStore: MetadataStore {
    private let layout: ZooKeeperLayout
    private let session: ZooKeeperSession
    private let connection: ZooKeeperConnection
    private let turns = CommitTurns()
    private let hints = Mutex<[String: Int32?]>([:])
    private let commits = Atomic<UInt64>(0)
    /// Begins the tokens of this store.
    private let identity = UInt64.random(in: .min ... .max)
    private let running: Task<Void, Never>
    /// How long an operation waits for the ensemble.
    private let patience: Duration

    private static let hintsMax = 65536
    /// Listings that are tried while this store goes on committing.
    private static let hurriedAttempts = 3

    init(_ location: ZooKeeperLocation, layout: ZooKeeperLayout, sessionTimeout: Duration, logger: Logger) {
        self.layout = layout
        patience = sessionTimeout * 2
        let connection = ZooKeeperConnection(logger: logger)
        let session = ZooKeeperSession(location, timeout: sessionTimeout, logger: logger) { connection.take($0) }
        self.connection = connection
        self.session = session
        // SAFETY: opening is not async; the task is cancelled with the store.
        running = Task { await session.run() }
    }

    deinit { running.cancel() }

    // MARK: Reading

    func get(_ key: String) async throws(StoreError) -> VersionedValue? {
        try validate(key: key)
        let reply = try await ask(.get(layout.node(of: key), watch: false, isFresh: true), "\(key) could not be read")
        guard case .value(let node) = reply else { return nil }
        return ZooKeeperStore.value(node)
    }

    func list(prefix: String) async throws(StoreError) -> [(key: String, value: VersionedValue)] {
        try await snapshot(prefix, watch: false)
    }

    /// Everything under `prefix` as it was at one moment.
    private func snapshot(
        _ prefix: String, watch: Bool
    ) async throws(StoreError) -> [(key: String, value: VersionedValue)] {
        let what = "Keys under \(prefix) could not be listed"
        let end = ContinuousClock.now + patience
        var attempts = 0
        while ContinuousClock.now < end {
            attempts += 1
            // Who commits all the time is mostly this store itself: then it has to stand back once.
            let isAlone = attempts > ZooKeeperStore.hurriedAttempts ? await turns.begin() : false
            let result = await attempt(prefix, watch: watch, what)
            if isAlone { await turns.end() }
            if let found = try result.get() { return found }
        }
        throw StoreError(.unavailable, "\(what): they change all the time")
    }

    /// Nil when something was committed meanwhile: the revision has to be the same before and after.
    private func attempt(
        _ prefix: String, watch: Bool, _ what: String
    ) async -> Result<[(key: String, value: VersionedValue)]?, StoreError> {
        do throws(StoreError) {
            let before = try await ask(.get(layout.revision, watch: watch, isFresh: true), what)
            guard case .value(let revision) = before else {
                // Nothing was ever committed; a watch needs the node.
                guard watch else { return .success([]) }
                for path in layout.directories { _ = try await ask(.create(path), what, allowing: [.exists]) }
                return .success(nil)
            }
            guard
                case .children(let names) = try await ask(.children(layout.keys, watch: false, isFresh: false), what)
            else { return .success(nil) }
            let keys = names.compactMap(ZooKeeperKeys.key).filter { $0.utf8.starts(with: prefix.utf8) }
                .sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
            var found: [(key: String, value: VersionedValue)] = []
            // In pieces, so that the library's queue stays short.
            for start in stride(from: 0, to: keys.count, by: 256) {
                let part = keys[start..<min(start + 256, keys.count)]
                guard case .values(let values) = try await ask(.values(part.map(layout.node)), what) else { continue }
                for case (let key, let node?) in zip(part, values) { found.append((key, ZooKeeperStore.value(node))) }
            }
            guard case .value(let after) = try await ask(.get(layout.revision, watch: false, isFresh: true), what),
                after.version == revision.version
            else { return .success(nil) }
            return .success(found)
        } catch {
            return .failure(error)
        }
    }

    private static func value(_ node: NodeValue) -> VersionedValue {
        VersionedValue(bytes: node.bytes, version: UInt64(node.version) + 1)
    }

    /// Asks until there is an answer; a missing node is one.
    private func ask(
        _ request: NodeRequest, _ what: String, allowing allowed: Set<NodeFailure> = [.noNode]
    ) async throws(StoreError) -> NodeReply {
        do throws(NodeFailure) {
            return try await connection.ask(request, through: session, until: .now + patience, allowing: allowed)
        } catch {
            throw StoreError(.unavailable, "\(what): \(error)")
        }
    }

    // MARK: Writing

    @discardableResult
    func commit(_ changes: [StoreChange], as leader: LeaderEpoch?) async throws(StoreError) -> [UInt64] {
        try validate(changes)
        guard await turns.begin() else {
            throw StoreError(.unavailable, "Too many commits wait for ZooKeeper; this one was not made.")
        }
        let result = await perform(changes, as: leader)
        await turns.end()
        return try result.get()
    }

    private func perform(_ changes: [StoreChange], as leader: LeaderEpoch?) async -> Result<[UInt64], StoreError> {
        let end = ContinuousClock.now + patience
        let silent = StoreError(.unavailable, "ZooKeeper does not answer; whether the commit happened is unknown.")
        guard let number = await connection.session(until: end) else { return .failure(silent) }
        let serial = commits.wrappingAdd(1, ordering: .relaxed).newValue
        let known = hints.withLock { hints in
            Dictionary(changes.compactMap { change in hints[change.key].map { (change.key, $0) } }) { $1 }
        }
        var core = CommitCore(
            changes, as: leader, token: "\(identity) \(serial)", session: number, layout: layout, hints: known)
        var action = core.start()
        while true {
            switch action {
            case .request(let request): action = core.apply(await session.ask(request))
            case .awaitConnection:
                try? await Task.sleep(for: .milliseconds(20))
                guard let number = await connection.session(until: end) else { return .failure(silent) }
                action = core.reconnected(session: number)
            case .finish(let result):
                remember(result, of: core, changes)
                return result
            }
        }
    }

    private func remember(
        _ result: Result<[UInt64], StoreError>, of core: CommitCore, _ changes: [StoreChange]
    ) {
        hints.withLock { hints in
            if hints.count > ZooKeeperStore.hintsMax { hints = [:] }
            switch result {
            case .success(let versions):
                for (key, version) in core.hints(after: versions) { hints[key] = .some(version) }
            case .failure: for change in changes { hints[change.key] = nil }
            }
        }
    }

    // MARK: Watching

    func watch(prefix: String) async throws(StoreError) -> AsyncStream<StoreEvent> {
        let (stream, continuation) = AsyncStream<StoreEvent>.makeStream(
            bufferingPolicy: .bufferingOldest(MetadataLimits.watchBacklogMax))
        let alarms = connection.alarms(of: layout.revision)
        let present = try await snapshot(prefix, watch: true)
        // SAFETY: it ends with the stream, which cancels it.
        let task = Task { [weak self] in
            var known = Dictionary(uniqueKeysWithValues: present.map { ($0.key, $0.value.version) })
            for await _ in alarms {
                guard let next = try? await self?.snapshot(prefix, watch: true) else { break }
                guard tell(known, next, continuation) else { break }
                known = Dictionary(uniqueKeysWithValues: next.map { ($0.key, $0.value.version) })
            }
            continuation.finish()
        }
        continuation.onTermination = { _ in task.cancel() }
        return stream
    }
}

/// What has changed between two looks; false when the watcher has fallen behind.
private func tell(
    _ known: [String: UInt64], _ present: [(key: String, value: VersionedValue)],
    _ watcher: AsyncStream<StoreEvent>.Continuation
) -> Bool {
    var gone = known
    var events: [StoreEvent] = []
    for (key, value) in present {
        if gone.removeValue(forKey: key) != value.version { events.append(.put(key: key, value: value)) }
    }
    events += gone.keys.sorted().map { .deleted(key: $0) }
    for event in events {
        if case .dropped = watcher.yield(event) { return false }
    }
    return true
}

/// One commit at a time, in the order of arrival; more than `waitingMax` are turned away.
private actor CommitTurns {
    private static let waitingMax = 1024
    private var isTaken = false
    private var waiting: [CheckedContinuation<Void, Never>] = []

    func begin() async -> Bool {
        guard isTaken else {
            isTaken = true
            return true
        }
        guard waiting.count < CommitTurns.waitingMax else { return false }
        await withCheckedContinuation { waiting.append($0) }
        return true
    }

    func end() {
        guard !waiting.isEmpty else {
            isTaken = false
            return
        }
        waiting.removeFirst().resume()
    }
}
