/// Moving copies between devices while both copies of every comb stay in sync: away from what is to be removed, and from fuller
/// devices to emptier ones. Never while anything of the pool has one copy only.
extension ManagerDraft {
    struct MoveLimits {
        /// Combs that may move to or from one device at once.
        var movesPerDevice: Int
        /// Combs of one pool whose parts may be exchanged at once.
        var swapsPerPool: Int
        /// Whether anything but evacuation may begin.
        var rebalances: Bool
    }

    /// One pool's moves: what each device has and has under way.
    private struct Plan {
        var loads: [Load]
        var active: [DeviceID: Int] = [:]
        var swaps = 0
        let limits: MoveLimits
        let isHeldBack: (CombKey, CopyPlace?) -> Bool

        func isBusy(_ place: CopyPlace) -> Bool { active[place.device, default: 0] >= limits.movesPerDevice }

        mutating func count(_ source: CopyPlace, _ target: CopyPlace) {
            active[source.device, default: 0] += 1
            active[target.device, default: 0] += 1
        }
    }

    /// Begins moves and exchanges of parts, within the limits. `isEligible` and `isHeldBack` as for rebuilds.
    mutating func planMoves(
        _ limits: MoveLimits, isEligible: (CopyPlace) -> Bool, isHeldBack: @escaping (CombKey, CopyPlace?) -> Bool
    ) {
        for pool in state.pools.values {
            let isWhole = pool.combs.allSatisfy { $0.isPlaced && $0.secondary != nil }
            guard isWhole else { continue }
            var plan = Plan(
                loads: loads(of: pool.id) { state.isUsable($0) && isEligible($0) && !state.isAvoided($0) },
                limits: limits, isHeldBack: isHeldBack)
            for comb in pool.combs {
                switch comb.state {
                case .moving(_, let target): plan.count(comb.primary, target)
                case .swapping: plan.swaps += 1
                case .normal, .unplaced, .degraded, .rebuilding, .unavailable: break
                }
            }
            let isLeft = evacuate(pool, &plan)
            if isLeft, limits.rebalances, pool.settings.rebalanceEnabled { rebalance(pool.id, &plan) }
        }
        removeWhatIsEmpty()
        enterMaintenance()
    }

    /// Moves what lies on devices that are to go; true if nothing does.
    private mutating func evacuate(_ pool: StoragePool, _ plan: inout Plan) -> Bool {
        var isLeft = true
        for (index, comb) in pool.combs.enumerated() {
            guard let secondary = comb.secondary else { continue }
            let mustSwap = state.servers[comb.primary.sds]?.maintenance == .enteringInstant
            guard mustSwap || comb.places.contains(where: { state.isLeaving($0) }) else { continue }
            isLeft = false
            guard case .normal = comb.state else { continue }
            let key = CombKey(pool: pool.id, index: UInt32(index))
            if state.isLeaving(secondary) { move(key, comb, &plan) } else { swap(key, comb, &plan) }
        }
        return isLeft
    }

    /// Begins to move the secondary to the emptiest device that may have it.
    private mutating func move(_ key: CombKey, _ comb: Comb, _ plan: inout Plan) {
        guard !plan.isBusy(comb.primary), !plan.isHeldBack(key, nil) else { return }
        let target = plan.loads.indices.filter {
            !plan.isBusy(plan.loads[$0].place) && mayMove(key, comb, to: plan.loads[$0], plan)
        }.min { plan.loads[$0].shareWithAnother < plan.loads[$1].shareWithAnother }
        if let target { move(key, comb, to: target, &plan) }
    }

    private func mayMove(_ key: CombKey, _ comb: Comb, to load: Load, _ plan: Plan) -> Bool {
        guard let secondary = comb.secondary else { return false }
        // Two devices of one server cannot tell apart what a primary sends to each of them.
        return load.free > 0 && load.unit != state.faultUnit(of: comb.primary.sds) && load.place.sds != secondary.sds
            && !plan.isHeldBack(key, load.place)
    }

    private mutating func move(_ key: CombKey, _ comb: Comb, to target: Int, _ plan: inout Plan) {
        guard let secondary = comb.secondary else { return }
        let place = plan.loads[target].place
        plan.count(comb.primary, place)
        plan.loads[target].copies += 1
        if let source = plan.loads.firstIndex(where: { $0.place == secondary }) { plan.loads[source].copies -= 1 }
        reconfigure(key, primary: comb.primary, state: .moving(secondary: secondary, target: place))
    }

    private mutating func swap(_ key: CombKey, _ comb: Comb, _ plan: inout Plan) {
        guard let secondary = comb.secondary, plan.swaps < plan.limits.swapsPerPool, !plan.isHeldBack(key, nil) else {
            return
        }
        plan.swaps += 1
        if let old = plan.loads.firstIndex(where: { $0.place == comb.primary }) { plan.loads[old].primaries -= 1 }
        if let new = plan.loads.firstIndex(where: { $0.place == secondary }) { plan.loads[new].primaries += 1 }
        reconfigure(key, primary: comb.primary, state: .swapping(secondary: secondary))
    }

    // MARK: Evenness

    /// Every step makes the fullest of two devices less full than before and leaves it fuller than, or as full as, the other:
    /// so the steps end. The margin keeps small differences from moving anything.
    private mutating func rebalance(_ pool: StoragePoolID, _ plan: inout Plan) {
        while let (source, target) = nextStep(pool, plan, share: \.share, more: \.shareWithAnother) {
            guard let combs = state.pools[pool]?.combs else { return }
            let (from, to) = (plan.loads[source], plan.loads[target])
            let candidates = combs.indices.filter { index in
                guard case .normal = combs[index].state else { return false }
                return isMovable(CombKey(pool: pool, index: UInt32(index)), combs[index], from, to, plan)
            }
            // Better one that needs no exchange of parts first.
            let chosen = candidates.first { combs[$0].secondary == from.place } ?? candidates.first
            guard let chosen else { return }
            let (key, comb) = (CombKey(pool: pool, index: UInt32(chosen)), combs[chosen])
            if comb.secondary == from.place {
                guard !plan.isBusy(comb.primary), !plan.isBusy(to.place) else { return }
                move(key, comb, to: target, &plan)
            } else {
                swap(key, comb, &plan)
                return
            }
        }
        guard plan.active.isEmpty else { return }
        evenPrimaries(pool, &plan)
    }

    private func isMovable(_ key: CombKey, _ comb: Comb, _ from: Load, _ to: Load, _ plan: Plan) -> Bool {
        guard let secondary = comb.secondary, !plan.isHeldBack(key, nil) else { return false }
        let staying: CopyPlace
        if secondary == from.place {
            staying = comb.primary
        } else if comb.primary == from.place {
            staying = secondary
        } else {
            return false
        }
        // Evenness is not worth the spare.
        return to.free > to.spare && to.unit != state.faultUnit(of: staying.sds) && to.place.sds != from.place.sds
            && to.place.sds != staying.sds
            && !plan.isHeldBack(key, to.place)
    }

    /// The fullest and the emptiest device between which something may move and should.
    private func nextStep(
        _ pool: StoragePoolID, _ plan: Plan, share: KeyPath<Load, UInt64>, more: KeyPath<Load, UInt64>
    ) -> (source: Int, target: Int)? {
        let total = plan.loads.reduce(0) { $0 + $1.copies }
        let margin = Load.share(total, of: plan.loads.reduce(0) { $0 + $1.capacity }) / 20
        let combs = state.pools[pool]?.combs ?? []
        let fullest = plan.loads.indices.sorted { plan.loads[$0][keyPath: share] > plan.loads[$1][keyPath: share] }
        let emptiest = plan.loads.indices.sorted { plan.loads[$0][keyPath: more] < plan.loads[$1][keyPath: more] }
        for source in fullest {
            for target in emptiest {
                let (from, to) = (plan.loads[source], plan.loads[target])
                guard from[keyPath: share] > to[keyPath: more] + margin else { break }
                let isPossible = combs.enumerated().contains { index, comb in
                    guard case .normal = comb.state else { return false }
                    return isMovable(CombKey(pool: pool, index: UInt32(index)), comb, from, to, plan)
                }
                if isPossible { return (source, target) }
            }
        }
        return nil
    }

    /// Lets devices be primaries in proportion to their size, by exchanging parts.
    private mutating func evenPrimaries(_ pool: StoragePoolID, _ plan: inout Plan) {
        let combs = state.pools[pool]?.combs ?? []
        let margin = Load.share(UInt64(combs.count), of: plan.loads.reduce(0) { $0 + $1.capacity }) / 20
        for (index, comb) in combs.enumerated() {
            guard plan.swaps < plan.limits.swapsPerPool else { return }
            guard case .normal(let secondary) = comb.state,
                let first = plan.loads.first(where: { $0.place == comb.primary }),
                let second = plan.loads.first(where: { $0.place == secondary }),
                first.primaryShare > Load.share(second.primaries + 1, of: second.capacity) + margin
            else { continue }
            swap(CombKey(pool: pool, index: UInt32(index)), comb, &plan)
        }
    }

    // MARK: Removal

    /// Removes servers and devices that are to go and have nothing any more.
    private mutating func removeWhatIsEmpty() {
        guard state.servers.values.contains(where: \.isLeaving) || state.devices.values.contains(where: \.isLeaving)
        else {
            return
        }
        var used: Set<DeviceID> = []
        for pool in state.pools.values {
            for comb in pool.combs where comb.isPlaced { used.formUnion(comb.places.map(\.device)) }
        }
        for server in state.servers.values where server.isLeaving {
            let isUsed = state.devices.values.contains { $0.sds == server.id && used.contains($0.id) }
            if isUsed { continue }
            remove(server.id)
            notices.append(.serverRemoved(server.id))
        }
        for device in state.devices.values where device.isLeaving && !used.contains(device.id) {
            remove(device.id)
            notices.append(.deviceRemoved(device.id))
        }
    }

    /// Lets servers enter maintenance that lead nothing any more, or have nothing any more.
    private mutating func enterMaintenance() {
        for var server in state.servers.values where server.maintenance.isEntering {
            let combs = state.pools.values.flatMap(\.combs).filter(\.isPlaced)
            if server.maintenance == .enteringInstant {
                if combs.contains(where: { $0.primary.sds == server.id }) { continue }
                server.maintenance = .instant
            } else {
                if combs.contains(where: { $0.places.contains { $0.sds == server.id } }) { continue }
                server.maintenance = .protected
            }
            put(server)
            withdraw { $0.sds == server.id }
            notices.append(.maintenanceEntered(server.id))
        }
    }

    /// One server of a domain at a time, and only while everything has two copies.
    mutating func beginMaintenance(_ id: SdsID, protected isProtected: Bool) throws(ManagerError) {
        guard var server = state.servers[id] else { throw ManagerError(.sdsNotFound, "no SDS \(id)") }
        guard server.status == .up, !server.isLeaving, server.maintenance == .none else {
            throw ManagerError(.invalidArgument, "SDS \(id) is down, leaving or in maintenance")
        }
        if let other = state.servers.values.first(where: { $0.domain == server.domain && $0.maintenance != .none }) {
            throw ManagerError(.invalidArgument, "SDS \(other.name) is in maintenance")
        }
        for pool in state.pools.values where pool.domain == server.domain {
            guard pool.combs.allSatisfy({ !$0.isPlaced || $0.secondary != nil }) else {
                throw ManagerError(.invalidArgument, "parts of pool \(pool.name) have one copy only")
            }
        }
        if isProtected { try checkRoom { $0.sds == id } }
        server.maintenance = isProtected ? .enteringProtected : .enteringInstant
        put(server)
    }

    mutating func endMaintenance(_ id: SdsID) throws(ManagerError) {
        guard var server = state.servers[id] else { throw ManagerError(.sdsNotFound, "no SDS \(id)") }
        guard server.maintenance != .none else {
            throw ManagerError(.invalidArgument, "SDS \(id) is not in maintenance")
        }
        server.maintenance = .none
        put(server)
        notices.append(.maintenanceLeft(id))
    }

    /// Whether every copy on places that go fits elsewhere, in two fault units at least.
    func checkRoom(without isGoing: (Device) -> Bool) throws(ManagerError) {
        for pool in state.pools.values {
            let devices = state.devices(in: pool.id)
            let going = devices.filter(isGoing)
            let isUsed = pool.combs.contains { comb in
                comb.isPlaced && comb.places.contains { place in going.contains { $0.id == place.device } }
            }
            guard isUsed else { continue }
            let staying = devices.filter { device in
                let place = CopyPlace(sds: device.sds, device: device.id)
                return !isGoing(device) && state.isUsable(place) && !state.isAvoided(place)
            }
            guard Set(staying.map { state.faultUnit(of: $0.sds) }).count >= 2 else {
                throw ManagerError(.insufficientServers, "the copies of pool \(pool.name) have nowhere else to go")
            }
            let used = devices.reduce(UInt64(0)) { $0 + UInt64(state.usedUnits[$1.id] ?? 0) }
            guard used <= staying.reduce(UInt64(0), { $0 + UInt64($1.capacityUnits) }) else {
                throw ManagerError(.insufficientCapacity, "the other devices of pool \(pool.name) are too small")
            }
        }
    }
}
