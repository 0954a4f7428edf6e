/// Which slot each bound unit of a device has, in as many parts as a pool has combs at first: what belongs to a comb is found
/// without a look at everything, and no part grows so large that its growth holds up what waits.
struct UnitIndex: Sendable {
    private static let partCount: UInt32 = 1024

    private var parts = [[UnitKey: UInt32]](repeating: [:], count: Int(partCount))
    private(set) var count = 0

    private static func part(of key: UnitKey) -> Int { Int(Geometry.comb(of: key.family, combCount: partCount)) }

    subscript(key: UnitKey) -> UInt32? {
        get { parts[UnitIndex.part(of: key)][key] }
        set {
            let part = UnitIndex.part(of: key)
            let before = parts[part].count
            parts[part][key] = newValue
            count += parts[part].count - before
        }
    }

    /// Every slot that is bound, in no order.
    var slots: [UInt32] { parts.flatMap(\.values) }

    /// Every unit for which `isWanted` says so, in no order.
    func units(where isWanted: (UnitKey) -> Bool) -> [UnitKey] { units(inComb: 0, of: 1, where: isWanted) }

    /// The same of those whose family would be in comb `comb` of `combCount` (a power of two), and maybe others.
    func units(inComb comb: UInt32, of combCount: UInt32, where isWanted: (UnitKey) -> Bool) -> [UnitKey] {
        var found: [UnitKey] = []
        var part = Int(comb & (UnitIndex.partCount - 1))
        while part < parts.count {
            for key in parts[part].keys where isWanted(key) { found.append(key) }
            part += Int(min(combCount, UnitIndex.partCount))
        }
        return found
    }
}
