import Base
import Coordination
import TestKit
import Testing

/// What somebody sees of elections who takes no part in them.
@Suite(.timeLimit(.minutes(1))) struct ElectionStandingTests {
    @Test func leaderEpochAndCandidatesAreSeenFromOutside() async throws {
        let location = "zk://\(try await Engine.ensemble.value.servers)/outside\(UInt64.random(in: 0 ... .max))"
        #expect(try await ElectionStanding.all(at: location).isEmpty)
        let backend = try CoordinationBackend.open(location, sessionTimeout: .seconds(4))
        let first = backend.election.stand(at: "/leader", advertising: ["address": "first"])
        let old = try #require(await elected(first.events))
        let second = backend.election.stand(at: "/leader", advertising: ["address": "second"])
        let standing = try await eventually("both stand") {
            let standings = try await ElectionStanding.all(at: location)
            return standings.first?.waiting.isEmpty == false ? standings.first : nil
        }
        #expect(standing.election == "/leader")
        #expect(standing.epoch >= old.epoch)
        #expect(standing.leader?.info == ["address": "first"])
        #expect(standing.waiting.map(\.info) == [["address": "second"]])
        #expect(standing.leader?.session != standing.waiting.first?.session)

        await first.end()
        // On a busy machine a leader that stands still for a moment is elected again: what is told last is what is seen.
        var seen: ElectionStanding?
        for await case .elected(let new) in second.events {
            seen = try await ElectionStanding.all(at: location).first
            if seen?.epoch == new.epoch { break }
        }
        let later = try #require(seen)
        #expect(later.epoch > standing.epoch)
        #expect(later.leader?.session == standing.waiting.first?.session)
        #expect(later.waiting.isEmpty)

        await second.end()
        let last = try #require(try await ElectionStanding.all(at: location).first)
        #expect(last.leader == nil)
        #expect(last.epoch >= later.epoch)
    }

    @Test func anEnsembleThatIsNotThereIsUnavailable() async throws {
        let port = try freePort()
        await expectFailure(.unavailable) {
            _ = try await ElectionStanding.all(at: "zk://127.0.0.1:\(port)/x", patience: .milliseconds(300))
        }
    }
}
