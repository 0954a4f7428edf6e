/// Room of a device that thick volumes were promised.
///
/// A thick volume has room for one unit at each of its indexes, wherever the comb of that index is. What its snapshots keep
/// besides is not promised, as they are thin.
extension UnitStore {
    /// A thick volume in its tree.
    struct ThickTree: Equatable, Sendable {
        var sizeUnits: UInt32
        /// The volume's head and what shows through to it: what others of the tree write is their own.
        var nodes: [UInt32]
        /// Indexes at which something is bound on this device.
        fileprivate(set) var held: UInt32 = 0

        init(sizeUnits: UInt32, nodes: [UInt32]) {
            self.sizeUnits = sizeUnits
            self.nodes = nodes
        }

        fileprivate func covers(_ key: UnitKey) -> Bool { key.index < sizeUnits && nodes.contains(key.node) }

        /// Whether `other` differs by a new head at most, of which nothing can be bound yet.
        fileprivate func growsInto(_ other: ThickTree) -> Bool {
            sizeUnits == other.sizeUnits && nodes.allSatisfy { other.nodes.contains($0) }
        }
    }

    struct Promises: Sendable {
        fileprivate var trees: [TreeID: ThickTree] = [:]
        /// Units that thick volumes may have in combs of this device.
        fileprivate var placed: UInt64 = 0
        /// Of these, those that something is bound to.
        fileprivate var held: UInt64 = 0
    }

    /// Units of thick volumes that are bound.
    public var thickUnits: UInt32 { UInt32(promises.held) }

    /// Units that nothing but the thick volumes themselves may take.
    public var promisedUnits: UInt64 { promises.placed - min(promises.placed, promises.held) }

    /// What a write to the unit has to leave free for thick volumes: nothing if it takes what was promised to its own.
    func promised(besides key: UnitKey) -> UInt64 {
        guard !promises.trees.isEmpty else { return 0 }
        if let tree = promises.trees[key.tree], tree.covers(key), !holds(tree, key.tree, key.index) { return 0 }
        return promisedUnits
    }

    /// Takes what the manager has told: the thick volumes, and how many of their units belong to combs of this device.
    ///
    /// - Parameter trees: nil if they are the same as before.
    mutating func promise(_ trees: [TreeID: ThickTree]?, placed: UInt64) {
        promises.placed = placed
        guard let trees else { return }
        var fresh: [TreeID: Set<UInt32>] = [:]
        for (id, tree) in trees {
            if promises.trees[id]?.growsInto(tree) == true {
                promises.trees[id]?.nodes = tree.nodes
            } else {
                promises.trees[id] = tree
                fresh[id] = []
            }
        }
        for id in promises.trees.keys where trees[id] == nil { promises.trees[id] = nil }
        if !fresh.isEmpty { countHeld(&fresh) }
        promises.held = promises.trees.values.reduce(0) { $0 + UInt64($1.held) }
    }

    /// Goes through all that is bound: thick volumes may be much larger than that.
    private mutating func countHeld(_ fresh: inout [TreeID: Set<UInt32>]) {
        for key in bound.units(where: { promises.trees[$0.tree]?.covers($0) == true }) {
            fresh[key.tree]?.insert(key.index)
        }
        for (id, indexes) in fresh { promises.trees[id]?.held = UInt32(indexes.count) }
    }

    private func holds(_ tree: ThickTree, _ id: TreeID, _ index: UInt32) -> Bool {
        tree.nodes.contains { bound[UnitKey(tree: id, node: $0, index: index)] != nil }
    }

    /// To be called before a unit is bound, and after one was unbound.
    mutating func countPromised(_ key: UnitKey, isBound: Bool) {
        guard !promises.trees.isEmpty, let tree = promises.trees[key.tree], tree.covers(key),
            !holds(tree, key.tree, key.index)
        else { return }
        promises.trees[key.tree]?.held = isBound ? tree.held + 1 : tree.held - 1
        promises.held = isBound ? promises.held + 1 : promises.held - 1
    }
}
