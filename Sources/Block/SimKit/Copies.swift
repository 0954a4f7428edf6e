import Base
import BlockCore

/// What the disks hold, compared with what the manager has committed.
extension Simulation {
    /// Both copies are equal wherever nothing is under way; looked at often, since a later rebuild covers every trace.
    func inspect() {
        heap.add(.inspect, at: now + options.profile.inspectionInterval(takingSnapshots: takesSnapshots))
        watchSnapshots()
        compareCopies()
    }

    fileprivate static let blocksInView: [UInt16] = {
        let last = UInt16(Geometry.blocksPerUnit)
        return Array(0..<blocksInPlay) + Array(last - blocksInPlay..<last)
    }()

    func compareCopies() {
        if let difference = difference(toleratingDamage: true) { fail(difference) }
    }

    /// Two copies of a unit that should be equal and are not, other than in blocks of which one may be spoilt.
    func difference(toleratingDamage isTolerant: Bool) -> String? {
        guard let state = manager.core?.state else { return nil }
        let shelves = shelves(state)
        for volume in state.volumes.values {
            guard let pool = state.pools[volume.pool] else { continue }
            for index in 0..<volume.sizeUnits {
                let unit = UnitKey(tree: volume.tree, node: volume.head, index: index)
                let below = state.trees[volume.tree]?.ancestors(of: volume.head) ?? []
                let comb = pool.combs[Int(Geometry.comb(of: unit.family, combCount: pool.combCount))]
                guard let place = comb.secondary, let primary = shelves[comb.primary], let secondary = shelves[place],
                    primary.isQuiet(unit), secondary.isQuiet(unit)
                else { continue }
                let nodes = below.reversed() + [unit.node]
                let copies = (primary.content(of: unit, nodes), secondary.content(of: unit, nodes))
                if copies.0 == copies.1 { continue }
                let differs = zip(Simulation.blocksInView, zip(copies.0, copies.1)).contains { block, values in
                    if values.0 == values.1 || (isTolerant && isSpoilt(unit, block)) { return false }
                    // What one cannot read and the other knows to be lost nobody can mend.
                    let isLost =
                        (values.0 == .max && secondary.knowsDamage(of: unit, nodes, block))
                        || (values.1 == .max && primary.knowsDamage(of: unit, nodes, block))
                    return !isLost
                }
                if differs { return "the copies of \(unit) at \(comb.inSync) differ: \(copies)" }
            }
        }
        return nil
    }

    /// Where the places are whose servers run and were admitted by the manager as they are.
    private func shelves(_ state: SystemState) -> [CopyPlace: Shelf] {
        var shelves: [CopyPlace: Shelf] = [:]
        for id in serverIDs {
            guard let node = servers[id] else { continue }
            let places = node.look { core -> [(CopyPlace, Shelf)] in
                guard core.configuration.incarnation == state.servers[node.sds]?.incarnation else { return [] }
                return core.stores.indices.map { index in
                    let place = CopyPlace(sds: node.sds, device: core.stores[index].device)
                    return (place, Shelf(node: node, index: index))
                }
            }
            for (place, shelf) in places ?? [] { shelves[place] = shelf }
        }
        return shelves
    }

    /// A unit that no volume can see any more, and its device. It goes soon after its volume or node.
    var stray: String? {
        for id in serverIDs {
            for store in servers[id]?.core?.stores ?? [] {
                if let unit = stray(in: store) { return "device \(store.device) still has \(unit)" }
            }
        }
        return nil
    }

    private func stray(in store: UnitStore) -> UnitKey? {
        guard let state = manager.core?.state else { return nil }
        return store.units { unit in
            if let tree = state.trees[unit.tree] { return !tree.contains(unit.node) }
            return unit.node != 0 || state.volumes(in: unit.tree).isEmpty
        }.first
    }

    /// Every slot of every device is accounted for, and what no volume can see goes in time: volumes are removed until the end.
    func account() {
        step(until: now + .seconds(5)) { self.stray == nil }
        if failure != nil { return }
        for id in serverIDs {
            for store in servers[id]?.core?.stores ?? [] {
                if let problem = store.accountingError() { return fail(problem) }
            }
        }
        if let stray { fail(stray) }
    }
}

/// A device of a server that runs.
private struct Shelf {
    let node: ServerNode
    /// Which of its stores.
    let index: Int

    /// Whether the server has nothing to do for the unit.
    func isQuiet(_ unit: UnitKey) -> Bool {
        node.look { !$0.hasWork(on: unit.family) && $0.stores[index].stopReason == nil } ?? false
    }

    /// Whether it is known that the block cannot be given any more.
    func knowsDamage(of unit: UnitKey, _ nodes: [UInt32], _ block: UInt16) -> Bool {
        nodes.contains { number in
            let unit = UnitKey(tree: unit.tree, node: number, index: unit.index)
            return node.look { $0.damage(of: unit, in: index)[block] } ?? false
        }
    }

    /// What a read of the blocks in view would find in the unit and, from the oldest on, in the nodes that show through.
    func content(of unit: UnitKey, _ nodes: [UInt32]) -> [UInt64] {
        var values = Simulation.blocksInView.map { _ in UInt64(0) }
        for number in nodes {
            let unit = UnitKey(tree: unit.tree, node: number, index: unit.index)
            guard case let (base, map)?? = node.look({ $0.place(of: unit, in: index) }) else { continue }
            for (index, block) in Simulation.blocksInView.enumerated() where map[block] {
                let place = base / 4096 + UInt64(block)
                // What cannot be read is like nothing else.
                values[index] = node.disk.unreadable.contains(place) ? .max : node.disk.value(place)
            }
        }
        return values
    }
}
