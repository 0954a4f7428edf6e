/// What a copy has of one unit, block by block, as it tells it to the primary.
struct UnitDigest: Equatable, Sendable {
    /// Bytes on the wire; what they do not need is zeros.
    static let encodedSize = Int(Geometry.blockBytes)

    /// Blocks that hold data.
    private(set) var map: BlockMap
    /// Of these, blocks that cannot be read, or are not what was written.
    private(set) var damaged: BlockMap
    /// Of the others, blocks of which nobody knew what they had to be.
    private(set) var unverified: BlockMap
    private var checksums: [UInt32]

    /// `seen` are the checksums of the blocks of `range`, outside of which no block holds data; nil: none could be read.
    init(map: BlockMap, _ completion: UnitStore.Completion, range: BlockRange?, seen: BlockChecksums?) {
        self.map = map
        damaged = completion.damaged
        unverified = completion.unverified
        checksums = [UInt32](repeating: BlockChecksums.ofZeros, count: Int(Geometry.blocksPerUnit))
        guard let range else { return }
        guard let seen, seen.count == Int(range.count) else {
            damaged = map
            return
        }
        for index in 0..<Int(range.count) where map[range.start + UInt16(index)] {
            checksums[Int(range.start) + index] = seen[index]
        }
    }

    /// What the block reads as; holes read as zeros.
    func checksum(_ block: UInt16) -> UInt32 { checksums[Int(block)] }

    var encoded: [UInt8] {
        var writer = ByteWriter()
        writer.bytes = map.encoded + damaged.encoded + unverified.encoded
        for checksum in checksums { writer.put(checksum) }
        return writer.bytes + [UInt8](repeating: 0, count: UnitDigest.encodedSize - writer.bytes.count)
    }

    init(decoding bytes: [UInt8]) throws(WireError) {
        guard bytes.count == UnitDigest.encodedSize else {
            throw WireError(description: "a digest of \(bytes.count) bytes")
        }
        var reader = ByteReader(bytes)
        map = try BlockMap(reading: &reader)
        damaged = try BlockMap(reading: &reader)
        unverified = try BlockMap(reading: &reader)
        checksums = []
        checksums.reserveCapacity(Int(Geometry.blocksPerUnit))
        for _ in 0..<Geometry.blocksPerUnit { checksums.append(try reader.number(UInt32.self)) }
    }
}
