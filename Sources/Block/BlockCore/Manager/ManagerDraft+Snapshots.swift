extension ManagerDraft {
    /// Snapshots of one command.
    static let snapshotsPerCut = 64
    /// Volumes in a tree: one and 126 snapshots.
    static let volumesPerTree = 127

    /// Whether the snapshots can be taken as things are.
    func checkSnapshots(_ definitions: [SnapshotDefinition]) throws(ManagerError) {
        guard !definitions.isEmpty, definitions.count <= ManagerDraft.snapshotsPerCut else {
            throw ManagerError(.invalidArgument, "snapshots are taken of 1 to 64 volumes at once")
        }
        guard Set(definitions.map(\.volume)).count == definitions.count else {
            throw ManagerError(.invalidArgument, "a volume is named twice")
        }
        let names = definitions.map(\.name).filter { !$0.isEmpty }
        guard Set(names).count == names.count else { throw ManagerError(.nameInUse, "a name is given twice") }
        var pools: Set<StoragePoolID> = []
        var added: [TreeID: Int] = [:]
        for definition in definitions {
            let volume = try volume(definition.volume)
            if let overwritten = definition.overwritten {
                try checkOverwriting(overwritten, from: volume)
            } else {
                try checkVolumeName(definition.name, of: nil)
                try checkCapacity(volume.pool, adding: volume.sizeUnits, .thin)
            }
            pools.insert(volume.pool)
            added[volume.tree, default: 0] += 1
        }
        guard pools.count == 1 else {
            throw ManagerError(.invalidArgument, "the volumes lie in different storage pools")
        }
        for (tree, count) in added {
            let hasRoom = state.trees[tree]?.hasRoom(for: 2 * count) ?? true
            let created = definitions.filter { $0.overwritten == nil && state.volumes[$0.volume]?.tree == tree }.count
            guard hasRoom, state.volumes(in: tree).count + created <= ManagerDraft.volumesPerTree else {
                throw ManagerError(.tooManySnapshots, "a volume and its relatives have at most 126 snapshots")
            }
        }
    }

    /// Nobody may be writing to what is overwritten, or have something of it in a cache.
    private func checkOverwriting(_ id: VolumeID, from source: Volume) throws(ManagerError) {
        let volume = try volume(id)
        guard id != source.id else { throw ManagerError(.sameVolume, "a volume is not overwritten with itself") }
        guard volume.tree == source.tree else {
            throw ManagerError(.otherTree, "volumes \(id) and \(source.id) do not come from one another")
        }
        guard volume.sizeUnits == source.sizeUnits else {
            throw ManagerError(.invalidSize, "volumes \(id) and \(source.id) have different sizes")
        }
        guard (volume.mappings.isEmpty && !volume.isFencePending) || !rules.contains(.overwrittenIsUnmapped) else {
            throw ManagerError(.volumeMapped, "volume \(id) is mapped")
        }
    }

    /// Freezes the heads of the volumes and gives each a new one, and a node for its snapshot beside it.
    /// - Returns: the nodes of the snapshots, in the order of the definitions.
    mutating func cut(_ definitions: [SnapshotDefinition]) throws(ManagerError) -> [UInt32] {
        try checkSnapshots(definitions)
        var nodes: [UInt32] = []
        for definition in definitions {
            var volume = try volume(definition.volume)
            var tree = state.trees[volume.tree] ?? VolumeTree(of: volume.tree, pool: volume.pool)
            let frozen = volume.head
            volume.head = tree.grow(from: frozen)
            nodes.append(tree.grow(from: frozen))
            reservedNodes[tree.id, default: []].insert(nodes[nodes.count - 1])
            put(tree)
            put(volume)
        }
        return nodes
    }

    /// The snapshots become volumes, or what volumes show that are overwritten.
    mutating func show(
        _ definitions: [SnapshotDefinition], _ nodes: [UInt32], createdAt: UInt64,
        _ generator: inout some RandomNumberGenerator
    ) throws(ManagerError) -> ManagerReply {
        try checkSnapshots(definitions)
        let group: SnapshotGroupID = unusedID(&generator) { id in
            state.volumes.values.contains { $0.snapshotGroup == id }
        }
        var ids: [VolumeID] = []
        for (definition, node) in zip(definitions, nodes) {
            let source = try volume(definition.volume)
            guard state.trees[source.tree]?.contains(node) == true else {
                throw ManagerError(.snapshotFailed, "the node of a snapshot is gone")
            }
            if let overwritten = definition.overwritten {
                var volume = try volume(overwritten)
                volume.head = node
                put(volume)
                prune(volume.tree)
                ids.append(overwritten)
                continue
            }
            var snapshot = Volume(
                id: unusedVolumeID(&generator), pool: source.pool, name: definition.name, sizeUnits: source.sizeUnits,
                provisioning: .thin, createdAt: createdAt, mappings: [], attachEpoch: 0, fencedThrough: 0, revision: 0)
            snapshot.tree = source.tree
            snapshot.head = node
            snapshot.ancestor = source.id
            snapshot.snapshotGroup = group
            put(snapshot)
            ids.append(snapshot.id)
        }
        return .tookSnapshots(group, ids)
    }

    /// Snapshots of a volume that goes become those of its own ancestor.
    mutating func relink(_ gone: Volume) {
        for var volume in state.volumes(in: gone.tree) where volume.ancestor == gone.id {
            volume.ancestor = gone.ancestor
            put(volume)
        }
    }
}
