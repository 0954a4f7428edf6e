import Base
import Testing

@testable import BlockCore

/// What a device knows of the blocks that it holds.
@Suite struct ChecksumTests {
    private let unit = UnitKey(volume: VolumeID(rawValue: 9), index: 0)
    private let block = BlockRange(start: 3, count: 2)

    private func cool(_ device: inout MemoryDevice) {
        for _ in 0..<2 {
            var requests: UnitStore.Requests = []
            device.store.cool(underPressure: false, &requests) { _ in 1 }
            device.carryOut(requests)
        }
    }

    private func spoil(_ device: inout MemoryDevice, block: Int) throws {
        let location = Int(try #require(device.store.location(of: unit)))
        device.bytes[location + block * 4096 + 17] ^= 1
    }

    @Test func damageIsFoundByWhoeverReads() throws {
        var device = try MemoryDevice()
        _ = device.write(unit, block, byte: 7)
        #expect(device.read(unit, .wholeUnit).isEmpty)
        try spoil(&device, block: 4)
        #expect(device.read(unit, .wholeUnit) == [BlockRange(start: 4, count: 1)])
        #expect(device.read(unit, BlockRange(start: 3, count: 1)).isEmpty)
        #expect(device.read(unit, block) == [BlockRange(start: 4, count: 1)])
        #expect(device.store.damagedBlocks == 1 && device.store.damageFound == 1)
        _ = device.write(unit, BlockRange(start: 4, count: 1), byte: 8)
        #expect(device.read(unit, .wholeUnit).isEmpty)
        #expect(device.store.damagedBlocks == 0 && device.store.damageFound == 1)
    }

    @Test func settledUnitsKeepTheirChecksums() throws {
        var device = try MemoryDevice()
        _ = device.write(unit, block, byte: 7)
        cool(&device)
        #expect(!device.store.isHot(unit))
        try device.reopen()
        #expect(device.store.unreadableSeals == 0)
        #expect(device.store.knowsChecksum(of: unit, block: 3) && !device.store.knowsChecksum(of: unit, block: 5))
        try spoil(&device, block: 3)
        #expect(device.read(unit, .wholeUnit) == [BlockRange(start: 3, count: 1)])
    }

    /// Also after a crash, until something else is written there, whether the unit has settled meanwhile or not.
    @Test func whatIsKnownToBeLostStaysLost() throws {
        var device = try MemoryDevice()
        let good = BlockRange(start: 9, count: 1)
        _ = device.write(unit, good, byte: 5)
        #expect(device.write(unit, block, byte: 7, isDamaged: true) == .started)
        #expect(device.completions.contains { $0.operation == 7 && $0.outcome == .done })
        #expect(device.read(unit, .wholeUnit) == [block])
        for _ in 0..<2 {
            try device.reopen()
            #expect(device.store.isHot(unit))
            #expect(device.read(unit, .wholeUnit) == [block])
            try device.reopen()
        }
        cool(&device)
        try device.reopen()
        #expect(!device.store.isHot(unit))
        #expect(device.read(unit, .wholeUnit) == [block])
        _ = device.write(unit, BlockRange(start: 4, count: 1), byte: 8)
        try device.reopen()
        #expect(device.read(unit, .wholeUnit) == [BlockRange(start: 3, count: 1)])
    }

    /// What a read has found does not become data by a crash, whether the unit was being written then or is so now.
    @Test(arguments: [true, false]) func whatWasFoundDamagedStaysSo(isSettledBefore: Bool) throws {
        var device = try MemoryDevice()
        _ = device.write(unit, block, byte: 7)
        if isSettledBefore { cool(&device) }
        try spoil(&device, block: 4)
        let damaged = BlockRange(start: 4, count: 1)
        #expect(device.read(unit, .wholeUnit) == [damaged])
        _ = device.write(unit, BlockRange(start: 9, count: 1), byte: 8)
        for _ in 0..<2 {
            try device.reopen()
            #expect(device.store.isHot(unit))
            #expect(device.read(unit, .wholeUnit) == [damaged])
        }
        _ = device.write(unit, damaged, byte: 9)
        #expect(device.read(unit, .wholeUnit).isEmpty)
        try device.reopen()
        #expect(device.read(unit, .wholeUnit).isEmpty, "it is what was written last")
    }

    /// A write comes between the writing of the unit's checksums and the record that would call it settled.
    @Test func damageOfAUnitThatWasToSettleStays() throws {
        var device = try MemoryDevice()
        _ = device.write(unit, block, byte: 7)
        try spoil(&device, block: 4)
        let damaged = BlockRange(start: 4, count: 1)
        #expect(device.read(unit, .wholeUnit) == [damaged])
        // The first look finds that it was touched.
        var requests: UnitStore.Requests = []
        for _ in 0..<2 { device.store.cool(underPressure: false, &requests) { _ in 1 } }
        #expect(!requests.isEmpty)
        _ = device.write(unit, BlockRange(start: 9, count: 1), byte: 8)
        device.carryOut(requests)
        #expect(device.store.isHot(unit))
        try device.reopen()
        #expect(device.store.isHot(unit))
        #expect(device.read(unit, .wholeUnit) == [damaged])
    }

    /// A disk, or what lies between, gave something else once.
    @Test func whatReadsWellAgainIsWell() throws {
        var device = try MemoryDevice()
        _ = device.write(unit, block, byte: 7)
        cool(&device)
        let intact = device.bytes
        try spoil(&device, block: 3)
        #expect(device.read(unit, .wholeUnit) == [BlockRange(start: 3, count: 1)])
        #expect(device.store.damagedBlocks == 1 && device.store.damageFound == 1)
        let location = Int(try #require(device.store.location(of: unit)))
        let place = location + 3 * 4096..<location + 4 * 4096
        device.bytes.replaceSubrange(place, with: intact[place])
        #expect(device.read(unit, .wholeUnit).isEmpty)
        #expect(device.store.damagedBlocks == 0 && device.store.damageFound == 1)
        try spoil(&device, block: 3)
        #expect(device.read(unit, .wholeUnit) == [BlockRange(start: 3, count: 1)])
    }

    /// The first layout of the area did not say what is lost.
    @Test func olderChecksumAreasAreRead() throws {
        var device = try MemoryDevice()
        _ = device.write(unit, block, byte: 7)
        cool(&device)
        let area = Int(device.store.layout.checksums)
        let slot = try #require((0..<3).first { device.bytes[area + $0 * 1360 + 4] == 1 })
        let start = area + slot * 1360
        device.bytes[start + 4] = 0
        let checksum = CRC32C.checksum(Array(device.bytes[start..<start + 1072]))
        for index in 0..<36 {
            let byte = index < 4 ? UInt8(truncatingIfNeeded: checksum >> (8 * UInt32(index))) : 0
            device.bytes[start + 1072 + index] = byte
        }
        try device.reopen()
        #expect(device.store.unreadableSeals == 0 && device.store.knowsChecksum(of: unit, block: 3))
        try spoil(&device, block: 3)
        #expect(device.read(unit, .wholeUnit) == [BlockRange(start: 3, count: 1)])
    }

    @Test func settledBlocksAreThoseWhoseDamageWouldBeNoticed() throws {
        var device = try MemoryDevice()
        _ = device.write(unit, block, byte: 7)
        #expect(device.store.settledBlocks.isEmpty, "it is being written")
        cool(&device)
        let location = try #require(device.store.location(of: unit))
        let checksum = CRC32C.checksum([UInt8](repeating: 7, count: 4096))
        func expectBoth(_ store: UnitStore) {
            #expect(store.settledBlocks.map(\.offset) == [location + 3 * 4096, location + 4 * 4096])
            #expect(store.settledBlocks.allSatisfy { $0.checksum == checksum })
        }
        expectBoth(device.store)
        try device.reopen()
        expectBoth(device.store)
        try spoil(&device, block: 4)
        _ = device.read(unit, .wholeUnit)
        #expect(device.store.settledBlocks.map(\.offset) == [location + 3 * 4096])
    }

    /// What was under way when its server died may have arrived or not, and the checksums of then say nothing.
    @Test func aUnitThatWasBeingWrittenIsNotCalledDamaged() throws {
        var device = try MemoryDevice()
        _ = device.write(unit, block, byte: 7)
        cool(&device)
        _ = device.write(unit, block, byte: 8)
        try device.reopen()
        #expect(device.store.isHot(unit) && !device.store.knowsChecksum(of: unit, block: 3))
        #expect(device.read(unit, .wholeUnit).isEmpty)
        #expect(device.store.knowsChecksum(of: unit, block: 3), "it counts from its first reading on")
        cool(&device)
        try device.reopen()
        try spoil(&device, block: 3)
        #expect(device.read(unit, .wholeUnit) == [BlockRange(start: 3, count: 1)])
    }

    /// The checksums are flushed before the record that calls the unit settled is written; a write in between keeps it hot.
    @Test func aUnitIsSettledAfterItsChecksumsAreStable() throws {
        var device = try MemoryDevice()
        _ = device.write(unit, block, byte: 7)
        var requests: UnitStore.Requests = []
        for _ in 0..<2 { device.store.cool(underPressure: false, &requests) { _ in 1 } }
        #expect(requests.count == 1 && device.store.isHot(unit))
        guard case .writeBytes(let at, _)? = requests.first?.request else {
            Issue.record("the checksums come first")
            return
        }
        #expect(at == device.store.label.layout.checksums)
        var flush: UnitStore.Requests = []
        _ = device.store.finish(requests[0].id, .done, &flush)
        #expect(flush.map(\.request) == [.flush] && device.store.isHot(unit))
        var other = device
        var record: UnitStore.Requests = []
        _ = device.store.finish(flush[0].id, .done, &record)
        #expect(!device.store.isHot(unit) && record.count == 1)
        var write: UnitStore.Requests = []
        let slice = PayloadSlice(payload: PayloadID(rawValue: 8), offset: 0, length: block.length)
        #expect(other.store.write(8, unit, block, slice, combEpoch: 1, &write) == .started)
        other.carryOut(flush + write)
        #expect(other.store.isHot(unit))
    }

    @Test func neighboursShareABlock() throws {
        var device = try MemoryDevice(units: 7, logBlocks: 9)
        let keys = (0..<7).map { UnitKey(volume: VolumeID(rawValue: 9), index: UInt32($0)) }
        for key in keys { _ = device.write(key, block, byte: UInt8(key.index + 1)) }
        cool(&device)
        // One of them is written again, which must not touch what the others have there.
        _ = device.write(keys[1], block, byte: 99)
        cool(&device)
        try device.reopen()
        #expect(device.store.hotUnits == 0 && device.store.unreadableSeals == 0)
        for key in keys {
            #expect(device.read(key, .wholeUnit).isEmpty)
            #expect(device.store.knowsChecksum(of: key, block: 3))
        }
    }

    @Test func damagedChecksumsAreUnknownOnes() throws {
        var device = try MemoryDevice()
        _ = device.write(unit, block, byte: 7)
        cool(&device)
        device.bytes[Int(device.store.label.layout.checksums) + 500] ^= 4
        try device.reopen()
        #expect(device.store.unreadableSeals == 1 && !device.store.knowsChecksum(of: unit, block: 3))
        #expect(device.read(unit, .wholeUnit).isEmpty)
    }

    @Test func markedDamageStays() throws {
        var device = try MemoryDevice()
        var requests: UnitStore.Requests = []
        let slice = PayloadSlice(payload: PayloadID(rawValue: 7), offset: 0, length: block.length)
        #expect(device.store.write(7, unit, block, slice, combEpoch: 1, isDamaged: true, &requests) == .started)
        device.carryOut(requests)
        #expect(device.read(unit, .wholeUnit) == [block])
        #expect(device.store.damageFound == 0, "it is not this device's fault")
        cool(&device)
        try device.reopen()
        #expect(device.read(unit, .wholeUnit) == [block])
    }

    /// Devices of before have no place for checksums. They keep their data and go on as they are.
    @Test func opensVersionTwo() throws {
        var label = DeviceLabel(
            sds: SdsID(rawValue: 1), device: MemoryDevice.device, capacityUnits: 4, logBlocks: 3)
        label.checksumBlocks = 0
        var device = try MemoryDevice(label: label)
        for offset in DeviceLabel.copyOffsets {
            var copy = Array(device.bytes[Int(offset)..<Int(offset) + 4092])
            copy[8] = 2
            let sealed = copy + withUnsafeBytes(of: CRC32C.checksum(copy).littleEndian) { Array($0) }
            device.bytes.replaceSubrange(Int(offset)..<Int(offset) + 4096, with: sealed)
        }
        try device.reopen()
        #expect(!device.store.keepsChecksums && device.store.label.layout.data == 1 << 20)
        _ = device.write(unit, block, byte: 7)
        cool(&device)
        #expect(!device.store.isHot(unit))
        try device.reopen()
        #expect(try DeviceLabel(device: device.bytes).checksumBlocks == 0)
        #expect(device.store.map(of: unit).runs() == [block])
        try spoil(&device, block: 3)
        #expect(device.read(unit, .wholeUnit).isEmpty, "nobody knows")
    }

    @Test func digestsTravelAsTheyAre() throws {
        var map = BlockMap()
        _ = map.insert(BlockRange(start: 2, count: 3))
        var damaged = BlockMap()
        _ = damaged.insert(BlockRange(start: 3, count: 1))
        var completion = UnitStore.Completion(operation: 1, outcome: .done)
        completion.damaged = damaged
        _ = completion.unverified.insert(BlockRange(start: 4, count: 1))
        let digest = UnitDigest(map: map, completion, range: map.extent, seen: BlockChecksums([5, 6, 7]))
        #expect(try UnitDigest(decoding: digest.encoded) == digest)
        #expect(digest.checksum(2) == 5 && digest.checksum(4) == 7)
        #expect(digest.checksum(9) == CRC32C.checksum([UInt8](repeating: 0, count: 4096)))
        #expect(UnitDigest(map: map, completion, range: map.extent, seen: nil).damaged == map)
        #expect(throws: WireError.self) { try UnitDigest(decoding: Array(digest.encoded.dropLast())) }
    }
}
