import Base
import Coordination
import HTTPKit
import Logging
import Marathon
import MasterLocator
import Synchronization
import TestKit

/// An election whose news a test writes, as one candidate sees them.
final class ScriptedElection: LeaderElection {
    private struct State {
        var continuations: [AsyncStream<ElectionEvent>.Continuation] = []
        var abdications = 0
    }
    private let state = Mutex(State())

    func stand(at path: String, advertising info: JSONValue) -> Candidacy {
        let (events, continuation) = AsyncStream<ElectionEvent>.makeStream()
        state.withLock { $0.continuations.append(continuation) }
        return Candidacy(
            events: events,
            giveWay: { [self] in
                state.withLock { $0.abdications += 1 }
                send(.lost)
            },
            leave: { continuation.finish() })
    }

    func follow(_ path: String) -> AsyncStream<JSONValue?> { AsyncStream { $0.finish() } }

    func send(_ event: ElectionEvent) {
        for continuation in state.withLock({ $0.continuations }) { continuation.yield(event) }
    }

    /// Waits for the candidate.
    func awaitCandidate() async throws {
        try await eventually("a candidate") { state.withLock { !$0.continuations.isEmpty } }
    }

    var abdications: Int { state.withLock { $0.abdications } }

    /// Ends what it tells, as an engine does that gives up.
    func finish() {
        let all = state.withLock { state in
            defer { state.continuations = [] }
            return state.continuations
        }
        for continuation in all { continuation.finish() }
    }
}

/// An election of masters whose news a test writes, as it stands in ZooKeeper.
final class MasterElection: Sendable {
    private struct State {
        var leader: JSONValue?
        var continuations: [AsyncStream<JSONValue?>.Continuation] = []
    }
    private let state = Mutex(State())

    var location: MasterLocation {
        .elected { [self] in
            let (leaders, continuation) = AsyncStream<JSONValue?>.makeStream()
            state.withLock { state in
                continuation.yield(state.leader)
                state.continuations.append(continuation)
            }
            return leaders
        }
    }

    func announce(_ address: HTTPAddress?) {
        let leader: JSONValue? =
            if case .tcp(let host, let port)? = address {
                ["id": .string("master-\(port)"), "address": ["ip": .string(host), "port": .integer(Int64(port))]]
            } else { nil }
        state.withLock { state in
            state.leader = leader
            for continuation in state.continuations { continuation.yield(leader) }
        }
    }
}

/// A store that can be made to wait before commits, or to fail.
final class GatedStore: MetadataStore {
    private struct State {
        var isHeld = false
        var isFailing = false
        var waiting: [CheckedContinuation<Void, Never>] = []
    }
    private let base: any MetadataStore
    private let state = Mutex(State())

    init(_ base: any MetadataStore) { self.base = base }

    func hold() { state.withLock { $0.isHeld = true } }
    func fail(_ isFailing: Bool) { state.withLock { $0.isFailing = isFailing } }
    var waiting: Int { state.withLock { $0.waiting.count } }

    func release() {
        let waiting = state.withLock { state in
            state.isHeld = false
            defer { state.waiting = [] }
            return state.waiting
        }
        for continuation in waiting { continuation.resume() }
    }

    private func pass() async throws(StoreError) {
        await withCheckedContinuation { continuation in
            let isHeld = state.withLock { state in
                if state.isHeld { state.waiting.append(continuation) }
                return state.isHeld
            }
            if !isHeld { continuation.resume() }
        }
        if state.withLock({ $0.isFailing }) { throw StoreError(.unavailable, "The store is away") }
    }

    func get(_ key: String) async throws(StoreError) -> VersionedValue? {
        try await pass()
        return try await base.get(key)
    }

    func list(prefix: String) async throws(StoreError) -> [(key: String, value: VersionedValue)] {
        try await pass()
        return try await base.list(prefix: prefix)
    }

    func commit(_ changes: [StoreChange], as leader: LeaderEpoch?) async throws(StoreError) -> [UInt64] {
        try await pass()
        return try await base.commit(changes, as: leader)
    }

    func watch(prefix: String) async throws(StoreError) -> AsyncStream<StoreEvent> {
        try await base.watch(prefix: prefix)
    }
}

/// One Marathon of a cluster, with its own view of the election and its own way to the store.
final class Member: Sendable {
    let election: ScriptedElection
    let store: GatedStore
    let port = MarathonServiceTests.Port()
    private let task: Task<Void, any Error>

    /// - Parameter shared: an election to take part in instead of the scripted one.
    init(
        on base: EmbeddedStore, master: MasterLocation, shared: (any LeaderElection)? = nil,
        _ configure: (inout MarathonConfiguration) -> Void = { _ in }
    ) {
        let election = ScriptedElection()
        let store = GatedStore(base)
        self.election = election
        self.store = store
        var configuration = MarathonConfiguration(masters: master, httpAddress: .tcp(host: "127.0.0.1", port: 0))
        configuration.hostname = "127.0.0.1"
        configure(&configuration)
        let port = port
        let service = MarathonService(
            configuration: configuration, backend: CoordinationBackend(store: store, election: shared ?? election),
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }, onServerRunning: { port.set($0) })
        // SAFETY: ended by `end()` and with the last reference.
        task = Task { try await service.run() }
    }

    deinit {
        store.release()
        task.cancel()
    }

    var address: HTTPAddress { get async throws { try await port.get() } }

    /// "host:port", as it is advertised.
    var name: String { get async throws { try await address.description } }

    /// Makes it the leader under the next epoch, without a word to anybody else.
    func elect(on base: EmbeddedStore) async throws {
        try await election.awaitCandidate()
        election.send(.elected(try await nextEpoch(of: base)))
        election.send(.leader(["address": .string(try await name)]))
    }

    func learn(leader: Member) async throws {
        try await election.awaitCandidate()
        election.send(.leader(["address": .string(try await leader.name)]))
    }

    /// How it ended by itself.
    func outcome() async -> Result<Void, any Error> { await task.result }

    /// Ends it, and waits for that.
    func end() async {
        store.release()
        task.cancel()
        _ = await task.result
    }
}

/// Deposes whoever leads in the eyes of the store.
private func nextEpoch(of base: EmbeddedStore) async throws -> LeaderEpoch {
    struct NoEpoch: Error {}
    let election = EmbeddedElection(store: base)
    defer { withExtendedLifetime(election) {} }
    let candidacy = election.stand(at: "/marathon/leader", advertising: nil)
    for await case .elected(let epoch) in candidacy.events { return epoch }
    throw NoEpoch()
}
