public import Base

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

/// Volumes that came from one another by snapshots; has the number of the first of them.
public struct TreeID: BlockStoreID {
    public var rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// Snapshots that were taken by one command, of one moment.
public struct SnapshotGroupID: BlockStoreID {
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

/// One unit (1 MiB) as a device stores it: what was written at this index while the node was the head of a volume.
public struct UnitKey: Hashable, Comparable, Sendable, CustomStringConvertible {
    public var tree: TreeID
    public var node: UInt32
    public var index: UInt32

    public init(tree: TreeID, node: UInt32, index: UInt32) {
        self.tree = tree
        self.node = node
        self.index = index
    }

    /// Of a volume that was never in a snapshot: it is alone in the tree that has its number, and its node is 0.
    public init(volume: VolumeID, index: UInt32) {
        self.init(tree: TreeID(rawValue: volume.rawValue), node: 0, index: index)
    }

    public var family: FamilyKey { FamilyKey(tree: tree, index: index) }

    public static func < (left: UnitKey, right: UnitKey) -> Bool {
        (left.tree, left.index, left.node) < (right.tree, right.index, right.node)
    }
    public var description: String { "\(tree)+\(index)" + (node == 0 ? "" : "@\(node)") }
}

/// All units of one index of a tree, whatever their nodes: they lie in one comb, and a read may look through several of them.
public struct FamilyKey: Hashable, Comparable, Sendable, CustomStringConvertible {
    public var tree: TreeID
    public var index: UInt32

    public init(tree: TreeID, index: UInt32) {
        self.tree = tree
        self.index = index
    }

    public static func < (left: FamilyKey, right: FamilyKey) -> Bool {
        left.tree == right.tree ? left.index < right.index : left.tree < right.tree
    }
    public var description: String { "\(tree)+\(index)" }
}

// MARK: Keys of tables

extension LinkID: IDTableKey {
    public var place: UInt64 { rawValue }
}

extension SdsID: IDTableKey {
    public var place: UInt64 { rawValue }
}

extension FamilyKey: IDTableKey {
    public var place: UInt64 { tree.rawValue &* 0x9E37_79B9_7F4A_7C15 &+ UInt64(index) }
}
