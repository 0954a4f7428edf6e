/// Write intents: what a device says of the units that are being written, so that after a crash only these have to be
/// settled with the other copy (docs/design/resync.md).
///
/// Invariants:
/// - The first write to a bound unit that the device calls cold waits until the record that calls it hot is stable.
/// - A write to blocks that hold data which no stable record names waits until one does.
/// - A unit becomes cold again only while no write to it is under way, and its record then carries the comb epoch of
///   that moment: everything written before counts as written under it.
extension UnitStore {
    /// What the device says of writes to a unit.
    enum Intent: Equatable, Sendable {
        case cold
        /// The unit is new and not recorded yet: after a crash it does not exist, so its writes wait for nothing.
        case fresh
        /// The record that makes it hot is on its way.
        case marking
        case hot
    }

    /// A write of data or zeros that was accepted.
    struct Write: Sendable {
        var operation: UInt64
        var slot: UInt32
        var range: BlockRange
        var combEpoch: UInt64
        /// Nil: zeros.
        var payload: PayloadSlice?
        /// The bytes are known to be wrong.
        var isDamaged = false
        /// Whether the blocks show something of an ancestor so far.
        var isCovering = false
        /// Whether they would be found after a crash without a record that names them.
        var isFound = false
        /// Whether the blocks hold data afterwards: zeros may be that too.
        var isData: Bool
        /// Whether they do not even while they are zeroed.
        var isHole = false
        /// Whether it is stable itself when it ends.
        var isThrough = false

        /// Whether it can be `isFound`, unless one of its blocks is all zeros.
        var mayBeFound: Bool { isCovering && payload != nil && !isDamaged }

        init(
            operation: UInt64, slot: UInt32, range: BlockRange, combEpoch: UInt64, payload: PayloadSlice?,
            isDamaged: Bool = false
        ) {
            self.operation = operation
            self.slot = slot
            self.range = range
            self.combEpoch = combEpoch
            self.payload = payload
            self.isDamaged = isDamaged
            isData = payload != nil
        }
    }

    /// Units that are hot, or are about to be.
    public var hotUnits: Int { hot.count }

    /// Whether the unit may differ from a copy that left in sync at comb epoch `epoch`: it was written later, or was being
    /// written. With `countingIntents` false only the first.
    func isDirty(_ key: UnitKey, since epoch: UInt64, countingIntents: Bool = true) -> Bool {
        guard let slot = bound[key].flatMap({ slots[Int($0)] }) else { return false }
        return slot.combEpoch > epoch || (countingIntents && slot.intent != .cold)
    }

    func isHot(_ key: UnitKey) -> Bool {
        bound[key].flatMap { slots[Int($0)] }.map { $0.intent != .cold } ?? false
    }

    /// Whether a write to the unit would need one more hot unit than there should be: others should become cold first.
    func lacksIntent(_ key: UnitKey) -> Bool { hot.count >= hotUnitsMax && !isHot(key) }

    /// Operations that were `held` and have begun since the last call.
    mutating func takeBegun() -> [UInt64] {
        if begun.isEmpty { return [] }
        defer { begun = [] }
        return begun
    }

    /// Starts a write, or holds it until the device says that its unit is being written.
    mutating func begin(_ write: Write, _ requests: inout Requests) -> Start {
        let number = Int(write.slot)
        guard let slot = slots[number] else { preconditionFailure("a write to a slot that is bound") }
        slots.change(number) {
            $0.writers += 1
            $0.isTouched = true
            $0.isSealing = false
        }
        if slot.isSealing { noteUnsettledDamage(write.slot) }
        switch slot.intent {
        case .fresh, .hot:
            if !search.hasUnrecorded(write) || !isRecordedBeforeOverwritten {
                if !performWithRecord(write, &requests) { perform(write, &requests) }
                return .started
            }
            mustRecord = true
            held.append(write)
            commit(&requests)
            return .held
        case .cold:
            slots[number]?.intent = .marking
            slots[number]?.combEpoch = max(slot.combEpoch, write.combEpoch)
            hot.insert(write.slot)
            change(write.slot)
            prepareSearch(for: write)
            mustRecord = true
        case .marking: break
        }
        if slot.intent == .cold { noteUnsettledDamage(write.slot) }
        if isRecordedFirst { held.append(write) } else { perform(write, &requests) }
        commit(&requests)
        return isRecordedFirst ? .held : .started
    }

    func perform(_ write: Write) -> DiskRequest {
        let base = layout.offset(ofSlot: write.slot)
        if let payload = write.payload {
            let start = base + UInt64(write.range.offset)
            return write.isThrough ? .writeThrough(at: start, payload) : .write(at: start, payload)
        }
        if write.isData || write.isHole {
            return .writeZeros(at: base + UInt64(write.range.offset), length: write.range.length)
        }
        let runs = slots[Int(write.slot)]?.map.runs(in: write.range) ?? []
        guard let first = runs.first, let last = runs.last else {
            preconditionFailure("zeroes begin where data is, and nothing else changes these blocks meanwhile")
        }
        return .writeZeros(at: base + UInt64(first.offset), length: last.offset + last.length - first.offset)
    }

    mutating func perform(_ write: Write, _ requests: inout Requests) {
        var write = write
        write.isThrough = mayGoThrough(write)
        let request = perform(write)
        requests.append((issue(.write(write)), request))
    }

    /// A write that nothing else would share a flush with takes less time if the device makes it stable at once. Only one that
    /// needs no record: what is known of its unit is recorded, and its blocks hold data already or would be found.
    private func mayGoThrough(_ write: Write) -> Bool {
        guard isAtRest, write.payload != nil, !write.isDamaged, !acknowledgesUnflushed,
            let slot = slots[Int(write.slot)], slot.intent == .hot, !slot.isChanged
        else { return false }
        return write.isCovering ? slot.isSearched : slot.map.isFull(in: write.range)
    }

    /// Whether nothing is being written, and no operation on units waits for a flush or a record.
    var isAtRest: Bool {
        writing == 0 && step == .idle && waiting.isEmpty && covering.isEmpty && released.isEmpty && zeroed.isEmpty
            && !mustRecord
    }

    /// The records written with the last commit are stable: what they call hot may be written.
    mutating func beginHeld(_ requests: inout Requests) {
        for slot in marked {
            switch slots[Int(slot)]?.intent {
            case .fresh, .marking: slots.change(Int(slot)) { $0.intent = .hot }
            case .cold, .hot, nil: break
            }
        }
        marked = []
        if held.isEmpty { return }
        let waiting = held
        held = []
        for write in waiting {
            if slots[Int(write.slot)]?.intent == .marking || search.hasUnrecorded(write) {
                held.append(write)
            } else {
                begun.append(write.operation)
                perform(write, &requests)
            }
        }
    }

    /// Ends the intents of units that were not written since the last call (`underPressure`: of some that are not being
    /// written now), once their checksums are stable. `settledEpoch` gives the comb epoch to be recorded, or nil for a unit
    /// that has to stay hot.
    mutating func cool(
        underPressure: Bool, _ requests: inout Requests, settledEpoch: (UnitKey) -> UInt64?
    ) {
        guard stopReason == nil, !hot.isEmpty else { return }
        // Some are on their way already.
        if underPressure, seals.step != .idle { return }
        var left = underPressure ? max(1, hotUnitsMax / 4) : Int.max
        var settling: [(slot: UInt32, combEpoch: UInt64)] = []
        for number in hot.sorted() {
            guard let slot = slots[Int(number)], left > 0 else { continue }
            if slot.intent == .hot, slot.writers == 0, underPressure || !slot.isTouched,
                let epoch = settledEpoch(slot.key)
            {
                if !keepsChecksums || !isSealedFirst { settle(number, epoch) }
                if settling.count < UnitStore.sealsMax { settling.append((number, epoch)) }
                left -= 1
            } else if !underPressure {
                slots.change(Int(number)) { $0.isTouched = false }
            }
        }
        if keepsChecksums { seal(settling, &requests) }
        commit(&requests)
    }

    /// The unit counts as not being written from its next record on.
    mutating func settle(_ number: UInt32, _ combEpoch: UInt64) {
        guard let slot = slots[Int(number)] else { preconditionFailure("a unit that settles is bound") }
        slots.change(Int(number)) {
            $0.intent = .cold
            $0.combEpoch = max(slot.combEpoch, combEpoch)
        }
        endSearch(number)
        hot.remove(number)
        change(number)
        mustRecord = true
    }
}
