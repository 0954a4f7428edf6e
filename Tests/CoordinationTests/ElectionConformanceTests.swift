import Base
import Coordination
import TestKit
import Testing

/// What every election must do, together with its store.
@Suite(.timeLimit(.minutes(1))) struct ElectionConformanceTests {
    @Test(arguments: Engine.allCases)
    func theNextCandidateLeadsUnderAHigherEpochAndFencesTheFirst(_ engine: Engine) async throws {
        let (backend, resources) = try await engine.open()
        defer { withExtendedLifetime(resources) {} }
        let second = backend.election
        var secondEvents: AsyncStream<ElectionEvent>.Iterator
        let first: LeaderEpoch
        do {
            let candidacy = backend.election.stand(at: "/leader", advertising: ["id": "first"])
            first = try #require(await elected(candidacy.events))
            secondEvents = second.stand(at: "/leader", advertising: ["id": "second"]).events
                .makeAsyncIterator()
            #expect(await secondEvents.next() == .leader(["id": "first"]))
            try await backend.store.commit([.put(key: "/state", bytes: [1], expected: .any)], as: first)
        }
        // The first candidate's stream is gone, which is how it resigns.
        var next: LeaderEpoch?
        while next == nil, let event = await secondEvents.next() {
            if case .elected(let epoch) = event { next = epoch }
        }
        let later = try #require(next)
        #expect(later.epoch > first.epoch)
        await expectFailure(.fenced) {
            try await backend.store.commit([.put(key: "/state", bytes: [2], expected: .any)], as: first)
        }
        #expect(try await backend.store.get("/state")?.bytes == [1])
        try await backend.store.commit([.put(key: "/state", bytes: [3], expected: .any)], as: later)
        #expect(try await backend.store.get("/state")?.bytes == [3])
    }

    @Test(arguments: Engine.allCases)
    func aLeaderGivesWayToTheNextAndMayLeadAgain(_ engine: Engine) async throws {
        let (backend, resources) = try await engine.open()
        defer { withExtendedLifetime(resources) {} }
        let first = backend.election.stand(at: "/leader", advertising: ["id": "first"])
        let old = try #require(await elected(first.events))
        let second = backend.election.stand(at: "/leader", advertising: ["id": "second"])
        for await event in second.events where event == .leader(["id": "first"]) { break }
        first.abdicate()
        let new = try #require(await elected(second.events))
        #expect(new.epoch > old.epoch)
        await expectFailure(.fenced) {
            try await backend.store.commit([.put(key: "/state", bytes: [1], expected: .any)], as: old)
        }
        for await event in first.events where event == .lost { break }
        second.abdicate()
        let again = try #require(await elected(first.events))
        #expect(again.epoch > new.epoch)
    }

    /// In ZooKeeper every follower has a session of its own, and shares no lock.
    @Test(arguments: [Engine.memory, .file])
    func followersMayLeaveWhileTheyAreTold(_ engine: Engine) async throws {
        let (backend, resources) = try await engine.open()
        defer { withExtendedLifetime(resources) {} }
        let election = backend.election
        let first = election.stand(at: "/leader", advertising: ["id": "first"])
        let second = election.stand(at: "/leader", advertising: ["id": "second"])
        try await cancelReaders(rounds: 200) {
            election.follow("/leader")
        } whileTold: {
            first.abdicate()
            second.abdicate()
            try await Task.sleep(for: .milliseconds(1))
        }
        await first.end()
        await second.end()
    }

    @Test(arguments: Engine.allCases)
    func followersSeeTheLeader(_ engine: Engine) async throws {
        let (backend, resources) = try await engine.open()
        defer { withExtendedLifetime(resources) {} }
        var leaders = backend.election.follow("/leader").makeAsyncIterator()
        #expect(await leaders.next() == .some(nil))
        do {
            let candidacy = backend.election.stand(at: "/leader", advertising: ["id": "only"])
            _ = try #require(await elected(candidacy.events))
            #expect(await leaders.next() == .some(["id": "only"]))
        }
        #expect(await leaders.next() == .some(nil))
    }
}

@Suite struct EmbeddedStoreTests {
    @Test func stateAndEpochsSurviveReopening() async throws {
        let directory = try TemporaryDirectory()
        let location = "embedded:\(directory.file("meta.db"))"
        var epochs: [UInt64] = []
        for round in 1...3 {
            let backend = try CoordinationBackend.open(location)
            let candidacy = backend.election.stand(at: "/m", advertising: nil)
            let epoch = try #require(await elected(candidacy.events))
            epochs.append(epoch.epoch)
            #expect(try await backend.store.get("/k")?.bytes == (round == 1 ? nil : [UInt8(round - 1)]))
            try await backend.store.commit([.put(key: "/k", bytes: [UInt8(round)], expected: .any)], as: epoch)
        }
        #expect(epochs == [1, 2, 3])
    }

    @Test func aSecondStoreOnTheSameFileDeposesTheFirst() async throws {
        let directory = try TemporaryDirectory()
        let first = try CoordinationBackend.open("embedded:\(directory.file("meta.db"))")
        let second = try CoordinationBackend.open("embedded:\(directory.file("meta.db"))")
        let firstCandidacy = first.election.stand(at: "/m", advertising: nil)
        let old = try #require(await elected(firstCandidacy.events))
        let secondCandidacy = second.election.stand(at: "/m", advertising: nil)
        _ = try #require(await elected(secondCandidacy.events))
        await expectFailure(.fenced) {
            try await first.store.commit([.put(key: "/k", bytes: [], expected: .any)], as: old)
        }
    }

    @Test func aFileThatIsNoDatabaseIsReportedAsCorrupt() async throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("meta.db")
        try writeFile(path, String(repeating: "This is no database. ", count: 100))
        await expectFailure(.corrupt) { _ = try CoordinationBackend.open("embedded:\(path)") }
    }

    @Test(arguments: [
        "zk://", "zk://:2181/x", "zk://a:99999/x", "zk://a,/x", "zk://u@a/x", "zk://a//x", "embedded:", "nonsense", "",
    ])
    func refusesUnknownLocations(_ location: String) async {
        await expectFailure(.invalid) { _ = try CoordinationBackend.open(location) }
    }
}

/// The epoch of the first election that the stream tells of.
func elected(_ stream: AsyncStream<ElectionEvent>) async -> LeaderEpoch? {
    for await case .elected(let epoch) in stream { return epoch }
    return nil
}
