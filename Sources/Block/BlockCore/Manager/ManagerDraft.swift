/// A batch of changes on the way to one commit: the next state, and what has to be stored and told because of it.
struct ManagerDraft {
    private(set) var state: SystemState
    private var dirty: Set<RecordKey> = []
    private var changedCombs: Set<CombKey> = []
    private var changedSettings: Set<StoragePoolID> = []
    private var changedVolumes: Set<VolumeID> = []
    private var removedVolumes: Set<VolumeID> = []
    private var changedTrees: Set<TreeID> = []
    private var addressesChanged = false
    var notices: [ManagerNotice] = []
    /// Nodes of snapshots that are not shown yet: no volume has them as its head.
    var reservedNodes: [TreeID: Set<UInt32>] = [:]
    let rules: ProtocolRules
    /// So many removed servers, and devices, are remembered; the oldest are forgotten.
    static let removedMax = 1024

    init(_ state: SystemState, rules: ProtocolRules) {
        self.state = state
        self.state.revision += 1
        self.rules = rules
    }

    var isEmpty: Bool { dirty.isEmpty }
    var revision: UInt64 { state.revision }

    /// In an order that does not depend on hashing.
    func mutations() -> [StoreMutation] {
        var changes = dirty.map { (path: $0.path, key: $0) }
        changes.append((RecordKey.system.path, .system))
        changes.sort { $0.path < $1.path }
        return changes.enumerated().filter { $0.offset == 0 || changes[$0.offset - 1].path != $0.element.path }.map {
            let (path, key) = $0.element
            if let bytes = state.encode(key) { return .put(key: path, value: bytes) }
            return .delete(key: path)
        }
    }

    /// The batch as a server hears it, or as a client that may see `visible` volumes.
    func update(for client: SdcID?) -> MapUpdate {
        var update = MapUpdate(revision: revision, isFull: false)
        if addressesChanged { update.servers = state.serverAddresses }
        for pool in state.pools.values {
            let entries = changedCombs.filter { $0.pool == pool.id }.map(\.index).sorted()
            if entries.isEmpty && !changedSettings.contains(pool.id) { continue }
            update.pools.append(
                PoolUpdate(
                    pool: pool.id, combCount: pool.combCount, settings: pool.settings,
                    sparePercentage: min(pool.sparePercentage, 100),
                    entries: entries.map { PoolUpdate.Entry(index: $0, comb: pool.combs[Int($0)]) }))
        }
        for id in changedVolumes.sorted() {
            guard let volume = state.volumes[id] else { continue }
            if let record = volume.record(for: client) {
                update.volumes.append(record)
            } else {
                update.removedVolumes.append(id)
            }
        }
        update.removedVolumes += removedVolumes.sorted()
        if client == nil {
            update.trees = changedTrees.sorted().compactMap { state.trees[$0] }
            update.removedTrees = changedTrees.sorted().filter { state.trees[$0] == nil }
        }
        return update
    }

    // MARK: Changing objects

    mutating func put(_ domain: ProtectionDomain) {
        state.domains[domain.id] = domain
        dirty.insert(.domain(domain.id))
    }

    mutating func put(_ pool: StoragePool) {
        state.pools[pool.id] = pool
        dirty.insert(.pool(pool.id))
        for chunk in 0..<(pool.combCount + Geometry.combsPerChunk - 1) / Geometry.combsPerChunk {
            dirty.insert(.combs(pool.id, chunk: chunk))
        }
        for index in 0..<pool.combCount { changedCombs.insert(CombKey(pool: pool.id, index: index)) }
    }

    /// Of a pool all but its combs.
    mutating func putSettings(of pool: StoragePool) {
        state.pools[pool.id] = pool
        dirty.insert(.pool(pool.id))
        changedSettings.insert(pool.id)
    }

    mutating func put(_ faultSet: FaultSet) {
        state.faultSets[faultSet.id] = faultSet
        dirty.insert(.faultSet(faultSet.id))
    }

    mutating func put(_ server: Sds) {
        if state.servers[server.id]?.address != server.address { addressesChanged = true }
        state.servers[server.id] = server
        dirty.insert(.server(server.id))
    }

    mutating func put(_ device: Device) {
        state.devices[device.id] = device
        dirty.insert(.device(device.id))
    }

    mutating func put(_ client: Sdc) {
        state.clients[client.id] = client
        dirty.insert(.client(client.id))
    }

    mutating func put(_ volume: Volume) {
        var volume = volume
        volume.revision = revision
        state.volumes[volume.id] = volume
        dirty.insert(.volume(volume.id))
        changedVolumes.insert(volume.id)
    }

    mutating func remove(_ volume: VolumeID) {
        let tree = state.volumes[volume]?.tree
        removeDataLoss(volume)
        state.volumes[volume] = nil
        dirty.insert(.volume(volume))
        changedVolumes.remove(volume)
        removedVolumes.insert(volume)
        if let tree { prune(tree) }
    }

    mutating func put(_ tree: VolumeTree) {
        state.trees[tree.id] = tree
        dirty.insert(.tree(tree.id))
        changedTrees.insert(tree.id)
    }

    /// Takes away what no volume of the tree can see any more, and the tree itself with its last volume.
    mutating func prune(_ id: TreeID) {
        guard var tree = state.trees[id] else { return }
        let heads = Set(state.volumes(in: id).map(\.head)).union(reservedNodes[id] ?? [])
        guard tree.prune(keeping: heads) else { return }
        guard !tree.nodes.isEmpty else {
            state.trees[id] = nil
            dirty.insert(.tree(id))
            changedTrees.insert(id)
            return
        }
        put(tree)
    }

    mutating func put(_ loss: DataLoss) {
        state.dataLosses[loss.volume] = loss
        dirty.insert(.dataLoss(loss.volume))
    }

    mutating func removeDataLoss(_ volume: VolumeID) {
        guard state.dataLosses[volume] != nil else { return }
        state.dataLosses[volume] = nil
        dirty.insert(.dataLoss(volume))
    }

    mutating func remove(_ domain: ProtectionDomainID) {
        state.domains[domain] = nil
        dirty.insert(.domain(domain))
    }

    mutating func remove(_ faultSet: FaultSetID) {
        state.faultSets[faultSet] = nil
        dirty.insert(.faultSet(faultSet))
    }

    /// Servers and clients may go on knowing the combs: without volumes nothing is asked of them.
    mutating func remove(_ pool: StoragePoolID) {
        for chunk in 0..<((state.pools[pool]?.combCount ?? 0) + Geometry.combsPerChunk - 1) / Geometry.combsPerChunk {
            dirty.insert(.combs(pool, chunk: chunk))
        }
        state.pools[pool] = nil
        dirty.insert(.pool(pool))
    }

    mutating func remove(_ client: SdcID) {
        state.clients[client] = nil
        dirty.insert(.client(client))
    }

    /// A server and its devices; it is remembered as removed.
    mutating func remove(_ id: SdsID) {
        guard let server = state.servers[id] else { return }
        for device in state.devices.values where device.sds == id {
            state.devices[device.id] = nil
            dirty.insert(.device(device.id))
        }
        for device in state.removedDevices.values where device.sds == id { forget(device.id) }
        state.servers[id] = nil
        dirty.insert(.server(id))
        dirty.insert(.removedServer(id))
        state.removedServers[id] = RemovedServer(
            id: id, name: server.name, address: server.address, revision: revision)
        if state.removedServers.count > ManagerDraft.removedMax,
            let oldest = state.removedServers.values.min(by: { $0.revision < $1.revision })
        {
            forget(oldest.id)
        }
    }

    mutating func remove(_ id: DeviceID) {
        guard let device = state.devices[id] else { return }
        state.devices[id] = nil
        dirty.insert(.device(id))
        dirty.insert(.removedDevice(id))
        state.removedDevices[id] = RemovedDevice(id: id, sds: device.sds, path: device.path, revision: revision)
        if state.removedDevices.count > ManagerDraft.removedMax,
            let oldest = state.removedDevices.values.min(by: { $0.revision < $1.revision })
        {
            forget(oldest.id)
        }
    }

    /// It may introduce itself again.
    mutating func forget(_ removed: SdsID) {
        state.removedServers[removed] = nil
        dirty.insert(.removedServer(removed))
    }

    mutating func forget(_ removed: DeviceID) {
        state.removedDevices[removed] = nil
        dirty.insert(.removedDevice(removed))
    }

    /// Gives the comb a new configuration under the next epoch. A copy that leaves by it is remembered as the former one,
    /// until another is complete; not if what it holds is `distrusted`.
    mutating func reconfigure(
        _ key: CombKey, primary: CopyPlace, state newState: Comb.State, distrusting distrusted: Bool = false
    ) {
        let revision = revision
        let known = state.pools.modify(key.pool) { pool -> Bool in
            guard Int(key.index) < pool.combs.count else { return false }
            let before = pool.combs[Int(key.index)]
            var comb = Comb(epoch: before.epoch + 1, primary: primary, state: newState, revision: revision)
            if comb.secondary == nil {
                comb.former = before.former
                if before.secondary != nil, let left = before.inSync.first(where: { $0 != primary }) {
                    comb.former = distrusted ? nil : FormerCopy(place: left, epoch: before.epoch)
                }
            }
            pool.combs[Int(key.index)] = comb
            return true
        }
        precondition(known == true, "a comb that exists")
        dirty.insert(.combs(key.pool, chunk: key.index / Geometry.combsPerChunk))
        changedCombs.insert(key)
    }

    /// Sets what is remembered of a comb that was reconfigured by this batch.
    mutating func remember(_ former: FormerCopy?, of key: CombKey) {
        _ = state.pools.modify(key.pool) { $0.combs[Int(key.index)].former = former }
    }

    /// An id that no object of this kind has.
    func unusedID<ID: BlockStoreID>(
        _ generator: inout some RandomNumberGenerator, _ isUsed: (ID) -> Bool
    ) -> ID {
        while true {
            let id = ID(rawValue: generator.next())
            if id.rawValue != 0, !isUsed(id) { return id }
        }
    }

    // MARK: Copies that come and go

    /// Takes every copy for which `isLost` says so out of its comb, promoting the other copy where there is one. With
    /// `distrusting` nothing that these places hold counts any more.
    mutating func withdraw(distrusting: Bool = false, _ isLost: (CopyPlace) -> Bool) {
        if distrusting { forgetFormer(isLost) }
        for pool in state.pools.values {
            var degraded = 0
            var unavailable = 0
            for (index, comb) in pool.combs.enumerated() {
                let key = CombKey(pool: pool.id, index: UInt32(index))
                switch comb.state {
                case .unplaced, .unavailable: break
                case .normal(let secondary), .moving(let secondary, _), .swapping(let secondary):
                    if isLost(comb.primary) {
                        let usable = state.isUsable(secondary) && !isLost(secondary)
                        reconfigure(
                            key, primary: secondary, state: usable ? .degraded : .unavailable, distrusting: distrusting)
                        if usable { degraded += 1 } else { unavailable += 1 }
                    } else if isLost(secondary) {
                        reconfigure(key, primary: comb.primary, state: .degraded, distrusting: distrusting)
                        degraded += 1
                    } else if let target = comb.target, isLost(target) {
                        reconfigure(key, primary: comb.primary, state: .normal(secondary: secondary))
                    }
                case .degraded:
                    if isLost(comb.primary) {
                        reconfigure(key, primary: comb.primary, state: .unavailable)
                        unavailable += 1
                    }
                case .rebuilding(let target):
                    if isLost(comb.primary) {
                        if rules.contains(.neverPromoteStale) || isLost(target) {
                            reconfigure(key, primary: comb.primary, state: .unavailable)
                            unavailable += 1
                        } else {
                            reconfigure(key, primary: target, state: .degraded)
                        }
                    } else if isLost(target) {
                        reconfigure(key, primary: comb.primary, state: .degraded)
                    }
                }
            }
            if degraded > 0 { notices.append(.combsDegraded(count: degraded, pool: pool.id)) }
            if unavailable > 0 { notices.append(.combsUnavailable(count: unavailable, pool: pool.id)) }
        }
    }

    /// What these places hold of combs they left is not what it was. The epochs stay: nobody who serves needs to know, and a
    /// rebuild that builds on such a copy ends because its target is lost.
    private mutating func forgetFormer(_ isLost: (CopyPlace) -> Bool) {
        for pool in state.pools.values {
            for (index, comb) in pool.combs.enumerated() {
                guard let former = comb.former, isLost(former.place) else { continue }
                _ = state.pools.modify(pool.id) { $0.combs[index].former = nil }
                dirty.insert(.combs(pool.id, chunk: UInt32(index) / Geometry.combsPerChunk))
            }
        }
    }

    /// Combs whose only copy has become usable again are served again, under a new epoch.
    mutating func reinstate() {
        for pool in state.pools.values {
            for (index, comb) in pool.combs.enumerated()
            where comb.state == .unavailable && state.isUsable(comb.primary) {
                reconfigure(CombKey(pool: pool.id, index: UInt32(index)), primary: comb.primary, state: .degraded)
            }
        }
    }
}

extension SystemState {
    var serverAddresses: [ServerAddress] {
        servers.values.map { ServerAddress(sds: $0.id, address: $0.address) }
    }

    /// Everything, as a server (nil) or a client needs it.
    func fullUpdate(for client: SdcID?) -> MapUpdate {
        var update = MapUpdate(revision: revision, isFull: true)
        update.servers = serverAddresses
        update.pools = pools.values.map { pool in
            PoolUpdate(
                pool: pool.id, combCount: pool.combCount, settings: pool.settings,
                sparePercentage: min(pool.sparePercentage, 100),
                entries: pool.combs.enumerated().map { PoolUpdate.Entry(index: UInt32($0.offset), comb: $0.element) })
        }
        update.volumes = volumes.values.compactMap { $0.record(for: client) }
        if client == nil { update.trees = trees.values.map { $0 } }
        return update
    }
}

extension Volume {
    /// What a server (nil) or a client is told; nil if the client may not see it.
    func record(for client: SdcID?) -> VolumeRecord? {
        var shown = mappings
        if let client {
            shown = usableMappings.filter { $0.sdc == client }
            if shown.isEmpty { return nil }
        }
        return VolumeRecord(
            id: id, pool: pool, name: name, sizeUnits: sizeUnits, isThick: provisioning == .thick,
            attachEpoch: attachEpoch, mappings: shown, tree: tree, head: head)
    }
}
