import Base

extension ServerCore {
    /// A comb that this server copies, as its primary, to a new second place.
    struct Rebuild {
        enum Phase { case beginning, listing, copying, finishing, aborted }

        var epoch: UInt64
        var target: CopyPlace
        /// The target was in sync at this comb epoch and needs what changed since; nil: it begins with nothing.
        var since: UInt64?
        var phase = Phase.beginning
        /// Families to be copied yet: writes to them need not go to the target. Every other family's do.
        var remaining: Set<FamilyKey> = []
        /// The same, last one first.
        var order: [FamilyKey] = []
        /// Families that are being copied.
        var copiesActive = 0
        /// What a target that keeps its units has, and whether it calls them hot.
        var listed: [UnitKey: Bool] = [:]
        var listedEntries: UInt64 = 0
        var isAsking = false
        var nextTry: Instant
        var progressAt: Instant

        init(epoch: UInt64, target: CopyPlace, since: UInt64?, now: Instant) {
            self.epoch = epoch
            self.target = target
            self.since = since
            nextTry = now
            progressAt = now
        }
    }

    /// Units being forgotten.
    struct Drop {
        /// As a target: what to answer when it is stable.
        var answer: (key: CombKey, epoch: UInt64, link: LinkID, header: DataHeader)?
    }

    mutating func combChanged(_ key: CombKey, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let comb = map.comb(key) else { return }
        removalAsked[key] = nil
        if readyTargets[key] != comb.epoch { readyTargets[key] = nil }
        if let rebuild = rebuilds[key], rebuild.epoch != comb.epoch {
            rebuilds[key] = nil
            endCopies(of: key, now, &actions)
        }
        abandonExaminations(of: key, now, &actions)
        reviseResignation(key, comb)
        reviseHandover(key, comb, now, &actions)
        if comb.primary.sds == sds, let target = comb.target, rebuilds[key] == nil {
            rebuilds[key] = Rebuild(epoch: comb.epoch, target: target, since: comb.targetEpoch, now: now)
            askToBegin(key, now, &actions)
        }
    }

    /// Those that read end as soon as the device has answered.
    private mutating func endCopies(of key: CombKey, _ now: Instant, _ actions: inout [ServerAction]) {
        for id in operations.keys.sorted() where operations[id]?.kind == .copyUnit && operations[id]?.comb == key {
            guard let operation = operations[id], operation.failure == nil else { continue }
            rebuilds[key]?.copiesActive -= 1
            operations[id]?.failure = .staleComb
            for slot in Forwards.slots { forgetForward(id, slot) }
            if !operation.isLocalPending { remove(id, now, &actions) }
        }
    }

    // MARK: Source

    private mutating func askToBegin(_ key: CombKey, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let rebuild = rebuilds[key], rebuild.phase == .beginning, !rebuild.isAsking, now >= rebuild.nextTry
        else { return }
        var header = DataHeader(opcode: .beginCopy)
        header.volume = key.pool.rawValue
        header.unit = key.index
        header.combEpoch = rebuild.epoch
        header.attachEpoch = rebuild.since ?? 0
        let channel = PeerChannel(rebuild.target.sds, .copying)
        if ask(channel, .begin(key, epoch: rebuild.epoch), header, nil, now, &actions) != nil {
            rebuilds[key]?.isAsking = true
        }
    }

    mutating func beginAnswered(
        _ key: CombKey, _ epoch: UInt64, _ status: DataStatus, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        guard let rebuild = rebuilds[key], rebuild.epoch == epoch, rebuild.phase == .beginning else { return }
        rebuilds[key]?.isAsking = false
        guard status == .ok else {
            rebuilds[key]?.nextTry = now + .milliseconds(20)
            return
        }
        rebuilds[key]?.progressAt = now
        if rebuild.since == nil {
            startCopying(key, now, &actions)
        } else {
            rebuilds[key]?.phase = .listing
            askForList(key, now, &actions)
        }
    }

    mutating func copyNext(_ key: CombKey, _ store: Int, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let rebuild = rebuilds[key], rebuild.phase == .copying else { return }
        rebuilds[key]?.progressAt = now
        guard rebuild.order.isEmpty, rebuild.copiesActive == 0 else { return startCopies(store, now, &actions) }
        rebuilds[key]?.phase = .finishing
        rebuilds[key]?.nextTry = now
        tellDone(key, now, &actions)
    }

    private mutating func tellDone(_ key: CombKey, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let rebuild = rebuilds[key], isManagerConnected else { return }
        actions.append(.sendManager(.rebuildDone(key, epoch: rebuild.epoch, target: rebuild.target)))
        rebuilds[key]?.nextTry = now + .milliseconds(500)
    }

    /// The family is locked: from here on every write to it goes to the target too.
    mutating func startCopy(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let operation = operations[id], rebuilds[operation.comb]?.phase == .copying else {
            return remove(id, now, &actions)
        }
        let family = operation.unit.family
        rebuilds[operation.comb]?.remaining.remove(family)
        let store = stores[operation.store]
        var present: [(unit: UnitKey, isHere: Bool, isListed: Bool)] = []
        for node in map.nodes(of: family.tree) {
            let unit = UnitKey(tree: family.tree, node: node, index: family.index)
            let isListed = rebuilds[operation.comb]?.listed.removeValue(forKey: unit) != nil
            let isHere = store.location(of: unit) != nil
            if isHere || isListed { present.append((unit, isHere, isListed)) }
        }
        // Where other units show through a block without data, zeros in its place would hide them.
        let kind = copyKind(operation.comb)
        let pieceBlocks = throttles[operation.store].pieceBlocks(kind, policy(operation.comb, kind), now)
        let isAlone = present.count == 1 || !rules.contains(.copiedHolesShowAncestors)
        operations[id]?.steps = present.flatMap { unit, isHere, isListed -> [CopyStep] in
            let blocks = store.map(of: unit)
            let data = blocks.runs().flatMap { $0.pieces(of: pieceBlocks) }.map { CopyStep.data($0, node: unit.node) }
            guard isListed else { return data }
            guard isAlone, isHere else { return [.drop(node: unit.node)] + data }
            return blocks.holes(in: .wholeUnit).map { .zeros($0, node: unit.node) } + data
        }
        copyStep(id, now, &actions)
    }

    mutating func copyStep(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let operation = operations[id] else { return }
        switch operation.steps.first {
        case .data(let run, let node), .damaged(let run, let node):
            let unit = UnitKey(tree: operation.unit.tree, node: node, index: operation.unit.index)
            var requests: UnitStore.Requests = []
            let started = stores[operation.store].read(id, unit, run, &requests)
            issue(&requests, operation.store, &actions)
            switch started {
            case .started:
                operations[id]?.isLocalPending = true
                counters[operation.store].add(
                    operation.turn?.kind == .rebalance ? .rebalanceRead : .rebuildRead, bytes: run.length)
            case .held, .nothingThere, .noSpace, .busy, .stopped: abort(operation.comb, now, &actions)
            }
        case .unreadable(let run, _):
            var requests: UnitStore.Requests = []
            let started = stores[operation.store].readNothing(id, run, &requests)
            issue(&requests, operation.store, &actions)
            guard started == .started else { return abort(operation.comb, now, &actions) }
            operations[id]?.isLocalPending = true
        case .zeros, .drop: sendStep(id, now, &actions)
        case nil:
            remove(id, now, &actions)
            copyNext(operation.comb, operation.store, now, &actions)
        }
    }

    mutating func copyRead(
        _ id: UInt64, _ completion: UnitStore.Completion, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        guard let operation = operations[id] else { return }
        if operation.failure != nil {
            if case .read(let payload, _) = completion.outcome { actions.append(.release(payload)) }
            return remove(id, now, &actions)
        }
        guard case .read(let payload, _) = completion.outcome else { return copyNotRead(id, now, &actions) }
        if case .data(let run, let node) = operation.steps.first, !completion.damaged.isEmpty {
            actions.append(.release(payload))
            let unit = UnitKey(tree: operation.unit.tree, node: node, index: operation.unit.index)
            if !operation.examined.contains(unit) { return awaitExamination(of: unit, id, now, &actions) }
            let parts = CopyStep.parts(of: run, node: node, damaged: completion.damaged)
            operations[id]?.steps.replaceSubrange(0..<1, with: parts)
            return copyStep(id, now, &actions)
        }
        operations[id]?.payload = payload
        sendStep(id, now, &actions)
    }

    /// One bad place of a disk must not keep all else from its second copy. Another copy in sync mends it first; where there
    /// is none, what can be read goes on, and the rest as lost. What fails may be the disk as a whole, or for a moment: the copy
    /// is begun again until a block has failed in several attempts, and few blocks are given up so.
    private mutating func copyNotRead(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let operation = operations[id], let step = operation.steps.first,
            stores[operation.store].stopReason == nil
        else {
            if let key = operations[id]?.comb { abort(key, now, &actions) }
            return
        }
        let unit = UnitKey(tree: operation.unit.tree, node: step.node, index: operation.unit.index)
        if map.comb(operation.comb)?.secondary != nil, !operation.examined.contains(unit) {
            return awaitExamination(of: unit, id, now, &actions)
        }
        let parts = step.afterFailedRead
        guard !parts.isEmpty else { return abort(operation.comb, now, &actions) }
        if case .unreadable(let run, _) = parts[0] {
            guard badBlocks.isLost(unit, run.start, now) else { return abort(operation.comb, now, &actions) }
            actions.append(.notice(.damaged(stores[operation.store].device, unit, BlockMap(run))))
        }
        operations[id]?.steps.replaceSubrange(0..<1, with: parts)
        copyStep(id, now, &actions)
    }

    private mutating func sendStep(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let operation = operations[id], let rebuild = rebuilds[operation.comb] else { return }
        operations[id]?.forwards.add(rebuild.target, now, .due(now))
        for slot in Forwards.slots { forward(id, slot, now, &actions) }
    }

    mutating func stepDone(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let operation = operations[id] else { return }
        if let payload = operation.payload { actions.append(.release(payload)) }
        operations[id]?.payload = nil
        operations[id]?.examined = []
        operations[id]?.steps.removeFirst()
        rebuilds[operation.comb]?.progressAt = now
        copyStep(id, now, &actions)
    }

    /// Leaves a target that does not count as a copy yet.
    mutating func abort(_ key: CombKey, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let rebuild = rebuilds[key], rebuild.phase != .finishing, rebuild.phase != .aborted else { return }
        rebuilds[key]?.phase = .aborted
        rebuilds[key]?.nextTry = now
        endCopies(of: key, now, &actions)
        for id in operations.keys.sorted() {
            guard let operation = operations[id], operation.comb == key,
                let slot = operation.forwards.slot(of: rebuild.target)
            else { continue }
            forgetForward(id, slot)
            endIfDone(id, now, &actions)
        }
        tellFailed(key, now, &actions)
    }

    private mutating func tellFailed(_ key: CombKey, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let rebuild = rebuilds[key], isManagerConnected else { return }
        actions.append(.sendManager(.rebuildFailed(key, epoch: rebuild.epoch, target: rebuild.target)))
        rebuilds[key]?.nextTry = now + .milliseconds(500)
    }

    mutating func tickRebuilds(_ now: Instant, _ actions: inout [ServerAction]) {
        for key in rebuilds.keys.sorted() {
            guard let rebuild = rebuilds[key] else { continue }
            switch rebuild.phase {
            case .beginning, .listing, .copying:
                // Who waits for its turn is not stuck.
                if rebuild.phase == .copying, rebuild.copiesActive == 0 { rebuilds[key]?.progressAt = now }
                if now - rebuild.progressAt > configuration.replicaTimeout * 3 {
                    abort(key, now, &actions)
                } else {
                    askToBegin(key, now, &actions)
                    askForList(key, now, &actions)
                }
            case .finishing: if now >= rebuild.nextTry { tellDone(key, now, &actions) }
            case .aborted: if now >= rebuild.nextTry { tellFailed(key, now, &actions) }
            }
        }
    }

    // MARK: Target

    /// A primary wants to fill this server with a comb: whatever is here of it is old, and goes first unless only the
    /// changes since a certain epoch are wanted.
    mutating func beginCopy(
        _ header: DataHeader, from sender: SdsID, on link: LinkID, _ actions: inout [ServerAction]
    ) {
        let key = CombKey(pool: StoragePoolID(rawValue: header.volume), index: header.unit)
        func answer(_ status: DataStatus) { actions.append(.send(link, header.reply(status), nil)) }
        guard let comb = map.comb(key), header.combEpoch <= comb.epoch else { return answer(.notReady) }
        guard comb.epoch == header.combEpoch, comb.primary.sds == sender, let target = comb.target,
            target.sds == sds
        else { return answer(.staleComb) }
        if readyTargets[key] == comb.epoch { return answer(.ok) }
        guard let store = storeIndex(target.device), stores[store].stopReason == nil else {
            return answer(.mediaError)
        }
        let isBusy =
            operations.values.contains { $0.comb == key } || drops.values.contains { $0.answer?.key == key }
        if isBusy { return answer(.notReady) }
        if header.attachEpoch != 0 {
            guard comb.targetEpoch == header.attachEpoch else { return answer(.staleComb) }
            readyTargets[key] = comb.epoch
            return answer(.ok)
        }
        let units = units(of: key, in: store)
        let id = nextOperation
        nextOperation += 1
        let drop = Drop(answer: (key, comb.epoch, link, header))
        var requests: UnitStore.Requests = []
        switch stores[store].drop(id, units, &requests) {
        case .started: drops[id] = drop
        case .nothingThere: dropped(drop, .done, &actions)
        case .held, .noSpace, .busy, .stopped: answer(.mediaError)
        }
        issue(&requests, store, &actions)
    }

    mutating func dropped(_ drop: Drop, _ outcome: DiskOutcome, _ actions: inout [ServerAction]) {
        guard let (key, epoch, link, header) = drop.answer else { return }
        guard outcome == .done, map.comb(key)?.epoch == epoch else {
            actions.append(.send(link, header.reply(.notReady), nil))
            return
        }
        readyTargets[key] = epoch
        actions.append(.send(link, header.reply(.ok), nil))
    }

    // MARK: Stale units

    /// Frees units of nodes that are gone, and of combs that have two copies elsewhere.
    mutating func sweep(_ actions: inout [ServerAction]) {
        guard generation != nil, map.revision > 0 else { return }
        needsSweep = false
        for index in stores.indices {
            let device = devices[index]
            var isHeldUp = false
            let stale = stores[index].units { unit in
                if !rules.contains(.treesOutliveTheirFirstVolume),
                    map.volumes[VolumeID(rawValue: unit.tree.rawValue)] == nil
                {
                    return true
                }
                if let key = map.combKey(of: unit), let comb = map.comb(key) {
                    if !comb.isPlaced || comb.places.contains(where: { $0.device == device }) { return false }
                    if comb.secondary == nil {
                        isHeldUp = true
                        return false
                    }
                }
                if queues[unit.family] != nil {
                    isHeldUp = true
                    return false
                }
                return true
            }
            if isHeldUp { needsSweep = true }
            forget(stale, index, &actions)
        }
    }

    /// Forgets units in the background: nobody waits for that.
    mutating func forget(_ units: [UnitKey], _ index: Int, _ actions: inout [ServerAction]) {
        if units.isEmpty { return }
        let id = nextOperation
        nextOperation += 1
        var requests: UnitStore.Requests = []
        if stores[index].drop(id, units, &requests) == .started { drops[id] = Drop() }
        issue(&requests, index, &actions)
    }
}
