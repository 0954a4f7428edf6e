import Base
import BlockCore

/// A disk that forgets: what was not flushed is lost or kept block by block when the power goes.
struct FakeDisk {
    enum Content: Equatable {
        case value(UInt64)
        case bytes([UInt8])
        /// Not what was written last: the disk has spoilt it.
        case spoilt(UInt64, truth: UInt64)
    }

    enum Change {
        case set(block: UInt64, Content)
        case zero(first: UInt64, count: UInt64)
    }

    private var stable: [UInt64: Content] = [:]
    private var cache: [UInt64: Content] = [:]
    /// In order; what is stable as well is here while something older may come after it.
    private var unflushed: [(number: UInt64, change: Change, isStable: Bool)] = []
    private var nextNumber: UInt64 = 1
    /// Whether any block was ever spoilt.
    private var wasSpoilt = false
    /// Blocks that cannot be read until they are written.
    private(set) var unreadable: Set<UInt64> = []

    private static func perform(_ change: Change, on blocks: inout [UInt64: Content]) {
        switch change {
        case .set(let block, let content): blocks[block] = content
        case .zero(let first, let count):
            if count <= 16 {
                for block in first..<first + count { blocks[block] = nil }
            } else {
                blocks = blocks.filter { $0.key < first || $0.key >= first + count }
            }
        }
    }

    /// `isThrough`: stable at once.
    mutating func write(_ changes: [Change], isThrough: Bool = false) {
        for change in changes {
            if !unreadable.isEmpty { replace(change) }
            FakeDisk.perform(change, on: &cache)
            unflushed.append((nextNumber, change, isThrough))
            nextNumber += 1
        }
    }

    /// Another place is given to what could not be read.
    private mutating func replace(_ change: Change) {
        switch change {
        case .set(let block, _): unreadable.remove(block)
        case .zero(let first, let count): unreadable = unreadable.filter { $0 < first || $0 >= first + count }
        }
    }

    /// The block cannot be read any more.
    mutating func fail(_ block: UInt64) { unreadable.insert(block) }

    /// What a flush asked for now has to cover.
    var flushMark: UInt64 { nextNumber }

    mutating func flush(_ mark: UInt64) {
        for (number, change, _) in unflushed where number < mark { FakeDisk.perform(change, on: &stable) }
        unflushed.removeAll { $0.number < mark }
    }

    /// Power cut: of what was written since the last flush, and of what was under way, anything may have arrived.
    mutating func crash(underWay: [[Change]], _ generator: inout SeededRandom) {
        for (_, change, isStable) in unflushed where isStable || Bool.random(using: &generator) {
            FakeDisk.perform(change, on: &stable)
        }
        for change in underWay.joined() where Bool.random(using: &generator) {
            FakeDisk.perform(change, on: &stable)
        }
        cache = stable
        unflushed = []
    }

    /// The process that used it dies, and the host lives: what was written is there, flushed or not; of what was under way
    /// anything.
    mutating func kill(underWay: [[Change]], _ generator: inout SeededRandom) {
        write(underWay.joined().filter { _ in Bool.random(using: &generator) })
    }

    func value(_ block: UInt64) -> UInt64 {
        switch cache[block] {
        case .value(let value), .spoilt(let value, _): value
        case .bytes, nil: 0
        }
    }

    /// Bits rot: the block reads as something else from now on, whether what it was is stable or not.
    mutating func rot(_ block: UInt64, into value: UInt64) {
        wasSpoilt = true
        for blocks in [\FakeDisk.stable, \FakeDisk.cache] {
            if case .value(let truth) = self[keyPath: blocks][block] {
                self[keyPath: blocks][block] = .spoilt(value, truth: truth)
            }
        }
    }

    /// What a write of `value` to `block` does if the head is above `other`.
    mutating func misdirected(_ block: UInt64, _ value: UInt64, to other: UInt64) -> [Change] {
        wasSpoilt = true
        return [
            .set(block: block, .spoilt(self.value(block), truth: value)),
            .set(block: other, .spoilt(value, truth: self.value(other))),
        ]
    }

    func isSpoilt(_ block: UInt64) -> Bool {
        if case .spoilt = cache[block] { true } else { false }
    }

    /// As if it had never been spoilt.
    mutating func cure(_ block: UInt64) {
        guard wasSpoilt else { return }
        for blocks in [\FakeDisk.stable, \FakeDisk.cache] {
            if case .spoilt(_, let truth) = self[keyPath: blocks][block] {
                self[keyPath: blocks][block] = .value(truth)
            }
        }
    }

    /// The blocks of a unit that are not zeros. Servers know no checksums there, so what was spoilt is undone.
    mutating func dataOfUnit(at offset: UInt64) -> BlockMap {
        var data = BlockMap()
        for block in 0..<UInt16(Geometry.blocksPerUnit) {
            cure(offset / 4096 + UInt64(block))
            if value(offset / 4096 + UInt64(block)) != 0 { _ = data.insert(BlockRange(start: block, count: 1)) }
        }
        return data
    }

    /// What takes the place of the checksum of a block that holds `value`.
    static func checksum(_ value: UInt64) -> UInt32 {
        value == 0 ? BlockChecksums.ofZeros : UInt32(truncatingIfNeeded: mix64(value))
    }

    func bytes(_ range: Range<UInt64>) -> [UInt8] {
        var bytes: [UInt8] = []
        for block in range.lowerBound / 4096..<range.upperBound / 4096 {
            if case .bytes(let content) = cache[block] {
                bytes += content
            } else {
                bytes += [UInt8](repeating: 0, count: 4096)
            }
        }
        return bytes
    }

    static func changes(bytes: [UInt8], at offset: UInt64) -> [Change] {
        stride(from: 0, to: bytes.count, by: 4096).map {
            .set(block: (offset + UInt64($0)) / 4096, .bytes(Array(bytes[$0..<$0 + 4096])))
        }
    }
}
