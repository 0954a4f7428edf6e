import Base
import Coordination
import Synchronization
import Testing

@testable import Gateway

/// Counts how often everything under a prefix is read.
private final class CountingStore: MetadataStore {
    private let base: any MetadataStore
    private let count = Mutex(0)

    init(_ base: any MetadataStore) { self.base = base }

    var lists: Int { count.withLock { $0 } }

    func get(_ key: String) async throws(StoreError) -> VersionedValue? { try await base.get(key) }
    func list(prefix: String) async throws(StoreError) -> [(key: String, value: VersionedValue)] {
        count.withLock { $0 += 1 }
        // All who ask meanwhile come to wait.
        for _ in 0..<100 { await Task.yield() }
        return try await base.list(prefix: prefix)
    }
    func commit(_ changes: [StoreChange], as leader: LeaderEpoch?) async throws(StoreError) -> [UInt64] {
        try await base.commit(changes, as: leader)
    }
    func watch(prefix: String) async throws(StoreError) -> AsyncStream<StoreEvent> {
        try await base.watch(prefix: prefix)
    }
}

@Suite struct SessionTests {
    private func time(term: UInt64) -> GatewayTime {
        GatewayTime(instant: Instant(nanoseconds: 1_000_000_000), epochMilliseconds: 1000, term: term)
    }

    /// Thousands of tokens may be stored when a leader begins, and everybody asks at once.
    @Test func tokensAreReadOnceForEachLeadership() async throws {
        let store = CountingStore(try CoordinationBackend.open("memory:").store)
        let sessions = GatewaySessions(user: "admin", password: "secret", store: store)
        let token = try #require(await sessions.login(user: "admin", password: "secret", at: time(term: 1)))
        #expect(store.lists == 1)
        for term in 2...4 {
            let accepted = await withTaskGroup(of: Bool?.self) { group in
                for _ in 0..<50 {
                    group.addTask { try? await sessions.accepts(token: token, at: time(term: UInt64(term))) }
                }
                return await group.reduce(into: 0) { $0 += $1 == true ? 1 : 0 }
            }
            #expect(accepted == 50 && store.lists == term)
        }
    }
}
