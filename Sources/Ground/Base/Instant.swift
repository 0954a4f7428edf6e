/// A point on a monotonic clock, in nanoseconds since an origin that only its own process (or simulation) knows.
///
/// Cores take an `Instant` as a parameter and never read a clock. Instants of different processes are not comparable.
public struct Instant: Hashable, Comparable, Sendable, CustomStringConvertible {
    public var nanoseconds: UInt64

    public init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }

    public static let zero = Instant(nanoseconds: 0)
    public static let distantFuture = Instant(nanoseconds: .max)

    public static func < (left: Instant, right: Instant) -> Bool { left.nanoseconds < right.nanoseconds }

    /// Later by `duration`; saturates at the ends of the representable range.
    public static func + (left: Instant, right: Duration) -> Instant {
        let delta = right.wholeNanoseconds
        if delta >= 0 {
            let (sum, overflow) = left.nanoseconds.addingReportingOverflow(UInt64(delta))
            return Instant(nanoseconds: overflow ? .max : sum)
        }
        let magnitude = delta.magnitude
        return Instant(nanoseconds: left.nanoseconds > magnitude ? left.nanoseconds - magnitude : 0)
    }

    public static func - (left: Instant, right: Duration) -> Instant { left + (.zero - right) }

    /// The time from `right` to `left`; negative when `left` is earlier.
    public static func - (left: Instant, right: Instant) -> Duration {
        if left.nanoseconds >= right.nanoseconds {
            return .nanoseconds(Int64(clamping: left.nanoseconds - right.nanoseconds))
        }
        return .nanoseconds(-Int64(clamping: right.nanoseconds - left.nanoseconds))
    }

    public var description: String { "\(Double(nanoseconds) / 1e9)s" }
}

extension Duration {
    /// Nanoseconds, clamped to what an `Int64` holds (292 years).
    public var wholeNanoseconds: Int64 {
        let (seconds, attoseconds) = components
        let (high, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
        if overflow { return seconds < 0 ? .min : .max }
        let (sum, carried) = high.addingReportingOverflow(attoseconds / 1_000_000_000)
        return carried ? (seconds < 0 ? .min : .max) : sum
    }

    /// Seconds as a floating point number, for display and for JSON fields that are given in seconds.
    public var inSeconds: Double { Double(wholeNanoseconds) / 1e9 }
}
