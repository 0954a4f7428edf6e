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

    /// Starts rebuilds of degraded combs, within limits of how many at once go to or from any device. A copy that left and
    /// is back is preferred: it needs only what changed. `isEligible` says whether a place is connected; `isAwaited` whether
    /// a former copy is likely back soon; `isHeldBack` whether this comb (on this target) should wait after a failure.
    mutating func planRebuilds(
        limits: (rebuilds: Int, resyncs: Int), isEligible: (CopyPlace) -> Bool, isAwaited: (FormerCopy) -> Bool,
        isHeldBack: (CombKey, CopyPlace?) -> Bool
    ) {
        for pool in state.pools.values {
            guard pool.combs.contains(where: { $0.state == .degraded }) else { continue }
            var load = RebuildLoad(pool.combs)
            let places = state.devices(in: pool.id).map { CopyPlace(sds: $0.sds, device: $0.id) }
                .filter { state.isUsable($0) && isEligible($0) }
            for (index, comb) in pool.combs.enumerated() where comb.state == .degraded {
                let key = CombKey(pool: pool.id, index: UInt32(index))
                guard isEligible(comb.primary), !isHeldBack(key, nil) else { continue }
                let candidates = places.filter { $0.sds != comb.primary.sds && !isHeldBack(key, $0) }
                if let former = comb.former, candidates.contains(former.place) {
                    guard load.take(comb.primary, former.place, isResync: true, limit: limits.resyncs) else { continue }
                    reconfigure(key, primary: comb.primary, state: .rebuilding(target: former.place))
                    continue
                }
                if let former = comb.former, isAwaited(former) { continue }
                let target = candidates.filter { load.active($0.device, isResync: false) < limits.rebuilds }.min {
                    (load.copies[$0.device, default: 0], $0.device) < (load.copies[$1.device, default: 0], $1.device)
                }
                guard let target,
                    load.take(comb.primary, target, isResync: false, limit: limits.rebuilds)
                else { continue }
                reconfigure(key, primary: comb.primary, state: .rebuilding(target: target))
            }
        }
    }
}

/// What the devices of a pool have to do with its combs.
private struct RebuildLoad {
    /// Copies on each device, those being filled included.
    var copies: [DeviceID: Int] = [:]
    private var rebuilds: [DeviceID: Int] = [:]
    private var resyncs: [DeviceID: Int] = [:]

    init(_ combs: [Comb]) {
        for comb in combs where comb.isPlaced {
            for place in comb.inSync { copies[place.device, default: 0] += 1 }
            guard let target = comb.target else { continue }
            add(comb.primary, target, isResync: comb.targetEpoch != nil)
        }
    }

    func active(_ device: DeviceID, isResync: Bool) -> Int {
        (isResync ? resyncs : rebuilds)[device, default: 0]
    }

    /// Counts one more from `source` to `target` if neither has too many.
    mutating func take(_ source: CopyPlace, _ target: CopyPlace, isResync: Bool, limit: Int) -> Bool {
        guard active(source.device, isResync: isResync) < limit, active(target.device, isResync: isResync) < limit
        else {
            return false
        }
        add(source, target, isResync: isResync)
        return true
    }

    private mutating func add(_ source: CopyPlace, _ target: CopyPlace, isResync: Bool) {
        copies[target.device, default: 0] += 1
        for device in [source.device, target.device] {
            if isResync { resyncs[device, default: 0] += 1 } else { rebuilds[device, default: 0] += 1 }
        }
    }
}
