/// Blocks that are to show the unit's ancestors again: a write there was refused, or the other copy has holes there
/// (docs/design/snapshots.md).
///
/// Invariants:
/// - A stable record leaves the blocks out before they are zeroed. After a crash they hold what was written there, or nothing;
///   zeros that count as data would hide what the ancestors have.
/// - It is done when they are zeros on the device: what the holes of a searched unit hold is data.
extension UnitStore {
    struct Holes: Sendable {
        /// Wait for a record without their blocks; and for the one that is being written.
        var unrecorded: [Write] = []
        var recording: [Write] = []
    }

    /// Makes the range hold nothing; done when stable. Otherwise as `writeZeroes`.
    mutating func makeHoles(
        _ operation: UInt64, _ key: UnitKey, _ range: BlockRange, combEpoch: UInt64, _ requests: inout Requests
    ) -> Start {
        guard isHoleRecordedFirst else { return writeZeroes(operation, key, range, combEpoch: combEpoch, &requests) }
        if stopReason != nil { return .stopped }
        guard let slot = bound[key] else { return .nothingThere }
        if giveBack(slot, key, without: range, operation, &requests) { return .started }
        guard empty(slot, range), let known = slots[Int(slot)] else { return .nothingThere }
        search.forget(slot, range)
        slots[Int(slot)]?.writers += 1
        slots[Int(slot)]?.isTouched = true
        if known.intent == .cold {
            slots[Int(slot)]?.intent = .marking
            slots[Int(slot)]?.combEpoch = max(known.combEpoch, combEpoch)
            hot.insert(slot)
            noteUnsettledDamage(slot)
        }
        change(slot)
        mustRecord = true
        var write = Write(operation: operation, slot: slot, range: range, combEpoch: combEpoch, payload: nil)
        write.isHole = true
        holes.unrecorded.append(write)
        commit(&requests)
        return .held
    }

    /// The record that leaves these blocks out is stable.
    mutating func beginHoles(_ requests: inout Requests) {
        for write in holes.recording {
            begun.append(write.operation)
            perform(write, &requests)
        }
        holes.recording = []
    }
}
