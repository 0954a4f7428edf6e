import Base

/// A 64-bit id of the block store, printed as sixteen hexadecimal digits. Zero never names an object.
public protocol BlockStoreID: Hashable, Comparable, Sendable, CustomStringConvertible {
    var rawValue: UInt64 { get }
    init(rawValue: UInt64)
}

extension BlockStoreID {
    public static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
    public var description: String { rawValue.hex }

    /// Parses exactly what `description` prints; nil for anything else, and for zero.
    public init?(_ text: some StringProtocol) {
        guard text.utf8.count == 16, let value = UInt64(text, radix: 16), value != 0 else { return nil }
        self.init(rawValue: value)
    }
}

public struct SystemID: BlockStoreID {
    public var rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

public struct ProtectionDomainID: BlockStoreID {
    public var rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

public struct FaultSetID: BlockStoreID {
    public var rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

public struct StoragePoolID: BlockStoreID {
    public var rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

public struct VolumeID: BlockStoreID {
    public var rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

public struct SdsID: BlockStoreID {
    public var rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

public struct SdcID: BlockStoreID {
    public var rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

public struct DeviceID: BlockStoreID {
    public var rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// One comb of one pool's table.
public struct CombKey: Hashable, Comparable, Sendable, CustomStringConvertible {
    public var pool: StoragePoolID
    public var index: UInt32

    public init(pool: StoragePoolID, index: UInt32) {
        self.pool = pool
        self.index = index
    }

    public static func < (left: CombKey, right: CombKey) -> Bool {
        left.pool == right.pool ? left.index < right.index : left.pool < right.pool
    }
    public var description: String { "\(pool)/\(index)" }
}

/// One unit (1 MiB) of a volume's address space.
public struct UnitKey: Hashable, Comparable, Sendable, CustomStringConvertible {
    public var volume: VolumeID
    public var index: UInt32

    public init(volume: VolumeID, index: UInt32) {
        self.volume = volume
        self.index = index
    }

    public static func < (left: UnitKey, right: UnitKey) -> Bool {
        left.volume == right.volume ? left.index < right.index : left.volume < right.volume
    }
    public var description: String { "\(volume)+\(index)" }
}
