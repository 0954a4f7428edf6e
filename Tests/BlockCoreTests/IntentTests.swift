import Base
import Testing

@testable import BlockCore

/// What a device says of units that are being written.
@Suite struct IntentTests {
    private let unit = UnitKey(volume: VolumeID(rawValue: 9), index: 0)
    private let block = BlockRange(start: 3, count: 2)

    private func cool(_ device: inout MemoryDevice, epoch: UInt64?, underPressure: Bool = false) {
        var requests: UnitStore.Requests = []
        device.store.cool(underPressure: underPressure, &requests) { _ in epoch }
        device.carryOut(requests)
    }

    @Test func aNewUnitIsHotAndItsFirstWriteWaitsForNothing() throws {
        var device = try MemoryDevice()
        #expect(device.write(unit, block, byte: 7) == .started)
        #expect(device.store.isHot(unit))
        try device.reopen()
        #expect(device.store.isHot(unit) && device.store.isDirty(unit, since: 100))
    }

    @Test func aUnitCoolsAfterTwoLooksWithoutAWrite() throws {
        var device = try MemoryDevice()
        _ = device.write(unit, block, byte: 7)
        cool(&device, epoch: 5)
        #expect(device.store.isHot(unit), "it was just written")
        cool(&device, epoch: nil)
        #expect(device.store.isHot(unit), "it may not")
        cool(&device, epoch: 5)
        #expect(!device.store.isHot(unit))
        try device.reopen()
        #expect(!device.store.isHot(unit))
        #expect(device.store.isDirty(unit, since: 4) && !device.store.isDirty(unit, since: 5))
        #expect(device.store.map(of: unit).runs() == [block])
    }

    /// The record is flushed before the first byte of a write to a cold unit; later writes need none.
    @Test func theIntentIsStableBeforeTheData() throws {
        var device = try MemoryDevice()
        _ = device.write(unit, block, byte: 7)
        for _ in 0..<2 { cool(&device, epoch: 1) }
        var requests: UnitStore.Requests = []
        let slice = PayloadSlice(payload: PayloadID(rawValue: 8), offset: 0, length: block.length)
        #expect(device.store.write(8, unit, block, slice, combEpoch: 2, &requests) == .held)
        #expect(requests.count == 1 && device.store.takeBegun().isEmpty)
        guard case .writeBytes(let at, let bytes)? = requests.first?.request else {
            Issue.record("the record comes first")
            return
        }
        device.bytes.replaceSubrange(Int(at)..<Int(at) + bytes.count, with: bytes)
        var next: UnitStore.Requests = []
        _ = device.store.finish(requests[0].id, .done, &next)
        #expect(next.map(\.request) == [.flush])
        // A crash now finds the unit hot, under the epoch of the write to come.
        var crashed = device
        try crashed.reopen()
        #expect(crashed.store.isHot(unit) && crashed.store.isDirty(unit, since: 1, countingIntents: false))
        requests = []
        _ = device.store.finish(next[0].id, .done, &requests)
        #expect(device.store.takeBegun() == [8])
        guard case .writeThrough? = requests.first?.request else {
            Issue.record("then the data")
            return
        }
        device.carryOut(requests)
        #expect(device.completions.contains { $0.operation == 8 })
        let (before, used) = (device.flushes, device.store.logUsed)
        #expect(device.write(unit, block, byte: 9, epoch: 3) == .started)
        #expect(device.flushes == before && device.store.logUsed == used)
    }

    @Test func heldWritesFailWithTheirDevice() throws {
        var device = try MemoryDevice()
        _ = device.write(unit, block, byte: 7)
        for _ in 0..<2 { cool(&device, epoch: 1) }
        var requests: UnitStore.Requests = []
        let slice = PayloadSlice(payload: PayloadID(rawValue: 8), offset: 0, length: block.length)
        #expect(device.store.write(8, unit, block, slice, combEpoch: 2, &requests) == .held)
        #expect(device.store.writeZeroes(10, unit, block, combEpoch: 2, &requests) == .held)
        let failed = device.store.finish(requests[0].id, .failed(reason: "EIO"), &requests)
        #expect(failed.map(\.operation) == [8, 10])
        #expect(device.store.takeBegun().isEmpty)
    }

    @Test func onlySoManyUnitsAreHot() throws {
        var device = try MemoryDevice(units: 8, hotUnitsMax: 2)
        let units = (0..<4).map { UnitKey(volume: VolumeID(rawValue: 9), index: $0) }
        #expect(device.write(units[0], block, byte: 7) == .started)
        #expect(device.write(units[1], block, byte: 8) == .started)
        #expect(device.store.lacksIntent(units[2]) && !device.store.lacksIntent(units[1]))
        cool(&device, epoch: 1, underPressure: true)
        #expect(device.store.hotUnits == 1)
        #expect(device.write(units[2], block, byte: 9) == .started)
        try device.reopen()
        #expect(device.store.hotUnits == 2)
    }

    /// A device of version 1: the label, the table and the log say so, and nothing tells of intents.
    @Test func onADeviceOfVersionOneEveryUnitCountsAsBeingWritten() throws {
        var label = DeviceLabel(
            sds: SdsID(rawValue: 1), device: MemoryDevice.device, capacityUnits: 4, logBlocks: 20)
        label.checksumBlocks = 0
        var device = try MemoryDevice(label: label)
        _ = device.write(unit, block, byte: 7)
        for _ in 0..<2 { cool(&device, epoch: 1) }
        #expect(!device.store.isHot(unit))
        let layout = device.store.label.layout
        device.moveLogToItsStart()
        for offset in DeviceLabel.copyOffsets { downgrade(&device.bytes, Int(offset), versionAt: 8, to: 1) }
        for offset in layout.tables { downgrade(&device.bytes, Int(offset), versionAt: 4, to: 1) }
        for block in 0..<device.store.logUsed {
            let start = Int(layout.log) + Int(block) * 4096
            downgrade(&device.bytes, start, versionAt: 4, to: 1)
            // The checksum of a record was plain.
            for record in 0..<Int(device.bytes[start + 6]) {
                seal(&device.bytes, start + 24 + record * 80, length: 76)
            }
            seal(&device.bytes, start, length: 4092)
        }
        try device.reopen()
        #expect(device.store.isHot(unit) && device.store.map(of: unit).runs() == [block])
        try device.reopen()
        #expect(try DeviceLabel(device: Array(device.bytes[..<(128 << 10)])).mountCounter > 2)
    }

    /// A device of version 2, which knew no nodes, keeps its data and what it says of writes.
    @Test func aDeviceOfVersionTwoKeepsItsData() throws {
        var device = try MemoryDevice(logBlocks: 20)
        let other = UnitKey(volume: VolumeID(rawValue: 9), index: 1)
        _ = device.write(unit, block, byte: 7)
        for _ in 0..<2 { cool(&device, epoch: 1) }
        _ = device.write(other, block, byte: 8)
        let layout = device.store.label.layout
        device.moveLogToItsStart()
        for offset in DeviceLabel.copyOffsets { downgrade(&device.bytes, Int(offset), versionAt: 8, to: 2) }
        for offset in layout.tables { downgrade(&device.bytes, Int(offset), versionAt: 4, to: 2) }
        for block in 0..<device.store.logUsed {
            downgrade(&device.bytes, Int(layout.log) + Int(block) * 4096, versionAt: 4, to: 2)
        }
        for _ in 0..<2 {
            try device.reopen()
            #expect(device.store.units { _ in true } == [unit, other])
            #expect(!device.store.isHot(unit) && device.store.isHot(other))
            #expect(device.store.map(of: unit).runs() == [block] && device.store.map(of: other).runs() == [block])
        }
        #expect(device.bytes[8] == UInt8(DeviceLabel.formatVersion), "the label says what it is now")
    }

    @Test func nodesOfOneIndexAreUnitsOfTheirOwn() throws {
        var device = try MemoryDevice()
        let head = UnitKey(tree: unit.tree, node: 5, index: 0)
        _ = device.write(unit, block, byte: 7)
        _ = device.write(head, BlockRange(start: 9, count: 1), byte: 8)
        try device.reopen()
        #expect(device.store.units { _ in true } == [unit, head])
        #expect(device.store.map(of: unit).runs() == [block])
        #expect(device.store.map(of: head).runs() == [BlockRange(start: 9, count: 1)])
    }

    private func downgrade(_ bytes: inout [UInt8], _ block: Int, versionAt: Int, to version: UInt8) {
        guard ByteReader.isSealed(Array(bytes[block..<block + 4096])) else { return }
        let newest = versionAt == 8 ? UInt8(DeviceLabel.formatVersion) : UInt8(UnitStore.formatVersion)
        #expect(bytes[block + versionAt] == newest, "of labels and of tables")
        bytes[block + versionAt] = version
        seal(&bytes, block, length: 4092)
    }

    private func seal(_ bytes: inout [UInt8], _ start: Int, length: Int) {
        let checksum = CRC32C.checksum(Array(bytes[start..<start + length]))
        for index in 0..<4 {
            bytes[start + length + index] = UInt8(truncatingIfNeeded: checksum >> (8 * UInt32(index)))
        }
    }

    @Test func listsSurviveTheWire() throws {
        for count in [0, 1, 255, 256, 257] {
            let entries = (0..<count).map { number in
                let node = UInt32(number % 5) << 20
                let unit = UnitKey(tree: TreeID(rawValue: 7), node: node, index: UInt32(number))
                return UnitList.Entry(unit: unit, isHot: number % 3 == 0)
            }
            let bytes = UnitList.encode(entries[...])
            #expect(bytes.count % 4096 == 0 && bytes.count > 0)
            #expect(try UnitList.decode(bytes) == entries)
        }
        #expect(throws: WireError.self) { try UnitList.decode([1, 2, 3]) }
    }
}
