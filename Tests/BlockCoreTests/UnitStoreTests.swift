import BlockCore
import Testing

/// A device in memory that carries out requests at once.
struct MemoryDevice {
    var store: UnitStore
    var bytes: [UInt8]
    var completions: [UnitStore.Completion] = []
    var flushes = 0
    let hotUnitsMax: Int

    static let device = DeviceID(rawValue: 2)

    init(units: UInt32 = 4, logBlocks: UInt32 = 3, hotUnitsMax: Int = 100) throws {
        self.hotUnitsMax = hotUnitsMax
        let label = DeviceLabel(
            sds: SdsID(rawValue: 1), device: MemoryDevice.device, capacityUnits: units, logBlocks: logBlocks)
        bytes = [UInt8](repeating: 0, count: Int(label.layout.end))
        for (offset, content) in UnitStore.format(label) {
            bytes.replaceSubrange(Int(offset)..<Int(offset) + content.count, with: content)
        }
        store = try UnitStore.open(label, metadata: bytes).store
        try reopen()
    }

    mutating func reopen() throws {
        let label = try DeviceLabel(device: Array(bytes[..<(128 << 10)]))
        let opened = try UnitStore.open(
            label, metadata: Array(bytes[..<Int(label.layout.data)]), hotUnitsMax: hotUnitsMax)
        store = opened.store
        for (offset, content) in opened.writes {
            bytes.replaceSubrange(Int(offset)..<Int(offset) + content.count, with: content)
        }
        var requests: UnitStore.Requests = []
        store.begin(&requests)
        carryOut(requests)
    }

    mutating func carryOut(_ first: UnitStore.Requests) {
        var queue = first
        while !queue.isEmpty {
            let (id, request) = queue.removeFirst()
            var outcome = DiskOutcome.done
            switch request {
            case .write(let at, let slice):
                fill(at, slice.length, UInt8(truncatingIfNeeded: slice.payload.rawValue))
            case .writeZeros(let at, let length), .punch(let at, let length): fill(at, length, 0)
            case .writeBytes(let at, let content):
                bytes.replaceSubrange(Int(at)..<Int(at) + content.count, with: content)
            case .read: outcome = .read(PayloadID(rawValue: 1))
            case .flush: flushes += 1
            }
            completions += store.finish(id, outcome, &queue)
        }
    }

    private mutating func fill(_ at: UInt64, _ length: UInt32, _ byte: UInt8) {
        for position in Int(at)..<Int(at) + Int(length) { bytes[position] = byte }
    }

    mutating func write(
        _ key: UnitKey, _ range: BlockRange, byte: UInt8, epoch: UInt64 = 1
    ) -> UnitStore.Start {
        var requests: UnitStore.Requests = []
        let slice = PayloadSlice(payload: PayloadID(rawValue: UInt64(byte)), offset: 0, length: range.length)
        let start = store.write(UInt64(byte), key, range, slice, combEpoch: epoch, &requests)
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
}
