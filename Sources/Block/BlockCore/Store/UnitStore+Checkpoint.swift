/// The unit table, written anew from time to time so that what has to be read after it stays short (docs/formats/device.md).
///
/// Table generation g lies in area g mod 2, and what is recorded after it in half g mod 2 of the log. When a half is full,
/// records go on in the other one under the next generation, and the table of that moment is written beside them, piece by piece.
///
/// Invariants:
/// - A table counts when all of it is stable. Until then the one before it and both halves of the log say the same.
/// - A half of the log is begun anew only when the table that makes its records superfluous counts.
extension UnitStore {
    /// A table on its way to the device.
    struct Checkpoint: Sendable {
        let generation: UInt64
        /// Whether a commit waits for it whose records are more than a half of the log holds.
        let carriesCommit: Bool
        /// Of the first log block that continues it.
        private let firstSequence: UInt64
        private let area: UInt64
        /// What the slots held when it began.
        private let slots: SlotPages
        private var page = 0
        private var written = 0
        /// Records that do not fill a block yet.
        private var records = ByteWriter()
        private var count: UInt32 = 0
        private var checksum: UInt32 = 0
        private(set) var isDone = false

        /// Records of so many pages of slots, 320 KiB, are encoded and written at once.
        private static let pagesAtOnce = 8

        init(generation: UInt64, of store: UnitStore, carriesCommit: Bool) {
            self.generation = generation
            self.carriesCommit = carriesCommit
            firstSequence = store.logSequence
            area = store.layout.tables[Int(generation & 1)]
            slots = store.slots
        }

        /// What to write next, the header last; nil when all was given.
        mutating func next() -> (offset: UInt64, bytes: [UInt8])? {
            while page < slots.pageCount {
                for _ in 0..<Checkpoint.pagesAtOnce where page < slots.pageCount {
                    slots.forEach(inPage: page) { number, slot in
                        records.put(slot, number: number, isBound: true)
                        count += 1
                    }
                    page += 1
                }
                if page == slots.pageCount {
                    let padding = (4096 - records.bytes.count % 4096) % 4096
                    records.bytes.append(contentsOf: repeatElement(0, count: padding))
                }
                let whole = records.bytes.count / 4096 * 4096
                if whole == 0 { continue }
                let bytes = Array(records.bytes[..<whole])
                records.bytes.removeFirst(whole)
                checksum = CRC32C.checksum(bytes, seed: checksum)
                defer { written += whole }
                return (area + 4096 + UInt64(written), bytes)
            }
            guard !isDone else { return nil }
            isDone = true
            return (area, header)
        }

        private var header: [UInt8] {
            var header = ByteWriter()
            header.put(UnitStore.tableMagic)
            header.put(UnitStore.formatVersion)
            header.put(UInt16(0))
            header.put(generation)
            header.put(count)
            header.put(checksum)
            header.put(firstSequence)
            return header.sealedBlocks(1)
        }
    }

    /// Blocks of a half of the log.
    var halfBlocks: UInt32 { label.logBlocks / 2 }

    /// Where the half of the log begins that continues table `generation`.
    func logOffset(_ generation: UInt64) -> UInt64 { layout.log + (generation & 1) * UInt64(halfBlocks) * 4096 }

    private static func logBlocks(_ records: Int) -> Int {
        (records + DeviceLayout.recordsPerLogBlock - 1) / DeviceLayout.recordsPerLogBlock
    }

    /// Whether the half of the log in use has room for so many records.
    func fitsLog(_ records: Int) -> Bool { Int(logUsed) + UnitStore.logBlocks(records) <= Int(halfBlocks) }

    /// The other half of the log is used from now on; there must be no table under way.
    mutating func beginCheckpoint(for records: Int, _ requests: inout Requests) {
        precondition(checkpoint == nil, "one table at a time")
        logGeneration += 1
        logUsed = 0
        checkpoint = Checkpoint(
            generation: logGeneration, of: self, carriesCommit: UnitStore.logBlocks(records) > Int(halfBlocks))
        _ = writeTable(&requests)
    }

    /// Goes on with the table that is being written. Whether it counts as it is.
    mutating func writeTable(_ requests: inout Requests) -> Bool {
        if let (offset, bytes) = checkpoint?.next() {
            requests.append((issue(.table), .writeBytes(at: offset, bytes)))
            return false
        }
        if isTableStableFirst { requests.append((issue(.tableFlush), .flush)) }
        return !isTableStableFirst
    }

    /// The table counts. Whether a commit waited for that.
    mutating func endCheckpoint() -> Bool {
        guard let ended = checkpoint else { preconditionFailure("a table was being written") }
        tableGeneration = ended.generation
        checkpoint = nil
        return ended.carriesCommit
    }

    /// A table of what the slots hold, which counts when it is stable, and has an empty log.
    mutating func nextTable() -> (offset: UInt64, bytes: [UInt8]) {
        logSequence = 0
        logUsed = 0
        // Half a log under this generation may have been there already, and some of it may have been left out: the next but one
        // has the same place, and nothing was ever written under it.
        let generation = tableGeneration + (logGeneration > tableGeneration ? 3 : 1)
        (tableGeneration, logGeneration) = (generation, generation)
        var table = Checkpoint(generation: generation, of: self, carriesCommit: false)
        var records: [UInt8] = []
        while let (offset, bytes) = table.next() {
            if table.isDone { return (offset, bytes + records) }
            records += bytes
        }
        preconditionFailure("a table ends with its header")
    }

    // MARK: Log

    /// The records of everything that changed, as whole log blocks.
    mutating func encodeLog() -> [UInt8] {
        var entries: [(UInt32, Slot?)] = released.map { ($0, nil) }
        for number in changed { if let slot = slots[Int(number)] { entries.append((number, slot)) } }
        var bytes: [UInt8] = []
        var next = 0
        while next < entries.count {
            let chunk = entries[next..<min(next + DeviceLayout.recordsPerLogBlock, entries.count)]
            next += chunk.count
            var block = ByteWriter()
            block.put(UnitStore.logMagic)
            block.put(UnitStore.formatVersion)
            block.put(UInt16(chunk.count))
            block.put(logGeneration)
            block.put(logSequence)
            logSequence += 1
            for (number, slot) in chunk {
                let empty = Slot(
                    key: UnitKey(tree: TreeID(rawValue: 0), node: 0, index: 0), generation: 0, combEpoch: 0)
                block.put(slot ?? empty, number: number, isBound: slot != nil)
            }
            bytes += block.sealedBlocks(1)
        }
        return bytes
    }

    /// Applies what continues the table, which was found in `tableVersion`.
    mutating func replayLog(_ metadata: [UInt8], tableVersion: UInt16) throws(DeviceError) {
        let blocks = (0..<label.logBlocks).map { LogBlock(metadata, at: layout.log + UInt64($0) * 4096) }
        logGeneration = tableGeneration
        if tableVersion < 5 {
            // The whole log continued the table.
            replay(blocks[...], of: tableGeneration, metadata)
        } else {
            let halves = [blocks[..<Int(halfBlocks)], blocks[Int(halfBlocks)..<2 * Int(halfBlocks)]]
            replay(halves[Int(tableGeneration & 1)], of: tableGeneration, metadata)
            let (next, later) = (halves[Int((tableGeneration + 1) & 1)], tableGeneration + 1)
            if next.contains(where: { $0?.generation == later }) { logGeneration = later }
            if let first = next.first ?? nil, first.generation == later {
                // It was begun when all before it was stable.
                guard first.sequence == logSequence else {
                    throw DeviceError(code: .corrupt, message: "the log lacks records that others follow on")
                }
                replay(next, of: later, metadata)
            }
        }
        // The log of a later table begins only after the one before it counts: that one was there and is lost, and this one lacks
        // what was acknowledged since.
        guard !blocks.contains(where: { ($0?.generation ?? 0) > logGeneration }) else {
            throw DeviceError(code: .corrupt, message: "the unit table that the log continues is corrupt")
        }
    }

    /// Applies blocks up to the first one that is not of the generation and in sequence: what follows was never acknowledged.
    private mutating func replay(_ blocks: ArraySlice<LogBlock?>, of generation: UInt64, _ metadata: [UInt8]) {
        for block in blocks {
            guard let block, block.generation == generation, block.sequence == logSequence,
                let records = block.records(metadata), records.allSatisfy({ $0.number < label.capacityUnits })
            else { return }
            for record in records {
                slots[Int(record.number)] = record.isBound ? record.slot : nil
            }
            logSequence += 1
        }
    }

    /// A block of the log whose checksum is right.
    private struct LogBlock {
        var offset: Int
        var version: UInt16
        var count: UInt16
        var generation: UInt64
        var sequence: UInt64

        init?(_ metadata: [UInt8], at offset: UInt64) {
            self.offset = Int(offset)
            let block = Array(metadata[self.offset..<self.offset + 4096])
            var reader = ByteReader(block)
            guard (try? reader.number(UInt32.self)) == UnitStore.logMagic,
                let version = try? reader.number(UInt16.self), (1...UnitStore.formatVersion).contains(version),
                let count = try? reader.number(UInt16.self), count <= DeviceLayout.recordsPerLogBlock,
                let generation = try? reader.number(UInt64.self), let sequence = try? reader.number(UInt64.self),
                ByteReader.isSealed(block)
            else { return nil }
            (self.version, self.count, self.generation, self.sequence) = (version, count, generation, sequence)
        }

        /// Nil if any of them is wrong.
        func records(_ metadata: [UInt8]) -> [(number: UInt32, slot: Slot, isBound: Bool)]? {
            var reader = ByteReader(Array(metadata[offset + 24..<offset + 4096]))
            let records = (0..<count).compactMap { _ in reader.record(version: version) }
            return records.count == Int(count) ? records : nil
        }
    }
}
