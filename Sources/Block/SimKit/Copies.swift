import Base
import BlockCore

/// What the disks hold, compared with what the manager has committed.
extension Simulation {
    /// Both copies are equal wherever nothing is under way; looked at often, since a later rebuild covers every trace.
    func inspect() {
        heap.add(.inspect, at: now + .milliseconds(takesSnapshots ? 40 : 10))
        watchSnapshots()
        compareCopies()
    }

    private static var blocksInView: [UInt16] {
        let last = UInt16(Geometry.blocksPerUnit)
        return Array(0..<blocksInPlay) + Array(last - blocksInPlay..<last)
    }

    func compareCopies() {
        if let difference = difference(toleratingDamage: true) { fail(difference) }
    }

    /// Two copies of a unit that should be equal and are not, other than in blocks of which one may be spoilt.
    func difference(toleratingDamage isTolerant: Bool) -> String? {
        guard let state = manager.core?.state else { return nil }
        for volume in state.volumes.values {
            guard let pool = state.pools[volume.pool] else { continue }
            for index in 0..<volume.sizeUnits {
                let unit = UnitKey(tree: volume.tree, node: volume.head, index: index)
                let below = state.trees[volume.tree]?.ancestors(of: volume.head) ?? []
                let comb = pool.combs[Int(Geometry.comb(of: unit.family, combCount: pool.combCount))]
                guard let secondary = comb.secondary, isQuiet(unit, at: comb.primary, state),
                    isQuiet(unit, at: secondary, state)
                else { continue }
                let copies = (
                    content(of: unit, over: below, at: comb.primary), content(of: unit, over: below, at: secondary)
                )
                let differs = zip(Simulation.blocksInView, zip(copies.0, copies.1)).contains { block, values in
                    values.0 != values.1 && !(isTolerant && isSpoilt(unit, block))
                }
                if differs { return "the copies of \(unit) at \(comb.inSync) differ: \(copies)" }
            }
        }
        return nil
    }

    /// Whether the place's server is the one that the manager admitted and has nothing to do for the unit.
    private func isQuiet(_ unit: UnitKey, at place: CopyPlace, _ state: SystemState) -> Bool {
        guard let core = node(of: place)?.core, let store = store(at: place),
            core.configuration.incarnation == state.servers[place.sds]?.incarnation
        else { return false }
        return store.stopReason == nil && !core.hasWork(on: unit.family)
    }

    private func node(of place: CopyPlace) -> ServerNode? { servers.values.first { $0.sds == place.sds } }
    private func store(at place: CopyPlace) -> UnitStore? {
        node(of: place)?.core?.stores.first { $0.device == place.device }
    }

    /// What a read of these blocks would find there.
    private func content(of unit: UnitKey, over below: [UInt32], at place: CopyPlace) -> [UInt64] {
        let blocks = Simulation.blocksInView
        var values = blocks.map { _ in UInt64(0) }
        guard let disk = node(of: place)?.disk, let store = store(at: place) else { return values }
        for node in below.reversed() + [unit.node] {
            let unit = UnitKey(tree: unit.tree, node: node, index: unit.index)
            guard let base = store.location(of: unit) else { continue }
            let map = store.map(of: unit)
            for (index, block) in blocks.enumerated() where map[block] {
                values[index] = disk.value(base / 4096 + UInt64(block))
            }
        }
        return values
    }

    /// A unit that no volume can see any more.
    private func stray(in store: UnitStore) -> UnitKey? {
        guard let state = manager.core?.state else { return nil }
        return store.units { unit in
            if let tree = state.trees[unit.tree] { return !tree.contains(unit.node) }
            return unit.node != 0 || state.volumes(in: unit.tree).isEmpty
        }.first
    }

    func account() {
        for id in serverIDs {
            for store in servers[id]?.core?.stores ?? [] {
                if let problem = store.accountingError() { return fail(problem) }
                if let stray = stray(in: store) { return fail("device \(store.device) still has \(stray)") }
            }
        }
    }
}
