extension ManagerDraft {
    /// What one device has, for choosing among several.
    struct Load {
        var place: CopyPlace
        var unit: SystemState.FaultUnit
        var capacity: UInt64
        /// Units that are free, as the server last told, and how many of them are kept for rebuilding.
        var free: UInt64 = 0
        var spare: UInt64 = 0
        var copies: UInt64 = 0
        var primaries: UInt64 = 0

        /// Copies per capacity, as a number to compare: devices of different sizes fill evenly.
        static func share(_ copies: UInt64, of capacity: UInt64) -> UInt64 { (copies << 32) / max(1, capacity) }
        var share: UInt64 { Load.share(copies, of: capacity) }
        var shareWithAnother: UInt64 { Load.share(copies + 1, of: capacity) }
        var primaryShare: UInt64 { Load.share(primaries, of: capacity) }
    }

    /// The devices of the pool for which `isWanted` says so, in order of their ids, with what they have now.
    func loads(of pool: StoragePoolID, _ isWanted: (CopyPlace) -> Bool) -> [Load] {
        var loads = state.devices(in: pool).map {
            Load(
                place: CopyPlace(sds: $0.sds, device: $0.id), unit: state.faultUnit(of: $0.sds),
                capacity: UInt64($0.capacityUnits), free: UInt64(state.freeUnits($0)),
                spare: UInt64(state.spareUnits($0)))
        }.filter { $0.capacity > 0 && isWanted($0.place) }
        var positions: [DeviceID: Int] = [:]
        for (position, load) in loads.enumerated() { positions[load.place.device] = position }
        for comb in state.pools[pool]?.combs ?? [] where comb.isPlaced {
            for place in comb.places {
                // A copy on its way counts where it goes.
                if case .moving(place, _) = comb.state { continue }
                if let position = positions[place.device] { loads[position].copies += 1 }
            }
            if let position = positions[comb.primary.device] { loads[position].primaries += 1 }
        }
        return loads
    }

    /// Spreads the pool's combs over the devices that are usable now, as long as the pool holds no volume; afterwards
    /// combs move by copying only. Throws if two copies cannot be kept apart.
    mutating func place(_ pool: StoragePoolID) throws(ManagerError) {
        guard let combs = state.pools[pool]?.combs else { throw ManagerError(.poolNotFound, "no storage pool \(pool)") }
        if !state.volumes(in: pool).isEmpty { return }
        var loads = loads(of: pool) { state.isUsable($0) && !state.isAvoided($0) }
        guard Set(loads.map(\.place.sds)).count >= 2 else {
            throw ManagerError(.insufficientServers, "two copies need devices on at least two servers that are up")
        }
        guard Set(loads.map(\.unit)).count >= 2 else {
            throw ManagerError(.insufficientServers, "two copies need devices in at least two fault sets")
        }
        let used = Set(combs.flatMap { $0.inSync })
        if used == Set(loads.map(\.place)), combs.allSatisfy({ $0.secondary != nil }) { return }
        for index in loads.indices { (loads[index].copies, loads[index].primaries) = (0, 0) }
        var pairs = Array(repeating: 0, count: loads.count * loads.count)
        for index in combs.indices {
            let first = loads.indices.min { loads[$0].shareWithAnother < loads[$1].shareWithAnother }!
            let second = loads.indices.filter { loads[$0].unit != loads[first].unit }.min {
                (loads[$0].shareWithAnother, pairs[first * loads.count + $0])
                    < (loads[$1].shareWithAnother, pairs[first * loads.count + $1])
            }!
            pairs[first * loads.count + second] += 1
            pairs[second * loads.count + first] += 1
            loads[first].copies += 1
            loads[second].copies += 1
            let isFirst = loads[first].primaryShare <= loads[second].primaryShare
            let (primary, secondary) = isFirst ? (first, second) : (second, first)
            loads[primary].primaries += 1
            reconfigure(
                CombKey(pool: pool, index: UInt32(index)), primary: loads[primary].place,
                state: .normal(secondary: loads[secondary].place))
        }
    }

    /// Starts rebuilds of degraded combs, within limits of how many at once go to or from any device. A copy that left and
    /// is back is preferred: it needs only what changed. `isEligible` says whether a place is connected; `isAwaited` whether
    /// a former copy is likely back soon; `isHeldBack` whether this comb (on this target) should wait after a failure.
    mutating func planRebuilds(
        limits: (rebuilds: Int, resyncs: Int), isEligible: (CopyPlace) -> Bool, isAwaited: (FormerCopy) -> Bool,
        isHeldBack: (CombKey, CopyPlace?) -> Bool
    ) {
        for pool in state.pools.values where pool.settings.rebuildEnabled {
            guard pool.combs.contains(where: { $0.state == .degraded }) else { continue }
            var active = ActiveCopies(pool.combs)
            var loads = loads(of: pool.id) { state.isUsable($0) && isEligible($0) && !state.isAvoided($0) }
            for (index, comb) in pool.combs.enumerated() where comb.state == .degraded {
                let key = CombKey(pool: pool.id, index: UInt32(index))
                guard isEligible(comb.primary), !isHeldBack(key, nil) else { continue }
                let unit = state.faultUnit(of: comb.primary.sds)
                let candidates = loads.indices.filter { loads[$0].unit != unit && !isHeldBack(key, loads[$0].place) }
                if let former = comb.former, let returned = candidates.first(where: { loads[$0].place == former.place })
                {
                    guard active.take(comb.primary, former.place, isResync: true, limit: limits.resyncs) else {
                        continue
                    }
                    loads[returned].copies += 1
                    reconfigure(key, primary: comb.primary, state: .rebuilding(target: former.place))
                    continue
                }
                if let former = comb.former, isAwaited(former) { continue }
                let target = candidates.filter {
                    loads[$0].free > 0
                        && active.count(loads[$0].place.device, isResync: false) < limits.rebuilds
                }.min { loads[$0].shareWithAnother < loads[$1].shareWithAnother }
                guard let target,
                    active.take(comb.primary, loads[target].place, isResync: false, limit: limits.rebuilds)
                else { continue }
                loads[target].copies += 1
                reconfigure(key, primary: comb.primary, state: .rebuilding(target: loads[target].place))
            }
        }
    }
}

/// How many rebuilds go to or from each device now.
private struct ActiveCopies {
    private var rebuilds: [DeviceID: Int] = [:]
    private var resyncs: [DeviceID: Int] = [:]

    init(_ combs: [Comb]) {
        for comb in combs {
            guard let target = comb.target else { continue }
            add(comb.primary, target, isResync: comb.targetEpoch != nil)
        }
    }

    func count(_ device: DeviceID, isResync: Bool) -> Int {
        (isResync ? resyncs : rebuilds)[device, default: 0]
    }

    /// Counts one more from `source` to `target` if neither has too many.
    mutating func take(_ source: CopyPlace, _ target: CopyPlace, isResync: Bool, limit: Int) -> Bool {
        guard count(source.device, isResync: isResync) < limit, count(target.device, isResync: isResync) < limit else {
            return false
        }
        add(source, target, isResync: isResync)
        return true
    }

    private mutating func add(_ source: CopyPlace, _ target: CopyPlace, isResync: Bool) {
        for device in [source.device, target.device] {
            if isResync { resyncs[device, default: 0] += 1 } else { rebuilds[device, default: 0] += 1 }
        }
    }
}
