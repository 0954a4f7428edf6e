import Base
import Testing

@testable import BlockCore

extension ManagerBench {
    static let lease = ManagerConfiguration().leaseTime

    /// The volume is mapped to both clients, and every server has confirmed that.
    mutating func sharedVolume() throws -> (VolumeID, [SdcID]) {
        let (volume, sdcs) = try volume()
        _ = try run(.map(volume, sdcs[0], mode: .readWrite, allowMultiple: false, preempt: false))
        let ticket = submit(.map(volume, sdcs[1], mode: .readWrite, allowMultiple: true, preempt: false))
        for server: UInt64 in 1...3 { acknowledge(server) }
        guard case .success = replies[ticket] else { throw ManagerError(.malformed, "not shared") }
        return (volume, sdcs)
    }

    mutating func askForLease(_ server: UInt64, _ number: UInt64, link: UInt64? = nil) {
        feed(.message(LinkID(rawValue: link ?? server), .leaseRequest(number: number)))
    }

    func leases(on link: UInt64) -> [UInt64] {
        sent.compactMap { sentLink, message in
            guard case .lease(let number) = message, sentLink.rawValue == link else { return nil }
            return number
        }
    }

    /// Lets time pass while servers live and ask for leases.
    mutating func passAsking(_ duration: Duration, _ servers: [UInt64]) {
        let end = now + duration
        while now < end {
            now = now + .milliseconds(50)
            for server in servers {
                feed(.message(ManagerBench.link(server), .keepAlive([])))
                askForLease(server, now.nanoseconds)
            }
            feed(.tick)
        }
    }

    func status(of server: UInt64) -> Sds.Status? { core.state.servers[SdsID(rawValue: server)]?.status }

    /// A leader of the same records.
    func successor(at time: Instant) throws -> ManagerBench {
        var next = self
        let records = records.sorted { $0.key < $1.key }.map { (key: $0.key, value: $0.value) }
        next.now = time
        next.core = try #require(
            try ManagerCore(records: records, configuration: ManagerConfiguration(), now: time))
        return next
    }
}

@Suite struct ManagerLeaseTests {
    /// What was under way already proves nothing: another manager may have been elected before it was asked.
    @Test func aLeaseIsGrantedAfterACommitThatBeganAfterTheRequest() throws {
        var bench = ManagerBench()
        let (volume, _) = try bench.sharedVolume()
        bench.holdsCommits = true
        _ = bench.submit(.renameVolume(volume, name: "other"))
        bench.askForLease(1, 7)
        #expect(bench.leases(on: 1) == [])
        bench.feed(.committed)
        #expect(bench.leases(on: 1) == [])
        bench.now = bench.now + .milliseconds(500)
        bench.askForLease(2, 8)
        #expect(bench.leases(on: 1) == [] && bench.leases(on: 2) == [])
        bench.feed(.committed)
        #expect(bench.leases(on: 1) == [7] && bench.leases(on: 2) == [8])
    }

    @Test func aManagerWhoseCommitFailsGrantsNothing() throws {
        var bench = ManagerBench()
        _ = try bench.sharedVolume()
        bench.holdsCommits = true
        bench.now = bench.now + .seconds(1)
        bench.askForLease(1, 7)
        bench.feed(.commitFailed)
        #expect(bench.leases(on: 1) == [])
    }

    @Test func systemIsCommittedAnewOnlyForSharedVolumes() throws {
        var bench = ManagerBench()
        _ = try bench.volume()
        var before = bench.commits
        bench.passAsking(.seconds(5), [1, 2, 3])
        #expect(bench.commits == before && bench.leases(on: 1) == [])
        bench = ManagerBench()
        _ = try bench.sharedVolume()
        let revision = bench.core.state.revision
        before = bench.commits
        bench.passAsking(.seconds(5), [1, 2, 3])
        #expect((9...10).contains(bench.commits - before))
        #expect(bench.leases(on: 3).count == bench.commits - before)
        #expect(bench.core.state.revision == revision, "nobody hears of such a commit")
    }

    @Test func aServerThatMayHoldALeaseIsNotReplaced() throws {
        var bench = ManagerBench()
        _ = try bench.sharedVolume()
        bench.passAsking(.seconds(1), [1, 2, 3])
        bench.feed(.linkClosed(ManagerBench.link(1)))
        bench.passAsking(ManagerBench.lease - .milliseconds(100), [2, 3])
        #expect(bench.status(of: 1) == .up)
        bench.passAsking(.milliseconds(200), [2, 3])
        #expect(bench.status(of: 1) == .down)
        #expect(bench.combs.allSatisfy { $0.primary.sds.rawValue != 1 })
    }

    @Test func withoutSharedVolumesABrokenConnectionIsEnough() throws {
        var bench = ManagerBench()
        let (volume, sdcs) = try bench.volume()
        _ = try bench.run(.map(volume, sdcs[0], mode: .readWrite, allowMultiple: false, preempt: false))
        bench.pass(.seconds(1), alive: [1, 2, 3])
        bench.feed(.linkClosed(ManagerBench.link(1)))
        bench.pass(.milliseconds(700), alive: [2, 3])
        #expect(bench.status(of: 1) == .down)
    }

    /// Its devices are locked by its process: the one before is gone.
    @Test func aRestartedServerIsReplacedAtOnce() throws {
        var bench = ManagerBench()
        _ = try bench.sharedVolume()
        bench.passAsking(.seconds(1), [1, 2, 3])
        bench.join(1, incarnation: 2, link: 11)
        #expect(bench.combs.allSatisfy { $0.primary.sds.rawValue != 1 })
    }

    /// What was granted before was asked for before the new leader began.
    @Test func aNewLeaderLetsEveryLeaseRunOut() throws {
        var bench = ManagerBench()
        _ = try bench.sharedVolume()
        bench.passAsking(.seconds(1), [1, 2, 3])
        bench = try bench.successor(at: bench.now)
        for server: UInt64 in 1...3 { bench.join(server, link: server) }
        bench.feed(.linkClosed(ManagerBench.link(1)))
        bench.pass(ManagerBench.lease - .milliseconds(100), alive: [2, 3])
        #expect(bench.status(of: 1) == .up)
        bench.pass(.milliseconds(200), alive: [2, 3])
        #expect(bench.status(of: 1) == .down)
    }

    /// Who loses a shared volume may see it until that is proven.
    @Test func leasesMatterUntilTheEndOfSharingIsProven() throws {
        var bench = ManagerBench()
        let (volume, sdcs) = try bench.sharedVolume()
        bench.passAsking(.seconds(1), [1, 2, 3])
        let ticket = bench.submit(.unmap(volume, sdcs[1]))
        bench.feed(.linkClosed(ManagerBench.link(1)))
        bench.pass(.seconds(1), alive: [2, 3])
        #expect(bench.replies[ticket] == nil && bench.status(of: 1) == .up)
        bench.pass(.milliseconds(1200), alive: [2, 3])
        #expect(bench.status(of: 1) == .down)
        for server: UInt64 in [2, 3] { bench.acknowledge(server) }
        guard case .success = bench.replies[ticket] else {
            Issue.record("not proven")
            return
        }
    }

    @Test func aSecondClientWaitsForEveryServersWord() throws {
        var bench = ManagerBench()
        let (volume, sdcs) = try bench.volume()
        _ = try bench.run(.map(volume, sdcs[0], mode: .readWrite, allowMultiple: false, preempt: false))
        let ticket = bench.submit(.map(volume, sdcs[1], mode: .readWrite, allowMultiple: true, preempt: false))
        for server: UInt64 in 1...2 { bench.acknowledge(server) }
        #expect(bench.replies[ticket] == nil)
        #expect(bench.core.state.volumes[volume]?.usableMappings.map(\.sdc) == [sdcs[0]])
        bench.acknowledge(3)
        guard case .success(.fenced(let proof)) = bench.replies[ticket] else {
            Issue.record("not answered")
            return
        }
        #expect(proof.attachEpoch == 2)
        #expect(bench.core.state.volumes[volume]?.usableMappings.map(\.sdc) == sdcs)
    }

    /// A server that was declared down, or even removed, may go on answering the first client as if it were alone, until that
    /// client has confirmed where its data is now.
    @Test(arguments: [false, true]) func theFirstClientsWordIsEnough(_ isRemoved: Bool) throws {
        var bench = ManagerBench()
        let (volume, sdcs) = try bench.volume()
        let link = LinkID(rawValue: 100)
        bench.feed(.message(link, .clientHello(ClientHello(guid: "GUID-0", name: "c0", ip: "", incarnation: 5))))
        _ = try bench.run(.map(volume, sdcs[0], mode: .readWrite, allowMultiple: false, preempt: false))
        bench.pass(.seconds(3), alive: [2, 3, 100])
        #expect(bench.status(of: 1) == .down)
        if isRemoved {
            _ = bench.settle(alive: [2, 3, 100])
            _ = try bench.run(.removeSds(SdsID(rawValue: 1)))
        }
        let ticket = bench.submit(.map(volume, sdcs[1], mode: .readWrite, allowMultiple: true, preempt: false))
        for server: UInt64 in 2...3 { bench.acknowledge(server) }
        #expect(bench.replies[ticket] == nil)
        bench.feed(.message(link, .acknowledge(revision: bench.core.state.revision)))
        guard case .success = bench.replies[ticket] else {
            Issue.record("not answered")
            return
        }
    }

    @Test func withoutAnyWordTheAnswerNamesTheClient() throws {
        var bench = ManagerBench()
        let (volume, sdcs) = try bench.volume()
        let link = LinkID(rawValue: 100)
        bench.feed(.message(link, .clientHello(ClientHello(guid: "GUID-0", name: "c0", ip: "", incarnation: 5))))
        _ = try bench.run(.map(volume, sdcs[0], mode: .readWrite, allowMultiple: false, preempt: false))
        bench.feed(.linkClosed(link))
        bench.pass(.seconds(3), alive: [2, 3])
        let ticket = bench.submit(.map(volume, sdcs[1], mode: .readWrite, allowMultiple: true, preempt: false))
        for _ in 0..<220 {
            bench.pass(.milliseconds(100), alive: [2, 3])
            for server: UInt64 in 2...3 { bench.acknowledge(server) }
        }
        guard case .failure(let error) = bench.replies[ticket] else {
            Issue.record("answered without proof")
            return
        }
        #expect(error.code == .fencingUnproven && error.message.contains("SDC c0"))
    }
}

extension ServerBench {
    static let key = CombKey(pool: pool, index: 0)
    static let place = CopyPlace(sds: own, device: device)

    /// The volume has a second client; the comb stays as it is.
    mutating func share(secondary: Bool, epoch: UInt64 = 1) {
        var update = Self.map(secondary: secondary)
        update.revision = core.map.revision + 1
        update.pools[0].entries[0].comb.epoch = epoch
        update.volumes[0].attachEpoch = 2
        update.volumes[0].mappings.append(
            VolumeMapping(
                sdc: SdcID(rawValue: 8), mode: .readWrite, epoch: 2, limitIops: 0, limitKibibytesPerSecond: 0))
        feed(.manager(.update(update)))
    }

    var leaseRequests: [UInt64] {
        told.compactMap { if case .leaseRequest(let number) = $0 { number } else { nil } }
    }

    mutating func grant() throws { feed(.manager(.lease(number: try #require(leaseRequests.last)))) }

    mutating func statusOfRead(epoch: UInt64 = 1) -> DataStatus? {
        ask(.read, epoch: epoch)
        answerDisk()
        return lastStatus
    }
}

@Suite struct ServerLeaseTests {
    @Test func oneClientNeedsNoLease() throws {
        var bench = try ServerBench(secondary: false)
        bench.ask(.write)
        bench.answerDisk()
        bench.now = bench.now + .seconds(10)
        bench.feed(.tick)
        #expect(bench.statusOfRead() == .ok)
        #expect(bench.leaseRequests == [])
    }

    /// Reads of data and of holes, and block status.
    @Test func severalClientsAreAnsweredUnderALeaseOnly() throws {
        var bench = try ServerBench(secondary: false)
        bench.ask(.write)
        bench.answerDisk()
        bench.share(secondary: false)
        #expect(bench.leaseRequests == [1], "asked for as soon as it is needed")
        func statuses() -> [DataStatus?] {
            var answers = [bench.statusOfRead()]
            bench.ask(.read, unit: 1)
            answers.append(bench.lastStatus)
            bench.askForMap()
            answers.append(bench.lastStatus)
            return answers
        }
        #expect(statuses() == [.notReady, .notReady, .notReady])
        try bench.grant()
        #expect(statuses() == [.ok, .ok, .ok])
        bench.now = bench.now + .milliseconds(1499)
        #expect(statuses() == [.ok, .ok, .ok])
        bench.now = bench.now + .milliseconds(1)
        #expect(statuses() == [.notReady, .notReady, .notReady])
        #expect(bench.core.isIdle)
        bench.ask(.write)
        bench.answerDisk()
        #expect(bench.lastStatus == .ok, "writes need none")
    }

    @Test func theLeaseIsLookedAtAfterTheDeviceHasRead() throws {
        var bench = try ServerBench(secondary: false)
        bench.ask(.write)
        bench.answerDisk()
        bench.share(secondary: false)
        try bench.grant()
        bench.ask(.read)
        bench.now = bench.now + .milliseconds(1600)
        bench.answerDisk()
        #expect(bench.lastStatus == .notReady && bench.released.contains(PayloadID(rawValue: 77)))
    }

    @Test func aLeaseCountsFromItsRequest() throws {
        var bench = try ServerBench(secondary: false)
        bench.ask(.write)
        bench.answerDisk()
        bench.share(secondary: false)
        bench.now = bench.now + .milliseconds(1400)
        try bench.grant()
        #expect(bench.statusOfRead() == .ok)
        bench.now = bench.now + .milliseconds(200)
        #expect(bench.statusOfRead() == .notReady)
        // A grant of what was never asked, or was granted already, is worth nothing.
        bench.feed(.manager(.lease(number: 1)))
        bench.feed(.manager(.lease(number: 1000)))
        #expect(bench.statusOfRead() == .notReady)
    }

    @Test func leasesAreAskedForWithKeepAlives() throws {
        var bench = try ServerBench(secondary: false)
        bench.share(secondary: false)
        for _ in 0..<200 {
            bench.now = bench.now + .milliseconds(20)
            bench.feed(.tick)
        }
        #expect((15...18).contains(bench.leaseRequests.count))
        #expect(bench.core.lease.requests.count <= 7, "old ones are forgotten")
    }

    /// Whoever says that it cannot read its copy is replaced at once, wherever the answer is.
    @Test func whoResignsAnswersNothingUntilItKnowsANewEpoch() throws {
        var bench = try ServerBench(secondary: false)
        bench.ask(.write)
        bench.answerDisk()
        bench.share(secondary: true, epoch: 2)
        try bench.grant()
        #expect(bench.statusOfRead(epoch: 2) == .ok)
        bench.ask(.read, epoch: 2)
        bench.feed(.disk(ServerBench.device, bench.disk.removeLast().id, .failed(reason: "EIO")))
        let word = MessageToManager.copyUnreadable(ServerBench.key, epoch: 2, copy: ServerBench.place)
        #expect(bench.told.count { $0 == word } == 1)
        #expect(bench.statusOfRead(epoch: 2) == .notReady)
        bench.now = bench.now + .milliseconds(500)
        bench.feed(.tick)
        #expect(bench.told.count { $0 == word } == 2, "the word may have been lost")
        bench.share(secondary: true, epoch: 3)
        #expect(bench.statusOfRead(epoch: 3) == .ok)
    }

    @Test func whoHandsOverAnswersNothingUntilItKnowsANewEpoch() throws {
        var bench = try ServerBench(secondary: false)
        bench.ask(.write)
        bench.answerDisk()
        bench.share(secondary: true, epoch: 2)
        try bench.grant()
        var update = ServerBench.map(secondary: true)
        update.isFull = false
        update.volumes = []
        update.revision = bench.core.map.revision + 1
        update.pools[0].entries[0].comb.epoch = 3
        update.pools[0].entries[0].comb.state = .swapping(
            secondary: CopyPlace(sds: ServerBench.other, device: DeviceID(rawValue: 6)))
        bench.feed(.manager(.update(update)))
        #expect(bench.told.contains(.drained(ServerBench.key, epoch: 3)))
        #expect(bench.statusOfRead(epoch: 3) == .notReady)
        // The exchange was given up.
        bench.share(secondary: true, epoch: 4)
        #expect(bench.statusOfRead(epoch: 4) == .ok)
    }
}
