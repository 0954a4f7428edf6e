/// A scalar amount with three decimals, as Mesos compares and sums them: 0.1 + 0.2 is exactly 0.3.
public struct Quantity: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// The amount times 1000.
    public var thousandths: Int64

    public init(thousandths: Int64) { self.thousandths = thousandths }

    /// The nearest representable amount; NaN is zero, amounts beyond the range (and infinities) are clamped.
    public init(_ value: Double) {
        let scaled = (value * 1000).rounded(.toNearestOrAwayFromZero)
        if scaled.isNaN {
            thousandths = 0
        } else if scaled >= Double(Quantity.limit) {
            thousandths = Quantity.limit
        } else if scaled <= -Double(Quantity.limit) {
            thousandths = -Quantity.limit
        } else {
            thousandths = Int64(scaled)
        }
    }

    /// Far above any cluster and far enough from overflow that sums of a million such amounts are safe.
    private static let limit: Int64 = 1 << 42

    public static let zero = Quantity(thousandths: 0)

    public var value: Double { Double(thousandths) / 1000 }

    public static func < (left: Quantity, right: Quantity) -> Bool { left.thousandths < right.thousandths }
    public static func + (left: Quantity, right: Quantity) -> Quantity {
        Quantity(thousandths: left.thousandths &+ right.thousandths)
    }
    public static func - (left: Quantity, right: Quantity) -> Quantity {
        Quantity(thousandths: left.thousandths &- right.thousandths)
    }

    public var description: String {
        let whole = thousandths / 1000
        var fraction = String((thousandths % 1000).magnitude)
        if fraction == "0" { return String(whole) }
        fraction = String(repeating: "0", count: 3 - fraction.count) + fraction
        while fraction.last == "0" { fraction.removeLast() }
        return (thousandths < 0 && whole == 0 ? "-" : "") + "\(whole).\(fraction)"
    }
}
