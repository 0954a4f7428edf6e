import Testing

@testable import BlockCore

extension UnitStore {
    /// The operations that ended by the outcome.
    mutating func finish(_ id: DiskOperationID, _ outcome: DiskOutcome, _ requests: inout Requests) -> [Completion] {
        var completions: [Completion] = []
        finish(id, outcome, &requests, into: &completions)
        return completions
    }
}

/// A device in memory that carries out requests at once.
struct MemoryDevice {
    var store: UnitStore
    var bytes: [UInt8]
    var completions: [UnitStore.Completion] = []
    var flushes = 0
    /// Writes that were stable when they ended.
    var through = 0
    let hotUnitsMax: Int
    let searchedUnitsMax: Int
    /// Whether writes of tables do not end, and those that have not.
    var holdsTables = false
    var heldBack: UnitStore.Requests = []

    static let device = DeviceID(rawValue: 2)

    init(units: UInt32 = 4, logBlocks: UInt32 = 20, hotUnitsMax: Int = 100, searchedUnitsMax: Int = 100) throws {
        let label = DeviceLabel(
            sds: SdsID(rawValue: 1), device: MemoryDevice.device, capacityUnits: units, logBlocks: logBlocks)
        try self.init(label: label, hotUnitsMax: hotUnitsMax, searchedUnitsMax: searchedUnitsMax)
    }

    init(label: DeviceLabel, hotUnitsMax: Int = 100, searchedUnitsMax: Int = 100) throws {
        self.hotUnitsMax = hotUnitsMax
        self.searchedUnitsMax = searchedUnitsMax
        bytes = [UInt8](repeating: 0, count: Int(label.layout.end))
        for (offset, content) in UnitStore.format(label) {
            bytes.replaceSubrange(Int(offset)..<Int(offset) + content.count, with: content)
        }
        store = try UnitStore.open(label, metadata: bytes) { _ in BlockMap() }.store
        try reopen()
    }

    /// Power cut: what was held back is lost.
    mutating func reopen() throws {
        heldBack = []
        let label = try DeviceLabel(device: Array(bytes[..<(128 << 10)]))
        let layout = label.layout
        var opened = try UnitStore.open(
            label, metadata: Array(bytes[..<Int(layout.checksums)]), hotUnitsMax: hotUnitsMax,
            searchedUnitsMax: searchedUnitsMax
        ) { dataOfUnit(at: $0) }
        opened.store.loadChecksums(at: layout.checksums, Array(bytes[Int(layout.checksums)..<Int(layout.data)]))
        store = opened.store
        for (offset, length) in opened.zeroes { fill(offset, length, 0) }
        for (offset, content) in opened.writes {
            bytes.replaceSubrange(Int(offset)..<Int(offset) + content.count, with: content)
        }
        var requests: UnitStore.Requests = []
        store.begin(&requests)
        carryOut(requests)
    }

    /// As before table version 5, when the log had no halves.
    mutating func moveLogToItsStart() {
        let start = Int(store.logOffset(store.logGeneration))
        let log = Array(bytes[start..<start + Int(store.logUsed) * 4096])
        bytes.replaceSubrange(Int(store.label.layout.log)..<Int(store.label.layout.log) + log.count, with: log)
    }

    private func dataOfUnit(at offset: UInt64) -> BlockMap {
        var data = BlockMap()
        for block in 0..<Int(Geometry.blocksPerUnit) {
            let start = Int(offset) + block * 4096
            if bytes[start..<start + 4096].contains(where: { $0 != 0 }) {
                _ = data.insert(BlockRange(start: UInt16(block), count: 1))
            }
        }
        return data
    }

    mutating func carryOut(_ first: UnitStore.Requests) {
        var queue = first
        while !queue.isEmpty {
            let (id, request) = queue.removeFirst()
            var outcome = DiskOutcome.done
            switch request {
            case .write(let at, let slice), .writeThrough(let at, let slice):
                if case .writeThrough = request { through += 1 }
                fill(at, slice.length, UInt8(truncatingIfNeeded: slice.payload.rawValue))
                outcome = .written(checksums(at, slice.length))
            case .writeZeros(let at, let length), .punch(let at, let length): fill(at, length, 0)
            case .writeBytes(let at, _) where holdsTables && at < store.label.layout.log && at >= 128 << 10:
                heldBack.append((id, request))
                continue
            case .writeBytes(let at, let content):
                bytes.replaceSubrange(Int(at)..<Int(at) + content.count, with: content)
            case .gather(let parts, let length, _):
                var values = [UInt32](repeating: 0, count: Int(length / 4096))
                for part in parts {
                    let seen = checksums(part.at, part.into.upperBound - part.into.lowerBound)
                    for index in 0..<seen.count { values[Int(part.into.lowerBound / 4096) + index] = seen[index] }
                }
                outcome = .read(PayloadID(rawValue: 1), BlockChecksums(values))
            case .read(let at, let length, _):
                outcome = .read(PayloadID(rawValue: 1), checksums(at, length))
            case .flush: flushes += 1
            }
            completions += store.finish(id, outcome, &queue)
        }
    }

    private func checksums(_ at: UInt64, _ length: UInt32) -> BlockChecksums {
        BlockChecksums(
            stride(from: Int(at), to: Int(at) + Int(length), by: 4096).map {
                CRC32C.checksum(Array(bytes[$0..<$0 + 4096]))
            })
    }

    /// The blocks that a read finds damaged.
    mutating func read(_ key: UnitKey, _ range: BlockRange) -> [BlockRange] {
        var requests: UnitStore.Requests = []
        guard store.read(1 << 40, key, range, &requests) == .started else { return [] }
        completions = []
        carryOut(requests)
        return completions.first { $0.operation == 1 << 40 }?.damaged.runs() ?? []
    }

    private mutating func fill(_ at: UInt64, _ length: UInt32, _ byte: UInt8) {
        for position in Int(at)..<Int(at) + Int(length) { bytes[position] = byte }
    }

    mutating func write(
        _ key: UnitKey, over below: [UInt32] = [], _ range: BlockRange, byte: UInt8, epoch: UInt64 = 1,
        isDamaged: Bool = false
    ) -> UnitStore.Start {
        var requests: UnitStore.Requests = []
        let slice = PayloadSlice(payload: PayloadID(rawValue: UInt64(byte)), offset: 0, length: range.length)
        let start = store.write(
            UInt64(byte), key, over: below, range, slice, combEpoch: epoch, isDamaged: isDamaged, &requests)
        carryOut(requests)
        return start
    }
}

@Suite struct UnitStoreTests {
    let volume = VolumeID(rawValue: 9)
    let block = BlockRange(start: 3, count: 2)

    @Test func writesAreThereAfterReopening() throws {
        var device = try MemoryDevice()
        let key = UnitKey(volume: volume, index: 0)
        #expect(device.write(key, block, byte: 7) == .started)
        #expect(device.completions.contains { $0.operation == 7 && $0.outcome == .done })
        try device.reopen()
        #expect(device.store.map(of: key).runs() == [block])
        let location = try #require(device.store.location(of: key))
        #expect(device.bytes[Int(location) + 3 * 4096] == 7)
        #expect(device.store.accountingError() == nil)
    }

    @Test func aFlushWaitsWhileMoreIsBeingWrittenThanWaits() throws {
        var device = try MemoryDevice()
        var started: UnitStore.Requests = []
        for operation in 1...4 as ClosedRange<UInt64> {
            let slice = PayloadSlice(payload: PayloadID(rawValue: operation), offset: 0, length: 4096)
            let range = BlockRange(start: UInt16(operation), count: 1)
            let key = UnitKey(volume: volume, index: 0)
            #expect(device.store.write(operation, key, range, slice, combEpoch: 1, &started) == .started)
        }
        #expect(started.count == 4)
        var next: UnitStore.Requests = []
        #expect(device.store.finish(started[0].id, .done, &next).isEmpty)
        #expect(next.isEmpty)
        #expect(device.store.finish(started[1].id, .done, &next).isEmpty)
        #expect(next.count == 1)
        // The record of the first two, then the flush that answers them; the others go on by themselves.
        device.carryOut(next)
        #expect(device.completions.map(\.operation) == [1, 2])
        device.carryOut(started[2...].map { $0 })
        #expect(device.completions.map(\.operation).sorted() == [1, 2, 3, 4])
    }

    /// Many small changes overflow the log of three blocks and force table after table.
    @Test func tablesTakeTurns() throws {
        var device = try MemoryDevice(units: 4, logBlocks: 2)
        for round in 0..<40 {
            let key = UnitKey(volume: volume, index: UInt32(round % 3))
            #expect(device.write(key, BlockRange(start: UInt16(round), count: 1), byte: 7) == .started)
            if round % 7 == 0 { try device.reopen() }
        }
        try device.reopen()
        for index in 0..<3 {
            let blocks = device.store.map(of: UnitKey(volume: volume, index: UInt32(index))).runs()
            #expect(blocks.map(\.start) == (0..<40).filter { $0 % 3 == index }.map { UInt16($0) })
        }
    }

    @Test func droppedUnitsAreZeroedBeforeTheyServeAgain() throws {
        var device = try MemoryDevice(units: 2)
        let old = [0, 1].map { UnitKey(volume: volume, index: $0) }
        for key in old { #expect(device.write(key, .wholeUnit, byte: 0xEE) == .started) }
        #expect(device.write(UnitKey(volume: volume, index: 2), block, byte: 1) == .noSpace)
        var requests: UnitStore.Requests = []
        #expect(device.store.drop(77, old, &requests) == .started)
        device.carryOut(requests)
        #expect(device.completions.contains { $0.operation == 77 })
        #expect(device.store.usedUnits == 0)
        let other = UnitKey(volume: VolumeID(rawValue: 10), index: 0)
        #expect(device.write(other, block, byte: 5) == .started)
        let location = Int(try #require(device.store.location(of: other)))
        #expect(!device.bytes[location..<location + (1 << 20)].contains(0xEE))
        #expect(device.store.map(of: other).holes(in: .wholeUnit).count == 2)
        try device.reopen()
        #expect(device.store.usedUnits == 1)
    }

    @Test func groupCommitServesAllThatWait() throws {
        var device = try MemoryDevice()
        var requests: UnitStore.Requests = []
        let before = device.flushes
        for operation in 1...20 {
            let range = BlockRange(start: UInt16(operation), count: 1)
            let slice = PayloadSlice(payload: PayloadID(rawValue: 1), offset: 0, length: 4096)
            _ = device.store.write(
                UInt64(operation), UnitKey(volume: volume, index: 0), range, slice, combEpoch: 1, &requests)
        }
        device.carryOut(requests)
        #expect(Set(device.completions.map(\.operation)).isSuperset(of: 1...20))
        #expect(device.flushes - before <= 3)
    }

    @Test func aLoneWriteThatNeedsNoRecordNeedsNoFlush() throws {
        var device = try MemoryDevice()
        let key = UnitKey(volume: volume, index: 0)
        #expect(device.write(key, block, byte: 7) == .started)
        #expect(device.through == 0, "its blocks hold nothing yet")
        let flushes = device.flushes
        #expect(device.write(key, block, byte: 8) == .started)
        #expect(device.through == 1 && device.flushes == flushes)
        #expect(device.completions.last?.operation == 8)
        #expect(device.write(key, BlockRange(start: 4, count: 2), byte: 9) == .started)
        #expect(device.through == 1 && device.flushes > flushes, "block 5 holds nothing yet")
    }

    @Test func ofSeveralWritesOnlyTheFirstGoesThrough() throws {
        var device = try MemoryDevice()
        let key = UnitKey(volume: volume, index: 0)
        #expect(device.write(key, BlockRange(start: 0, count: 8), byte: 7) == .started)
        let flushes = device.flushes
        var requests: UnitStore.Requests = []
        for operation in 10...13 as ClosedRange<UInt64> {
            let slice = PayloadSlice(payload: PayloadID(rawValue: operation), offset: 0, length: 4096)
            let range = BlockRange(start: UInt16(operation - 10), count: 1)
            #expect(device.store.write(operation, key, range, slice, combEpoch: 1, &requests) == .started)
        }
        device.carryOut(requests)
        #expect(device.through == 1 && device.flushes > flushes)
        #expect(Set(device.completions.map(\.operation)).isSuperset(of: 10...13))
    }

    @Test func aFailedFlushStopsTheDevice() throws {
        var device = try MemoryDevice()
        var requests: UnitStore.Requests = []
        let slice = PayloadSlice(payload: PayloadID(rawValue: 1), offset: 0, length: 4096)
        let key = UnitKey(volume: volume, index: 0)
        _ = device.store.write(5, key, BlockRange(start: 0, count: 1), slice, combEpoch: 1, &requests)
        var failed: [UnitStore.Completion] = []
        while !requests.isEmpty {
            let (id, request) = requests.removeFirst()
            failed += device.store.finish(id, request == .flush ? .failed(reason: "EIO") : .done, &requests)
        }
        #expect(failed.map(\.operation) == [5] && failed.map(\.outcome) == [.failed(reason: "EIO")])
        #expect(device.store.stopReason == "EIO")
        #expect(device.store.write(6, key, block, slice, combEpoch: 1, &requests) == .stopped)
    }

    @Test func aFailedReadIsItsReadersLossAlone() throws {
        var device = try MemoryDevice()
        let key = UnitKey(volume: volume, index: 0)
        _ = device.write(key, block, byte: 7)
        var requests: UnitStore.Requests = []
        #expect(device.store.read(9, key, block, &requests) == .started)
        let id = requests.removeLast().id
        let failed = device.store.finish(id, .failed(reason: "EIO"), &requests)
        #expect(failed.map(\.operation) == [9] && failed.map(\.outcome) == [.failed(reason: "EIO")])
        #expect(device.store.stopReason == nil)
        #expect(device.write(key, block, byte: 8) == .started)
    }

    /// A power cut that loses the first of two log blocks and keeps the second: what the second says never happened, and
    /// must not come to life when the log reaches it again.
    @Test func aTornLogWriteStaysUndone() throws {
        var device = try MemoryDevice(units: 80, logBlocks: 200)
        let keys = (0..<60).map { UnitKey(volume: volume, index: UInt32($0)) }
        for key in keys { #expect(device.write(key, block, byte: 7) == .started) }
        var requests: UnitStore.Requests = []
        #expect(device.store.drop(99, keys, &requests) == .started)
        guard case .writeBytes(let at, let content)? = requests.first?.request else {
            Issue.record("dropping begins with the log")
            return
        }
        #expect(content.count == 2 * 4096)
        device.bytes.replaceSubrange(Int(at) + 4096..<Int(at) + 8192, with: content[4096...])
        try device.reopen()
        #expect(device.store.usedUnits == 60)
        #expect(device.write(keys[0], BlockRange(start: 9, count: 1), byte: 8) == .started)
        try device.reopen()
        #expect(device.store.usedUnits == 60)
        for key in keys { #expect(device.store.map(of: key).runs().contains(block)) }
        #expect(device.store.accountingError() == nil)
    }

    @Test func damagedLabelsAreNamed() throws {
        let device = try MemoryDevice()
        var one = device.bytes
        one[20] ^= 1
        #expect(try DeviceLabel(device: one).device == MemoryDevice.device, "the other copy serves")
        var both = one
        both[(64 << 10) + 20] ^= 1
        #expect(throws: DeviceError.self) { try DeviceLabel(device: both) }
        do { _ = try DeviceLabel(device: both) } catch { #expect(error.code == .corrupt) }
        do { _ = try DeviceLabel(device: [UInt8](repeating: 0, count: 1 << 17)) } catch {
            #expect(error.code == .notFormatted)
        }
    }

    @Test func mountCounterGrows() throws {
        var device = try MemoryDevice()
        let first = device.store.label.mountCounter
        try device.reopen()
        #expect(device.store.label.mountCounter == first + 1)
    }

    // MARK: Giving space back

    private func zero(
        _ device: inout MemoryDevice, _ operation: UInt64, _ key: UnitKey, _ range: BlockRange
    ) -> UnitStore.Requests {
        var requests: UnitStore.Requests = []
        #expect(device.store.writeZeroes(operation, key, range, combEpoch: 2, &requests) == .started)
        return requests
    }

    @Test func aZeroedUnitIsGivenBackAndStaysSo() throws {
        var device = try MemoryDevice(units: 1)
        let key = UnitKey(volume: volume, index: 0)
        #expect(device.write(key, block, byte: 7) == .started)
        device.carryOut(zero(&device, 50, key, .wholeUnit))
        #expect(device.completions.last?.operation == 50)
        #expect(device.store.usedUnits == 0 && device.store.accountingError() == nil)
        try device.reopen()
        #expect(device.store.usedUnits == 0)
        let other = UnitKey(volume: VolumeID(rawValue: 10), index: 4)
        #expect(device.write(other, BlockRange(start: 200, count: 1), byte: 5) == .started)
        let location = Int(try #require(device.store.location(of: other)))
        #expect(device.bytes[location + 3 * 4096] == 0)
    }

    @Test func aUnitZeroedInPiecesIsGivenBackWithTheLast() throws {
        var device = try MemoryDevice()
        let key = UnitKey(volume: volume, index: 0)
        #expect(device.write(key, BlockRange(start: 0, count: 4), byte: 7) == .started)
        #expect(device.write(key, BlockRange(start: 254, count: 2), byte: 8) == .started)
        device.carryOut(zero(&device, 50, key, BlockRange(start: 1, count: 2)))
        #expect(
            device.store.map(of: key).runs().map(\.description) == ["[0..<1]", "[3..<4]", "[254..<256]"])
        device.carryOut(zero(&device, 51, key, BlockRange(start: 250, count: 6)))
        #expect(device.store.usedUnits == 1)
        // The record of what became a hole may wait, but zeros it is.
        try device.reopen()
        let location = Int(try #require(device.store.location(of: key)))
        #expect(device.bytes[location + 255 * 4096] == 0 && device.bytes[location + 3 * 4096] == 7)
        device.carryOut(zero(&device, 52, key, BlockRange(start: 0, count: 200)))
        device.carryOut(zero(&device, 53, key, BlockRange(start: 0, count: 256)))
        #expect(device.store.usedUnits == 0 && device.store.accountingError() == nil)
    }

    /// A write that is under way elsewhere in the unit keeps the slot.
    @Test func aUnitBeingWrittenIsNotGivenBack() throws {
        var device = try MemoryDevice()
        let key = UnitKey(volume: volume, index: 0)
        #expect(device.write(key, block, byte: 7) == .started)
        var writing: UnitStore.Requests = []
        let slice = PayloadSlice(payload: PayloadID(rawValue: 9), offset: 0, length: 4096)
        let range = BlockRange(start: 100, count: 1)
        #expect(device.store.write(60, key, range, slice, combEpoch: 1, &writing) == .started)
        device.carryOut(zero(&device, 61, key, BlockRange(start: 0, count: 50)))
        #expect(device.completions.last?.operation == 61)
        #expect(device.store.usedUnits == 1)
        device.carryOut(writing)
        #expect(device.completions.last?.operation == 60)
        try device.reopen()
        #expect(device.store.map(of: key).runs() == [range])
        let location = Int(try #require(device.store.location(of: key)))
        #expect(device.bytes[location + 100 * 4096] == 9 && device.bytes[location + 3 * 4096] == 0)
    }

    @Test func mapsTravelAsTheyAre() throws {
        var map = BlockMap()
        #expect(map.encoded == [UInt8](repeating: 0, count: 32))
        _ = map.insert(BlockRange(start: 9, count: 1))
        _ = map.insert(BlockRange(start: 255, count: 1))
        #expect(map.encoded[1] == 2 && map.encoded[31] == 128)
        #expect(map.isEmpty(outside: BlockRange(start: 9, count: 247)))
        #expect(!map.isEmpty(outside: BlockRange(start: 9, count: 246)))
    }

    // MARK: Tables

    /// A table's header that arrived without its records must not make an older table's records its own.
    @Test func aHeaderDoesNotFitOlderRecords() throws {
        var device = try MemoryDevice(units: 4, logBlocks: 2)
        let label = try DeviceLabel(device: Array(device.bytes[..<(128 << 10)]))
        #expect(device.write(UnitKey(volume: volume, index: 0), block, byte: 1) == .started)
        try device.reopen()
        let older = label.layout.tables.map { Array(device.bytes[Int($0) + 4096..<Int($0 + label.layout.tableBytes)]) }
        var requests: UnitStore.Requests = []
        #expect(device.store.drop(50, [UnitKey(volume: volume, index: 0)], &requests) == .started)
        device.carryOut(requests)
        #expect(device.write(UnitKey(volume: volume, index: 1), block, byte: 2) == .started)
        try device.reopen()
        try device.reopen()
        // Both areas say unit 1; put the records of the time of unit 0 below each header in turn.
        for (area, records) in zip(label.layout.tables, older) {
            var torn = device
            torn.bytes.replaceSubrange(Int(area) + 4096..<Int(area) + 4096 + records.count, with: records)
            try torn.reopen()
            #expect(torn.store.units { _ in true } == [UnitKey(volume: volume, index: 1)])
        }
    }

    /// Devices of the first release have plain checksums.
    @Test(arguments: 1..<UInt8(UnitStore.formatVersion)) func opensOlderVersions(_ version: UInt8) throws {
        var device = try MemoryDevice()
        let key = UnitKey(volume: volume, index: 7)
        #expect(device.write(key, block, byte: 3) == .started)
        try device.reopen()
        let label = try DeviceLabel(device: Array(device.bytes[..<(128 << 10)]))
        var tables = 0
        for area in label.layout.tables {
            let start = Int(area)
            var header = Array(device.bytes[start..<start + 4092])
            var records = Array(device.bytes[start + 4096..<start + Int(label.layout.tableBytes)])
            guard header[4] == UInt8(UnitStore.formatVersion) else { continue }
            tables += 1
            header[4] = version
            for record in 0..<Int(header[16]) where version == 1 {
                let plain = CRC32C.checksum(Array(records[record * 80..<record * 80 + 76]))
                records.replaceSubrange(record * 80 + 76..<record * 80 + 80, with: littleEndian(plain))
            }
            let used = (Int(header[16]) * 80 + 4095) / 4096 * 4096
            header.replaceSubrange(20..<24, with: littleEndian(CRC32C.checksum(Array(records[..<used]))))
            device.bytes.replaceSubrange(start..<start + 4092, with: header)
            device.bytes.replaceSubrange(start + 4092..<start + 4096, with: littleEndian(CRC32C.checksum(header)))
            device.bytes.replaceSubrange(start + 4096..<start + 4096 + records.count, with: records)
        }
        #expect(tables == 2)
        try device.reopen()
        #expect(device.store.map(of: key).runs() == [block])
    }

    private func littleEndian(_ number: UInt32) -> [UInt8] { withUnsafeBytes(of: number.littleEndian) { Array($0) } }

    /// Over what an ancestor shows, a write of a unit that is searched costs no record. It is found without one;
    /// nothing is written over it before it has one, and zeros always have theirs.
    @Test func unrecordedDataIsFound() throws {
        var device = try MemoryDevice(units: 4, logBlocks: 100)
        let base = UnitKey(tree: TreeID(rawValue: 9), node: 0, index: 0)
        let head = UnitKey(tree: TreeID(rawValue: 9), node: 1, index: 0)
        let (one, other) = (BlockRange(start: 3, count: 2), BlockRange(start: 200, count: 1))
        #expect(device.write(base, .wholeUnit, byte: 7) == .started)
        #expect(device.write(head, over: [0], one, byte: 8) == .started)
        let (flushes, logged) = (device.flushes, device.store.logUsed)
        #expect(device.write(head, over: [0], other, byte: 9) == .started)
        #expect(device.flushes == flushes && device.store.logUsed == logged)
        #expect(device.store.map(of: head).runs() == [one, other])
        try device.reopen()
        #expect(device.store.map(of: head).runs() == [one, other])
        try device.reopen()
        #expect(device.store.map(of: head).runs() == [one, other])
        let location = Int(try #require(device.store.location(of: head)))
        #expect(device.bytes[location + 200 * 4096] == 9)

        let zeros = BlockRange(start: 100, count: 1)
        #expect(device.write(head, over: [0], zeros, byte: 0) == .started)
        try device.reopen()
        #expect(device.store.map(of: head).runs() == [one, zeros, other])
    }

    /// One flush serves the first data of a unit over an ancestor and the record of the unit, whichever arrives first.
    @Test(arguments: [[0, 1], [1, 0]]) func firstDataSharesAFlushWithItsRecord(order: [Int]) throws {
        var device = try MemoryDevice(units: 4, logBlocks: 100)
        let base = UnitKey(tree: TreeID(rawValue: 9), node: 0, index: 0)
        let head = UnitKey(tree: TreeID(rawValue: 9), node: 1, index: 0)
        #expect(device.write(base, .wholeUnit, byte: 7) == .started)
        var requests: UnitStore.Requests = []
        let slice = PayloadSlice(payload: PayloadID(rawValue: 8), offset: 0, length: block.length)
        #expect(device.store.write(8, head, over: [0], block, slice, combEpoch: 1, &requests) == .started)
        try #require(requests.count == 2)
        guard case .write = requests[0].request, case .writeBytes = requests[1].request else {
            Issue.record("data and record")
            return
        }
        let flushes = device.flushes
        device.carryOut([requests[order[0]]])
        var crashed = device
        try crashed.reopen()
        #expect(crashed.store.map(of: head, over: [0]).runs() == [.wholeUnit] && crashed.store.map(of: head).isEmpty)
        #expect(device.flushes == flushes && !device.completions.contains { $0.operation == 8 })
        device.carryOut([requests[order[1]]])
        #expect(device.flushes == flushes + 1 && device.completions.contains { $0.operation == 8 })
        try device.reopen()
        #expect(device.store.map(of: head).runs() == [block])
    }

    @Test(arguments: [0, 1], [false, true]) func whatSharesAFlushFailsTogether(failing: Int, isLast: Bool) throws {
        var device = try MemoryDevice()
        let base = UnitKey(tree: TreeID(rawValue: 9), node: 0, index: 0)
        let head = UnitKey(tree: TreeID(rawValue: 9), node: 1, index: 0)
        #expect(device.write(base, block, byte: 7) == .started)
        var requests: UnitStore.Requests = []
        let slice = PayloadSlice(payload: PayloadID(rawValue: 8), offset: 0, length: block.length)
        #expect(device.store.write(8, head, over: [0], block, slice, combEpoch: 1, &requests) == .started)
        try #require(requests.count == 2)
        if isLast { device.carryOut([requests[1 - failing]]) }
        var completions: [UnitStore.Completion] = []
        device.store.finish(requests[failing].id, .failed(reason: "EIO"), &requests, into: &completions)
        #expect(completions.map(\.operation) == [8] && device.store.stopReason == "EIO")
    }

    /// The record that makes a unit hot again also calls it searched: the write that waits for it needs no other.
    @Test func aUnitThatBecomesHotIsSearchedAtOnce() throws {
        var device = try MemoryDevice(units: 4, logBlocks: 100)
        let base = UnitKey(tree: TreeID(rawValue: 9), node: 0, index: 0)
        let head = UnitKey(tree: TreeID(rawValue: 9), node: 1, index: 0)
        let other = BlockRange(start: 200, count: 1)
        #expect(device.write(base, .wholeUnit, byte: 7) == .started)
        #expect(device.write(head, over: [0], block, byte: 8) == .started)
        for _ in 0..<2 {
            var requests: UnitStore.Requests = []
            device.store.cool(underPressure: false, &requests) { _ in 1 }
            device.carryOut(requests)
        }
        #expect(!device.store.isHot(head))
        let (logged, through) = (device.store.logUsed, device.through)
        #expect(device.write(head, over: [0], other, byte: 9) == .held)
        #expect(device.store.logUsed == logged + 1 && device.through == through + 1)
        try device.reopen()
        #expect(device.store.map(of: head).runs() == [block, other])
    }

    /// Where too many would be searched, the one that is for longest is recorded with all that it holds, in the same commit.
    @Test func whoIsSearchedForLongestMakesPlace() throws {
        var device = try MemoryDevice(units: 8, logBlocks: 100, searchedUnitsMax: 2)
        let heads = (0..<3).map { UnitKey(tree: TreeID(rawValue: 9), node: 1, index: UInt32($0)) }
        let (one, other) = (BlockRange(start: 3, count: 2), BlockRange(start: 200, count: 1))
        for (index, head) in heads.enumerated() {
            let base = UnitKey(tree: head.tree, node: 0, index: head.index)
            #expect(device.write(base, .wholeUnit, byte: 7) == .started)
            let (flushes, logged) = (device.flushes, device.store.logUsed)
            #expect(device.write(head, over: [0], one, byte: 8) == .started)
            if index < 2 { #expect(device.write(head, over: [0], other, byte: 9) == .started) }
            #expect(device.flushes == flushes + 1 && device.store.logUsed == logged + 1)
        }
        #expect(device.store.search.slots.count == 2)
        let unsearched = device.store.map(of: heads[0])
        // What no record names would be found only where the unit is searched.
        for head in heads[..<2] {
            let location = Int(try #require(device.store.location(of: head)))
            device.bytes[location + 100 * 4096] = 6
        }
        try device.reopen()
        #expect(device.store.map(of: heads[0]) == unsearched && unsearched.runs() == [one, other])
        #expect(device.store.map(of: heads[1]).runs() == [one, BlockRange(start: 100, count: 1), other])
        #expect(device.store.map(of: heads[2]).runs() == [one])
    }

    @Test func whatIsUnrecordedIsNotWrittenOver() throws {
        var device = try MemoryDevice(units: 4, logBlocks: 100)
        let base = UnitKey(tree: TreeID(rawValue: 9), node: 0, index: 0)
        let head = UnitKey(tree: TreeID(rawValue: 9), node: 1, index: 0)
        #expect(device.write(base, .wholeUnit, byte: 7) == .started)
        #expect(device.write(head, over: [0], block, byte: 8) == .started)
        let logged = device.store.logUsed
        #expect(device.write(head, over: [0], block, byte: 0) == .held)
        #expect(device.store.takeBegun() == [0])
        #expect(device.store.logUsed == logged + 1)
        try device.reopen()
        #expect(device.store.map(of: head).runs() == [block])
        #expect(device.write(head, over: [0], block, byte: 6) == .started, "recorded when it was opened")
    }

    /// Data without its record is nobody's, and must not turn up under a later record.
    @Test func openingZeroesHoles() throws {
        var device = try MemoryDevice()
        let key = UnitKey(volume: volume, index: 0)
        #expect(device.write(key, block, byte: 7) == .started)
        let location = Int(try #require(device.store.location(of: key)))
        device.bytes[location + 200 * 4096] = 0xEE
        try device.reopen()
        #expect(device.bytes[location + 200 * 4096] == 0 && device.bytes[location + 3 * 4096] == 7)
    }
}
