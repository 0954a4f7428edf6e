/// Checksums at rest: what each block of a device must read as (docs/design/checksums.md).
///
/// Invariants:
/// - A block that is read as data and has a known checksum matches it, or is reported as damaged. One that was damaged and
///   matches again is well.
/// - A write of bytes that are known to be wrong is done when it is stable that they are: a crash does not make data of them.
/// - What a read finds damaged in a hot unit, or is damaged in one that becomes hot, is stored as such soon: until then a crash
///   makes data of it.
/// - Before a record calls a unit cold, the checksums of all its blocks that are known are stable in their area. Those of
///   hot units are only in memory: after a crash they are unknown, since what was under way may have arrived or not.
extension UnitStore {
    /// Where units are that become cold: their checksums have to be stable first.
    struct Seals: Sendable {
        enum Step { case idle, writing, written, flushing }

        var step = Step.idle
        /// The units, and the comb epoch with which each becomes cold.
        var units: [(slot: UInt32, combEpoch: UInt64)] = []
        /// Operations that are done when the batch is stable.
        var operations: [UInt64] = []
        /// Writes to the area that have not ended.
        var writesLeft = 0
    }

    /// Units whose checksums are written at once.
    static let sealsMax = 256

    /// Whether data is checked when it is read. Devices of older formats have no place for checksums.
    public var keepsChecksums: Bool { label.checksumBlocks > 0 }

    /// What was written has these checksums; nil: unknown.
    mutating func noteWritten(_ write: Write, _ seen: BlockChecksums?) {
        guard keepsChecksums else { return }
        guard let seen else { return forgetChecksums(write.slot, write.range) }
        let before = damage(of: write.slot)
        slots.change(Int(write.slot)) { $0.checksums.set(write.range, seen, isDamaged: write.isDamaged) }
        damagedBlocks += damage(of: write.slot) - before
    }

    /// Compares what was read with what is known, and notes what differs and what was not known.
    mutating func verify(_ read: Read, _ seen: BlockChecksums?, _ completion: inout Completion) {
        guard let slot = slots[Int(read.slot)], slot.generation == read.generation else { return }
        let map = read.blocks.map { $0.intersection(slot.map) } ?? slot.map
        guard keepsChecksums, isVerifying, let seen else {
            completion.unverified = map
            return
        }
        slots.change(Int(read.slot)) { $0.checksums.check(read.range, seen, map: map, &completion) }
        if !completion.damaged.isEmpty { completion.damagedUnit = slot.key }
        let before = slot.checksums.damaged
        let after = slots[Int(read.slot)]?.checksums.damaged ?? BlockMap()
        damagedBlocks += after.count - before.count
        let found = after.subtracting(before).count
        damageFound += UInt64(found)
        if found > 0 { noteUnsettledDamage(read.slot) }
    }

    /// The area is to say what is damaged in a unit that is not settled, as the crash of a server leaves nothing else of it.
    mutating func noteUnsettledDamage(_ slot: UInt32) {
        guard keepsChecksums, let known = slots[Int(slot)], known.intent != .cold, damage(of: slot) > 0 else { return }
        unsettledDamage.insert(slot)
    }

    /// The blocks hold no data any more, or nobody knows which.
    mutating func forgetChecksums(_ slot: UInt32, _ range: BlockRange) {
        let before = damage(of: slot)
        slots[Int(slot)]?.checksums.forget(range)
        damagedBlocks += damage(of: slot) - before
    }

    private func damage(of slot: UInt32) -> Int { slots[Int(slot)]?.checksums.damaged.count ?? 0 }

    /// The unit in the slot, if it is settled.
    func restingUnit(inSlot number: UInt32) -> UnitKey? {
        guard let slot = slots[Int(number)], slot.intent == .cold else { return nil }
        return slot.key
    }

    /// Blocks that are known to be damaged.
    func damage(of key: UnitKey) -> BlockMap {
        bound[key].flatMap { slots[Int($0)]?.checksums.damaged } ?? BlockMap()
    }

    /// Whether damage of the block would be noticed.
    public func knowsChecksum(of key: UnitKey, block: UInt16) -> Bool {
        bound[key].flatMap { slots[Int($0)]?.checksums.known[block] } ?? false
    }

    /// Where the blocks of settled units lie whose checksums are known, and what these are. Damage of any of them is
    /// noticed when it is read, also after a death of the server.
    public var settledBlocks: [(offset: UInt64, checksum: UInt32)] {
        slots.bound.filter { $0.slot.intent == .cold }.flatMap { number, slot in
            let blocks = slot.map.intersection(slot.checksums.known).subtracting(slot.checksums.damaged)
            return (0..<UInt16(Geometry.blocksPerUnit)).filter { blocks[$0] }.map { block in
                let offset = layout.offset(ofSlot: number) + UInt64(block) * UInt64(Geometry.blockBytes)
                return (offset: offset, checksum: slot.checksums.value(block))
            }
        }
    }

    // MARK: Sealing

    /// Writes the checksums of units that are to become cold. One batch at a time.
    mutating func seal(_ units: [(slot: UInt32, combEpoch: UInt64)], _ requests: inout Requests) {
        guard !units.isEmpty, seals.step == .idle else { return }
        seals.units = units
        for (slot, _) in units { slots.change(Int(slot)) { $0.isSealing = true } }
        writeChecksums(of: units.map(\.slot), &requests)
    }

    /// Has it stored that what was written, or found, is damaged; the batch under way comes first.
    mutating func markDamage(_ requests: inout Requests) {
        guard !damages.isEmpty || !unsettledDamage.isEmpty, seals.step == .idle, stopReason == nil else { return }
        seals.operations = damages.map(\.operation)
        let slots = unsettledDamage.union(damages.map(\.slot)).sorted()
        damages = []
        unsettledDamage = []
        writeChecksums(of: slots, &requests)
    }

    /// `numbers` in order: neighbours share a block.
    private mutating func writeChecksums(of numbers: [UInt32], _ requests: inout Requests) {
        seals.step = .writing
        var block: UInt32?
        for slot in numbers where slot / UInt32(UnitChecksums.perBlock) != block {
            block = slot / UInt32(UnitChecksums.perBlock)
            seals.writesLeft += 1
            let at = layout.checksums + UInt64(slot / UInt32(UnitChecksums.perBlock)) * 4096
            requests.append((issue(.seal), .writeBytes(at: at, encodeChecksums(around: slot))))
        }
    }

    /// The block of the area that a slot shares with its neighbours. Of those that are hot it counts only what is damaged.
    private func encodeChecksums(around slot: UInt32) -> [UInt8] {
        var writer = ByteWriter()
        let first = Int(slot) / UnitChecksums.perBlock * UnitChecksums.perBlock
        for (place, neighbour) in (first..<min(first + UnitChecksums.perBlock, slots.count)).enumerated() {
            let gap = place * UnitChecksums.stride - writer.bytes.count
            writer.bytes.append(contentsOf: repeatElement(0, count: gap))
            guard let known = slots[neighbour] ?? retired[UInt32(neighbour)] else { continue }
            known.checksums.encode(
                slot: UInt32(neighbour), generation: known.generation,
                isSettled: known.intent == .cold || known.isSealing, into: &writer)
        }
        writer.bytes.append(contentsOf: repeatElement(0, count: 4096 - writer.bytes.count))
        return writer.bytes
    }

    mutating func sealWritten() {
        seals.writesLeft -= 1
        if seals.writesLeft == 0 { seals.step = .written }
    }

    /// A flush that began after the batch was written is done: units that nobody wrote meanwhile become cold.
    mutating func endSeals(_ completions: inout [Completion]) {
        guard seals.step == .flushing else { return }
        completions += seals.operations.map { Completion(operation: $0, outcome: .done) }
        let units = seals.units
        seals = Seals()
        for (number, combEpoch) in units {
            guard let slot = slots[Int(number)], slot.isSealing else { continue }
            slots.change(Int(number)) { $0.isSealing = false }
            if slot.intent == .hot, slot.writers == 0 { settle(number, combEpoch) }
        }
    }

    /// What lies in the checksum area, in whole blocks from `offset` on: to be given, in any pieces, before the store is used.
    /// Of hot units it says only which blocks may be damaged.
    public mutating func loadChecksums(at offset: UInt64, _ bytes: [UInt8]) {
        let first = Int((offset - layout.checksums) / 4096) * UnitChecksums.perBlock
        let count = bytes.count / 4096 * UnitChecksums.perBlock
        for number in first..<min(first + count, slots.count) {
            guard let slot = slots[number] else { continue }
            let isSettled = slot.intent == .cold
            let start =
                (number - first) / UnitChecksums.perBlock * 4096
                + number % UnitChecksums.perBlock * UnitChecksums.stride
            let piece = Array(bytes[start..<start + UnitChecksums.encodedSize])
            guard
                let stored = UnitChecksums(
                    decoding: piece, slot: UInt32(number), generation: slot.generation, isSettled: isSettled)
            else { continue }
            if isSettled || !stored.suspected.isEmpty { slots[number]?.checksums = stored }
            if isSettled { unreadableSeals -= 1 }
        }
    }
}
