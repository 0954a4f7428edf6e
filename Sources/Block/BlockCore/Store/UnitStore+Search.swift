/// Data that is found after a crash although no record names it: so the first write of a block over what an ancestor shows
/// needs one flush and no record (docs/design/snapshots.md).
///
/// A hole reads as zeros on the device itself. So what is not zeros in the hole of a unit whose record says *searched* was
/// written there, and opening the device makes it data.
///
/// Invariants:
/// - A write without a zero block, over what an ancestor shows, is done when a flush that began after it has ended, and with it
///   the record that calls its unit searched is stable. Only then does the map name its blocks.
/// - Until a stable record names these blocks, nothing is written there: zeros could not be found.
/// - A unit is searched only while it is hot. The record with which it becomes cold names all that it holds, and so does that
///   with which it makes place for another one.
extension UnitStore {
    struct Search: Sendable {
        /// Which units are searched, the longest first.
        var slots: [UInt32] = []
        /// By slot, blocks that no record names yet; and those that the records being written name.
        var unrecorded: [UInt32: BlockMap] = [:]
        var recording: [UInt32: BlockMap] = [:]

        mutating func leave(_ write: Write) { _ = unrecorded[write.slot, default: BlockMap()].insert(write.range) }

        mutating func forget(_ slot: UInt32, _ range: BlockRange) { _ = unrecorded[slot]?.remove(range) }

        func hasUnrecorded(_ write: Write) -> Bool {
            if unrecorded.isEmpty, recording.isEmpty { return false }
            return [unrecorded, recording].contains { $0[write.slot]?.runs(in: write.range).isEmpty == false }
        }
    }

    /// A write over what an ancestor shows, which has reached the device, and whether it would be found there.
    mutating func found(_ write: Write, _ seen: BlockChecksums?) -> Write {
        var write = write
        write.isFound = isFound(write, seen)
        return write
    }

    private mutating func isFound(_ write: Write, _ seen: BlockChecksums?) -> Bool {
        guard write.payload != nil, !write.isDamaged, let seen, let slot = slots[Int(write.slot)] else { return false }
        // A block with the checksum of zeros may be zeros.
        if (0..<seen.count).contains(where: { seen[$0] == BlockChecksums.ofZeros }) { return false }
        return slot.isSearched || beginSearch(write.slot)
    }

    /// The unit is searched from its next record on, unless too many are that are being written.
    @discardableResult
    private mutating func beginSearch(_ slot: UInt32) -> Bool {
        if search.slots.count >= searchedUnitsMax {
            guard let other = search.slots.first(where: { slots[Int($0)]?.writers == 0 }) else { return false }
            endSearch(other)
            change(other)
        }
        search.slots.append(slot)
        slots[Int(slot)]?.isSearched = true
        change(slot)
        return true
    }

    /// The record that makes the unit hot calls it searched as well, if the write that waits for that may need it.
    mutating func prepareSearch(for write: Write) {
        guard write.mayBeFound, slots[Int(write.slot)]?.isSearched == false else { return }
        beginSearch(write.slot)
    }

    /// Writes data over what an ancestor shows and, beside it, the record that calls its unit searched: one flush after both
    /// serves both. False: the write is not begun, since it is not alone, or the unit is searched already or cannot be.
    mutating func performWithRecord(_ write: Write, _ requests: inout Requests) -> Bool {
        guard write.mayBeFound, isAtRest, slots[Int(write.slot)]?.isSearched == false, beginSearch(write.slot) else {
            return false
        }
        let id = issue(.write(write))
        requests.append((id, perform(write)))
        mustRecord = true
        commit(&requests)
        // A commit that waits for a table has a flush of its own.
        if step == .writing, checkpoint?.carriesCommit != true { joined = id.rawValue }
        return true
    }

    /// The data that the flush to come is to cover is written.
    mutating func join(_ write: Write, _ outcome: DiskOutcome, _ requests: inout Requests) {
        joined = nil
        let seen: BlockChecksums? = if case .written(let seen) = outcome { seen } else { nil }
        settling.append((found(write, seen), seen))
        if step == .joining { flush(&requests) }
    }

    mutating func endSearch(_ slot: UInt32) {
        guard slots[Int(slot)]?.isSearched == true else { return }
        slots[Int(slot)]?.isSearched = false
        if let place = search.slots.firstIndex(of: slot) { search.slots.remove(at: place) }
    }

    /// What is unrecorded goes along with the records that are about to be written.
    mutating func recordUnrecorded() {
        for slot in search.unrecorded.keys.sorted() { change(slot) }
        search.recording = search.unrecorded
        search.unrecorded = [:]
    }

    /// Has what is unrecorded recorded, so that later writes need not wait for it.
    mutating func recordLeft(_ requests: inout Requests) {
        guard !search.unrecorded.isEmpty else { return }
        mustRecord = true
        commit(&requests)
    }

    /// What the holes of searched units hold is data from now on.
    mutating func searchUnits(_ dataOfUnit: (UInt64) -> BlockMap) {
        for number in hot where slots[Int(number)]?.isSearched == true {
            let found = dataOfUnit(layout.offset(ofSlot: number))
            for run in found.runs() { _ = slots[Int(number)]?.map.insert(run) }
            slots[Int(number)]?.isSearched = false
        }
    }
}
