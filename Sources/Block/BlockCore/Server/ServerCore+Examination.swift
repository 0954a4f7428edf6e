import Base

/// What an examination of a unit found and did, in blocks.
public struct ExaminationResult: Equatable, Sendable {
    /// Of the primary's copy, and of the secondary's: not what was written there, or not readable.
    public var ownDamaged = 0
    public var otherDamaged = 0
    /// Good on both sides, and not the same.
    public var differing = 0
    /// Written again from the other copy.
    public var mended = 0
    /// Damaged on both sides, or where there is no other side: reading them fails until they are written again.
    public var lost = 0

    public init() {}
}

/// Looking at both copies of a unit and mending what is damaged of one from the other; docs/design/checksums.md.
///
/// The primary does it, under the unit's range lock: meanwhile nobody writes to the unit, and reads go on.
extension ServerCore {
    struct Examination {
        enum Phase { case waiting, reading, asking, mending }
        enum Step: Equatable {
            /// From the other copy to the own one.
            case fetch(BlockRange)
            /// From the own copy to the other one.
            case send(BlockRange)
            /// Both are to show what is below; or nothing, whatever the other one has there.
            case sendHole(BlockRange)
            case sendZeros(BlockRange)
        }

        let comb: CombKey
        let store: Int
        /// Whether what both read well but not alike is made equal.
        let isComparing: Bool
        var phase = Phase.waiting
        /// The comb epoch under which it began.
        var epoch: UInt64 = 0
        /// Where it holds the unit's lock.
        var operation: UInt64?
        /// It ends as soon as the own device has answered.
        var isAbandoned = false
        var own: UnitDigest?
        /// What remains to be done, the first being under way.
        var steps: [Step] = []
        var result = ExaminationResult()
        /// Operations that found damage and read again when this is over; and those that found it too late to be sure that
        /// it was looked at.
        var waiters: [UInt64] = []
        var late: [UInt64] = []

        var isBeforeReading: Bool { phase == .waiting || phase == .reading }
    }

    /// Examinations under way at once: each has a buffer of up to 1 MiB.
    static let examinationsMax = 4

    // MARK: Beginning

    /// A read, for a client or for a copy, found damage: it goes on when the unit has been examined.
    mutating func awaitExamination(
        of unit: UnitKey, _ waiter: UInt64, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        guard let operation = operations[waiter] else { return }
        if examinations[unit] == nil { begin(examining: unit, operation.comb, operation.store, isComparing: false) }
        if examinations[unit]?.isBeforeReading == true {
            examinations[unit]?.waiters.append(waiter)
        } else {
            examinations[unit]?.late.append(waiter)
        }
        startExaminations(now, &actions)
    }

    mutating func begin(examining unit: UnitKey, _ comb: CombKey, _ store: Int, isComparing: Bool) {
        examinations[unit] = Examination(comb: comb, store: store, isComparing: isComparing)
        examinationsWaiting.append(unit)
    }

    mutating func startExaminations(_ now: Instant, _ actions: inout [ServerAction]) {
        while examinations.count - examinationsWaiting.count < ServerCore.examinationsMax,
            !examinationsWaiting.isEmpty
        {
            let unit = examinationsWaiting.removeFirst()
            guard let examination = examinations[unit] else { preconditionFailure("what waits is there") }
            examinations[unit]?.phase = .reading
            examinations[unit]?.epoch = map.comb(examination.comb)?.epoch ?? 0
            let operation = Operation(
                kind: .examine, link: nil, header: DataHeader(opcode: .verify), payload: nil, unit: unit,
                range: .wholeUnit, comb: examination.comb, store: examination.store)
            examinations[unit]?.operation = nextOperation
            enqueue(operation, isFirst: true, now, &actions)
        }
    }

    /// The unit is locked: reads the own copy.
    mutating func startExamination(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let operation = operations[id], let comb = map.comb(operation.comb), comb.primary.sds == sds,
            comb.primary.device == stores[operation.store].device,
            let extent = stores[operation.store].map(of: operation.unit).extent
        else {
            if let unit = operations[id]?.unit { abandonExamination(unit, now, &actions) }
            return
        }
        var requests = noRequests()
        let started = stores[operation.store].read(id, operation.unit, extent, &requests)
        issue(&requests, operation.store, &actions)
        guard started == .started else { return abandonExamination(operation.unit, now, &actions) }
        operations[id]?.isLocalPending = true
    }

    // MARK: Steps

    /// The own device has answered.
    mutating func examinationRead(
        _ id: UInt64, _ completion: UnitStore.Completion, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        guard let operation = operations[id], let examination = examinations[operation.unit] else {
            preconditionFailure("an examination lasts as long as its operation")
        }
        if examination.isAbandoned || stores[operation.store].stopReason != nil {
            if case .read(let payload, _) = completion.outcome { actions.append(.release(payload)) }
            return abandonExamination(operation.unit, now, &actions)
        }
        switch (examination.phase, completion.outcome) {
        case (.waiting, _): preconditionFailure("nothing was asked yet")
        case (.reading, let outcome):
            let map = stores[operation.store].map(of: operation.unit)
            var seen: BlockChecksums?
            if case .read(let payload, let checksums) = outcome {
                seen = checksums
                actions.append(.release(payload))
            }
            let own = UnitDigest(map: map, completion, range: map.extent, seen: seen)
            examinations[operation.unit]?.own = own
            examinations[operation.unit]?.result.ownDamaged = own.damaged.count
            askOtherCopy(id, own, now, &actions)
        case (.mending, .read(let payload, _)):
            // It was good a moment ago.
            guard completion.damaged.isEmpty else {
                actions.append(.release(payload))
                return abandonExamination(operation.unit, now, &actions)
            }
            operations[id]?.payload = payload
            askForStep(id, now, &actions)
        case (.mending, .done), (.mending, .written): mended(id, now, &actions)
        case (.mending, .failed), (.asking, _): abandonExamination(operation.unit, now, &actions)
        }
    }

    private mutating func askOtherCopy(
        _ id: UInt64, _ own: UnitDigest, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        guard let operation = operations[id] else { return }
        guard map.comb(operation.comb)?.secondary != nil else {
            examinations[operation.unit]?.result.lost = own.damaged.count
            return endExamination(operation.unit, isComplete: true, now, &actions)
        }
        examinations[operation.unit]?.phase = .asking
        askForStep(id, now, &actions)
    }

    /// Sends what the present phase and step need of the other copy.
    private mutating func askForStep(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let operation = operations[id], let secondary = map.comb(operation.comb)?.secondary else { return }
        operations[id]?.forwards.add(secondary, now, .due(now))
        for slot in Forwards.slots { forward(id, slot, now, &actions) }
    }

    /// The question that an examination has for the other copy now.
    func examinationHeader(_ unit: UnitKey) -> (opcode: Opcode, flags: DataHeader.Flags, range: BlockRange)? {
        guard let examination = examinations[unit] else { return nil }
        switch (examination.phase, examination.steps.first) {
        case (.asking, _): return (.verify, [], .wholeUnit)
        case (.mending, .fetch(let run)): return (.fetch, [], run)
        case (.mending, .send(let run)): return (.replicate, .payload, run)
        case (.mending, .sendHole(let run)): return (.replicateZeroes, .hole, run)
        case (.mending, .sendZeros(let run)): return (.replicateZeroes, [], run)
        case (.waiting, _), (.reading, _), (.mending, nil): return nil
        }
    }

    /// The other copy has answered; blocks that were fetched are the operation's payload.
    mutating func examinationAnswered(
        _ id: UInt64, _ header: DataHeader, _ bytes: [UInt8], _ now: Instant, _ actions: inout [ServerAction]
    ) {
        guard let operation = operations[id], let examination = examinations[operation.unit] else { return }
        switch (examination.phase, examination.steps.first) {
        case (.asking, _):
            guard let own = examination.own, let other = try? UnitDigest(decoding: bytes) else {
                return abandonExamination(operation.unit, now, &actions)
            }
            plan(operation.unit, own, other)
            mendNext(id, now, &actions)
        case (.mending, .fetch(let run)):
            let isWhole = operation.payload == nil ? header.flags.contains(.zeros) : header.length == run.length
            guard isWhole else { return abandonExamination(operation.unit, now, &actions) }
            rewrite(id, run, now, &actions)
        case (.mending, .send), (.mending, .sendHole), (.mending, .sendZeros): mended(id, now, &actions)
        case (.waiting, _), (.reading, _), (.mending, nil): preconditionFailure("nothing was asked")
        }
    }

    /// The other copy cannot give blocks that it had a moment ago; or does not take what it is sent.
    mutating func examinationRefused(
        _ id: UInt64, _ header: DataHeader, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        guard let operation = operations[id], let examination = examinations[operation.unit] else { return }
        if case .fetch(let run) = examination.steps.first, header.status == .mediaError {
            examinations[operation.unit]?.result.lost += Int(run.count)
            examinations[operation.unit]?.steps.removeFirst()
            mendNext(id, now, &actions)
        } else {
            abandonExamination(operation.unit, now, &actions)
        }
    }

    /// What has to be done, given what both copies read.
    private mutating func plan(_ unit: UnitKey, _ own: UnitDigest, _ other: UnitDigest) {
        guard let examination = examinations[unit] else { return }
        // Where one copy has data and the other a hole: what the hole shows, and zeros hide.
        let shown =
            own.map == other.map
            ? BlockMap() : stores[examination.store].shown(to: unit, by: map.ancestors(of: unit))
        // While a node is merged into it, blocks come to one copy before the other; while it is merged into another, one copy may
        // have forgotten them before the other, and is not to get them back.
        let isUneven = map.isUneven(unit)
        let covered = map.unit(mergedFrom: unit).map { stores[examination.store].map(of: $0) } ?? BlockMap()
        var (fetched, sent) = (BlockMap(), BlockMap())
        var result = examination.result
        result.otherDamaged = other.damaged.count
        for block in 0..<UInt16(Geometry.blocksPerUnit) {
            let here = BlockRange(start: block, count: 1)
            let isAlone = own.map[block] != other.map[block]
            // Nobody reads it any more, and the other copy may have nothing to mend it from.
            if isAlone, own.damaged[block], covered[block] { continue }
            switch (own.damaged[block], other.damaged[block]) {
            case (true, true): result.lost += 1
            case (true, false): _ = fetched.insert(here)
            case (false, true): _ = sent.insert(here)
            case (false, false):
                if isUneven, isAlone { continue }
                if !(isAlone && shown[block]), own.checksum(block) == other.checksum(block) { continue }
                result.differing += 1
                guard examination.isComparing else { continue }
                // As with everything that nobody had acknowledged, what the primary has is the truth, unless only the other
                // copy is known to be what was written.
                if own.unverified[block], !other.unverified[block] {
                    _ = fetched.insert(here)
                } else {
                    _ = sent.insert(here)
                }
            }
        }
        examinations[unit]?.result = result
        examinations[unit]?.phase = .mending
        let holes = sent.subtracting(own.map)
        let hidden = map.merged(into: unit).map { stores[examination.store].map(of: $0) } ?? BlockMap()
        // A copy that has not forgotten the merged unit yet hides it by zeros where the other needs none: a hole would show it.
        // What this one shows of such a unit is sent when it is merged, and what is below it is shown again after that.
        examinations[unit]?.steps =
            [fetched.intersection(other.map), fetched.subtracting(other.map)].flatMap { part in
                (part.intersection(hidden).runs() + part.subtracting(hidden).runs()).map { .fetch($0) }
            }
            + sent.intersection(own.map).runs().map { .send($0) }
            + holes.subtracting(shown).runs().map { .sendZeros($0) }
            + (isUneven ? [] : holes.intersection(shown).runs().map { .sendHole($0) })
    }

    private mutating func mendNext(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let operation = operations[id], let examination = examinations[operation.unit] else { return }
        switch examination.steps.first {
        case .fetch, .sendHole, .sendZeros: askForStep(id, now, &actions)
        case .send(let run):
            var requests: UnitStore.Requests = []
            let started = stores[operation.store].read(id, operation.unit, run, &requests)
            issue(&requests, operation.store, &actions)
            guard started == .started else { return abandonExamination(operation.unit, now, &actions) }
            operations[id]?.isLocalPending = true
        case nil: endExamination(operation.unit, isComplete: true, now, &actions)
        }
    }

    /// Puts what the other copy has in the place of what is damaged here.
    private mutating func rewrite(
        _ id: UInt64, _ run: BlockRange, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        guard let operation = operations[id] else { return }
        let epoch = map.comb(operation.comb)?.epoch ?? 0
        var requests = noRequests()
        let started: UnitStore.Start
        if let payload = operation.payload {
            let slice = PayloadSlice(payload: payload, offset: 0, length: run.length)
            started = stores[operation.store].write(
                id, operation.unit, over: map.ancestors(of: operation.unit), run, slice, combEpoch: epoch, &requests)
        } else {
            // A hole where the other copy has one, or zeros that hide a unit which only this one has still to forget.
            let merged = map.merged(into: operation.unit)
            let isHiding = merged.map { !stores[operation.store].map(of: $0).isEmpty(in: run) } ?? false
            started =
                isHiding
                ? stores[operation.store].writeZeroes(
                    id, operation.unit, over: merged.map { [$0.node] } ?? [], run, combEpoch: epoch, &requests)
                : stores[operation.store].makeHoles(id, operation.unit, run, combEpoch: epoch, &requests)
        }
        issue(&requests, operation.store, &actions)
        switch started {
        case .started, .held: operations[id]?.isLocalPending = true
        case .nothingThere: mended(id, now, &actions)
        case .noSpace, .busy, .stopped: abandonExamination(operation.unit, now, &actions)
        }
    }

    private mutating func mended(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let operation = operations[id], let step = examinations[operation.unit]?.steps.first else { return }
        if let payload = operation.payload { actions.append(.release(payload)) }
        operations[id]?.payload = nil
        switch step {
        case .fetch(let run), .send(let run), .sendHole(let run), .sendZeros(let run):
            examinations[operation.unit]?.result.mended += Int(run.count)
        }
        examinations[operation.unit]?.steps.removeFirst()
        mendNext(id, now, &actions)
    }

    // MARK: Ending

    /// The comb has another configuration, or a copy cannot be asked: whoever waits has to begin anew. A write of the own
    /// device is waited for, since it holds its blocks.
    mutating func abandonExamination(_ unit: UnitKey, _ now: Instant, _ actions: inout [ServerAction]) {
        if let id = examinations[unit]?.operation, operations[id]?.isLocalPending == true {
            examinations[unit]?.isAbandoned = true
            for slot in Forwards.slots { forgetForward(id, slot) }
            return
        }
        endExamination(unit, isComplete: false, now, &actions)
    }

    mutating func abandonExaminations(of key: CombKey, _ now: Instant, _ actions: inout [ServerAction]) {
        let units = examinations.keys.sorted().filter { unit in
            guard let examination = examinations[unit], examination.phase != .waiting else { return false }
            return examination.comb == key && examination.epoch != map.comb(key)?.epoch
        }
        for unit in units { abandonExamination(unit, now, &actions) }
    }

    private mutating func endExamination(
        _ unit: UnitKey, isComplete: Bool, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        guard let examination = examinations.removeValue(forKey: unit) else { return }
        examinationsWaiting.removeAll { $0 == unit }
        integrity[examination.store].mended += UInt64(examination.result.mended)
        integrity[examination.store].differing += UInt64(examination.result.differing)
        if isComplete, examination.result != ExaminationResult() {
            actions.append(.notice(.examined(stores[examination.store].device, unit, examination.result)))
        }
        if let id = examination.operation {
            for slot in Forwards.slots { forgetForward(id, slot) }
            remove(id, now, &actions)
        }
        for waiter in examination.waiters {
            if isComplete {
                operations[waiter]?.examined.append(unit)
                readAgain(waiter, now, &actions)
            } else {
                giveUpReading(waiter, now, &actions)
            }
        }
        for waiter in examination.late { readAgain(waiter, now, &actions) }
        startExaminations(now, &actions)
    }

    private mutating func readAgain(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let operation = operations[id] else { return }
        if operation.kind == .copyUnit { return copyStep(id, now, &actions) }
        if operation.kind == .mergeUnit { return mergeStep(id, now, &actions) }
        if let status = refusal(of: operation) { return reject(id, status, now, &actions) }
        switch startLocally(id, operation, &actions) {
        case .started: operations[id]?.isLocalPending = true
        case .nothingThere: answerZeros(id, now, &actions)
        case .held, .noSpace, .busy, .stopped: reject(id, .notReady, now, &actions)
        }
    }

    private mutating func giveUpReading(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let operation = operations[id] else { return }
        if operation.kind == .copyUnit { return abort(operation.comb, now, &actions) }
        if operation.kind == .mergeUnit { return abandonMerge(id, now, &actions) }
        reject(id, .notReady, now, &actions)
    }
}

/// The secondary's side.
extension ServerCore {
    /// Answers a primary that asks for blocks, or what this copy reads as.
    mutating func answerReplicaRead(
        _ id: UInt64, _ completion: UnitStore.Completion, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        guard let operation = operations[id] else { return }
        let store = operation.store
        guard stores[store].stopReason == nil else { return reject(id, .mediaError, now, &actions) }
        if operation.header.opcode == .verify {
            var seen: BlockChecksums?
            if case .read(let payload, let checksums) = completion.outcome {
                seen = checksums
                actions.append(.release(payload))
            }
            return answerDigest(id, completion, seen, now, &actions)
        }
        guard case .read(let payload, _) = completion.outcome else { return reject(id, .mediaError, now, &actions) }
        if completion.damaged.isEmpty, let link = operation.link {
            var answer = operation.header.reply(.ok)
            answer.flags.insert(.payload)
            let slice = PayloadSlice(payload: payload, offset: 0, length: operation.range.length)
            actions.append(.send(link, answer, slice))
        }
        actions.append(.release(payload))
        if completion.damaged.isEmpty {
            remove(id, now, &actions)
        } else {
            reject(id, .mediaError, now, &actions)
        }
    }

    private mutating func answerDigest(
        _ id: UInt64, _ completion: UnitStore.Completion, _ seen: BlockChecksums?, _ now: Instant,
        _ actions: inout [ServerAction]
    ) {
        guard let operation = operations[id] else { return }
        let map = stores[operation.store].map(of: operation.unit)
        let digest = UnitDigest(map: map, completion, range: map.extent, seen: seen)
        var answer = operation.header.reply(.ok)
        answer.flags.insert(.payload)
        answer.length = UInt32(UnitDigest.encodedSize)
        if let link = operation.link { actions.append(.sendBytes(link, answer, digest.encoded)) }
        remove(id, now, &actions)
    }

    /// There is nothing on the device of what a primary asks for.
    mutating func answerNothing(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        guard operations[id]?.header.opcode == .verify else { return answerZeros(id, now, &actions) }
        answerDigest(id, UnitStore.Completion(operation: id, outcome: .done), nil, now, &actions)
    }
}
