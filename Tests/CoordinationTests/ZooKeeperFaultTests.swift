import Base
import Coordination
import LinuxOS
import Synchronization
import TestKit
import Testing

/// What real servers of ZooKeeper do to us when they die, stop or forget us.
@Suite(.timeLimit(.minutes(4)), .serialized) struct ZooKeeperFaultTests {
    private static let timeout = Duration.seconds(4)

    private func open(_ ensemble: ZooKeeperEnsemble, _ path: String = "/holdfast/test") throws -> CoordinationBackend {
        try CoordinationBackend.open(
            "zk://\(ensemble.servers)\(path)", sessionTimeout: ZooKeeperFaultTests.timeout)
    }

    @Test func serversThatStopAndDieInTurnLoseNoCommit() async throws {
        let ensemble = try await ZooKeeperEnsemble(3)
        let backend = try open(ensemble)
        let record = Record(backend.election.stand(at: "/leader", advertising: ["id": "only"]))
        _ = try await record.epoch(after: 0)
        for number in 1...3 {
            await ensemble.pause(number)
            for value in UInt8(1)...20 {
                try await persist("/\(number).\(value)", [value], by: record, in: backend.store)
            }
            try await ensemble.kill(number)
            for value in UInt8(21)...40 {
                try await persist("/\(number).\(value)", [value], by: record, in: backend.store)
            }
            try await ensemble.start(number)
        }
        let kept = try await backend.store.list(prefix: "/")
        #expect(kept.count == 120)
        #expect(kept.allSatisfy { $0.key.hasSuffix(".\($0.value.bytes[0])") && $0.value.version == 1 })
        await record.end()
    }

    @Test func afterTheDeathOfAllServersOneLeadsAndNothingIsLost() async throws {
        let ensemble = try await ZooKeeperEnsemble(3)
        let backends = [try open(ensemble), try open(ensemble)]
        let records = backends.enumerated().map { index, backend in
            Record(backend.election.stand(at: "/leader", advertising: ["id": .string("\(index)")]))
        }
        let (first, old) = try await leader(of: records, above: 0)
        try await backends[first].store.commit([.put(key: "/kept", bytes: [1], expected: .absent)], as: old)
        for number in 1...3 { try await ensemble.kill(number) }
        try await eventually("the leader steps down") { records[first].losses == 1 }
        await expectFailure(.unavailable) {
            try await backends[first].store.commit([.put(key: "/lost", bytes: [1], expected: .any)], as: old)
        }
        for number in 1...3 { try await ensemble.launch(number) }
        let (next, new) = try await leader(of: records, above: old.epoch)
        #expect(try await backends[next].store.get("/kept")?.bytes == [1])
        await expectFailure(.fenced) {
            try await backends[first].store.commit([.put(key: "/kept", bytes: [2], expected: .any)], as: old)
        }
        try await backends[next].store.commit([.put(key: "/kept", bytes: [3], expected: .any)], as: new)
        for record in records { await record.end() }
    }

    @Test func aLeaderThatEndsInGoodOrderIsSucceededAtOnce() async throws {
        let ensemble = try await ZooKeeperEnsemble()
        let backend = try open(ensemble)
        let first = Record(backend.election.stand(at: "/leader", advertising: ["id": "first"]))
        let old = try await first.epoch(after: 0)
        let second = Record(backend.election.stand(at: "/leader", advertising: ["id": "second"]))
        try await eventually("the second sees the first") { second.leader == ["id": "first"] }
        await first.end()
        // Its node is gone, not only its session out of date.
        #expect(try await !ensemble.query(1, "dump").contains("candidate_0000000000"))
        let new = try await second.epoch(after: old.epoch)
        #expect(new.epoch == old.epoch + 1)
        await second.end()
    }

    @Test func mastersAreDetectedWhereMesosPutsThem() async throws {
        let ensemble = try await ZooKeeperEnsemble()
        let candidates = ["/master": ElectionCandidates(directory: "/mesos", prefix: ElectionCandidates.masterPrefix)]
        let backend = try CoordinationBackend.open(
            "zk://user:secret@\(ensemble.servers)/mesos-registry/mesos", sessionTimeout: ZooKeeperFaultTests.timeout,
            candidates: candidates)
        let detector = try LeaderDetector.open(
            "zk://\(ensemble.servers)/mesos", sessionTimeout: ZooKeeperFaultTests.timeout)
        let seen = Mutex<[JSONValue?]>([])
        let following = Task { for await leader in detector.leaders() { seen.withLock { $0.append(leader) } } }
        defer { following.cancel() }
        let record = Record(backend.election.stand(at: "/master", advertising: ["id": "m1"]))
        let epoch = try await record.epoch(after: 0)
        try await backend.store.commit([.put(key: "/a", bytes: [7], expected: .any)], as: epoch)
        try await eventually("the leader is detected") { seen.withLock { $0.last == .some(["id": "m1"]) } }
        // Everybody may look for the leader; the registry is for those with the password.
        let stranger = try CoordinationBackend.open(
            "zk://\(ensemble.servers)/mesos-registry/mesos", sessionTimeout: ZooKeeperFaultTests.timeout)
        await expectFailure(.unavailable) { _ = try await stranger.store.get("/a") }
        await record.end()
        try await eventually("the leader is gone") { seen.withLock { $0.last == .some(nil) } }
    }

    /// Creates a key under the epoch of the moment. When an attempt's outcome was unknown, it may be there already.
    private func persist(
        _ key: String, _ bytes: [UInt8], by record: Record, in store: any MetadataStore
    ) async throws {
        try await eventually("\(key) is committed", within: .seconds(90)) {
            guard let epoch = record.epoch else { return false }
            do {
                try await store.commit([.put(key: key, bytes: bytes, expected: .absent)], as: epoch)
                return true
            } catch let error as StoreError where error.code == .conflict {
                return try await store.get(key)?.bytes == bytes
            }
        }
    }

    private func leader(of records: [Record], above epoch: UInt64) async throws -> (Int, LeaderEpoch) {
        try await eventually("somebody leads above \(epoch)", within: .seconds(90)) {
            for (index, record) in records.enumerated() {
                if let present = record.epoch, present.epoch > epoch { return (index, present) }
            }
            return nil
        }
    }
}

/// What happens to one candidate.
private final class Record: Sendable {
    private struct State {
        var epoch: LeaderEpoch?
        var losses = 0
        var leader: JSONValue?
    }

    private let candidacy: Candidacy
    private let state = Mutex(State())

    init(_ candidacy: Candidacy) {
        self.candidacy = candidacy
        // SAFETY: ends with the candidacy.
        Task { [weak self] in
            for await event in candidacy.events {
                self?.state.withLock { state in
                    switch event {
                    case .elected(let epoch): state.epoch = epoch
                    case .lost:
                        state.epoch = nil
                        state.losses += 1
                    case .leader(let info): state.leader = info
                    }
                }
            }
        }
    }

    var epoch: LeaderEpoch? { state.withLock { $0.epoch } }
    var losses: Int { state.withLock { $0.losses } }
    var leader: JSONValue? { state.withLock { $0.leader } }

    func epoch(after earlier: UInt64) async throws -> LeaderEpoch {
        try await eventually("an election", within: .seconds(60)) {
            self.epoch.flatMap { $0.epoch > earlier ? $0 : nil }
        }
    }

    func end() async { await candidacy.end() }
}
