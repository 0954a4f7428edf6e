import Base
import BlockCore

/// What the disks hold, compared with what the manager has committed.
extension Simulation {
    /// Both copies are equal wherever nothing is under way; looked at often, since a later rebuild covers every trace.
    func inspect() {
        heap.add(.inspect, at: now + .milliseconds(10))
        compareCopies()
    }

    private static var blocksInView: [UInt16] {
        let last = UInt16(Geometry.blocksPerUnit)
        return Array(0..<blocksInPlay) + Array(last - blocksInPlay..<last)
    }

    func compareCopies() {
        if let difference = difference(tolerating: spoilt) { fail(difference) }
    }

    /// Two copies of a unit that should be equal and are not, other than in blocks of which one may be spoilt.
    func difference(tolerating spoilt: Set<UnitBlock>) -> String? {
        guard let state = manager.core?.state else { return nil }
        for volume in state.volumes.values {
            guard let pool = state.pools[volume.pool] else { continue }
            for index in 0..<volume.sizeUnits {
                let unit = UnitKey(volume: volume.id, index: index)
                let comb = pool.combs[Int(Geometry.comb(of: unit.family, combCount: pool.combCount))]
                guard let secondary = comb.secondary, isQuiet(unit, at: comb.primary, state),
                    isQuiet(unit, at: secondary, state)
                else { continue }
                let copies = (content(of: unit, at: comb.primary), content(of: unit, at: secondary))
                let differs = zip(Simulation.blocksInView, zip(copies.0, copies.1)).contains { block, values in
                    values.0 != values.1 && !spoilt.contains(UnitBlock(unit: unit, block: block))
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

    private func content(of unit: UnitKey, at place: CopyPlace) -> [UInt64] {
        let blocks = Simulation.blocksInView
        guard let disk = node(of: place)?.disk, let store = store(at: place), let base = store.location(of: unit)
        else { return blocks.map { _ in 0 } }
        let map = store.map(of: unit)
        return blocks.map { map[$0] ? disk.value(base / 4096 + UInt64($0)) : 0 }
    }

    func account() {
        for id in serverIDs {
            for store in servers[id]?.core?.stores ?? [] {
                if let problem = store.accountingError() { return fail(problem) }
            }
        }
    }
}
