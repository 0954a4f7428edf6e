/// What the manager has told: combs, volumes and addresses. Only grows in revision.
struct ClusterMap: Sendable {
    struct Pool {
        var combs: [Comb]
        var settings: PoolSettings
        var sparePercentage: UInt32

        /// Units of a device of `capacity` units that are kept for copies: clients may not fill them.
        func spare(of capacity: UInt32) -> UInt32 { UInt32(UInt64(capacity) * UInt64(sparePercentage) / 100) }
    }

    var revision: UInt64 = 0
    var pools: [StoragePoolID: Pool] = [:]
    var volumes: [VolumeID: VolumeRecord] = [:]
    /// Those that several clients have, as a server is told: a client hears only of its own mapping.
    private(set) var sharedVolumes: Set<VolumeID> = []
    /// Of volumes that are or were in snapshots.
    var trees: [TreeID: VolumeTree] = [:]
    /// Of trees with a node whose units go to another.
    private(set) var merges: [TreeID: NodeMerge] = [:]
    /// Those and what comes after them, which may have begun: a smaller number comes first whenever it joins.
    private var unfinishedMerges: [TreeID: [NodeMerge]] = [:]
    var addresses: [SdsID: String] = [:]
    /// The thick volumes by their trees; and how many of their units are in each comb.
    private(set) var thickTrees: [TreeID: UnitStore.ThickTree] = [:]
    private(set) var thickUnits: [StoragePoolID: [UInt32]] = [:]

    struct Changes {
        /// With the configuration before, in order.
        var combs: [(key: CombKey, before: Comb?)] = []
        /// Of which anything changed, a node or one of their volumes.
        var trees: Set<TreeID> = []
        /// Whether a thick volume came or went, or has another size or other nodes.
        var isThickDifferent = false
    }

    /// Nil if the update is older than what is known: it came late over a connection that is no longer the manager's.
    mutating func apply(_ update: MapUpdate) -> Changes? {
        guard update.revision >= revision, update.isFull || update.revision > revision else { return nil }
        revision = update.revision
        var changes = Changes()
        for server in update.servers { addresses[server.sds] = server.address }
        for pool in update.pools {
            var combs =
                pools[pool.pool]?.combs ?? Array(repeating: Comb.unplaced, count: Int(pool.combCount))
            guard combs.count == Int(pool.combCount) else { continue }
            for entry in pool.entries where Int(entry.index) < combs.count {
                let before = combs[Int(entry.index)]
                if entry.comb.epoch <= before.epoch { continue }
                combs[Int(entry.index)] = entry.comb
                changes.combs.append((CombKey(pool: pool.pool, index: entry.index), before))
            }
            pools[pool.pool] = Pool(
                combs: combs, settings: pool.settings, sparePercentage: pool.sparePercentage)
        }
        var mentioned: Set<VolumeID> = []
        for volume in update.volumes {
            mentioned.insert(volume.id)
            let known = volumes[volume.id]
            if known != volume { changes.trees.insert(volume.tree) }
            if volume.isThick, known?.sizeUnits != volume.sizeUnits { changes.isThickDifferent = true }
            volumes[volume.id] = volume
            if volume.mappings.count > 1 { sharedVolumes.insert(volume.id) } else { sharedVolumes.remove(volume.id) }
        }
        let gone = update.isFull ? volumes.keys.filter { !mentioned.contains($0) } : update.removedVolumes
        for volume in gone {
            if let known = volumes.removeValue(forKey: volume) {
                changes.trees.insert(known.tree)
                if known.isThick { changes.isThickDifferent = true }
            }
            sharedVolumes.remove(volume)
        }
        apply(trees: update, &changes)
        let hasOtherNodes = changes.trees.contains { tree in
            guard let known = thickTrees[tree], let volume = volumes[VolumeID(rawValue: tree.rawValue)] else {
                return false
            }
            return known.nodes != chain(of: volume)
        }
        if changes.isThickDifferent || hasOtherNodes {
            changes.isThickDifferent = true
            recountThick()
        }
        return changes
    }

    private mutating func recountThick() {
        thickTrees = [:]
        thickUnits = [:]
        for volume in volumes.values where volume.isThick {
            guard let combs = pools[volume.pool]?.combs.count else { continue }
            thickTrees[volume.tree] = UnitStore.ThickTree(sizeUnits: volume.sizeUnits, nodes: chain(of: volume))
            var units = thickUnits[volume.pool] ?? Array(repeating: 0, count: combs)
            for comb in 0..<UInt32(combs) {
                units[Int(comb)] += Geometry.units(
                    of: volume.tree, below: volume.sizeUnits, inComb: comb, combCount: UInt32(combs))
            }
            thickUnits[volume.pool] = units
        }
    }

    private mutating func apply(trees update: MapUpdate, _ changes: inout Changes) {
        var mentioned: Set<TreeID> = []
        for tree in update.trees {
            mentioned.insert(tree.id)
            if trees[tree.id] != tree { changes.trees.insert(tree.id) }
            trees[tree.id] = tree
        }
        let gone = update.isFull ? trees.keys.filter { !mentioned.contains($0) } : update.removedTrees
        for tree in gone where trees.removeValue(forKey: tree) != nil { changes.trees.insert(tree) }
        if trees.isEmpty, merges.isEmpty { return }
        var heads: [TreeID: Set<UInt32>] = [:]
        for volume in volumes.values where changes.trees.contains(volume.tree) {
            heads[volume.tree, default: []].insert(volume.head)
        }
        for tree in changes.trees {
            let unfinished = trees[tree]?.merges(heads: heads[tree] ?? []) ?? []
            merges[tree] = unfinished.first
            unfinishedMerges[tree] = unfinished.isEmpty ? nil : unfinished
        }
    }

    /// The unit that is merged into this one: of its blocks one copy may have brought here more than the other.
    func merged(into unit: UnitKey) -> UnitKey? {
        guard let merge = unfinishedMerges[unit.tree]?.first(where: { $0.into == unit.node }) else { return nil }
        return UnitKey(tree: unit.tree, node: merge.node, index: unit.index)
    }

    /// The unit that this one is merged into: one copy may have forgotten this one before the other.
    func unit(mergedFrom unit: UnitKey) -> UnitKey? {
        guard let merge = unfinishedMerges[unit.tree]?.first(where: { $0.node == unit.node }) else { return nil }
        return UnitKey(tree: unit.tree, node: merge.into, index: unit.index)
    }

    /// Whether one copy may have more of the unit than the other, though both read the same.
    func isUneven(_ unit: UnitKey) -> Bool { merged(into: unit) != nil || self.unit(mergedFrom: unit) != nil }

    func comb(_ key: CombKey) -> Comb? {
        guard let combs = pools[key.pool]?.combs, Int(key.index) < combs.count else { return nil }
        return combs[Int(key.index)]
    }

    /// Where a unit of a known node belongs.
    func combKey(of unit: UnitKey) -> CombKey? {
        guard !trees.isEmpty, let tree = trees[unit.tree] else {
            // The only node of a volume without relatives.
            guard unit.node == 0, let volume = volumes[VolumeID(rawValue: unit.tree.rawValue)],
                volume.tree == unit.tree
            else { return nil }
            return combKey(of: unit.family, in: volume.pool)
        }
        return tree.contains(unit.node) ? combKey(of: unit.family, in: tree.pool) : nil
    }

    /// Where what a volume has at `index` belongs.
    func combKey(of volume: VolumeID, at index: UInt32) -> CombKey? {
        guard let volume = volumes[volume] else { return nil }
        return combKey(of: FamilyKey(tree: volume.tree, index: index), in: volume.pool)
    }

    private func combKey(of family: FamilyKey, in pool: StoragePoolID) -> CombKey? {
        guard let count = pools[pool]?.combs.count else { return nil }
        return CombKey(pool: pool, index: Geometry.comb(of: family, combCount: UInt32(count)))
    }

    func nodes(of tree: TreeID) -> [UInt32] { trees[tree]?.nodes.map(\.number) ?? [0] }

    /// What shows through to a unit where it holds nothing, nearest first.
    func ancestors(of unit: UnitKey) -> [UInt32] {
        trees.isEmpty ? [] : trees[unit.tree]?.ancestors(of: unit.node) ?? []
    }

    /// The nodes in which a volume's data is: its head first.
    private func chain(of volume: VolumeRecord) -> [UInt32] {
        [volume.head] + (trees[volume.tree]?.ancestors(of: volume.head) ?? [])
    }

    /// The unit that a volume's writes at `index` go to, and the comb that it is in.
    func place(of volume: VolumeID, at index: UInt32) -> (unit: UnitKey, key: CombKey)? {
        guard let volume = volumes[volume] else { return nil }
        let unit = UnitKey(tree: volume.tree, node: volume.head, index: index)
        return combKey(of: unit.family, in: volume.pool).map { (unit, $0) }
    }

    /// The unit that a volume's writes at `index` go to.
    func headUnit(of volume: VolumeID, at index: UInt32) -> UnitKey? {
        volumes[volume].map { UnitKey(tree: $0.tree, node: $0.head, index: index) }
    }
}
