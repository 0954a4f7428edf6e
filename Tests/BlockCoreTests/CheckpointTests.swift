import Testing

@testable import BlockCore

/// The unit table is written beside what goes on, and whatever of it arrives, nothing is lost.
@Suite struct CheckpointTests {
    let volume = VolumeID(rawValue: 9)

    private func unit(_ index: UInt32) -> UnitKey { UnitKey(volume: volume, index: index) }

    /// Writes a block of its own to a unit; whether that was done.
    private func write(_ number: UInt8, to index: UInt32, _ device: inout MemoryDevice) -> Bool {
        device.completions = []
        #expect(device.write(unit(index), BlockRange(start: UInt16(number), count: 1), byte: number) == .started)
        return device.completions.contains { $0.operation == UInt64(number) && $0.outcome == .done }
    }

    private func blocks(_ device: MemoryDevice, _ index: UInt32) -> [UInt16] {
        (0..<256).filter { device.store.map(of: unit(index))[$0] }
    }

    /// Half a log is two blocks. The third write begins a table, the fifth waits for it.
    @Test func writesGoOnWhileATableIsWritten() throws {
        var device = try MemoryDevice(logBlocks: 4)
        let generation = device.store.tableGeneration
        device.holdsTables = true
        for number in 1...4 as ClosedRange<UInt8> { #expect(write(number, to: 0, &device)) }
        #expect(device.heldBack.count == 1 && device.store.tableGeneration == generation)
        var crashed = device
        try crashed.reopen()
        #expect(blocks(crashed, 0) == [1, 2, 3, 4])

        #expect(!write(5, to: 0, &device), "both halves of the log are needed")
        crashed = device
        try crashed.reopen()
        #expect(blocks(crashed, 0).starts(with: [1, 2, 3, 4]))
        device.holdsTables = false
        device.carryOut(device.heldBack)
        #expect(device.completions.contains { $0.operation == 5 && $0.outcome == .done })
        #expect(device.store.tableGeneration > generation)
        try device.reopen()
        #expect(blocks(device, 0) == [1, 2, 3, 4, 5])
        #expect(device.store.accountingError() == nil)
    }

    /// The first data over an ancestor shares no flush where its record has to wait for a table; it is done with that record.
    @Test func firstDataWaitsForATable() throws {
        var device = try MemoryDevice(logBlocks: 4)
        let base = UnitKey(tree: TreeID(rawValue: 9), node: 0, index: 0)
        let head = UnitKey(tree: TreeID(rawValue: 9), node: 1, index: 0)
        let block = BlockRange(start: 1, count: 1)
        #expect(device.write(base, .wholeUnit, byte: 7) == .started)
        device.holdsTables = true
        var number: UInt8 = 1
        while device.store.fitsLog(1) || device.store.checkpoint == nil, number < 10 {
            #expect(write(number, to: 1, &device))
            number += 1
        }
        try #require(device.heldBack.count == 1 && number < 10)

        device.completions = []
        var requests: UnitStore.Requests = []
        let slice = PayloadSlice(payload: PayloadID(rawValue: 99), offset: 0, length: block.length)
        #expect(device.store.write(99, head, over: [0], block, slice, combEpoch: 1, &requests) == .started)
        #expect(requests.count == 1, "no record beside it")
        device.carryOut(requests)
        #expect(device.completions.isEmpty)
        var crashed = device
        try crashed.reopen()
        #expect(crashed.store.map(of: head, over: [0]).runs() == [.wholeUnit])

        device.holdsTables = false
        device.carryOut(device.heldBack)
        #expect(device.completions.contains { $0.operation == 99 && $0.outcome == .done })
        try device.reopen()
        #expect(device.store.map(of: head).runs() == [block] && device.store.accountingError() == nil)
    }

    /// A crash between the table and its end, over and over: each opening takes the generation after next.
    @Test func tablesThatNeverEndAreLeftOut() throws {
        var device = try MemoryDevice(logBlocks: 4)
        for number in 1...40 as ClosedRange<UInt8> {
            device.holdsTables = true
            #expect(write(number, to: UInt32(number % 3), &device))
            if number % 4 == 0 { try device.reopen() }
        }
        try device.reopen()
        for index in 0..<3 as Range<UInt32> {
            #expect(blocks(device, index) == (1...40).filter { $0 % 3 == UInt16(index) })
        }
    }

    /// What does not fit a half of the log at all comes with the table.
    @Test func aLargeCommitWaitsForItsTable() throws {
        var device = try MemoryDevice(units: 60, logBlocks: 2)
        for index in 0..<60 as Range<UInt32> { #expect(write(1, to: index, &device)) }
        device.holdsTables = true
        var requests: UnitStore.Requests = []
        #expect(device.store.drop(99, (0..<60).map { unit($0) }, &requests) == .started)
        device.carryOut(requests)
        #expect(!device.completions.contains { $0.operation == 99 })
        var crashed = device
        try crashed.reopen()
        #expect(crashed.store.usedUnits == 60)
        device.holdsTables = false
        device.carryOut(device.heldBack)
        #expect(device.completions.contains { $0.operation == 99 && $0.outcome == .done })
        try device.reopen()
        #expect(device.store.usedUnits == 0 && device.store.accountingError() == nil)
    }

    /// A log block whose checksum is right and one of whose records is not ends the log.
    @Test func aWrongRecordEndsTheLog() throws {
        var device = try MemoryDevice()
        #expect(write(1, to: 0, &device) && write(2, to: 1, &device) && write(3, to: 2, &device))
        #expect(device.store.logUsed == 3)
        let second = Int(device.store.logOffset(device.store.logGeneration)) + 4096
        device.bytes[second + 24 + 40] ^= 1
        let checksum = CRC32C.checksum(Array(device.bytes[second..<second + 4092]))
        withUnsafeBytes(of: checksum.littleEndian) {
            device.bytes.replaceSubrange(second + 4092..<second + 4096, with: $0)
        }
        try device.reopen()
        #expect(device.store.units { _ in true } == [unit(0)])
    }

    /// More than one piece, and records across the blocks between them.
    @Test func aTableOfManyPiecesIsWhole() throws {
        var store = try MemoryDevice(units: 1).store
        store.slots = SlotPages(count: 10_000)
        let numbers = (0..<10_000).filter { $0 % 3 != 0 }
        for number in numbers {
            let key = unit(UInt32(number))
            store.slots[number] = UnitStore.Slot(key: key, generation: UInt64(number), combEpoch: 3)
        }
        var table = UnitStore.Checkpoint(generation: 4, of: store, carriesCommit: false)
        var (bytes, pieces): ([UInt8], Int) = ([], 0)
        while let (offset, piece) = table.next() {
            #expect(piece.count % 4096 == 0)
            if table.isDone {
                #expect(offset == store.layout.tables[0] && ByteReader.isSealed(piece))
            } else {
                #expect(offset == store.layout.tables[0] + 4096 + UInt64(bytes.count))
                bytes += piece
                pieces += 1
            }
        }
        #expect(pieces == 3)
        var reader = ByteReader(bytes)
        for number in numbers {
            let found = reader.record(version: UnitStore.formatVersion)
            let record = try #require(found)
            #expect(record.number == UInt32(number) && record.slot.key == unit(UInt32(number)) && record.isBound)
        }
        #expect(reader.remaining < 4096)
    }

    /// Before version 5 the whole log continued one table.
    @Test func theLogOfADeviceOfVersionFourIsReadToItsEnd() throws {
        var device = try MemoryDevice(logBlocks: 4)
        var other = try MemoryDevice(logBlocks: 40)
        for number in 1...4 as ClosedRange<UInt8> { #expect(write(number, to: UInt32(number % 2), &other)) }
        #expect(other.store.logUsed == 4 && other.store.tableGeneration == device.store.tableGeneration)
        let layout = device.store.label.layout
        let log = Int(other.store.logOffset(other.store.logGeneration))
        device.bytes.replaceSubrange(
            Int(layout.log)..<Int(layout.log) + 4 * 4096, with: other.bytes[log..<log + 4 * 4096])
        for block in layout.tables + (0..<4).map({ layout.log + $0 * 4096 }) {
            device.bytes[Int(block) + 4] = 4
            let checksum = CRC32C.checksum(Array(device.bytes[Int(block)..<Int(block) + 4092]))
            withUnsafeBytes(of: checksum.littleEndian) {
                device.bytes.replaceSubrange(Int(block) + 4092..<Int(block) + 4096, with: $0)
            }
        }
        for _ in 0..<2 {
            try device.reopen()
            #expect(blocks(device, 0) == [2, 4] && blocks(device, 1) == [1, 3])
        }
        for number in 5...20 as ClosedRange<UInt8> { #expect(write(number, to: UInt32(number % 2), &device)) }
        try device.reopen()
        #expect(blocks(device, 0) == (1...10).map { 2 * $0 })
    }
}
