import Base
import Testing

@testable import BlockCore

/// Room that thick volumes were promised, on a device of eight units with one comb.
@Suite struct PromiseTests {
    private static let thick = VolumeID(rawValue: 0x20)

    /// A server that is told of a thick volume of five units besides the thin one.
    private func bench(rules: ProtocolRules = .all) throws -> (ServerBench, MapUpdate) {
        var bench = try ServerBench(secondary: false) { $0.rules = rules }
        var update = ServerBench.map(secondary: false)
        update.revision += 1
        var volume = update.volumes[0]
        volume.id = Self.thick
        volume.tree = TreeID(rawValue: Self.thick.rawValue)
        volume.sizeUnits = 5
        volume.isThick = true
        update.volumes.append(volume)
        bench.feed(.manager(.update(update)))
        return (bench, update)
    }

    private func write(_ bench: inout ServerBench, _ volume: VolumeID, unit: UInt32) -> DataStatus? {
        bench.ask(.write, volume, unit: unit)
        bench.answerDisk()
        return bench.lastStatus
    }

    @Test func othersLeaveWhatWasPromised() throws {
        var (bench, _) = try bench()
        for unit in 0..<3 as Range<UInt32> { #expect(write(&bench, ServerBench.volume, unit: unit) == .ok) }
        #expect(write(&bench, ServerBench.volume, unit: 3) == .noSpace)
        #expect(write(&bench, ServerBench.volume, unit: 2) == .ok, "it is bound")
        for unit in 0..<5 as Range<UInt32> { #expect(write(&bench, Self.thick, unit: unit) == .ok) }
        #expect(bench.core.stores[0].usedUnits == 8)
        #expect(bench.core.stores[0].thickUnits == 5 && bench.core.stores[0].promisedUnits == 0)
    }

    @Test func withoutTheRuleThickVolumesFindNoRoom() throws {
        var (bench, _) = try bench(rules: .all.subtracting(.promisesAreKept))
        for unit in 0..<4 as Range<UInt32> { #expect(write(&bench, ServerBench.volume, unit: unit) == .ok) }
        for unit in 0..<4 as Range<UInt32> { #expect(write(&bench, Self.thick, unit: unit) == .ok) }
        #expect(write(&bench, Self.thick, unit: 4) == .noSpace)
    }

    @Test func whatIsGivenBackIsPromisedAgain() throws {
        var (bench, _) = try bench()
        #expect(write(&bench, Self.thick, unit: 0) == .ok)
        #expect(bench.core.stores[0].promisedUnits == 4)
        bench.ask(.writeZeroes, Self.thick)
        bench.answerDisk()
        #expect(bench.core.stores[0].promisedUnits == 5 && bench.core.stores[0].usedUnits == 0)
    }

    /// What a snapshot keeps is no part of the promise: the volume's next write to it takes room like everybody's.
    @Test func snapshotsAreNotPromised() throws {
        var (bench, update) = try bench()
        #expect(write(&bench, Self.thick, unit: 0) == .ok)
        var tree = VolumeTree(of: TreeID(rawValue: Self.thick.rawValue), pool: ServerBench.pool)
        update.revision += 1
        update.volumes[1].head = tree.grow(from: 0)
        update.trees = [tree]
        bench.feed(.manager(.update(update)))
        #expect(write(&bench, Self.thick, unit: 0) == .ok)
        #expect(bench.core.stores[0].usedUnits == 2 && bench.core.stores[0].thickUnits == 1)
        #expect(bench.core.stores[0].promisedUnits == 4)
        for unit in 0..<2 as Range<UInt32> { #expect(write(&bench, ServerBench.volume, unit: unit) == .ok) }
        #expect(write(&bench, ServerBench.volume, unit: 2) == .noSpace)
    }

    /// What is written to a snapshot takes room like everybody's, and leaves the volume its own.
    @Test func aSnapshotsWritesTakeNothingOfThePromise() throws {
        var (bench, update) = try bench()
        var tree = VolumeTree(of: TreeID(rawValue: Self.thick.rawValue), pool: ServerBench.pool)
        var snapshot = update.volumes[1]
        snapshot.id = VolumeID(rawValue: 0x21)
        snapshot.isThick = false
        snapshot.head = tree.grow(from: 0)
        update.revision += 1
        update.volumes[1].head = tree.grow(from: 0)
        update.volumes.append(snapshot)
        update.trees = [tree]
        bench.feed(.manager(.update(update)))
        for unit in 0..<3 as Range<UInt32> { #expect(write(&bench, snapshot.id, unit: unit) == .ok) }
        #expect(write(&bench, snapshot.id, unit: 3) == .noSpace)
        #expect(bench.core.stores[0].thickUnits == 0 && bench.core.stores[0].promisedUnits == 5)
        for unit in 0..<5 as Range<UInt32> { #expect(write(&bench, Self.thick, unit: unit) == .ok) }
        #expect(bench.core.stores[0].thickUnits == 5)
        // The snapshot goes: nothing of it was counted.
        update.revision += 1
        update.volumes.removeLast()
        _ = tree.prune(keeping: [update.volumes[1].head])
        update.trees = [tree]
        bench.feed(.manager(.update(update)))
        #expect(bench.core.stores[0].thickUnits == 5)
    }

    @Test func thePromiseFollowsTheVolume() throws {
        var (bench, update) = try bench()
        #expect(write(&bench, Self.thick, unit: 4) == .ok)
        update.revision += 1
        update.volumes[1].sizeUnits = 6
        bench.feed(.manager(.update(update)))
        #expect(bench.core.stores[0].promisedUnits == 5 && bench.core.stores[0].thickUnits == 1)
        update.revision += 1
        update.volumes.removeLast()
        bench.feed(.manager(.update(update)))
        #expect(bench.core.stores[0].promisedUnits == 0 && bench.core.stores[0].thickUnits == 0)
        bench.now = bench.now + .seconds(2)
        bench.feed(.tick)
        bench.answerDisk()
        for unit in 0..<8 as Range<UInt32> { #expect(write(&bench, ServerBench.volume, unit: unit) == .ok) }
    }

    /// A server that starts again counts what is bound.
    @Test func whatIsThereCounts() throws {
        var (bench, update) = try bench()
        #expect(write(&bench, Self.thick, unit: 3) == .ok)
        let store = bench.core.stores[0]
        var restarted = ServerCore(
            configuration: bench.core.configuration, sds: ServerBench.own, system: nil, stores: [store])
        restarted.stores[0].promise([:], placed: 0)
        #expect(restarted.stores[0].thickUnits == 0)
        update.revision += 1
        var actions: [ServerAction] = []
        restarted.apply(.manager(.update(update)), now: bench.now, into: &actions)
        #expect(restarted.stores[0].thickUnits == 1 && restarted.stores[0].promisedUnits == 4)
    }

    @Test func unitsAreCountedByComb() {
        let tree = TreeID(rawValue: 77)
        for count in [0, 1, 7, 8, 9, 100] as [UInt32] {
            var expected = [UInt32](repeating: 0, count: 8)
            for index in 0..<count {
                expected[Int(Geometry.comb(of: FamilyKey(tree: tree, index: index), combCount: 8))] += 1
            }
            let found = (0..<8).map { Geometry.units(of: tree, below: count, inComb: $0, combCount: 8) }
            #expect(found == expected)
        }
    }
}
