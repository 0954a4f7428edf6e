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

    /// In no order.
    var keys: some Sequence<UnitKey> { parts.lazy.flatMap(\.keys) }
    var slots: some Sequence<UInt32> { parts.lazy.flatMap(\.values) }

    /// Units whose family would be in comb `comb` of `combCount` (a power of two), and maybe others, in no order.
    func candidates(comb: UInt32, combCount: UInt32) -> some Sequence<UnitKey> {
        let first = comb & (UnitIndex.partCount - 1)
        return stride(from: first, to: UnitIndex.partCount, by: Int(min(combCount, UnitIndex.partCount))).lazy
            .flatMap { parts[Int($0)].keys }
    }
}
