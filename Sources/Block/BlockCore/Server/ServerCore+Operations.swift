import Base

extension ServerCore {
    /// Something that holds, or waits for, blocks of one unit.
    struct Operation {
        enum Kind {
            case clientRead, clientMap, clientWrite, clientZeroes
            case replicaWrite, replicaZeroes, replicaDrop
            /// Of blocks, or of what all blocks read as, for the primary.
            case replicaRead
            /// The primary's look at both copies.
            case examine
            /// The source's side of rebuilding one unit.
            case copyUnit
            /// Moving what a unit holds to that of another node, and forgetting it.
            case mergeUnit, mergeDrop

            var isClientsWrite: Bool { self == .clientWrite || self == .clientZeroes }
            var isMerge: Bool { self == .mergeUnit || self == .mergeDrop }
        }

        var kind: Kind
        var link: LinkID?
        var header: DataHeader
        var payload: PayloadID?
        /// Of a client's: the head of its volume, from the moment it starts on. Of a copy only the family counts.
        var unit: UnitKey
        var range: BlockRange
        var comb: CombKey
        var store: Int
        var isStarted = false
        var isLocalPending = false
        /// What other copies have to do yet.
        var forwards = Forwards()
        /// Set when the request is lost for its sender; the operation only waits for what it has begun.
        var failure: DataStatus?
        /// Another copy has no room for this write: it is undone where it was done, and then refused.
        var isRefused = false
        var isUndoing = false
        /// Units that it found damaged, and which have been examined since.
        var examined: [UnitKey] = []
        /// Of what copies between devices: its turn on this one.
        var turn: CopyThrottle.Turn?
        /// Of a copy: what remains to be done at the target, the first being under way. Of a merge: data alone.
        var steps: [CopyStep] = []
        /// Of a merge: the node that goes.
        var mergedNode: UInt32?

        var excludesReads: Bool {
            switch kind {
            case .clientRead, .clientMap, .copyUnit, .replicaRead, .examine, .mergeUnit: false
            case .clientWrite, .clientZeroes, .replicaWrite, .replicaZeroes, .replicaDrop, .mergeDrop: true
            }
        }
        var isClients: Bool {
            switch kind {
            case .clientRead, .clientMap, .clientWrite, .clientZeroes: true
            case .replicaWrite, .replicaZeroes, .replicaDrop, .replicaRead, .examine, .copyUnit, .mergeUnit, .mergeDrop:
                false
            }
        }
        /// Whether an application waits for it, here or at the other copy.
        var isApplications: Bool { isClients || header.opcode == .replicate }
    }

    /// One thing that makes a target's family equal to the source's.
    enum CopyStep: Equatable {
        case data(BlockRange, node: UInt32)
        /// Data that is not what was written, and must not pass for it.
        case damaged(BlockRange, node: UInt32)
        /// Data that cannot be read: something else, which must not pass for it either, takes its place.
        case unreadable(BlockRange, node: UInt32)
        case zeros(BlockRange, node: UInt32)
        case drop(node: UInt32)

        var node: UInt32 {
            switch self {
            case .data(_, let node), .damaged(_, let node), .unreadable(_, let node), .zeros(_, let node),
                .drop(let node):
                node
            }
        }

        /// Data of which nobody has some blocks any more: what is left goes on as what it is.
        static func parts(of run: BlockRange, node: UInt32, damaged: BlockMap) -> [CopyStep] {
            damaged.holes(in: run).map { .data($0, node: node) }
                + damaged.runs(in: run).map { .damaged($0, node: node) }
        }

        /// What to try instead of this, which the device could not read: less at once, down to single blocks.
        var afterFailedRead: [CopyStep] {
            switch self {
            case .data(let run, let node):
                run.count == 1 ? [.unreadable(run, node: node)] : run.halves.map { .data($0, node: node) }
            case .damaged(let run, let node):
                run.count == 1 ? [.unreadable(run, node: node)] : run.halves.map { .damaged($0, node: node) }
            case .unreadable, .zeros, .drop: []
            }
        }
    }

    // MARK: Range locks

    /// `isFirst`: before all that have not started, which may wait for something that waits for this.
    mutating func enqueue(
        _ operation: Operation, isFirst: Bool = false, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        let id = nextOperation
        nextOperation += 1
        operations[id] = operation
        if operation.isClients { clientOperations += 1 }
        if operation.isApplications { throttles[operation.store].noteRequest(bytes: operation.range.length, now) }
        if operation.kind.isMerge { merging.active += 1 }
        count(operation)
        let family = operation.unit.family
        if queues[family] == nil { queues[family] = spareQueues.popLast() ?? [] }
        queues.change(family) { isFirst ? $0.insert(id, at: 0) : $0.append(id) }
        startReady(operation.unit.family, now, &actions)
    }

    /// Starts whatever no earlier overlapping operation stands in the way of.
    private func isBlocked(_ position: Int, in queue: [UInt64]) -> Bool {
        guard position > 0 || !handovers.isEmpty || !examinations.isEmpty || cut != nil else { return false }
        guard let operation = operations[queue[position]] else { return true }
        if operation.kind == .examine {
            return queue.contains { operations[$0]?.isStarted == true && operations[$0]?.excludesReads == true }
        }
        if operation.kind.isClientsWrite, isHolding(operation.comb) || isCutting(operation) { return true }
        for earlier in queue[..<position] {
            guard let other = operations[earlier], other.range.overlaps(operation.range),
                other.excludesReads || operation.excludesReads
            else { continue }
            if operation.kind == .clientRead || operation.kind == .clientMap {
                if rules.contains(.noDirtyReads) { return true }
            } else if rules.contains(.rangeLocks) {
                return true
            }
        }
        return false
    }

    private func queued(_ family: FamilyKey, _ position: Int) -> UInt64? {
        guard let queue = queues[family], position < queue.count else { return nil }
        return queue[position]
    }

    mutating func startReady(_ family: FamilyKey, _ now: Instant, _ actions: inout [ServerAction]) {
        var position = 0
        while let id = queued(family, position) {
            if let operation = operations[id], !operation.isStarted, !isBlocked(position, in: queues[family] ?? []) {
                operations.change(id) { $0.isStarted = true }
                start(id, now, &actions)
                // It may have ended at once and opened the way for others.
                if operations[id] == nil {
                    position = 0
                    continue
                }
            }
            position += 1
        }
    }

    /// Ends an operation: gives up its blocks and buffer, and lets the next ones start. The device must have answered: what is
    /// written over a block that is being read looks damaged.
    mutating func remove(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let operation = operations.removeValue(forKey: id) else { return }
        precondition(!operation.isLocalPending, "an operation ends after its device has answered")
        if operation.isClients { clientOperations -= 1 }
        if operation.kind.isMerge { merging.active -= 1 }
        copyEnded(operation, now)
        if let payload = operation.payload { actions.append(.release(payload)) }
        for slot in Forwards.slots { forgetQuestion(operation, slot) }
        for index in barriers.indices { barriers[index].open.remove(id) }
        let family = operation.unit.family
        queues.change(family) { queue in queue.removeAll { $0 == id } }
        if queues[family]?.isEmpty == true, let queue = queues.removeValue(forKey: family) { spareQueues.append(queue) }
        if operation.isStarted { startReady(family, now, &actions) }
        if handovers[operation.comb] != nil { tellDrained(operation.comb, now, &actions) }
        if cut != nil { tellHeld(&actions) }
    }

    mutating func reject(_ id: UInt64, _ status: DataStatus, _ now: Instant, _ actions: inout [ServerAction]) {
        if let operation = operations[id], operation.failure == nil, let link = operation.link {
            actions.append(.send(link, operation.header.reply(status), nil))
        }
        remove(id, now, &actions)
    }

    // MARK: Starting

    private mutating func start(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        resolveHead(id)
        guard let operation = operations[id] else { return }
        switch operation.kind {
        case .clientRead, .clientMap, .clientWrite, .clientZeroes:
            if let status = refusal(of: operation) { return reject(id, status, now, &actions) }
            if operation.kind == .clientMap { return answerMap(id, operation, now, &actions) }
            if operation.kind.isClientsWrite { noteForCut(operation) }
        case .replicaWrite, .replicaZeroes, .replicaDrop, .replicaRead:
            if let status = replicaRefusal(operation.header, operation.comb, from: nil) {
                return reject(id, status, now, &actions)
            }
            if operation.header.opcode == .dropMerged, !isMerged(operation) {
                return reject(id, .invalid, now, &actions)
            }
        case .copyUnit: return startCopy(id, now, &actions)
        case .mergeUnit: return startMerge(id, now, &actions)
        case .mergeDrop: return startMergeDrop(id, now, &actions)
        case .examine: return startExamination(id, now, &actions)
        }
        startParts(id, operation, now, &actions)
    }

    /// Begins on the own device and, of a client's write, at the other copies.
    mutating func startParts(
        _ id: UInt64, _ operation: Operation, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        let started = startLocally(id, operation, &actions)
        switch started {
        case .started, .held: operations.change(id) { $0.isLocalPending = true }
        case .nothingThere: break
        case .noSpace: return refuseForSpace(id, operation, now, &actions)
        case .busy: return reject(id, .notReady, now, &actions)
        case .stopped: return reject(id, operation.isClients ? .notReady : .mediaError, now, &actions)
        }
        if operation.kind.isClientsWrite {
            if let secondary = map.comb(operation.comb)?.secondary {
                operations.change(id) { $0.forwards.add(secondary, now) }
            }
            if let target = targetPlace(operation.unit.family, operation.comb) {
                operations.change(id) { $0.forwards.add(target, now) }
            }
            if started != .held { began(id, now, &actions) }
        }
        if started == .nothingThere {
            if operation.kind == .clientRead { return answerZeros(id, now, &actions) }
            if operation.kind == .replicaRead { return answerNothing(id, now, &actions) }
        }
        endIfDone(id, now, &actions)
    }

    /// What waited for its blocks may belong to another node now.
    private mutating func resolveHead(_ id: UInt64) {
        guard !map.trees.isEmpty, let operation = operations[id], operation.isClients,
            let unit = map.headUnit(of: VolumeID(rawValue: operation.header.volume), at: operation.unit.index)
        else { return }
        precondition(unit.tree == operation.unit.tree, "a volume stays in its tree")
        operations[id]?.unit.node = unit.node
    }

    /// Answers a read of blocks that hold no data.
    mutating func answerZeros(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let operation = operations[id] else { return }
        if mustWithhold(operation, now) { return reject(id, .notReady, now, &actions) }
        var answer = operation.header.reply(.ok)
        answer.flags.insert(.zeros)
        if let link = operation.link { actions.append(.send(link, answer, nil)) }
        remove(id, now, &actions)
    }

    mutating func startLocally(
        _ id: UInt64, _ operation: Operation, _ actions: inout [ServerAction]
    ) -> UnitStore.Start {
        let store = operation.store
        let epoch = map.comb(operation.comb)?.epoch ?? 0
        if operation.excludesReads, stores[store].lacksIntent(operation.unit) {
            cool(store, underPressure: true, &actions)
        }
        let below = map.ancestors(of: operation.unit)
        var requests = noRequests()
        let started: UnitStore.Start
        switch operation.kind {
        case .clientRead:
            started = stores[store].read(id, operation.unit, over: below, operation.range, &requests)
        case .replicaRead where operation.header.opcode == .fetch:
            // Of a merge the primary may have more in the unit: what is shown here.
            let shown = map.isUneven(operation.unit) ? below : []
            started = stores[store].read(id, operation.unit, over: shown, operation.range, &requests)
        case .replicaRead:
            let extent = operation.header.opcode == .verify ? stores[store].map(of: operation.unit).extent : nil
            started = stores[store].read(id, operation.unit, extent ?? operation.range, &requests)
        case .clientZeroes where operation.isUndoing, .replicaZeroes where operation.header.flags.contains(.hole):
            started = stores[store].makeHoles(id, operation.unit, operation.range, combEpoch: epoch, &requests)
        case .clientZeroes, .replicaZeroes:
            started = stores[store].writeZeroes(
                id, operation.unit, over: below, operation.range, combEpoch: epoch, &requests)
        case .clientWrite, .replicaWrite:
            guard let payload = operation.payload else { preconditionFailure("a write has its bytes") }
            let slice = PayloadSlice(payload: payload, offset: 0, length: operation.range.length)
            started = stores[store].write(
                id, operation.unit, over: below, operation.range, slice, combEpoch: epoch, spare: spare(for: operation),
                isDamaged: operation.header.flags.contains(.damaged), &requests)
        case .replicaDrop: started = stores[store].drop(id, [operation.unit], &requests)
        case .copyUnit, .clientMap, .examine, .mergeUnit, .mergeDrop:
            preconditionFailure("not begun on the own device")
        }
        issue(&requests, store, &actions)
        return started
    }

    /// The write may go to the other copies as well.
    mutating func began(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        for slot in Forwards.slots where operations[id]?.forwards[slot]?.state == .afterIntent {
            operations.change(id) {
                $0.forwards[slot]?.state = .due(now)
                $0.forwards[slot]?.since = now
            }
            forward(id, slot, now, &actions)
        }
    }

    private mutating func answerMap(
        _ id: UInt64, _ operation: Operation, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        guard stores[operation.store].stopReason == nil, !mustWithhold(operation, now) else {
            return reject(id, .notReady, now, &actions)
        }
        let blocks = stores[operation.store].map(of: operation.unit, over: map.ancestors(of: operation.unit))
        var answer = operation.header.reply(.ok)
        answer.length = BlockMap.encodedSize
        answer.flags.insert(blocks.isEmpty ? .zeros : .payload)
        if let link = operation.link {
            actions.append(blocks.isEmpty ? .send(link, answer, nil) : .sendBytes(link, answer, blocks.encoded))
        }
        remove(id, now, &actions)
    }

    /// Why a client's request may not go on; checked when it arrives and again when it starts.
    func refusal(of operation: Operation) -> DataStatus? {
        refusal(of: operation.header, operation.link, operation.comb, isWrite: operation.kind.isClientsWrite)
    }

    func refusal(of header: DataHeader, _ link: LinkID?, _ key: CombKey, isWrite: Bool) -> DataStatus? {
        guard let volume = map.volumes[VolumeID(rawValue: header.volume)] else { return .notReady }
        guard let link, let peer = inbound[link] else { return .staleSession }
        guard case .client(let client) = peer.peer else { return .invalid }
        if header.attachEpoch > volume.attachEpoch { return .notReady }
        guard let mapping = volume.mappings.first(where: { $0.sdc == client && $0.epoch == header.attachEpoch }) else {
            return .fenced
        }
        if mapping.mode == .noAccess || (isWrite && mapping.mode == .readOnly) { return .readOnly }
        // The client may have heard earlier that the volume grew.
        guard header.unit < volume.sizeUnits else { return .notReady }
        guard let comb = map.comb(key), comb.isPlaced else { return .notReady }
        guard comb.primary.sds == sds else { return comb.epoch < header.combEpoch ? .notReady : .staleComb }
        if comb.state == .unavailable { return .notReady }
        return nil
    }

    // MARK: Ending

    mutating func localFinished(
        _ id: UInt64, _ completion: UnitStore.Completion, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        guard let operation = operations[id] else { return }
        operations.change(id) { $0.isLocalPending = false }
        switch (operation.kind, completion.outcome) {
        case (.copyUnit, _): return copyRead(id, completion, now, &actions)
        case (.examine, _): return examinationRead(id, completion, now, &actions)
        case (.mergeUnit, _): return mergePartEnded(id, completion, now, &actions)
        case (.mergeDrop, _): return remove(id, now, &actions)
        case (.replicaRead, _): return answerReplicaRead(id, completion, now, &actions)
        case (.clientRead, .read(let payload, _)):
            if let status = operation.failure ?? refusal(of: operation) {
                actions.append(.release(payload))
                return reject(id, status, now, &actions)
            }
            if let unit = completion.damagedUnit {
                actions.append(.release(payload))
                if operation.examined.contains(unit) { return reject(id, .mediaError, now, &actions) }
                return awaitExamination(of: unit, id, now, &actions)
            }
            if mustWithhold(operation, now) {
                actions.append(.release(payload))
                return reject(id, .notReady, now, &actions)
            }
            var answer = operation.header.reply(.ok)
            answer.flags.insert(.payload)
            let slice = PayloadSlice(payload: payload, offset: 0, length: operation.range.length)
            if let link = operation.link { actions.append(.send(link, answer, slice)) }
            actions.append(.release(payload))
            return remove(id, now, &actions)
        case (.clientRead, .failed) where stores[operation.store].stopReason == nil:
            return unreadable(id, operation, now, &actions)
        case (_, .failed):
            // The device has stopped and the manager will move the comb; whoever asked asks again.
            return reject(id, operation.isClients ? .notReady : .mediaError, now, &actions)
        case (_, .read(let payload, _)): actions.append(.release(payload))
        case (_, .done), (_, .written): break
        }
        endIfDone(id, now, &actions)
    }

    /// The device lives but cannot read what was asked. Where another copy is in sync it takes over the comb, and the client
    /// asks again there; otherwise these bytes are lost.
    private mutating func unreadable(
        _ id: UInt64, _ operation: Operation, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        guard let comb = map.comb(operation.comb), comb.primary.sds == sds, comb.secondary != nil else {
            return reject(id, .mediaError, now, &actions)
        }
        let message = MessageToManager.copyUnreadable(operation.comb, epoch: comb.epoch, copy: comb.primary)
        resign(operation.comb, comb.epoch, repeating: message, now)
        if isManagerConnected { actions.append(.sendManager(message)) }
        reject(id, .notReady, now, &actions)
    }

    /// Answers and ends a write whose parts are all done.
    mutating func endIfDone(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let operation = operations[id], operation.isStarted, !operation.isLocalPending,
            operation.forwards.isEmpty
        else { return }
        switch operation.kind {
        case .clientRead, .replicaRead, .examine, .copyUnit, .mergeUnit, .mergeDrop: return
        case .clientMap, .clientWrite, .clientZeroes, .replicaWrite, .replicaZeroes, .replicaDrop: break
        }
        if operation.isRefused, !operation.isUndoing, operation.failure == nil, operation.kind.isClientsWrite,
            rules.contains(.refusedOnBoth)
        {
            return undo(id, now, &actions)
        }
        if operation.failure == nil, let link = operation.link {
            actions.append(.send(link, operation.header.reply(operation.isRefused ? .noSpace : .ok), nil))
        }
        remove(id, now, &actions)
    }

    // MARK: Map revisions

    /// Confirms revisions in order, once nothing of before is under way.
    mutating func confirm(_ actions: inout [ServerAction]) {
        var confirmed: UInt64?
        while let first = barriers.first, first.open.isEmpty {
            confirmed = first.revision
            barriers.removeFirst()
        }
        if let confirmed, isManagerConnected {
            actions.append(.sendManager(.acknowledge(revision: confirmed)))
        }
    }

    mutating func apply(_ update: MapUpdate, _ now: Instant, _ actions: inout [ServerAction]) {
        let hadShared = !map.sharedVolumes.isEmpty
        guard let changes = map.apply(update) else { return }
        if !hadShared { askForLease(now, &actions) }
        promise(changes)
        let combs = Set(changes.combs.map(\.key))
        var open: Set<UInt64> = []
        for id in operations.keys.sorted() {
            guard let operation = operations[id],
                combs.contains(operation.comb) || changes.trees.contains(operation.unit.tree)
            else { continue }
            revise(id, now, &actions)
            // Examinations and merges know nothing of clients' rights, and must not hold up the proof that some have ended.
            let isOurs = operation.kind == .examine || operation.kind.isMerge
            let isApart = isOurs && !combs.contains(operation.comb) || operation.kind == .copyUnit
            if operations[id]?.isStarted == true, !isApart { open.insert(id) }
        }
        // What ended while others were revised holds nothing up.
        open = open.filter { operations[$0] != nil }
        barriers.append((update.revision, open))
        for (key, before) in changes.combs {
            combChanged(key, now, &actions)
            noteLead(key, before: before)
        }
        switchHeads(now, &actions)
        if !changes.trees.isEmpty || !changes.combs.isEmpty || update.isFull { needsSweep = true }
    }

    /// Judges one operation by the new rules.
    private mutating func revise(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let operation = operations[id] else { return }
        switch operation.kind {
        case .clientRead, .clientMap, .clientWrite, .clientZeroes:
            if !operation.isStarted {
                if let status = refusal(of: operation) { reject(id, status, now, &actions) }
                return
            }
            guard operation.kind.isClientsWrite else { return }
            reviseRemote(id, operation, now, &actions)
        case .replicaWrite, .replicaZeroes, .replicaDrop, .replicaRead:
            if !operation.isStarted, let status = replicaRefusal(operation.header, operation.comb, from: nil) {
                reject(id, status, now, &actions)
            }
        case .mergeUnit, .mergeDrop: if !isCurrent(operation) { abandonMerge(id, now, &actions) }
        case .copyUnit, .examine: break
        }
    }
}
