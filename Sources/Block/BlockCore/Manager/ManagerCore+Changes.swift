import Base

extension ManagerCore {
    mutating func perform(
        _ change: Change, in batch: inout Batch, _ now: Instant, _ rng: inout some RandomNumberGenerator
    ) {
        switch change {
        case .command(let ticket, let command, let arrived):
            let before = batch.draft
            do throws(ManagerError) {
                switch try batch.draft.execute(command, &rng) {
                case .reply(let reply): batch.replies.append((ticket, .success(reply)))
                case .whenFenced(let volume): batch.waiters.append((volume, ticket, arrived))
                case .whenCut(let definitions, let createdAt):
                    guard snapshotRequests.count < ManagerCore.snapshotRequestsMax else {
                        throw ManagerError(.overloaded, "too many snapshots are waiting")
                    }
                    batch.snapshots.append(
                        SnapshotRequest(ticket: ticket, definitions: definitions, createdAt: createdAt))
                }
            } catch {
                batch.draft = before
                batch.replies.append((ticket, .failure(error)))
            }
        case .serverHello(let link, let hello): admit(hello, link, &batch, &rng)
        case .clientHello(let link, let hello): admit(hello, link, &batch, &rng)
        case .serverDown(let id, let reason):
            guard var server = batch.draft.state.servers[id], server.status == .up, !isHeard(id, now),
                !batch.admits(id), !mayHoldLease(id, in: state, now), !mayHoldLease(id, in: batch.draft.state, now)
            else { return }
            server.status = .down
            server.downRevision = batch.draft.revision
            batch.draft.put(server)
            batch.draft.withdraw { $0.sds == id }
            absences[id] = now
            batch.draft.notices.append(.serverDown(id, reason: reason))
            noteDecoupling(id, &batch, now)
        case .report(let server, let message): report(message, from: server, &batch, now)
        case .raiseFence(let volume, let epoch): batch.draft.raiseFence(volume, through: epoch)
        case .planRebuilds: break
        case .planMoves: planMoves(in: &batch, now)
        case .switchHeads(let id): switchHeads(cut: id, in: &batch)
        case .showSnapshots(let id): showSnapshots(cut: id, in: &batch, &rng)
        case .removeMerged(let tree): removeMerged(tree, in: &batch)
        case .pruneTrees: for tree in batch.draft.state.trees.keys { batch.draft.prune(tree) }
        }
    }

    /// A verdict may have waited for a commit while the server spoke again.
    private func isHeard(_ id: SdsID, _ now: Instant) -> Bool {
        guard let presence = presence[id], presence.link != nil else { return false }
        return now - presence.lastHeard < configuration.serverTimeout
    }

    private mutating func admit(
        _ hello: ServerHello, _ link: LinkID, _ batch: inout Batch, _ rng: inout some RandomNumberGenerator
    ) {
        let before = batch.draft
        do throws(ManagerError) {
            let server = try admit(hello, &batch.draft, &rng)
            let message = MessageFromManager.welcomeServer(
                system: state.system.id, sds: server.id, generation: server.generation)
            batch.welcomes.append((link, .server(server.id), .success(message)))
            absences[server.id] = nil
        } catch {
            batch.draft = before
            batch.welcomes.append((link, .introducing, .failure(error)))
        }
    }

    private func admit(
        _ hello: ServerHello, _ draft: inout ManagerDraft, _ rng: inout some RandomNumberGenerator
    ) throws(ManagerError) -> Sds {
        if let system = hello.system, system != state.system.id {
            throw ManagerError(.identityConflict, "the devices belong to system \(system)")
        }
        guard hello.sds.rawValue != 0, hello.incarnation != 0, !hello.address.isEmpty, hello.name.utf8.count <= 255,
            hello.hostBoot.utf8.count <= 64
        else {
            throw ManagerError(
                .invalidArgument, "an introduction has an id, an incarnation, an address and a name of up to 255 bytes")
        }
        guard draft.state.removedServers[hello.sds] == nil else {
            throw ManagerError(.sdsRemoved, "SDS \(hello.sds) was removed from the system; add it again to use it")
        }
        let domain = try domain(named: hello.domainName, &draft, &rng)
        var server: Sds
        var isRestarted = true
        if let known = draft.state.servers[hello.sds] {
            guard known.domain == domain else {
                throw ManagerError(.identityConflict, "SDS \(hello.sds) belongs to another protection domain")
            }
            server = known
            isRestarted = known.incarnation != hello.incarnation
        } else {
            let taken = draft.state.server(named: hello.name) != nil
            let name = taken ? hello.name + "-" + hello.sds.description.suffix(4) : hello.name
            server = Sds(
                id: hello.sds, domain: domain, name: name, address: hello.address, status: .up, incarnation: 0,
                generation: UInt32(truncatingIfNeeded: draft.revision), downRevision: 0)
            if !hello.faultSetName.isEmpty {
                server.faultSet = try faultSet(named: hello.faultSetName, in: domain, &draft, &rng)
            }
            draft.notices.append(.serverRegistered(server.id))
        }
        let wasUp = server.status == .up
        if isRestarted { server.generation += 1 }
        server.status = .up
        server.incarnation = hello.incarnation
        if !server.hostBoot.isEmpty, server.hostBoot != hello.hostBoot {
            draft.notices.append(.hostRebooted(server.id))
        }
        server.hostBoot = hello.hostBoot
        server.address = hello.address
        if server != draft.state.servers[server.id] { draft.put(server) }
        if isRestarted, wasUp, draft.rules.contains(.restartedCopyIsSuspect) {
            draft.withdraw { $0.sds == server.id }
        }
        try admitDevices(hello, of: server, isRestarted: isRestarted, &draft, &rng)
        draft.reinstate()
        if !wasUp { draft.notices.append(.serverUp(server.id)) }
        return server
    }

    private func admitDevices(
        _ hello: ServerHello, of server: Sds, isRestarted: Bool, _ draft: inout ManagerDraft,
        _ rng: inout some RandomNumberGenerator
    ) throws(ManagerError) {
        for offer in hello.devices where draft.state.removedDevices[offer.id] == nil {
            var pool = draft.state.pool(named: offer.poolName, in: server.domain)?.id
            if pool == nil, configuration.createsNamedPools {
                pool = try draft.createPool(server.domain, offer.poolName, configuration.combCount, &rng)
            }
            guard let pool else { throw ManagerError(.poolNotFound, "no storage pool named \(offer.poolName)") }
            var device = Device(
                id: offer.id, sds: server.id, pool: pool, path: offer.path, capacityUnits: offer.capacityUnits,
                status: .normal, mountCounter: offer.mountCounter)
            if let known = draft.state.devices[offer.id] {
                device.name = known.name
                device.isLeaving = known.isLeaving
                guard known.sds == server.id, known.pool == pool else {
                    throw ManagerError(.identityConflict, "device \(offer.id) belongs elsewhere")
                }
                // Every start counts. A lower number, or the same one after a start, means that somebody put an old image
                // back: whatever it holds is not what was acknowledged, and no number of starts makes it so.
                if offer.mountCounter < known.mountCounter || isRestarted && offer.mountCounter == known.mountCounter {
                    device.status = .failed
                    device.mountCounter = .max
                }
            }
            if device != draft.state.devices[offer.id] { draft.put(device) }
        }
        for device in draft.state.devices.values where device.sds == server.id && device.status == .normal {
            if hello.devices.contains(where: { $0.id == device.id }) { continue }
            var missing = device
            missing.status = .failed
            draft.put(missing)
            draft.notices.append(.deviceFailed(device.id))
        }
        let state = draft.state
        draft.withdraw(distrusting: true) { $0.sds == server.id && !state.isUsable($0) }
    }

    private func faultSet(
        named name: String, in domain: ProtectionDomainID, _ draft: inout ManagerDraft,
        _ rng: inout some RandomNumberGenerator
    ) throws(ManagerError) -> FaultSetID {
        if let faultSet = draft.state.faultSet(named: name, in: domain) { return faultSet.id }
        guard configuration.createsNamedPools else {
            throw ManagerError(.faultSetNotFound, "no fault set named \(name)")
        }
        return try draft.createFaultSet(domain, name, &rng)
    }

    private func domain(
        named name: String, _ draft: inout ManagerDraft, _ rng: inout some RandomNumberGenerator
    ) throws(ManagerError) -> ProtectionDomainID {
        if let domain = draft.state.domain(named: name) { return domain.id }
        guard configuration.createsNamedPools else {
            throw ManagerError(.domainNotFound, "no protection domain named \(name)")
        }
        return try draft.createDomain(name, &rng)
    }

    private mutating func admit(
        _ hello: ClientHello, _ link: LinkID, _ batch: inout Batch, _ rng: inout some RandomNumberGenerator
    ) {
        guard !hello.guid.isEmpty, hello.guid.utf8.count <= 64, hello.incarnation != 0 else {
            let error = ManagerError(.invalidArgument, "an introduction names a GUID and an incarnation")
            batch.welcomes.append((link, .introducing, .failure(error)))
            return
        }
        var client =
            batch.draft.state.client(guid: hello.guid)
            ?? Sdc(
                id: batch.draft.unusedID(&rng) { batch.draft.state.clients[$0] != nil }, guid: hello.guid,
                name: hello.name, ip: hello.ip, generation: 0, incarnation: 0)
        if batch.draft.state.clients[client.id] == nil { batch.draft.notices.append(.clientRegistered(client.id)) }
        if client.incarnation != hello.incarnation { client.generation += 1 }
        client.incarnation = hello.incarnation
        client.ip = hello.ip
        if client.name.isEmpty { client.name = hello.name }
        if client != batch.draft.state.clients[client.id] { batch.draft.put(client) }
        let message = MessageFromManager.welcomeClient(
            system: state.system.id, sdc: client.id, generation: client.generation)
        batch.welcomes.append((link, .client(client.id), .success(message)))
    }

    /// A server's report is true only of the configuration it names.
    private mutating func report(
        _ message: MessageToManager, from server: SdsID, _ batch: inout Batch, _ now: Instant
    ) {
        switch message {
        case .removeSecondary(let key, let epoch, let place), .rebuildFailed(let key, let epoch, let place):
            guard let comb = comb(key, epoch, reportedBy: server, batch.draft.state),
                comb.secondary == place || comb.target == place
            else { return }
            // A place that was being filled while both copies were there leaves them as they are.
            let remaining = comb.target == place ? comb.secondary : nil
            batch.draft.reconfigure(
                key, primary: comb.primary, state: remaining.map { .normal(secondary: $0) } ?? .degraded)
            holdBack(key, from: place.sds, for: .seconds(1), now)
        case .rebuildDone(let key, let epoch, let place):
            guard let comb = comb(key, epoch, reportedBy: server, batch.draft.state), comb.target == place,
                batch.draft.state.isUsable(place)
            else { return }
            batch.draft.reconfigure(key, primary: comb.primary, state: .normal(secondary: place))
            holdBacks[key] = nil
            if comb.secondary == nil,
                batch.draft.state.pools[key.pool]?.combs.allSatisfy({ $0.secondary != nil }) == true
            {
                batch.draft.notices.append(.rebuildFinished(key.pool))
            }
        case .drained(let key, let epoch):
            guard let comb = comb(key, epoch, reportedBy: server, batch.draft.state),
                case .swapping(let secondary) = comb.state, batch.draft.state.isUsable(secondary)
            else { return }
            batch.draft.reconfigure(key, primary: secondary, state: .normal(secondary: comb.primary))
        case .copyUnreadable(let key, let epoch, let place):
            guard let comb = comb(key, epoch, reportedBy: server, batch.draft.state), comb.primary == place,
                let secondary = comb.secondary, batch.draft.state.isUsable(secondary)
            else { return }
            batch.draft.reconfigure(key, primary: secondary, state: .degraded, distrusting: true)
            holdBack(key, from: place.sds, for: .seconds(1), now)
        case .deviceFailed(let id):
            guard var device = batch.draft.state.devices[id], device.sds == server, device.status == .normal else {
                return
            }
            device.status = .failed
            batch.draft.put(device)
            batch.draft.withdraw(distrusting: true) { $0.device == id }
            batch.draft.notices.append(.deviceFailed(id))
        case .serverHello, .clientHello, .keepAlive, .acknowledge, .requestMap, .cut, .nodeEmpty, .leaseRequest:
            preconditionFailure("not a report")
        }
    }

    private func comb(
        _ key: CombKey, _ epoch: UInt64, reportedBy server: SdsID, _ state: SystemState
    ) -> Comb? {
        guard let pool = state.pools[key.pool], Int(key.index) < pool.combs.count else { return nil }
        let comb = pool.combs[Int(key.index)]
        return comb.epoch == epoch && comb.primary.sds == server ? comb : nil
    }

    mutating func planRebuilds(in batch: inout Batch, _ now: Instant) {
        let (presence, absences) = (presence, absences)
        let (state, grace) = (batch.draft.state, configuration.absenceGrace)
        batch.draft.planRebuilds(
            limits: (rebuilds: configuration.rebuildsPerDevice, resyncs: configuration.resyncsPerDevice),
            isEligible: { presence[$0.sds]?.link != nil },
            isAwaited: { former in
                guard state.devices[former.place.device]?.status == .normal else { return false }
                if state.servers[former.place.sds]?.maintenance == .instant { return true }
                let isHere = state.isUsable(former.place) && presence[former.place.sds]?.link != nil
                if isHere { return false }
                return absences[former.place.sds].map { now - $0 < grace } ?? true
            }, isHeldBack: heldBack(now))
    }

    private mutating func noteDecoupling(_ id: SdsID, _ batch: inout Batch, _ now: Instant) {
        let known = oscillations[id].flatMap { now - $0.last < configuration.oscillationWindow ? $0.count : nil } ?? 0
        oscillations[id] = (known + 1, now)
        guard known + 1 >= configuration.oscillationThreshold else { return }
        state.oscillating[id] = known + 1
        batch.draft.notices.append(.serverOscillates(id, count: known + 1))
    }

    /// Servers that have been steady for long are trusted again.
    private mutating func forgetOscillations(_ now: Instant) {
        for id in oscillations.keys.sorted() {
            guard let known = oscillations[id], now - known.last >= configuration.oscillationWindow else { continue }
            oscillations[id] = nil
            state.oscillating[id] = nil
        }
    }

    private func heldBack(_ now: Instant) -> (CombKey, CopyPlace?) -> Bool {
        { [holdBacks, oscillations, configuration] key, place in
            if let place, let known = oscillations[place.sds],
                now - known.last < configuration.oscillationPause(after: known.count)
            {
                return true
            }
            guard let held = holdBacks[key] else { return false }
            guard let place else { return now < held.until }
            return held.avoided[place.sds].map { now < $0 } ?? false
        }
    }

    /// The comb gets no new copy for `pause`, and for 5 s none on this server: others that may do better have their turn first.
    private mutating func holdBack(_ key: CombKey, from server: SdsID, for pause: Duration, _ now: Instant) {
        var avoided = holdBacks[key]?.avoided.filter { now < $0.value } ?? [:]
        avoided[server] = now + .seconds(5)
        holdBacks[key] = HoldBack(until: now + pause, avoided: avoided)
    }

    private mutating func planMoves(in batch: inout Batch, _ now: Instant) {
        forgetOscillations(now)
        giveUpSwaps(in: &batch, now)
        let presence = presence
        batch.draft.planMoves(
            ManagerDraft.MoveLimits(
                movesPerDevice: configuration.movesPerDevice, swapsPerPool: configuration.swapsPerPool,
                rebalances: now - disturbedAt >= configuration.rebalanceDelay),
            isEligible: { presence[$0.sds]?.link != nil }, isHeldBack: heldBack(now))
    }

    /// A primary that cannot finish its writes goes on as it is, under a new epoch.
    private mutating func giveUpSwaps(in batch: inout Batch, _ now: Instant) {
        var known: [CombKey: (epoch: UInt64, since: Instant)] = [:]
        for pool in batch.draft.state.pools.values {
            for (index, comb) in pool.combs.enumerated() {
                guard case .swapping(let secondary) = comb.state else { continue }
                let key = CombKey(pool: pool.id, index: UInt32(index))
                let since = swaps[key].flatMap { $0.epoch == comb.epoch ? $0.since : nil } ?? now
                if now - since >= configuration.swapTimeout {
                    batch.draft.reconfigure(key, primary: comb.primary, state: .normal(secondary: secondary))
                    holdBack(key, from: secondary.sds, for: .seconds(5), now)
                } else {
                    known[key] = (comb.epoch, since)
                }
            }
        }
        swaps = known
    }

    /// Whether nothing would be moved now if nothing were limited: for those who wait for an end.
    public var isSettled: Bool {
        var draft = ManagerDraft(state, rules: configuration.rules)
        draft.planMoves(
            ManagerDraft.MoveLimits(movesPerDevice: 1, swapsPerPool: 1, rebalances: true), isEligible: { _ in true },
            isHeldBack: { _, _ in false })
        return draft.isEmpty
    }

    // MARK: Fencing

    mutating func awaitFence(_ volume: Volume, _ now: Instant) {
        let combs = state.pools[volume.pool]?.combs ?? []
        fences[volume.id, default: Fence(startedAt: now, since: 0, epoch: 0, pending: [])].since = volume.revision
        fences[volume.id]?.epoch = volume.attachEpoch
        fences[volume.id]?.isRaising = false
        fences[volume.id]?.pending = combs.indices.filter { combs[$0].isPlaced }.map { UInt32($0) }
    }

    /// Crosses off the combs that are proven now; asks for the commit that ends a fence when none is left.
    mutating func evaluateFences() {
        for id in fences.keys.sorted() {
            guard var fence = fences[id], !fence.isRaising, let volume = state.volumes[id],
                let pool = state.pools[volume.pool]
            else { continue }
            let sharingKnown = sharingKnown(volume, fence)
            fence.pending.removeAll { index in
                let comb = pool.combs[Int(index)]
                let needed = max(fence.since, comb.revision)
                guard sharingKnown >= needed else { return false }
                return comb.inSync.allSatisfy { place in
                    presence[place.sds].map { $0.link != nil && $0.acknowledged >= needed } ?? false
                }
            }
            if fence.pending.isEmpty, volume.attachEpoch == fence.epoch {
                fence.isRaising = true
                queue.append(.raiseFence(id, epoch: fence.epoch))
            }
            fences[id] = fence
        }
    }

    /// The committed volume needs no proof any more: whoever waited for it is answered.
    mutating func satisfyFence(_ volume: Volume, _ now: Instant, _ actions: inout [ManagerAction]) {
        guard let fence = fences.removeValue(forKey: volume.id) else { return }
        for waiter in fence.waiters {
            let proof = proof(volume, since: fence.since, arrived: waiter.arrived, now)
            actions.append(.reply(waiter.ticket, .success(.fenced(proof))))
        }
        actions.append(.notice(.fenced(proof(volume, since: fence.since, arrived: fence.startedAt, now))))
    }

    mutating func attend(
        _ volume: VolumeID, _ ticket: Ticket, _ arrived: Instant, _ now: Instant, _ actions: inout [ManagerAction]
    ) {
        if fences[volume] != nil {
            fences[volume]?.waiters.append((ticket, arrived))
        } else if let volume = state.volumes[volume] {
            let proof = FencingProof(
                volume: volume.id, attachEpoch: volume.attachEpoch, entries: [], elapsed: now - arrived)
            actions.append(.reply(ticket, .success(.fenced(proof))))
        } else {
            actions.append(
                .reply(ticket, .failure(ManagerError(.volumeNotFound, "volume \(volume) was removed"))))
        }
    }

    private func proof(_ volume: Volume, since: UInt64, arrived: Instant, _ now: Instant) -> FencingProof {
        var holders: Set<SdsID> = []
        for comb in state.pools[volume.pool]?.combs ?? [] { holders.formUnion(comb.inSync.map(\.sds)) }
        let domain = state.pools[volume.pool]?.domain
        let entries = state.servers.values.filter { $0.domain == domain }.map { server in
            if let acknowledged = presence[server.id]?.acknowledged, server.status == .up, acknowledged >= since {
                return FencingProof.Entry(sds: server.id, evidence: .acknowledged(revision: acknowledged))
            }
            if !holders.contains(server.id), server.downRevision > 0 {
                return FencingProof.Entry(sds: server.id, evidence: .removed(revision: server.downRevision))
            }
            return FencingProof.Entry(sds: server.id, evidence: .holdsNothing)
        }
        return FencingProof(
            volume: volume.id, attachEpoch: volume.attachEpoch, entries: entries, elapsed: now - arrived)
    }

    mutating func expireWaiters(_ now: Instant, _ actions: inout [ManagerAction]) {
        for id in fences.keys.sorted() {
            guard let fence = fences[id] else { continue }
            let expired = fence.waiters.filter { now - $0.arrived >= configuration.fencingDeadline }
            if expired.isEmpty { continue }
            fences[id]?.waiters.removeAll { now - $0.arrived >= configuration.fencingDeadline }
            let combs = state.volumes[id].flatMap { state.pools[$0.pool]?.combs } ?? []
            var missing: Set<SdsID> = []
            for index in fence.pending {
                for place in combs[Int(index)].inSync {
                    let needed = max(fence.since, combs[Int(index)].revision)
                    if presence[place.sds]?.acknowledged ?? 0 < needed { missing.insert(place.sds) }
                }
            }
            var names = missing.sorted().map { state.servers[$0]?.name ?? $0.description }
            if missing.isEmpty { names = state.volumes[id].map { unconfirmedClients(of: $0, fence) } ?? [] }
            let text = names.joined(separator: ", ")
            let error = ManagerError(
                .fencingUnproven, "the older rights may still be served by \(text); the mapping waits for its proof")
            for waiter in expired { actions.append(.reply(waiter.ticket, .failure(error))) }
        }
    }
}
