import Base

/// The constants of the data layout.
public enum Geometry {
    /// Allocation and placement grain of a volume's address space.
    public static let unitBytes: UInt32 = 1 << 20
    /// The register size: every request covers whole blocks.
    public static let blockBytes: UInt32 = 4096
    public static let blocksPerUnit: UInt32 = unitBytes / blockBytes
    /// Combs of a new pool; a power of two, fixed when the pool is created.
    public static let defaultCombCount: UInt32 = 1024
    /// Combs in one stored record, so that no record nears the limit of a coordination service.
    public static let combsPerChunk: UInt32 = 64
    /// Combs of all pools together: a server's death changes half of them or all, in one commit, and ZooKeeper takes one of 1 MB.
    public static let combsMax: UInt32 = 10_240

    /// How many of a tree's units below `count` are in a comb of a pool of `combCount` (a power of two) combs.
    static func units(of tree: TreeID, below count: UInt32, inComb comb: UInt32, combCount: UInt32) -> UInt32 {
        let first = Geometry.comb(of: FamilyKey(tree: tree, index: 0), combCount: combCount)
        let index = (comb &- first) & (combCount - 1)
        return index < count ? (count - index - 1) / combCount + 1 : 0
    }

    /// The comb that holds the units of a family in a pool of `combCount` (a power of two) combs.
    public static func comb(of family: FamilyKey, combCount: UInt32) -> UInt32 {
        UInt32(truncatingIfNeeded: (mix64(family.tree.rawValue) &+ UInt64(family.index)) & UInt64(combCount &- 1))
    }
}

/// Whole blocks inside one unit.
public struct BlockRange: Hashable, Sendable, CustomStringConvertible {
    /// First block, 0 to 255.
    public var start: UInt16
    /// Number of blocks, at least 1; `start + count` is at most 256.
    public var count: UInt16

    public init(start: UInt16, count: UInt16) {
        self.start = start
        self.count = count
    }

    public static let wholeUnit = BlockRange(start: 0, count: UInt16(Geometry.blocksPerUnit))

    /// Nil unless offset and length (in bytes) are whole blocks inside one unit.
    public init?(offset: UInt32, length: UInt32) {
        let block = Geometry.blockBytes
        guard offset % block == 0, length % block == 0, length > 0, length <= Geometry.unitBytes,
            offset <= Geometry.unitBytes - length
        else { return nil }
        start = UInt16(offset / block)
        count = UInt16(length / block)
    }

    public var end: UInt16 { start + count }
    /// Of two blocks or more.
    var halves: [BlockRange] {
        [BlockRange(start: start, count: count / 2), BlockRange(start: start + count / 2, count: count - count / 2)]
    }
    /// This one, cut after every `count` blocks of it.
    func pieces(of count: UInt16) -> [BlockRange] {
        stride(from: start, to: end, by: Int(count)).map { BlockRange(start: $0, count: min(count, end - $0)) }
    }
    public var offset: UInt32 { UInt32(start) * Geometry.blockBytes }
    public var length: UInt32 { UInt32(count) * Geometry.blockBytes }

    public func overlaps(_ other: BlockRange) -> Bool { start < other.end && other.start < end }
    public var description: String { "[\(start)..<\(end)]" }
}
