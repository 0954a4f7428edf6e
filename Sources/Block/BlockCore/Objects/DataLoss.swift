import Base

/// The mark of a volume that had data in combs whose only good copy was given up for an older one. Units of these combs may hold
/// what they held before, in whole or in part. Stored until an operator clears it.
public struct DataLoss: Equatable, Sendable {
    public var volume: VolumeID
    /// Revision of the commit that promoted an older copy last.
    public var revision: UInt64
    /// Which combs of the volume's pool, in order.
    public var combs: [UInt32]
    /// How many units of the volume lay there then.
    public var units: UInt32
}

extension Volume {
    /// How many of the volume's units lie in a comb of a pool of `combCount` combs.
    func units(inComb comb: UInt32, combCount: UInt32) -> UInt32 {
        Geometry.units(of: tree, below: sizeUnits, inComb: comb, combCount: combCount)
    }
}

extension ByteWriter {
    /// Combs as a bitmap, so that the record of a volume that lies in all of a large pool stays small.
    mutating func put(_ loss: DataLoss) {
        put(loss.volume)
        put(loss.revision)
        put(loss.units)
        var words = Array(repeating: UInt64(0), count: Int(loss.combs.last ?? 0) / 64 + 1)
        for comb in loss.combs { words[Int(comb / 64)] |= 1 << UInt64(comb % 64) }
        put(list: words) { $0.put($1) }
    }
}

extension ByteReader {
    mutating func dataLoss() throws(WireError) -> DataLoss {
        let volume = try id(VolumeID.self)
        let revision = try number(UInt64.self)
        let units = try number(UInt32.self)
        let words = try list(minimumSize: 8) { reader throws(WireError) in try reader.number(UInt64.self) }
        guard words.count <= 1 << 10 else { throw WireError(description: "data loss in \(words.count * 64) combs") }
        let combs = (0..<UInt32(words.count * 64)).filter { words[Int($0 / 64)] >> UInt64($0 % 64) & 1 == 1 }
        return DataLoss(volume: volume, revision: revision, combs: combs, units: units)
    }
}
