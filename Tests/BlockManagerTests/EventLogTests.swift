import Base
import BlockCore
import Coordination
import Testing

@testable import BlockManager

@Suite struct EventLogTests {
    private func event(_ text: String) -> StorageEvent {
        StorageEvent(
            number: 0, milliseconds: 5, severity: .error, name: "SDS_DECOUPLED", object: "Sds::0000000000000001",
            text: text)
    }

    /// Waits until this store has a leader.
    private func elected(_ backend: CoordinationBackend) async throws -> (LeaderEpoch, Candidacy) {
        let candidacy = backend.election.stand(at: "/events-test", advertising: [:])
        for await event in candidacy.events {
            if case .elected(let epoch) = event { return (epoch, candidacy) }
        }
        throw StoreError(.unavailable, "nobody was elected")
    }

    @Test func eventsAreNumberedOverLeadersAndOldOnesGo() async throws {
        let backend = try CoordinationBackend.open("memory:")
        let (first, candidacy) = try await elected(backend)
        let log = EventLog(store: backend.store)
        for number in 1...70 { try await log.append([event("\(number)")], as: first) }
        #expect(try await log.events(after: 0).map(\.number) == Array(1...70))
        #expect(try await log.events(after: 68).map(\.text) == ["69", "70"])
        await candidacy.end()

        let (second, next) = try await elected(backend)
        let heir = EventLog(store: backend.store)
        try await heir.append([event("71"), event("72")], as: second)
        #expect(try await heir.events(after: 69).map(\.text) == ["70", "71", "72"])
        await #expect(throws: StoreError.self) { try await log.append([event("late")], as: first) }
        #expect(try await heir.events(after: 72).isEmpty)

        try await heir.append((73...3000).map { event("\($0)") }, as: second)
        let kept = try await heir.events(after: 0)
        #expect(kept.count >= Int(EventLog.kept) && kept.count <= Int(EventLog.kept + EventLog.perDocument))
        #expect(kept.map(\.number) == Array(3001 - UInt64(kept.count)...3000))
        #expect(kept.allSatisfy { $0.text == "\($0.number)" })
        await next.end()
    }
}
