/// Nodes without a volume of their own and with one child: servers move what they hold to the child, and when nothing of such a
/// node is left anywhere it leaves its tree (docs/design/snapshots.md).
extension ManagerCore {
    struct PendingMerge {
        var node: UInt32
        /// What was committed when this leader first heard of it.
        var since: UInt64
        /// Servers that have nothing of it, and the map revision at which they said so.
        var empty: [SdsID: UInt64] = [:]
    }

    mutating func noteEmpty(_ tree: TreeID, _ node: UInt32, _ revision: UInt64, at server: SdsID) {
        guard mergeable(tree, state)?.node == node else {
            merges[tree] = nil
            return
        }
        if merges[tree]?.node != node { merges[tree] = PendingMerge(node: node, since: state.revision) }
        guard revision <= state.revision else { return }
        merges[tree]?.empty[server] = revision
        let isQueued = queue.contains { if case .removeMerged(tree) = $0 { true } else { false } }
        if isEmpty(tree, state), !isQueued { queue.append(.removeMerged(tree)) }
    }

    private func mergeable(_ tree: TreeID, _ state: SystemState) -> NodeMerge? {
        state.trees[tree]?.mergeable(heads: Set(state.volumes(in: tree).map(\.head)))
    }

    /// Whether every server with a copy of any comb of the pool has said that it has nothing of the node, since the tree and all
    /// combs are as they are now: none can have got something of it later.
    private func isEmpty(_ tree: TreeID, _ state: SystemState) -> Bool {
        guard let pending = merges[tree], let record = state.trees[tree], let pool = state.pools[record.pool] else {
            return false
        }
        if !configuration.rules.contains(.nodesGoEmpty) { return true }
        var since = pending.since
        var servers: Set<SdsID> = []
        for comb in pool.combs where comb.isPlaced {
            guard case .normal(let secondary) = comb.state else { return false }
            since = max(since, comb.revision)
            servers.formUnion([comb.primary.sds, secondary.sds])
        }
        return servers.allSatisfy { server in pending.empty[server].map { $0 >= since } ?? false }
    }

    mutating func removeMerged(_ id: TreeID, in batch: inout Batch) {
        let state = batch.draft.state
        guard let pending = merges[id], var tree = state.trees[id], let merge = mergeable(id, state),
            merge.node == pending.node, isEmpty(id, state)
        else { return }
        merges[id] = nil
        tree.remove(merged: merge)
        batch.draft.put(tree)
        batch.draft.notices.append(.nodeMerged(id, node: merge.node))
    }
}
