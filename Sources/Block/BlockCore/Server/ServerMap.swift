/// What the manager has told: combs, volumes and addresses. Only grows in revision.
struct ClusterMap: Sendable {
    struct Pool {
        var combs: [Comb]
        var settings: PoolSettings
    }

    var revision: UInt64 = 0
    var pools: [StoragePoolID: Pool] = [:]
    var volumes: [VolumeID: VolumeRecord] = [:]
    var addresses: [SdsID: String] = [:]

    struct Changes {
        /// With the configuration before, in order.
        var combs: [(key: CombKey, before: Comb?)] = []
        var volumes: Set<VolumeID> = []
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
            pools[pool.pool] = Pool(combs: combs, settings: pool.settings)
        }
        var mentioned: Set<VolumeID> = []
        for volume in update.volumes {
            mentioned.insert(volume.id)
            if volumes[volume.id] != volume { changes.volumes.insert(volume.id) }
            volumes[volume.id] = volume
        }
        let gone = update.isFull ? volumes.keys.filter { !mentioned.contains($0) } : update.removedVolumes
        for volume in gone where volumes.removeValue(forKey: volume) != nil { changes.volumes.insert(volume) }
        return changes
    }

    func comb(_ key: CombKey) -> Comb? {
        guard let combs = pools[key.pool]?.combs, Int(key.index) < combs.count else { return nil }
        return combs[Int(key.index)]
    }

    /// Where a unit of a known volume belongs.
    func combKey(of unit: UnitKey) -> CombKey? {
        guard let pool = volumes[unit.volume]?.pool, let count = pools[pool]?.combs.count else { return nil }
        return CombKey(pool: pool, index: Geometry.comb(of: unit, combCount: UInt32(count)))
    }
}
