import Base
import Testing

@testable import BlockCore

/// An operator who gives up the only good copies, and what is told of it.
@Suite struct DataLossTests {
    private let one = SdsID(rawValue: 1)
    private let two = SdsID(rawValue: 2)

    /// Two servers. The first leaves, then the second; the first comes back, with what it had when it left.
    private func bench() throws -> (bench: ManagerBench, volume: VolumeID) {
        var bench = ManagerBench()
        for server: UInt64 in [1, 2] { bench.join(server) }
        let pool = try #require(bench.core.state.pools.values.first?.id)
        let reply = try bench.run(
            .createVolume(pool: pool, name: "v", sizeUnits: 100, provisioning: .thin, createdAt: 1))
        guard case .createdVolume(let volume) = reply else { throw ManagerError(.malformed, "\(reply)") }
        bench.feed(.linkClosed(ManagerBench.link(1)))
        bench.pass(.seconds(1), alive: [2])
        bench.feed(.linkClosed(ManagerBench.link(2)))
        bench.pass(.seconds(1), alive: [])
        bench.join(1, incarnation: 2, link: 11)
        return (bench, volume)
    }

    @Test func nothingIsPromotedByItself() throws {
        var (bench, volume) = try bench()
        for _ in 0..<20 { bench.pass(.seconds(1), alive: [11]) }
        #expect(bench.combs.allSatisfy { $0.state == .unavailable && $0.primary.sds == two })
        #expect(bench.core.state.dataLosses[volume] == nil)
    }

    @Test func anOperatorHasOlderCopiesPromotedAndVolumesAreMarked() throws {
        var (bench, volume) = try bench()
        let epochs = bench.combs.map(\.epoch)
        guard case .doneWithWarning = try bench.run(.configure(.promoteStaleCopies(two, nil))) else {
            Issue.record("no warning")
            return
        }
        #expect(bench.combs.allSatisfy { $0.state == .degraded && $0.primary.sds == one && $0.former == nil })
        #expect(zip(bench.combs, epochs).allSatisfy { $0.epoch > $1 })
        let loss = try #require(bench.core.state.dataLosses[volume])
        #expect(loss.units == 100 && loss.combs == Array(0..<64))
        let alert = bench.core.state.alerts.first { $0.kind == .volumeLostData }
        #expect(alert?.object == .volume(volume) && alert?.severity == .high)
        // The next leader knows it too.
        let records = bench.records.sorted { $0.key < $1.key }.map { (key: $0.key, value: $0.value) }
        #expect(try SystemState.decode(records)?.dataLosses == bench.core.state.dataLosses)
        // It is not done twice, and ends only by an operator.
        #expect(bench.refusal(of: .configure(.promoteStaleCopies(two, nil))) == .invalidArgument)
        bench.pass(.seconds(30), alive: [11])
        #expect(bench.core.state.dataLosses[volume] == loss)
        #expect(try bench.run(.configure(.clearDataLoss(volume))) == .done)
        #expect(bench.core.state.dataLosses.isEmpty && !bench.core.state.alerts.contains { $0.kind == .volumeLostData })
        #expect(!bench.records.keys.contains { $0.hasPrefix("data-loss/") })
        #expect(bench.refusal(of: .configure(.clearDataLoss(volume))) == .invalidArgument)
    }

    /// What the lost server has beyond the promoted copy must go.
    @Test func aServerThatWasGivenUpIsFilledAnewWhenItReturns() throws {
        var (bench, _) = try bench()
        _ = try bench.run(.configure(.promoteStaleCopies(two, nil)))
        bench.join(2, incarnation: 2, link: 12)
        bench.pass(.seconds(1), alive: [11, 12])
        let targets = bench.combs.filter { $0.target?.sds == two }
        #expect(!targets.isEmpty && targets.allSatisfy { $0.targetEpoch == nil })
        #expect(bench.combs.allSatisfy { $0.primary.sds == one })
    }

    @Test func whatIsNotLostCannotBePromoted() throws {
        var (bench, _) = try bench()
        #expect(bench.refusal(of: .configure(.promoteStaleCopies(one, nil))) == .invalidArgument)
        #expect(bench.refusal(of: .configure(.promoteStaleCopies(SdsID(rawValue: 9), nil))) == .sdsNotFound)
        let foreign = ManagerCommand.configure(.promoteStaleCopies(two, DeviceID(rawValue: 1)))
        #expect(bench.refusal(of: foreign) == .deviceNotFound)
        bench.join(2, incarnation: 2, link: 12)
        #expect(bench.combs.allSatisfy { $0.primary.sds == two && $0.state != .unavailable })
        #expect(bench.refusal(of: .configure(.promoteStaleCopies(two, nil))) == .invalidArgument)
    }

    @Test func theMarkGoesWithItsVolume() throws {
        var (bench, volume) = try bench()
        _ = try bench.run(.configure(.promoteStaleCopies(two, nil)))
        _ = try bench.run(.removeVolume(volume, unmapping: true))
        #expect(bench.core.state.dataLosses.isEmpty && !bench.records.keys.contains { $0.hasPrefix("data-loss/") })
    }

    /// Only units in lost combs count.
    @Test func unitsAreCountedByComb() {
        let id = VolumeID(rawValue: 77)
        for size: UInt32 in [1, 5, 8, 9, 30] {
            let volume = Volume(
                id: id, pool: StoragePoolID(rawValue: 1), name: "", sizeUnits: size, provisioning: .thin, createdAt: 0,
                mappings: [], attachEpoch: 0, fencedThrough: 0, revision: 0)
            for comb: UInt32 in 0..<8 {
                let units = (0..<size).filter {
                    Geometry.comb(of: FamilyKey(tree: volume.tree, index: $0), combCount: 8) == comb
                }
                #expect(volume.units(inComb: comb, combCount: 8) == UInt32(units.count))
            }
        }
    }
}
