import Base

/// Moving what the units of a node hold to those of its only child, so that the node can leave its tree
/// (docs/design/snapshots.md). The primary does it for both copies, one family at a time: reads see the same before, between and
/// after, since a block is dropped only where the child has it.
///
/// Invariants:
/// - Whoever forgets a unit of the node has all of its blocks in the child's unit, on stable media, but for blanks: zeros that
///   hide nothing, or zeros.
/// - The secondary forgets first; what it lacks is sent again.
extension ServerCore {
    struct Merging {
        /// Units of nodes that go, as found when last looked for.
        var backlog: [UnitKey] = []
        var lookedAt: Instant?
        /// Operations under way.
        var active = 0
        /// Families of which the secondary lacked something: everything is sent once more.
        var repeated: Set<FamilyKey> = []
        /// Of `backlog`, units that only the second copy has.
        var remnants: Set<UnitKey> = []
        var inherited: [CombKey: Inherited] = [:]
        var search: RemnantSearch?
        var nextSearch = Instant.zero
    }

    /// Families at once: each has a buffer of up to 1 MiB.
    private static let mergesMax = 2

    // MARK: Beginning

    mutating func tickMerges(_ now: Instant, _ actions: inout [ServerAction]) {
        guard !map.merges.isEmpty, generation != nil, rebuilds.isEmpty else { return }
        let isDue = merging.lookedAt.map { now - $0 >= configuration.mergeInterval } ?? true
        if isDue, merging.backlog.isEmpty, merging.active == 0 {
            merging.lookedAt = now
            lookForMerges(&actions)
        }
        startMerges(now, &actions)
        if merging.backlog.isEmpty, merging.active == 0 { askForRemnants(now, &actions) }
    }

    /// Finds the units of nodes that go, and tells the manager of nodes of which there are none.
    private mutating func lookForMerges(_ actions: inout [ServerAction]) {
        let merges = map.merges
        var present: Set<TreeID> = []
        for index in stores.indices {
            let units = stores[index].units { merges[$0.tree]?.node == $0.node }
            present.formUnion(units.map(\.tree))
            merging.backlog += units
            forget(units.filter { isBlankSecond($0, index) }, index, &actions)
        }
        guard isManagerConnected else { return }
        for tree in merges.keys.sorted() where !present.contains(tree) {
            guard let merge = merges[tree] else { continue }
            actions.append(.sendManager(.nodeEmpty(tree, node: merge.node, revision: map.revision)))
        }
    }

    /// Whether the unit is the second copy's, nothing is under way there, and all that it has is zeros that hide nothing. The
    /// first copy may have no such unit, and then nobody else would have it forgotten.
    private func isBlankSecond(_ unit: UnitKey, _ index: Int) -> Bool {
        guard let comb = map.combKey(of: unit).flatMap({ map.comb($0) }), case .normal(let secondary) = comb.state,
            secondary == CopyPlace(sds: sds, device: devices[index]), queues[unit.family] == nil
        else { return false }
        let blanks = stores[index].blanks(of: unit, over: map.ancestors(of: unit))
        return stores[index].map(of: unit).subtracting(blanks).isEmpty
    }

    private mutating func startMerges(_ now: Instant, _ actions: inout [ServerAction]) {
        while merging.active < ServerCore.mergesMax, let unit = merging.backlog.last {
            guard let merge = map.merges[unit.tree], merge.node == unit.node, let key = map.combKey(of: unit),
                let comb = map.comb(key), comb.primary.sds == sds, case .normal = comb.state,
                let index = storeIndex(comb.primary.device),
                stores[index].location(of: unit) != nil || merging.remnants.contains(unit)
            else {
                forgetBacklog()
                continue
            }
            let policy = (map.pools[key.pool]?.settings ?? PoolSettings()).policy(.rebalance)
            guard throttles[index].mayStart(.rebalance, policy, now) else { return }
            forgetBacklog()
            let bytes = UInt64(stores[index].map(of: unit).count) * UInt64(Geometry.blockBytes)
            throttles[index].started(.rebalance, policy, bytes: bytes, now)
            var operation = merge.operation(.mergeUnit, on: unit.family, of: key, comb.epoch, index)
            operation.turn = CopyThrottle.Turn(kind: .rebalance, began: now)
            enqueue(operation, now, &actions)
        }
    }

    private mutating func forgetBacklog() {
        let unit = merging.backlog.removeLast()
        merging.remnants.remove(unit)
    }

    /// Whether tree and comb are still what they were when the merge began.
    func isCurrent(_ operation: Operation) -> Bool {
        guard let comb = map.comb(operation.comb), comb.epoch == operation.header.combEpoch,
            case .normal = comb.state, let node = operation.mergedNode
        else { return false }
        return map.merges[operation.unit.tree] == NodeMerge(node: node, into: operation.unit.node)
    }

    private func merged(_ operation: Operation) -> UnitKey {
        UnitKey(tree: operation.unit.tree, node: operation.mergedNode ?? 0, index: operation.unit.index)
    }

    // MARK: Moving

    /// The family is locked: nothing is written to it, and reads go on.
    mutating func startMerge(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let operation = operations[id] else { return }
        let store = stores[operation.store]
        var blocks = store.map(of: merged(operation))
        if store.location(of: merged(operation)) == nil {
            // The secondary alone has it, and may lack what was merged.
            blocks = merging.repeated.contains(operation.unit.family) ? store.map(of: operation.unit) : BlockMap()
        } else if !merging.repeated.contains(operation.unit.family) {
            blocks = blocks.subtracting(store.map(of: operation.unit))
        }
        operations[id]?.steps = blocks.runs().map { .data($0, node: operation.unit.node) }
        mergeStep(id, now, &actions)
    }

    mutating func mergeStep(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let operation = operations[id] else { return }
        guard operation.failure == nil, isCurrent(operation) else { return remove(id, now, &actions) }
        switch operation.steps.first {
        case .data(let run, _), .damaged(let run, _):
            var requests = noRequests()
            let below = [merged(operation).node]
            let started = stores[operation.store].read(id, operation.unit, over: below, run, &requests)
            issue(&requests, operation.store, &actions)
            guard started == .started else { return remove(id, now, &actions) }
            counters[operation.store].add(.rebalanceRead, bytes: run.length)
            operations[id]?.isLocalPending = true
        case .unreadable(let run, _):
            var requests = noRequests()
            let started = stores[operation.store].readNothing(id, run, &requests)
            issue(&requests, operation.store, &actions)
            guard started == .started else { return remove(id, now, &actions) }
            operations[id]?.isLocalPending = true
        case .zeros, .drop: preconditionFailure("merges move data")
        case nil:
            merging.repeated.remove(operation.unit.family)
            let merge = NodeMerge(node: merged(operation).node, into: operation.unit.node)
            // After the reads that have begun, which may be looking at it.
            enqueue(
                merge.operation(
                    .mergeDrop, on: operation.unit.family, of: operation.comb, operation.header.combEpoch,
                    operation.store), now, &actions)
            remove(id, now, &actions)
        }
    }

    /// The own device has read, or written, a part.
    mutating func mergePartEnded(
        _ id: UInt64, _ completion: UnitStore.Completion, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        guard let operation = operations[id] else { return }
        switch completion.outcome {
        case .read(let payload, _):
            guard operation.failure == nil, let step = operation.steps.first else {
                actions.append(.release(payload))
                return remove(id, now, &actions)
            }
            if case .data(let run, let node) = step, let unit = completion.damagedUnit {
                actions.append(.release(payload))
                if !operation.examined.contains(unit) { return awaitExamination(of: unit, id, now, &actions) }
                let parts = CopyStep.parts(of: run, node: node, damaged: completion.damaged)
                operations[id]?.steps.replaceSubrange(0..<1, with: parts)
                return mergeStep(id, now, &actions)
            }
            operations[id]?.payload = payload
            writeMerged(id, step, payload, now, &actions)
        case .done, .written: mergePartDone(id, now, &actions)
        case .failed: mergePartNotRead(id, operation, now, &actions)
        }
    }

    /// The other copy mends what cannot be read; which of the two units it is in was not said. What that does not help goes on as
    /// lost when it has failed in several attempts, as with copies to another device.
    private mutating func mergePartNotRead(
        _ id: UInt64, _ operation: Operation, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        let store = stores[operation.store]
        guard store.stopReason == nil, operation.failure == nil, let step = operation.steps.first else {
            return remove(id, now, &actions)
        }
        let units = [merged(operation), operation.unit].filter { !store.map(of: $0).isEmpty }
        if let unit = units.first(where: { !operation.examined.contains($0) }) {
            return awaitExamination(of: unit, id, now, &actions)
        }
        let parts = step.afterFailedRead
        guard !parts.isEmpty else { return remove(id, now, &actions) }
        if case .unreadable(let run, _) = parts.first {
            guard badBlocks.isLost(operation.unit, run.start, now) else { return remove(id, now, &actions) }
            actions.append(.notice(.damaged(store.device, merged(operation), BlockMap(run))))
        }
        operations[id]?.steps.replaceSubrange(0..<1, with: parts)
        mergeStep(id, now, &actions)
    }

    /// Both copies get the part as they get a client's write.
    private mutating func writeMerged(
        _ id: UInt64, _ step: CopyStep, _ payload: PayloadID, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        guard let operation = operations[id], let secondary = map.comb(operation.comb)?.secondary else { return }
        let (range, isDamaged): (BlockRange, Bool)
        switch step {
        case .data(let run, _): (range, isDamaged) = (run, false)
        case .damaged(let run, _), .unreadable(let run, _):
            (range, isDamaged) = (run, rules.contains(.damageStaysDamage))
        case .zeros, .drop: preconditionFailure("merges move data")
        }
        if stores[operation.store].lacksIntent(operation.unit) {
            cool(operation.store, underPressure: true, &actions)
        }
        var requests = noRequests()
        let started = stores[operation.store].write(
            id, operation.unit, over: map.ancestors(of: operation.unit), range,
            PayloadSlice(payload: payload, offset: 0, length: range.length), combEpoch: operation.header.combEpoch,
            isDamaged: isDamaged, &requests)
        issue(&requests, operation.store, &actions)
        switch started {
        case .started, .held: operations[id]?.isLocalPending = true
        case .nothingThere, .noSpace, .busy, .stopped: return remove(id, now, &actions)
        }
        counters[operation.store].add(.rebalanceWrite, bytes: range.length)
        operations[id]?.forwards.add(secondary, now)
        if started != .held { began(id, now, &actions) }
    }

    /// One of the two copies has the part.
    mutating func mergePartDone(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let operation = operations[id], !operation.isLocalPending, operation.forwards.isEmpty else { return }
        if let payload = operation.payload { actions.append(.release(payload)) }
        operations[id]?.payload = nil
        operations[id]?.examined = []
        if operation.failure == nil { operations[id]?.steps.removeFirst() }
        mergeStep(id, now, &actions)
    }

    // MARK: Forgetting

    /// Nobody reads or writes the family now.
    mutating func startMergeDrop(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let operation = operations[id], isCurrent(operation), isMerged(operation),
            let secondary = map.comb(operation.comb)?.secondary
        else { return remove(id, now, &actions) }
        operations[id]?.forwards.add(secondary, now, .due(now))
        for slot in Forwards.slots { forward(id, slot, now, &actions) }
    }

    /// Whether the other unit has every block of the one that is to be forgotten, here. Zeros that hide nothing may be on one
    /// copy alone: it stored them over a node that the other had forgotten.
    func isMerged(_ operation: Operation) -> Bool {
        if !rules.contains(.onlyMergedIsDropped) { return true }
        let isHere = operation.kind == .mergeDrop
        guard let into = isHere ? operation.unit.node : UInt32(exactly: operation.header.attachEpoch) else {
            return false
        }
        let gone = isHere ? merged(operation) : operation.unit
        let kept = UnitKey(tree: gone.tree, node: into, index: gone.index)
        let store = stores[operation.store]
        let missing = store.map(of: gone).subtracting(store.map(of: kept))
        return missing.isEmpty || missing.subtracting(store.blanks(of: gone, over: map.ancestors(of: gone))).isEmpty
    }

    /// The secondary has forgotten the unit.
    mutating func dropMerged(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let operation = operations[id] else { return }
        var requests = noRequests()
        let started = stores[operation.store].drop(id, [merged(operation)], &requests)
        issue(&requests, operation.store, &actions)
        guard started == .started else { return remove(id, now, &actions) }
        operations[id]?.isLocalPending = true
    }

    // MARK: Ending

    /// The secondary does not take a part, or lacks something of what it should forget: it is tried again.
    mutating func mergeRefused(
        _ id: UInt64, _ status: DataStatus, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        guard let operation = operations[id] else { return }
        if operation.kind == .mergeDrop, status == .invalid { merging.repeated.insert(operation.unit.family) }
        abandonMerge(id, now, &actions)
    }

    /// Ends as soon as the own device has answered.
    mutating func abandonMerge(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        operations[id]?.failure = .staleComb
        for slot in Forwards.slots { forgetForward(id, slot) }
        if operations[id]?.isLocalPending == false { remove(id, now, &actions) }
    }
}

extension NodeMerge {
    fileprivate func operation(
        _ kind: ServerCore.Operation.Kind, on family: FamilyKey, of comb: CombKey, _ epoch: UInt64, _ store: Int
    ) -> ServerCore.Operation {
        var operation = ServerCore.Operation(
            kind: kind, link: nil, header: DataHeader(opcode: .copy), payload: nil,
            unit: UnitKey(tree: family.tree, node: into, index: family.index), range: .wholeUnit, comb: comb,
            store: store)
        operation.header.combEpoch = epoch
        operation.mergedNode = node
        return operation
    }
}
