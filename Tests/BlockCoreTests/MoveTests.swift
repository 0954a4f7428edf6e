import Base
import BlockCore
import Testing

extension ManagerBench {
    /// Every primary reports that what it was asked for is done, as if copying took no time.
    mutating func finishCopies() {
        guard let pool = core.state.pools.values.first else { return }
        for (index, comb) in pool.combs.enumerated() {
            let key = CombKey(pool: pool.id, index: UInt32(index))
            let link = ManagerBench.link(comb.primary.sds.rawValue)
            switch comb.state {
            case .moving(_, let target), .rebuilding(let target):
                feed(.message(link, .rebuildDone(key, epoch: comb.epoch, target: target)))
            case .swapping: feed(.message(link, .drained(key, epoch: comb.epoch)))
            case .unplaced, .normal, .degraded, .unavailable: break
            }
        }
    }

    /// Lets copies move until none does any more; answers how many rounds that took.
    mutating func settle(alive: [UInt64], rounds: Int = 400, _ check: (ManagerBench) -> Void = { _ in }) -> Int {
        for round in 0..<rounds {
            pass(.milliseconds(600), alive: alive)
            check(self)
            finishCopies()
            let isQuiet = combs.allSatisfy { if case .normal = $0.state { true } else { false } }
            let isLeaving = core.state.servers.values.contains(where: \.isLeaving)
            if isQuiet, !isLeaving, core.isSettled { return round }
        }
        Issue.record("still moving")
        return rounds
    }

    func copies(on server: UInt64) -> Int { combs.filter { $0.inSync.contains { $0.sds.rawValue == server } }.count }
    func primaries(on server: UInt64) -> Int { combs.filter { $0.primary.sds.rawValue == server }.count }
}

@Suite struct MoveTests {
    @Test func aServerIsRemovedWithBothCopiesInSyncAllTheTime() throws {
        var bench = ManagerBench()
        _ = try bench.volume()
        bench.join(4)
        let leaving = SdsID(rawValue: 1)
        _ = try bench.run(.removeSds(leaving))
        #expect(bench.core.state.servers[leaving]?.isLeaving == true)
        #expect(bench.refusal(of: .removeSds(leaving)) == .sdsLeaving)
        _ = bench.settle(alive: [1, 2, 3, 4]) { bench in
            for comb in bench.combs {
                #expect(Set(comb.inSync.map(\.sds)).count == 2)
                #expect(comb.target?.sds != leaving)
            }
            let busy = bench.combs.filter { $0.target != nil }
            for server: UInt64 in 2...4 {
                #expect(busy.count { $0.target?.sds.rawValue == server } <= ManagerConfiguration().movesPerDevice)
            }
        }
        #expect(bench.core.state.servers[leaving] == nil && bench.copies(on: 1) == 0)
        #expect(bench.core.state.devices[DeviceID(rawValue: 1)] == nil)
        // It comes back only when it is wanted.
        bench.sent = []
        bench.join(1, incarnation: 2, link: 11)
        #expect(bench.core.state.servers[leaving] == nil)
        #expect(bench.sent.contains { if case .refused("sdsRemoved", _) = $0.1 { true } else { false } })
        #expect(try bench.run(.configure(.addSds(leaving))) == .done)
        bench.join(1, incarnation: 3, link: 12)
        #expect(bench.core.state.servers[leaving]?.status == .up)
    }

    @Test func aRemovalIsAborted() throws {
        var bench = ManagerBench()
        _ = try bench.volume()
        _ = try bench.run(.removeSds(SdsID(rawValue: 2)))
        for _ in 0..<3 {
            bench.pass(.milliseconds(600), alive: [1, 2, 3])
            bench.finishCopies()
        }
        #expect(bench.copies(on: 2) < 42)
        #expect(try bench.run(.configure(.abortRemoveSds(SdsID(rawValue: 2)))) == .done)
        #expect(bench.refusal(of: .configure(.abortRemoveSds(SdsID(rawValue: 2)))) == .invalidArgument)
        _ = bench.settle(alive: [1, 2, 3])
        #expect((41...45).contains(bench.copies(on: 2)))
    }

    @Test func whereNothingElseIsTheLastTwoStay() throws {
        var bench = ManagerBench()
        for server: UInt64 in 1...2 { bench.join(server) }
        let pool = try #require(bench.core.state.pools.values.first?.id)
        _ = try bench.run(.createVolume(pool: pool, name: "v", sizeUnits: 8, provisioning: .thin, createdAt: 1))
        #expect(bench.refusal(of: .removeSds(SdsID(rawValue: 1))) == .insufficientServers)
        #expect(bench.refusal(of: .configure(.removeDevice(DeviceID(rawValue: 1)))) == .insufficientServers)
    }

    @Test func aNewServerGetsItsShareAndThenNothingMoves() throws {
        var bench = ManagerBench()
        _ = try bench.volume()
        bench.join(4)
        bench.pass(.seconds(5), alive: [1, 2, 3, 4])
        #expect(bench.copies(on: 4) == 0, "a server that has just come may as soon be gone")
        bench.pass(.seconds(6), alive: [1, 2, 3, 4])
        _ = bench.settle(alive: [1, 2, 3, 4])
        for server: UInt64 in 1...4 {
            #expect((30...34).contains(bench.copies(on: server)))
            #expect((14...18).contains(bench.primaries(on: server)))
        }
        let revision = bench.core.state.revision
        bench.pass(.seconds(30), alive: [1, 2, 3, 4])
        #expect(bench.core.state.revision == revision)
    }

    @Test func nothingMovesWhileAnyCombHasOneCopy() throws {
        var bench = ManagerBench()
        _ = try bench.volume()
        bench.join(4)
        let pool = try #require(bench.core.state.pools.values.first?.id)
        _ = try bench.run(.configure(.setCopying(pool, .rebuild, isEnabled: false)))
        bench.pass(.seconds(3), alive: [2, 3, 4])
        _ = try bench.run(.removeSds(SdsID(rawValue: 2)))
        bench.pass(.seconds(30), alive: [2, 3, 4])
        #expect(bench.combs.contains { $0.state == .degraded })
        #expect(!bench.combs.contains { $0.target != nil })
    }

    @Test func whoDiesDuringAMoveCostsNoCopyThatWasThere() throws {
        func moving() throws -> (ManagerBench, index: Int, Comb) {
            var bench = ManagerBench()
            _ = try bench.volume()
            bench.join(4)
            _ = try bench.run(.removeSds(SdsID(rawValue: 1)))
            bench.pass(.milliseconds(600), alive: [1, 2, 3, 4])
            let index = try #require(bench.combs.firstIndex { $0.target != nil })
            return (bench, index, bench.combs[index])
        }
        func kill(_ place: CopyPlace, _ bench: inout ManagerBench) {
            bench.pass(.milliseconds(2100), alive: [1, 2, 3, 4].filter { $0 != place.sds.rawValue })
        }
        var (bench, index, before) = try moving()
        kill(try #require(before.target), &bench)
        #expect(bench.combs[index].primary == before.primary && bench.combs[index].secondary == before.secondary)
        (bench, index, before) = try moving()
        let secondary = try #require(before.secondary)
        kill(secondary, &bench)
        #expect(bench.combs[index].inSync == [before.primary])
        (bench, index, before) = try moving()
        let survivor = try #require(before.secondary)
        kill(before.primary, &bench)
        #expect(bench.combs[index].inSync == [survivor], "the target was not complete")
    }

    @Test func partsThatAreNotExchangedInTimeStay() throws {
        var bench = ManagerBench()
        _ = try bench.volume()
        _ = try bench.run(.removeSds(SdsID(rawValue: 1)))
        bench.pass(.milliseconds(600), alive: [1, 2, 3])
        func swapping() -> [Int] {
            bench.combs.indices.filter { if case .swapping = bench.combs[$0].state { true } else { false } }
        }
        let before = swapping()
        #expect(!before.isEmpty && before.count <= ManagerConfiguration().swapsPerPool)
        let parts = before.map { bench.combs[$0].primary }
        bench.pass(.seconds(6), alive: [1, 2, 3])
        #expect(before.map { bench.combs[$0].primary } == parts)
        #expect(Set(swapping()).isDisjoint(with: before))
    }

    @Test func aRemovedDeviceIsNotTakenBackUnasked() throws {
        var bench = ManagerBench()
        let (volume, _) = try bench.volume()
        bench.join(4)
        _ = try bench.run(.removeVolume(volume, unmapping: true))
        let device = DeviceID(rawValue: 4)
        _ = try bench.run(.configure(.removeDevice(device)))
        bench.pass(.seconds(1), alive: [1, 2, 3, 4])
        #expect(bench.core.state.devices[device] == nil)
        bench.join(4, incarnation: 2, link: 14)
        #expect(bench.core.state.devices[device] == nil && bench.core.state.servers[SdsID(rawValue: 4)] != nil)
        _ = try bench.run(.configure(.addDevice(device)))
        bench.join(4, incarnation: 3, link: 24)
        #expect(bench.core.state.devices[device]?.status == .normal)
    }
}

@Suite struct MaintenanceTests {
    private let one = SdsID(rawValue: 1)

    @Test func instantMaintenanceLeavesCopiesWhereTheyAre() throws {
        var bench = ManagerBench()
        _ = try bench.volume()
        bench.join(4)
        let held = bench.copies(on: 1)
        _ = try bench.run(.configure(.enterMaintenance(one, protected: false)))
        #expect(
            bench.refusal(of: .configure(.enterMaintenance(SdsID(rawValue: 2), protected: false))) == .invalidArgument)
        for _ in 0..<40 where bench.core.state.servers[one]?.maintenance == .enteringInstant {
            bench.pass(.milliseconds(600), alive: [1, 2, 3, 4])
            // Until it leads nothing its copies count.
            if bench.core.state.servers[one]?.maintenance == .enteringInstant {
                #expect(bench.combs.allSatisfy { $0.secondary != nil })
            }
            bench.finishCopies()
        }
        #expect(bench.core.state.servers[one]?.maintenance == .instant)
        #expect(bench.combs.count { $0.state == .degraded && $0.former?.place.sds == one } == held)
        bench.pass(.seconds(60), alive: [1, 2, 3, 4])
        #expect(bench.combs.allSatisfy { $0.target == nil }, "nothing is rebuilt meanwhile")
        #expect(bench.core.state.alerts.contains { $0.kind == .sdsInMaintenance })
        _ = try bench.run(.configure(.exitMaintenance(one)))
        bench.pass(.milliseconds(200), alive: [1, 2, 3, 4])
        let returning = bench.combs.filter { $0.target != nil }
        #expect(!returning.isEmpty && returning.allSatisfy { $0.target?.sds == one && $0.targetEpoch != nil })
    }

    @Test func protectedMaintenanceMovesCopiesAwayFirst() throws {
        var bench = ManagerBench()
        _ = try bench.volume()
        bench.join(4)
        _ = try bench.run(.configure(.enterMaintenance(one, protected: true)))
        for _ in 0..<200 where bench.core.state.servers[one]?.maintenance == .enteringProtected {
            bench.pass(.milliseconds(600), alive: [1, 2, 3, 4])
            #expect(bench.combs.allSatisfy { $0.secondary != nil })
            bench.finishCopies()
        }
        #expect(bench.core.state.servers[one]?.maintenance == .protected && bench.copies(on: 1) == 0)
        bench.pass(.seconds(30), alive: [2, 3, 4])
        #expect(bench.combs.allSatisfy { $0.secondary != nil }, "its absence costs nothing")
        bench.join(1, incarnation: 2, link: 11)
        #expect(bench.core.state.servers[one]?.maintenance == .protected)
        _ = try bench.run(.configure(.exitMaintenance(one)))
        bench.feed(.linkClosed(LinkID(rawValue: 11)))
        bench.join(1, incarnation: 2)
        bench.pass(.seconds(11), alive: [1, 2, 3, 4])
        _ = bench.settle(alive: [1, 2, 3, 4])
        #expect((30...34).contains(bench.copies(on: 1)))
    }

    @Test func aServerThatFlapsGetsNothingForAWhile() throws {
        var bench = ManagerBench()
        _ = try bench.volume()
        bench.join(4)
        for round: UInt64 in 1...4 {
            bench.pass(.milliseconds(2200), alive: [2, 3, 4])
            #expect(bench.core.state.servers[one]?.status == .down)
            bench.join(1, incarnation: 1 + round)
        }
        #expect(bench.core.state.alerts.contains { $0.kind == .sdsOscillates })
        bench.pass(.seconds(4), alive: [1, 2, 3, 4])
        #expect(!bench.combs.contains { $0.target?.sds == one })
        for _ in 0..<3 {
            bench.pass(.seconds(4), alive: [1, 2, 3, 4])
            bench.finishCopies()
        }
        bench.pass(.seconds(400), alive: [1, 2, 3, 4])
        #expect(!bench.core.state.alerts.contains { $0.kind == .sdsOscillates })
    }

    @Test func ratesAreTakenOverSeconds() throws {
        var bench = ManagerBench()
        _ = try bench.volume()
        var counters = IOCounters()
        func tell() {
            let usage = DeviceUsage(device: DeviceID(rawValue: 1), usedUnits: 3, counters: counters)
            bench.feed(.message(ManagerBench.link(1), .keepAlive([usage])))
        }
        tell()
        for _ in 0..<50 {
            bench.now = bench.now + .milliseconds(100)
            for _ in 0..<7 { counters.add(.primaryRead, bytes: 8192) }
            tell()
        }
        let activity = try #require(bench.core.state.activity[DeviceID(rawValue: 1)])
        #expect(activity.seconds == 5 && activity.counters[.primaryRead].count == 350)
        // A server that was started anew begins at zero.
        counters = IOCounters()
        tell()
        #expect(bench.core.state.activity[DeviceID(rawValue: 1)] == activity)
    }
}
