/// The CRC32Cs of consecutive 4 KiB blocks, in order. That of a single block takes no memory of its own.
public struct BlockChecksums: Equatable, Sendable {
    private enum Storage: Equatable, Sendable {
        case one(UInt32)
        case several([UInt32])
    }

    /// The checksum of a block of zeros.
    public static let ofZeros = CRC32C.checksum([UInt8](repeating: 0, count: Int(Geometry.blockBytes)))

    private let storage: Storage

    /// Of one block.
    public init(_ checksum: UInt32) { storage = .one(checksum) }
    /// Of blocks of zeros.
    static func zeros(_ count: Int) -> BlockChecksums { BlockChecksums([UInt32](repeating: ofZeros, count: count)) }

    public init(_ checksums: [UInt32]) {
        if let only = checksums.first, checksums.count == 1 {
            storage = .one(only)
        } else {
            storage = .several(checksums)
        }
    }

    public var count: Int {
        switch storage {
        case .one: 1
        case .several(let checksums): checksums.count
        }
    }

    public subscript(index: Int) -> UInt32 {
        switch storage {
        case .one(let checksum):
            precondition(index == 0, "the only block")
            return checksum
        case .several(let checksums): return checksums[index]
        }
    }
}

/// What a device knows of the blocks of one of its units: what they must read as, and which do not.
struct UnitChecksums: Equatable, Sendable {
    /// Blocks whose checksum is known. Of the others any content counts as right when it is read first.
    private(set) var known = BlockMap()
    /// Blocks that were read and found to be something else than was written there.
    private(set) var damaged = BlockMap()
    /// Blocks that were damaged before a crash, and maybe written since: whoever reads them finds out.
    private(set) var suspected = BlockMap()
    /// One for each block once any is known.
    private var values: [UInt32] = []
    /// What those damaged blocks read as that were found to be so by reading.
    private var readings: [UInt16: UInt32] = [:]

    /// The blocks hold what has these checksums; `isDamaged`: they are to be found damaged whenever they are read, since what
    /// they hold is known not to be what was once written.
    mutating func set(_ range: BlockRange, _ checksums: BlockChecksums, isDamaged: Bool) {
        precondition(checksums.count == Int(range.count), "a checksum for each block")
        if values.isEmpty { values = [UInt32](repeating: 0, count: Int(Geometry.blocksPerUnit)) }
        for index in 0..<Int(range.count) {
            values[Int(range.start) + index] = isDamaged ? ~checksums[index] : checksums[index]
        }
        _ = known.insert(range)
        _ = suspected.remove(range)
        _ = isDamaged ? damaged.insert(range) : damaged.remove(range)
        forgetReadings(range)
    }

    mutating func forget(_ range: BlockRange) {
        _ = known.remove(range)
        _ = damaged.remove(range)
        _ = suspected.remove(range)
        forgetReadings(range)
    }

    private mutating func forgetReadings(_ range: BlockRange) {
        if readings.isEmpty { return }
        for block in range.start..<range.end { readings[block] = nil }
    }

    /// Compares what was read with what is known, and takes what is not known for right. Blocks outside `map` hold no data.
    mutating func check(
        _ range: BlockRange, _ seen: BlockChecksums, map: BlockMap, _ completion: inout UnitStore.Completion
    ) {
        precondition(seen.count == Int(range.count), "a checksum for each block that was read")
        for index in 0..<range.count where map[range.start + index] {
            let block = BlockRange(start: range.start + index, count: 1)
            if suspected[block.start], values[Int(block.start)] == ~seen[Int(index)] {
                set(block, BlockChecksums(seen[Int(index)]), isDamaged: true)
                _ = completion.damaged.insert(block)
            } else if !known[block.start] {
                set(block, BlockChecksums(seen[Int(index)]), isDamaged: false)
                _ = completion.unverified.insert(block)
            } else if values[Int(block.start)] != seen[Int(index)] {
                _ = completion.damaged.insert(block)
                _ = damaged.insert(block)
                readings[block.start] = seen[Int(index)]
            } else if damaged[block.start] {
                // What was read before was wrong on its way, or older than what has been written meanwhile.
                _ = damaged.remove(block)
                readings[block.start] = nil
            }
        }
    }

    /// Of a block that is `known`.
    func value(_ block: UInt16) -> UInt32 {
        precondition(known[block], "a block whose checksum is known")
        return values[Int(block)]
    }

    // MARK: On disk

    static let encodedSize = 1108
    /// Of the first layout, without the damaged blocks.
    private static let formerSize = 1076
    static let perBlock = 3
    /// Bytes between two of them in a 4 KiB block.
    static let stride = 1360

    /// Sealed with the slot and the unit's generation, so that none is taken for another's. Of a unit that is not settled what
    /// counts is by what damaged blocks are known again.
    func encode(slot: UInt32, generation: UInt64, isSettled: Bool, into writer: inout ByteWriter) {
        let start = writer.bytes.count
        writer.put(slot)
        writer.put(UInt32(1))
        writer.put(generation)
        writer.bytes.append(contentsOf: known.encoded)
        for block in 0..<UInt16(Geometry.blocksPerUnit) {
            let reading = isSettled || readings.isEmpty ? nil : readings[block]
            writer.put(values.isEmpty ? 0 : reading.map { ~$0 } ?? values[Int(block)])
        }
        writer.bytes.append(contentsOf: damaged.union(suspected).encoded)
        writer.put(CRC32C.checksum(Array(writer.bytes[start...])))
    }

    /// Nil when what is there is damaged or another unit's. Of a unit that is not settled it only says what may be damaged.
    init?(decoding bytes: [UInt8], slot: UInt32, generation: UInt64, isSettled: Bool) {
        var reader = ByteReader(bytes)
        do throws(WireError) {
            guard bytes.count == UnitChecksums.encodedSize, try reader.number(UInt32.self) == slot else { return nil }
            let layout = try reader.number(UInt32.self)
            guard layout <= 1, try reader.number(UInt64.self) == generation else { return nil }
            known = try BlockMap(reading: &reader)
            values.reserveCapacity(Int(Geometry.blocksPerUnit))
            for _ in 0..<Geometry.blocksPerUnit { values.append(try reader.number(UInt32.self)) }
            if layout == 1 { suspected = try BlockMap(reading: &reader) }
            let size = layout == 1 ? UnitChecksums.encodedSize : UnitChecksums.formerSize
            guard try reader.number(UInt32.self) == CRC32C.checksum(Array(bytes[..<(size - 4)])) else { return nil }
        } catch {
            return nil
        }
        if isSettled { suspected = suspected.subtracting(known) } else { known = BlockMap() }
    }

    init() {}
}
