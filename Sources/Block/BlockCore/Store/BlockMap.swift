/// Which of a unit's 256 blocks hold data; all others read as zeros.
public struct BlockMap: Equatable, Sendable {
    var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)

    public init() {}

    public static func == (left: BlockMap, right: BlockMap) -> Bool { left.words == right.words }

    public subscript(block: UInt16) -> Bool {
        let bit = UInt64(1) << UInt64(block & 63)
        switch block >> 6 {
        case 0: return words.0 & bit != 0
        case 1: return words.1 & bit != 0
        case 2: return words.2 & bit != 0
        default: return words.3 & bit != 0
        }
    }

    /// Marks the range as holding data; true if that changes anything.
    public mutating func insert(_ range: BlockRange) -> Bool {
        let before = self
        for block in range.start..<range.end {
            let bit = UInt64(1) << UInt64(block & 63)
            switch block >> 6 {
            case 0: words.0 |= bit
            case 1: words.1 |= bit
            case 2: words.2 |= bit
            default: words.3 |= bit
            }
        }
        return self != before
    }

    /// Marks the range as holding none; true if that changes anything.
    public mutating func remove(_ range: BlockRange) -> Bool {
        let before = self
        for block in range.start..<range.end {
            let bit = UInt64(1) << UInt64(block & 63)
            switch block >> 6 {
            case 0: words.0 &= ~bit
            case 1: words.1 &= ~bit
            case 2: words.2 &= ~bit
            default: words.3 &= ~bit
            }
        }
        return self != before
    }

    public var count: Int {
        words.0.nonzeroBitCount + words.1.nonzeroBitCount + words.2.nonzeroBitCount + words.3.nonzeroBitCount
    }
    public var isEmpty: Bool { words == (0, 0, 0, 0) }

    public init(_ range: BlockRange) { _ = insert(range) }

    func intersection(_ other: BlockMap) -> BlockMap {
        var both = self
        both.words.0 &= other.words.0
        both.words.1 &= other.words.1
        both.words.2 &= other.words.2
        both.words.3 &= other.words.3
        return both
    }

    func subtracting(_ other: BlockMap) -> BlockMap {
        var rest = self
        rest.words.0 &= ~other.words.0
        rest.words.1 &= ~other.words.1
        rest.words.2 &= ~other.words.2
        rest.words.3 &= ~other.words.3
        return rest
    }

    func union(_ other: BlockMap) -> BlockMap {
        var all = self
        all.words.0 |= other.words.0
        all.words.1 |= other.words.1
        all.words.2 |= other.words.2
        all.words.3 |= other.words.3
        return all
    }

    /// Whether all data lies inside the range.
    public func isEmpty(outside range: BlockRange) -> Bool {
        var rest = self
        _ = rest.remove(range)
        return rest.isEmpty
    }

    /// Whether no block of the range holds data.
    func isEmpty(in range: BlockRange) -> Bool { intersection(BlockMap(range)).isEmpty }
    /// Whether all of them do.
    func isFull(in range: BlockRange) -> Bool { BlockMap(range).subtracting(self).isEmpty }

    /// The map as it is sent: 32 bytes, bit n of the little-endian number for block n.
    public static let encodedSize: UInt32 = 32
    public var encoded: [UInt8] {
        var writer = ByteWriter()
        for word in [words.0, words.1, words.2, words.3] { writer.put(word) }
        return writer.bytes
    }

    init(reading reader: inout ByteReader) throws(WireError) {
        words = (
            try reader.number(UInt64.self), try reader.number(UInt64.self), try reader.number(UInt64.self),
            try reader.number(UInt64.self)
        )
    }

    /// From the first block with data to the last; nil if none has any.
    public var extent: BlockRange? {
        let runs = runs()
        guard let first = runs.first, let last = runs.last else { return nil }
        return BlockRange(start: first.start, count: last.end - first.start)
    }

    /// The parts of `range` whose blocks all hold data, in order.
    public func runs(in range: BlockRange = .wholeUnit) -> [BlockRange] { parts(of: range, holdingData: true) }
    /// The parts of `range` that hold none.
    public func holes(in range: BlockRange) -> [BlockRange] { parts(of: range, holdingData: false) }

    private func parts(of range: BlockRange, holdingData: Bool) -> [BlockRange] {
        var parts: [BlockRange] = []
        var block = range.start
        while block < range.end {
            let first = block
            while block < range.end, self[block] == holdingData { block += 1 }
            if block > first { parts.append(BlockRange(start: first, count: block - first)) }
            while block < range.end, self[block] != holdingData { block += 1 }
        }
        return parts
    }
}
