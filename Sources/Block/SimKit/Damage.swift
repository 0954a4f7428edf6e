import Base
import BlockCore

/// One block of a unit, wherever its copies are.
struct UnitBlock: Hashable {
    var unit: UnitKey
    var block: UInt16
}

/// What became of the blocks that disks spoilt.
public struct DamageCounts: Sendable, Equatable {
    public var rotten = 0
    public var misdirected = 0
    /// Found by a server, each time that it was read.
    public var found = 0
    /// Written again from the other copy.
    public var mended = 0
    /// Without a good copy.
    public var lost = 0

    public init() {}
}

/// Disks that return something else than was written, and the checker of those who say so.
///
/// Servers do not know the checksums of units that were being written when they died (docs/design/checksums.md): there, and only
/// there, the damage is undone when they start again.
extension Simulation {
    /// One block of a server's device gets other content. Each block of a volume suffers this once in a run, at one of its
    /// places, so that a good copy is lost only by what else happens.
    func rot() {
        guard let (id, unit, block, at) = someBlock() else { return }
        spoilt.insert(UnitBlock(unit: unit, block: block))
        if failsSectors {
            did("unreadable sector")
            servers[id]?.disk.fail(at)
            note("\(id) block \(block) of \(unit) cannot be read any more")
            return
        }
        did("bit rot")
        damage.rotten += 1
        servers[id]?.disk.rot(at, into: 1 << 63 | nextValue)
        nextValue += 1
        note("\(id) block \(block) of \(unit) rots")
    }

    /// Whether the disks of this run do not return what they spoil.
    private var failsSectors: Bool { options.seed % 8 == 0 }

    /// A block in play that holds data, of which the device knows what it is, and whose comb has two copies.
    private func someBlock() -> (NodeID, UnitKey, UInt16, at: UInt64)? {
        guard let state = manager.core?.state, let id = serverIDs.randomElement(using: &random) else { return nil }
        for store in servers[id]?.core?.stores ?? [] {
            let trees = Dictionary(state.volumes.values.map { ($0.tree, $0.pool) }) { first, _ in first }
            guard let unit = store.units(where: { trees[$0.tree] != nil }).randomElement(using: &random),
                let base = store.location(of: unit), let pool = trees[unit.tree], let combs = state.pools[pool]?.combs
            else { continue }
            let comb = combs[Int(Geometry.comb(of: unit.family, combCount: UInt32(combs.count)))]
            guard case .normal = comb.state, comb.inSync.contains(where: { $0.device == store.device }) else {
                continue
            }
            let blocks = (0..<UInt16(Geometry.blocksPerUnit)).filter { block in
                store.map(of: unit)[block] && store.knowsChecksum(of: unit, block: block)
                    && !spoilt.contains(UnitBlock(unit: unit, block: block)) && Simulation.isInPlay(UInt64(block))
            }
            guard let block = blocks.randomElement(using: &random) else { continue }
            return (id, unit, block, base / 4096 + UInt64(block))
        }
        return nil
    }

    /// What a write of one block does instead, if it is to go elsewhere and there is somewhere to go.
    func misdirect(_ changes: [FakeDisk.Change], _ node: ServerNode) -> [FakeDisk.Change]? {
        guard node.isMisdirecting, changes.count == 1, case .set(let block, .value(let value)) = changes[0],
            let (unit, inside) = owner(of: block, node), !spoilt.contains(UnitBlock(unit: unit, block: inside)),
            let (id, other, victim, at) = someBlock(), servers[id]?.sds == node.sds, at != block
        else { return nil }
        node.isMisdirecting = false
        did("misdirected write")
        damage.misdirected += 1
        spoilt.insert(UnitBlock(unit: unit, block: inside))
        spoilt.insert(UnitBlock(unit: other, block: victim))
        note("\(id) writes block \(inside) of \(unit) to block \(victim) of \(other)")
        return node.disk.misdirected(block, value, to: at)
    }

    /// Whose block lies there.
    private func owner(of block: UInt64, _ node: ServerNode) -> (UnitKey, UInt16)? {
        for store in node.core?.stores ?? [] {
            for unit in store.units(where: { _ in true }) {
                guard let base = store.location(of: unit).map({ $0 / 4096 }), block >= base,
                    block - base < UInt64(Geometry.blocksPerUnit)
                else { continue }
                return (unit, UInt16(block - base))
            }
        }
        return nil
    }

    /// A server calls blocks damaged: it had better be right.
    func foundDamage(_ id: NodeID, _ unit: UnitKey, _ blocks: BlockMap) {
        damage.found += blocks.count
        for run in blocks.runs() {
            for block in run.start..<run.end where !isSpoilt(unit, block) {
                return fail("\(id) calls block \(block) of \(unit) damaged, and it is not")
            }
        }
    }

    /// Whether the block was spoilt there, or where it was merged from: parents have lower numbers than their children.
    func isSpoilt(_ unit: UnitKey, _ block: UInt16) -> Bool {
        if spoilt.contains(UnitBlock(unit: unit, block: block)) { return true }
        return spoilt.contains {
            $0.unit.family == unit.family && $0.unit.node < unit.node && $0.block == block
        }
    }

    /// Whether any block of an I/O was spoilt somewhere.
    func isSpoilt(_ io: ClientNode.IO) -> Bool {
        let tree = manager.core?.state.volumes[io.volume]?.tree ?? TreeID(rawValue: io.volume.rawValue)
        let perUnit = UInt64(Geometry.blocksPerUnit)
        return spoilt.contains { spoilt in
            let number = UInt64(spoilt.unit.index) * perUnit + UInt64(spoilt.block)
            return spoilt.unit.tree == tree && (io.first..<io.first + UInt64(io.seen.count)).contains(number)
        }
    }

    /// What a server that starts cannot tell from what it wrote last was not spoilt after all.
    func cureUnknown(of store: UnitStore, _ disk: inout FakeDisk) {
        for unit in store.units(where: { _ in true }) {
            guard let base = store.location(of: unit) else { continue }
            for block in 0..<UInt16(Geometry.blocksPerUnit) where !store.knowsChecksum(of: unit, block: block) {
                disk.cure(base / 4096 + UInt64(block))
            }
        }
    }
}
