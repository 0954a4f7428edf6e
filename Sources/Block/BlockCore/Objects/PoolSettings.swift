/// Which copies between devices are meant: those that give a comb its second copy back, or those that move one.
public enum CopyKind: String, Sendable, CaseIterable { case rebuild, rebalance }

/// How much of its devices copies of one kind may take from applications.
public struct IoPriorityPolicy: Equatable, Sendable {
    /// The names are ScaleIO's. `limitNumOfConcurrentIos` bounds how many copies are under way on a device, `favorAppIos` also
    /// their bandwidth, and `dynamicBwThrottling` both, but only while applications are busy there.
    public enum Kind: String, Sendable, CaseIterable {
        case unlimited, limitNumOfConcurrentIos, favorAppIos, dynamicBwThrottling
    }

    public var kind: Kind
    /// Copies under way at once on one device, at least 1.
    public var concurrentIosPerDevice: UInt32 = 1
    /// KiB/s read for copies from one device, at least 1024.
    public var kibibytesPerSecondPerDevice: UInt32 = 10240
    /// Applications are busy on a device above this many requests a second,
    public var appIopsThreshold: UInt32 = 100
    /// or above this many KiB/s.
    public var appKibibytesThreshold: UInt32 = 10240
    /// How long applications must have been less busy before the limits end.
    public var quietPeriodMilliseconds: UInt32 = 1000

    public init(_ kind: Kind) { self.kind = kind }

    public static let rebuildDefault = IoPriorityPolicy(.limitNumOfConcurrentIos)
    public static let rebalanceDefault = IoPriorityPolicy(.favorAppIos)
}

/// How the servers of a pool look for damage that nobody has read yet.
public enum BackgroundScannerMode: String, Sendable, CaseIterable {
    case disabled
    /// What does not match its checksum is mended from the other copy.
    case deviceOnly = "device_only"
    /// The same, and what both copies read well but not alike is made equal.
    case dataComparison = "data_comparison"
}

/// What an operator may change of a pool besides its name and its spare.
public struct PoolSettings: Equatable, Sendable {
    /// Percentages of the capacity without the spare at which alerts begin.
    public var capacityAlertHigh: UInt32 = 80
    public var capacityAlertCritical: UInt32 = 90
    public var rebuildEnabled = true
    public var rebalanceEnabled = true
    public var rebuildPolicy = IoPriorityPolicy.rebuildDefault
    public var rebalancePolicy = IoPriorityPolicy.rebalanceDefault
    public var scannerMode = BackgroundScannerMode.dataComparison
    /// KiB/s that the scanner reads of one device, on the average of the pool's devices; at least 1.
    public var scannerKibibytesPerSecond: UInt32 = 1024

    public init() {}

    public func policy(_ kind: CopyKind) -> IoPriorityPolicy { kind == .rebuild ? rebuildPolicy : rebalancePolicy }
}
