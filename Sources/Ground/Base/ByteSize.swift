/// A number of bytes. Construct it with a unit so that no bare number has to be interpreted.
public struct ByteSize: Hashable, Comparable, Sendable, CustomStringConvertible {
    public var bytes: UInt64

    public init(bytes: UInt64) { self.bytes = bytes }

    public static func bytes(_ count: UInt64) -> ByteSize { ByteSize(bytes: count) }
    public static func kibibytes(_ count: UInt64) -> ByteSize { ByteSize(bytes: count << 10) }
    public static func mebibytes(_ count: UInt64) -> ByteSize { ByteSize(bytes: count << 20) }
    public static func gibibytes(_ count: UInt64) -> ByteSize { ByteSize(bytes: count << 30) }

    public static let zero = ByteSize(bytes: 0)

    public static func < (left: ByteSize, right: ByteSize) -> Bool { left.bytes < right.bytes }
    public static func + (left: ByteSize, right: ByteSize) -> ByteSize { ByteSize(bytes: left.bytes + right.bytes) }

    /// Whole KiB, rounded down: the unit in which the ScaleIO REST API counts.
    public var wholeKibibytes: UInt64 { bytes >> 10 }
    /// Whole GiB, rounded down.
    public var wholeGibibytes: UInt64 { bytes >> 30 }

    public var description: String {
        let units: [(UInt64, String)] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
        for (unit, name) in units where bytes >= unit {
            return bytes % unit == 0 ? "\(bytes / unit) \(name)" : "\(Double(bytes * 10 / unit) / 10) \(name)"
        }
        return "\(bytes) B"
    }
}
