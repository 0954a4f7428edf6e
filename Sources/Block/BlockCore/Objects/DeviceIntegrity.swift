/// What a server knows of the damage on one of its devices, since it started.
public struct DeviceIntegrity: Equatable, Sendable {
    /// Blocks that are known to be damaged now.
    public var damagedBlocks: UInt64 = 0
    /// Blocks of the device that were found damaged.
    public var found: UInt64 = 0
    /// Of units whose primary's copy is here, blocks of either copy that were written again from the other one.
    public var mended: UInt64 = 0
    /// The same, blocks that were good in both copies and not the same.
    public var differing: UInt64 = 0
    /// Examinations that the scanner began here, and how often it has been through the device.
    public var scannedUnits: UInt64 = 0
    public var passes: UInt64 = 0
    /// Whether the device keeps checksums at all.
    public var keepsChecksums = true

    public init() {}
}
