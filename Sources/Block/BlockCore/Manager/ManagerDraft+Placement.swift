extension ManagerDraft {
    /// Spreads the pool's combs over the devices that are usable now, as long as the pool holds no volume; afterwards
    /// combs move by rebuilding only. Throws if two copies cannot be kept apart.
    mutating func place(_ pool: StoragePoolID) throws(ManagerError) {
        guard let combs = state.pools[pool]?.combs else { throw ManagerError(.poolNotFound, "no storage pool \(pool)") }
        let devices = state.devices(in: pool).filter {
            state.isUsable(CopyPlace(sds: $0.sds, device: $0.id)) && $0.capacityUnits > 0
        }
        if !state.volumes(in: pool).isEmpty { return }
        guard Set(devices.map(\.sds)).count >= 2 else {
            throw ManagerError(.insufficientServers, "two copies need devices on at least two servers that are up")
        }
        let places = devices.map { CopyPlace(sds: $0.sds, device: $0.id) }
        let used = Set(combs.flatMap { $0.inSync })
        if used == Set(places), combs.allSatisfy({ $0.secondary != nil }) { return }
        var primaries = Array(repeating: 0, count: places.count)
        var copies = primaries
        var pairs = Array(repeating: 0, count: places.count * places.count)
        for index in combs.indices {
            let first = places.indices.min { (primaries[$0], copies[$0]) < (primaries[$1], copies[$1]) }!
            let second = places.indices.filter { places[$0].sds != places[first].sds }.min {
                (pairs[first * places.count + $0], copies[$0]) < (pairs[first * places.count + $1], copies[$1])
            }!
            primaries[first] += 1
            copies[first] += 1
            copies[second] += 1
            pairs[first * places.count + second] += 1
            pairs[second * places.count + first] += 1
            reconfigure(
                CombKey(pool: pool, index: UInt32(index)), primary: places[first],
                state: .normal(secondary: places[second]))
        }
    }

    /// Starts rebuilds of degraded combs, at most `limit` at once to or from any device. `isEligible` says whether a
    /// place is connected; `isHeldBack` whether this comb (on this target) should wait after a failure.
    mutating func planRebuilds(
        limit: Int, isEligible: (CopyPlace) -> Bool, isHeldBack: (CombKey, CopyPlace?) -> Bool
    ) {
        for pool in state.pools.values {
            guard pool.combs.contains(where: { $0.state == .degraded }) else { continue }
            var active: [DeviceID: Int] = [:]
            var load: [DeviceID: Int] = [:]
            for comb in pool.combs where comb.isPlaced {
                for place in comb.inSync + [comb.target].compactMap({ $0 }) { load[place.device, default: 0] += 1 }
                if let target = comb.target {
                    active[target.device, default: 0] += 1
                    active[comb.primary.device, default: 0] += 1
                }
            }
            let places = state.devices(in: pool.id).map { CopyPlace(sds: $0.sds, device: $0.id) }
                .filter { state.isUsable($0) && isEligible($0) }
            for (index, comb) in pool.combs.enumerated() where comb.state == .degraded {
                let key = CombKey(pool: pool.id, index: UInt32(index))
                guard isEligible(comb.primary), active[comb.primary.device, default: 0] < limit, !isHeldBack(key, nil)
                else { continue }
                let target =
                    places.filter {
                        $0.sds != comb.primary.sds && active[$0.device, default: 0] < limit && !isHeldBack(key, $0)
                    }.min {
                        (load[$0.device, default: 0], $0.device) < (load[$1.device, default: 0], $1.device)
                    }
                guard let target else { continue }
                active[target.device, default: 0] += 1
                active[comb.primary.device, default: 0] += 1
                load[target.device, default: 0] += 1
                reconfigure(key, primary: comb.primary, state: .rebuilding(target: target))
            }
        }
    }
}
