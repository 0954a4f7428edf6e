import Base

/// The units of one device: which volume's data lies where, and what of it is stable.
///
/// Invariants:
/// - An operation is reported done only after a flush that began when its data, and the metadata record that makes it
///   visible, were written (group commit: one flush serves everything that waits); or when it needs no record and was
///   written through.
/// - A record names a block only after the block's data was written, so after a crash it shows nothing older than what
///   was written or acknowledged there.
/// - Where an ancestor of the unit shows through, that data is stable before the record is written: else a crash could leave
///   neither what was there nor what was to be. Mostly it is not recorded for its own sake then, see `UnitStore+Search`.
/// - A freed slot is bound again only after its release was flushed, then zeroed, then flushed once more.
/// - Blocks that were zeroed count as holding no data only after the zeros are stable: until then a record that named
///   them again could show what was there before.
/// - A slot whose unit is given back has no write under way.
/// - The first failed write or flush stops the device for good. A failed read is its reader's loss alone.
public struct UnitStore: Sendable {
    struct Slot {
        var key: UnitKey
        var generation: UInt64
        /// No write under a later one is in the unit while it is cold.
        var combEpoch: UInt64
        var map = BlockMap()
        var intent = Intent.cold
        /// Whether it was written since the last look for units to become cold.
        var isTouched = false
        /// Writes accepted and not ended on the device.
        var writers: UInt32 = 0
        /// Whether it is in `changed`.
        var isChanged = false
        /// Whether its checksums are being written to their area, and nothing else to it.
        var isSealing = false
        /// Whether its record says that what is not zeros in its holes is data.
        var isSearched = false
        var checksums = UnitChecksums()
    }

    /// A read under way.
    struct Read: Sendable {
        var operation: UInt64
        var slot: UInt32
        /// The unit's: the slot may be another unit's by the time the read ends.
        var generation: UInt64
        var range: BlockRange
        /// Of one that fills only a part of the buffer: the blocks that are this unit's.
        var blocks: BlockMap?
    }

    enum Pending {
        case write(Write)
        case read(Read)
        /// What several units have of one range.
        case gather(operation: UInt64, [Read])
        /// The log is being written; a flush follows.
        case metadata
        case flush
        /// A piece of a table, and what makes all of it stable.
        case table, tableFlush
        case punch(Range<UInt32>)
        case label(copiesLeft: Int)
        /// Checksums of units that become cold.
        case seal

        var isChange: Bool {
            switch self {
            case .write: true
            case .read, .gather, .metadata, .flush, .table, .tableFlush, .punch, .label, .seal: false
            }
        }
    }

    /// `joining`: the records are written, and the flush is to cover data that is still being written.
    enum CommitStep { case idle, writing, joining, flushing }

    public internal(set) var label: DeviceLabel
    let layout: DeviceLayout
    var slots: SlotPages
    var bound = UnitIndex()
    /// Clean slots, last freed first.
    var free: [UInt32] = []
    var generation: UInt64 = 0

    /// The table that counts, and that which the log in use continues: it counts, or is being written.
    var tableGeneration: UInt64
    var logGeneration: UInt64
    /// Of the next block, and how many there are in the half of the log that is in use.
    var logSequence: UInt64
    var logUsed: UInt32
    var checkpoint: Checkpoint?

    var pending = IDTable<UInt64, Pending>()
    var nextOperation: UInt64 = 1
    var step = CommitStep.idle
    /// The write that the flush of the commit under way is to cover, until it ends.
    var joined: UInt64?
    /// Operations whose data is being written.
    var writing = 0
    /// Done with their data, waiting for the next flush.
    var waiting: [UInt64] = []
    /// Served by the flush in progress.
    var committing: [UInt64] = []
    /// Writes whose data has to be stable before they are recorded; and those that the flush in progress serves.
    var covering: [(write: Write, seen: BlockChecksums?)] = []
    var settling: [(write: Write, seen: BlockChecksums?)] = []
    var search = Search()
    var promises = Promises()
    var holes = Holes()
    /// Of the operations that wait for a flush, those that zeroed blocks which count as data until then.
    var zeroing: [UInt64: (slot: UInt32, range: BlockRange)] = [:]
    /// Slots whose record changed, and slots released, since the last record was written.
    var changed: [UInt32] = []
    /// Slots that are not cold.
    var hot: Set<UInt32> = []
    let hotUnitsMax: Int
    let searchedUnitsMax: Int
    /// Writes that wait for their unit to be recorded as hot.
    var held: [Write] = []
    var begun: [UInt64] = []
    /// Whether a record waits that somebody needs, though no data does.
    var mustRecord = false
    /// Slots that the records being written call hot.
    var marked: [UInt32] = []
    var released: [UInt32] = []
    var releasing: [UInt32] = []
    /// To be zeroed, the next ones last; and how many slots are being zeroed.
    var unclean: [Range<UInt32>] = []
    var punching = 0
    /// Zeroed, waiting for a flush before they are free.
    var zeroed: [UInt32] = []
    var freeing: [UInt32] = []
    var seals = Seals()
    /// Writes of damaged bytes, done but for the word that they are.
    var damages: [(slot: UInt32, operation: UInt64)] = []
    /// Slots of units that are not settled, with damage that the area does not tell of yet.
    var unsettledDamage: Set<UInt32> = []
    /// Units whose release is not stable yet: after a crash they are there, with their checksums.
    var retired: [UInt32: Slot] = [:]
    /// Blocks that are known to be damaged now, and all that were found to be since the device was opened.
    public internal(set) var damagedBlocks = 0
    public internal(set) var damageFound: UInt64 = 0
    /// Settled units whose checksums could not be read when the device was opened: they are unknown.
    public internal(set) var unreadableSeals = 0
    public internal(set) var stopReason: String?
    let acknowledgesUnflushed: Bool
    let isRecordedFirst: Bool
    let leavesOldBytesInHoles: Bool
    let letsAncestorsShow: Bool
    let isStableFirst: Bool
    let isRecordedBeforeOverwritten: Bool
    let isHoleRecordedFirst: Bool
    let isVerifying: Bool
    let isSealedFirst: Bool
    let isTableStableFirst: Bool

    /// Slots that are zeroed by one request, four of which may be under way: a slow disk may write them in well under the
    /// time that it has for a request.
    static let punchMax = 32

    public enum Start: Equatable, Sendable {
        case started
        /// Begins when the intent to write is stable; `takeBegun` tells.
        case held
        /// Done without touching the device: the range reads as zeros, or there was nothing to zero.
        case nothingThere
        case noSpace
        /// A slot is there, but it is still being zeroed: try again soon.
        case busy
        case stopped
    }

    public struct Completion: Equatable, Sendable {
        public var operation: UInt64
        public var outcome: DiskOutcome
        /// Of a read: blocks that are not what was written, and whose they are. Of several units the first one is told.
        public var damaged = BlockMap()
        public var damagedUnit: UnitKey?
        /// Of a read: blocks of which it was not known what they had to be.
        public var unverified = BlockMap()
    }

    public typealias Requests = [(id: DiskOperationID, request: DiskRequest)]

    public var device: DeviceID { label.device }
    public var usedUnits: UInt32 { UInt32(bound.count) }

    /// Whether one more unit would leave `spare` units free. Slots that are being zeroed count as free.
    public func hasRoom(leaving spare: UInt32) -> Bool { UInt64(usedUnits) + UInt64(spare) < label.capacityUnits }

    /// Every unit for which `isWanted` says so, in order.
    public func units(where isWanted: (UnitKey) -> Bool) -> [UnitKey] { bound.units(where: isWanted).sorted() }
    /// The same of those only whose family would be in comb `comb` of `combCount` (a power of two).
    func units(inComb comb: UInt32, of combCount: UInt32, where isWanted: (UnitKey) -> Bool) -> [UnitKey] {
        bound.units(inComb: comb, of: combCount, where: isWanted).sorted()
    }
    /// Where the unit lies on the device, in bytes; nil if nothing was ever written to it.
    public func location(of key: UnitKey) -> UInt64? { bound[key].map { layout.offset(ofSlot: $0) } }
    /// Every slot is exactly one of bound, free, or on its way from bound to free; nil if so.
    public func accountingError() -> String? {
        var seen = bound.slots.sorted() + free + released + releasing + zeroed + freeing + unclean.joined()
        for id in pending.keys.sorted() { if case .punch(let run) = pending[id] { seen += run } }
        return seen.sorted() == Array(0..<label.capacityUnits)
            ? nil : "device \(device): \(seen.count) of \(label.capacityUnits) units accounted for"
    }
    public func map(of key: UnitKey) -> BlockMap {
        bound[key].flatMap { slots[Int($0)]?.map } ?? BlockMap()
    }

    // MARK: Operations

    /// Stores a payload; done when stable. The caller keeps overlapping operations apart. `combEpoch` is the comb epoch under
    /// which it happens, `below` are the nodes that show through. A unit that is not bound yet has to leave `spare` units of the
    /// device to others. `isDamaged`: the bytes are known to be wrong, and reading them is to say so.
    public mutating func write(
        _ operation: UInt64, _ key: UnitKey, over below: [UInt32] = [], _ range: BlockRange, _ payload: PayloadSlice,
        combEpoch: UInt64, spare: UInt32 = 0, isDamaged: Bool = false, _ requests: inout Requests
    ) -> Start {
        if stopReason != nil { return .stopped }
        if location(of: key) == nil, !hasRoom(leaving: spare) { return .noSpace }
        guard let slot = bind(key, combEpoch) else { return .busy }
        var write = Write(
            operation: operation, slot: slot, range: range, combEpoch: combEpoch, payload: payload,
            isDamaged: isDamaged)
        write.isCovering = isStableFirst && covers(key, over: below, range)
        return begin(write, &requests)
    }

    /// Makes the range read as zeros; done when stable. A unit without data anywhere else is given back.
    public mutating func writeZeroes(
        _ operation: UInt64, _ key: UnitKey, _ range: BlockRange, combEpoch: UInt64, _ requests: inout Requests
    ) -> Start {
        if stopReason != nil { return .stopped }
        guard let slot = bound[key] else { return .nothingThere }
        if giveBack(slot, key, without: range, operation, &requests) { return .started }
        guard slots[Int(slot)]?.map.isEmpty(in: range) == false else { return .nothingThere }
        if leavesOldBytesInHoles {
            clear(slot, range)
            waiting.append(operation)
            commit(&requests)
            return .started
        }
        let write = Write(
            operation: operation, slot: slot, range: range, combEpoch: combEpoch, payload: nil, isDamaged: false)
        return begin(write, &requests)
    }

    /// Unbinds the unit if it has nothing but what is in the range.
    mutating func giveBack(
        _ slot: UInt32, _ key: UnitKey, without range: BlockRange, _ operation: UInt64, _ requests: inout Requests
    ) -> Bool {
        guard let known = slots[Int(slot)], known.map.isEmpty(outside: range), known.writers == 0 else { return false }
        release(slot, key)
        waiting.append(operation)
        commit(&requests)
        return true
    }

    public mutating func read(
        _ operation: UInt64, _ key: UnitKey, _ range: BlockRange, _ requests: inout Requests
    ) -> Start {
        if stopReason != nil { return .stopped }
        guard let slot = bound[key], let known = slots[Int(slot)], !known.map.isEmpty(in: range) else {
            return .nothingThere
        }
        let holes = known.map.holes(in: range).map {
            $0.offset - range.offset..<$0.offset - range.offset + $0.length
        }
        let id = issue(
            .read(Read(operation: operation, slot: slot, generation: known.generation, range: range)))
        requests.append(
            (id, .read(at: layout.offset(ofSlot: slot) + UInt64(range.offset), length: range.length, holes: holes)))
        return .started
    }

    /// A buffer of zeros, as a read of nothing.
    mutating func readNothing(_ operation: UInt64, _ range: BlockRange, _ requests: inout Requests) -> Start {
        if stopReason != nil { return .stopped }
        let id = issue(.gather(operation: operation, []))
        requests.append((id, .gather([], length: range.length, holes: [0..<range.length])))
        return .started
    }

    /// Forgets units: they read as zeros from now on. Done when that is stable.
    public mutating func drop(_ operation: UInt64, _ keys: [UnitKey], _ requests: inout Requests) -> Start {
        if stopReason != nil { return .stopped }
        var dropped: Set<UInt32> = []
        for key in keys {
            guard let slot = bound[key] else { continue }
            forget(slot, key)
            dropped.insert(slot)
        }
        guard !dropped.isEmpty else { return .nothingThere }
        changed.removeAll(where: dropped.contains)
        waiting.append(operation)
        commit(&requests)
        return .started
    }

    /// Stamps the label with the system that took the server in.
    public mutating func adopt(_ system: SystemID, _ requests: inout Requests) {
        guard label.system != system.rawValue, stopReason == nil else { return }
        label.system = system.rawValue
        let id = issue(.label(copiesLeft: 1))
        requests.append((id, .writeBytes(at: DeviceLabel.copyOffsets[0], label.encoded())))
    }

    /// Takes the outcome of a request; adds the operations that ended by it.
    public mutating func finish(
        _ id: DiskOperationID, _ outcome: DiskOutcome, _ requests: inout Requests, into completions: inout [Completion]
    ) {
        guard let kind = pending.removeValue(forKey: id.rawValue) else { return }
        if kind.isChange { writing -= 1 }
        if let completion = finishRead(kind, outcome) {
            markDamage(&requests)
            completions.append(completion)
            return
        }
        if case .failed(let reason) = outcome {
            completions += stop(reason, failing: [kind])
            return
        }
        switch kind {
        case .read, .gather: preconditionFailure("answered above")
        case .write(let write) where id.rawValue == joined: join(write, outcome, &requests)
        case .write(let write): wrote(write, outcome, &completions)
        case .metadata where joined != nil: step = .joining
        case .metadata: flush(&requests)
        case .flush: endCommit(&completions, &requests)
        case .table: if writeTable(&requests), endCheckpoint() { endCommit(&completions, &requests) }
        case .tableFlush: if endCheckpoint() { endCommit(&completions, &requests) }
        case .punch(let cleaned):
            zeroed += cleaned
            punching -= cleaned.count
            punchNext(&requests)
        case .seal: sealWritten()
        case .label(let copiesLeft):
            if copiesLeft > 0 {
                let next = issue(.label(copiesLeft: copiesLeft - 1))
                requests.append((next, .writeBytes(at: DeviceLabel.copyOffsets[1], label.encoded())))
            }
        }
        markDamage(&requests)
        commit(&requests)
    }

    private mutating func finishRead(_ kind: Pending, _ outcome: DiskOutcome) -> Completion? {
        var completion: Completion
        switch kind {
        case .read(let read):
            completion = Completion(operation: read.operation, outcome: outcome)
            if case .read(_, let seen) = outcome { verify(read, seen, &completion) }
        case .gather(let operation, let reads):
            completion = Completion(operation: operation, outcome: outcome)
            guard case .read(_, let seen) = outcome else { return completion }
            for read in reads where completion.damaged.isEmpty { verify(read, seen, &completion) }
        case .write, .metadata, .flush, .table, .tableFlush, .punch, .label, .seal: return nil
        }
        return completion
    }

    private mutating func wrote(_ write: Write, _ outcome: DiskOutcome, _ completions: inout [Completion]) {
        let seen: BlockChecksums? = if case .written(let seen) = outcome { seen } else { nil }
        if write.isCovering {
            let write = found(write, seen)
            let isRecorded = write.isFound && slots[Int(write.slot)]?.isChanged == false
            if write.isThrough, isRecorded { return covered(write, seen, &completions) }
            return covering.append((write, seen))
        }
        ended(write, seen)
        if write.isThrough, slots[Int(write.slot)]?.isChanged == false {
            completions.append(Completion(operation: write.operation, outcome: .done))
            return
        }
        if !write.isData, !acknowledgesUnflushed { zeroing[write.operation] = (write.slot, write.range) }
        accept(write, &completions)
    }

    /// What covers an ancestor's blocks is stable.
    private mutating func covered(_ write: Write, _ seen: BlockChecksums?, _ completions: inout [Completion]) {
        ended(write, seen)
        if write.isFound {
            completions.append(Completion(operation: write.operation, outcome: .done))
        } else {
            accept(write, &completions)
        }
    }

    private mutating func ended(_ write: Write, _ seen: BlockChecksums?) {
        let number = Int(write.slot)
        slots.change(number) {
            $0.writers -= 1
            $0.isTouched = true
        }
        guard write.isData else { return }
        noteWritten(write, write.payload == nil ? .zeros(Int(write.range.count)) : seen)
        guard slots.change(number, { $0.map.insert(write.range) }) == true else { return }
        if write.isFound { search.leave(write) } else { change(write.slot) }
    }

    /// The slot's record is to be written with the next commit.
    mutating func change(_ slot: UInt32) {
        guard slots[Int(slot)]?.isChanged == false else { return }
        slots.change(Int(slot)) { $0.isChanged = true }
        changed.append(slot)
    }

    // MARK: Group commit

    private mutating func accept(_ write: Write, _ completions: inout [Completion]) {
        if write.isDamaged, keepsChecksums {
            damages.append((write.slot, write.operation))
        } else if acknowledgesUnflushed {
            completions.append(Completion(operation: write.operation, outcome: .done))
        } else {
            waiting.append(write.operation)
        }
    }

    mutating func commit(_ requests: inout Requests) {
        guard step == .idle, stopReason == nil,
            !waiting.isEmpty || !covering.isEmpty || !released.isEmpty || !zeroed.isEmpty || mustRecord
                || seals.step == .written
                || (acknowledgesUnflushed && !changed.isEmpty)
        else { return }
        // A flush costs more than a write: it waits for the writes that are about to end while those are the larger part.
        let isWorthwhile = waiting.count + covering.count >= writing
        if !mustRecord, released.isEmpty, zeroed.isEmpty, !acknowledgesUnflushed, !isWorthwhile { return }
        let isRecording = mustRecord || !changed.isEmpty || !released.isEmpty
        // Until the table that is being written counts there is no other place.
        let recordsMost = isRecording ? changed.count + released.count + search.unrecorded.count : 0
        if checkpoint != nil, !fitsLog(recordsMost) { return }
        mustRecord = false
        if seals.step == .written { seals.step = .flushing }
        swap(&committing, &waiting)
        if !covering.isEmpty { swap(&settling, &covering) }
        freeing = zeroed
        zeroed = []
        releasing = released
        if isRecording { recordUnrecorded() }
        swap(&holes.recording, &holes.unrecorded)
        let records = changed.count + released.count
        if records == 0 { return flush(&requests) }
        step = .writing
        marked = changed.filter { slots[Int($0)].map { $0.intent != .cold } ?? false }
        if !fitsLog(records) { beginCheckpoint(for: records, &requests) }
        if checkpoint?.carriesCommit != true {
            let bytes = encodeLog()
            let offset = logOffset(logGeneration) + UInt64(logUsed) * 4096
            requests.append((issue(.metadata), .writeBytes(at: offset, bytes)))
            logUsed += UInt32(bytes.count / 4096)
        }
        for slot in changed { slots.change(Int(slot)) { $0.isChanged = false } }
        changed.removeAll(keepingCapacity: true)
        released = []
    }

    mutating func flush(_ requests: inout Requests) {
        step = .flushing
        requests.append((issue(.flush), .flush))
    }

    private mutating func endCommit(_ completions: inout [Completion], _ requests: inout Requests) {
        step = .idle
        for operation in committing {
            if !zeroing.isEmpty, let zeroed = zeroing.removeValue(forKey: operation) {
                clear(zeroed.slot, zeroed.range)
            }
            completions.append(Completion(operation: operation, outcome: .done))
        }
        committing.removeAll(keepingCapacity: true)
        search.recording = [:]
        for (write, seen) in settling { covered(write, seen, &completions) }
        settling.removeAll(keepingCapacity: true)
        free += freeing.sorted(by: >)
        freeing = []
        endSeals(&completions)
        beginHeld(&requests)
        beginHoles(&requests)
        if !releasing.isEmpty { punch(releasing, &requests) }
        for slot in releasing { retired[slot] = nil }
        releasing = []
    }

    /// Zeroes slots, neighbours together, a few runs at a time: a disk may have to write all of it.
    mutating func punch(_ dirty: [UInt32], _ requests: inout Requests) {
        let ordered = dirty.sorted()
        var runs: [Range<UInt32>] = []
        for slot in ordered {
            if let last = runs.last, last.upperBound == slot, last.count < UnitStore.punchMax {
                runs[runs.count - 1] = last.lowerBound..<slot + 1
            } else {
                runs.append(slot..<slot + 1)
            }
        }
        unclean += runs.reversed()
        punchNext(&requests)
    }

    private mutating func punchNext(_ requests: inout Requests) {
        while punching < 4 * UnitStore.punchMax, let run = unclean.popLast() {
            punching += run.count
            let length = UInt32(run.count) * Geometry.unitBytes
            requests.append((issue(.punch(run)), .punch(at: layout.offset(ofSlot: run.lowerBound), length: length)))
        }
    }

    /// The request that has been under way for longest.
    var oldestRequest: UInt64? { pending.keys.min() }

    /// Gives the device up: everything under way on it fails, and nothing is asked of it any more.
    mutating func stop(_ reason: String, failing failed: [Pending] = []) -> [Completion] {
        var ended: [UInt64] = committing + waiting + held.map(\.operation)
        ended += (holes.unrecorded + holes.recording).map(\.operation)
        ended += (covering + settling).map(\.write.operation) + damages.map(\.operation) + seals.operations
        let outstanding = failed + pending.keys.sorted().compactMap { pending[$0] }
        for kind in outstanding {
            switch kind {
            case .write(let write): ended.append(write.operation)
            case .read(let read): ended.append(read.operation)
            case .gather(let operation, _): ended.append(operation)
            case .metadata, .flush, .table, .tableFlush, .punch, .label, .seal: break
            }
        }
        stopReason = reason
        committing = []
        waiting = []
        covering = []
        settling = []
        held = []
        holes = Holes()
        damages = []
        seals = Seals()
        checkpoint = nil
        joined = nil
        begun = []
        zeroing = [:]
        pending = IDTable()
        return ended.map { Completion(operation: $0, outcome: .failed(reason: reason)) }
    }

    mutating func bind(_ key: UnitKey, _ combEpoch: UInt64) -> UInt32? {
        if let slot = bound[key] { return slot }
        guard let slot = free.popLast() else { return nil }
        generation += 1
        countPromised(key, isBound: true)
        slots[Int(slot)] = Slot(key: key, generation: generation, combEpoch: combEpoch, intent: .fresh)
        hot.insert(slot)
        bound[key] = slot
        return slot
    }

    /// The unit's slot is on its way to being free.
    private mutating func forget(_ slot: UInt32, _ key: UnitKey) {
        bound[key] = nil
        countPromised(key, isBound: false)
        if keepsChecksums { retired[slot] = slots[Int(slot)] }
        endSearch(slot)
        forgetChecksums(slot, .wholeUnit)
        slots[Int(slot)] = nil
        hot.remove(slot)
        released.append(slot)
    }

    private mutating func release(_ slot: UInt32, _ key: UnitKey) {
        if slots[Int(slot)]?.isChanged == true { changed.removeAll { $0 == slot } }
        forget(slot, key)
    }

    /// Blocks whose zeros are stable hold no data any more. Their record need not be written for that alone.
    private mutating func clear(_ slot: UInt32, _ range: BlockRange) {
        let heldData = empty(slot, range)
        guard let known = slots[Int(slot)] else { return }
        if known.map.isEmpty, known.writers == 0 { release(slot, known.key) } else if heldData { change(slot) }
    }

    /// The blocks hold no data any more; whether they did.
    mutating func empty(_ slot: UInt32, _ range: BlockRange) -> Bool {
        guard slots[Int(slot)]?.map.remove(range) == true else { return false }
        let wasSealing = slots[Int(slot)]?.isSealing == true
        slots[Int(slot)]?.isSealing = false
        forgetChecksums(slot, range)
        if wasSealing { noteUnsettledDamage(slot) }
        return true
    }

    mutating func issue(_ kind: Pending) -> DiskOperationID {
        let id = nextOperation
        nextOperation += 1
        if kind.isChange { writing += 1 }
        pending[id] = kind
        return DiskOperationID(rawValue: id)
    }
}
