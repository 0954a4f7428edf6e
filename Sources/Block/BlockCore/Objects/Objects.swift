/// The whole installation.
public struct System: Equatable, Sendable {
    public var id: SystemID
    public var name: String
    /// Seconds since 1970, as the shell that created it knew them.
    public var createdAt: UInt64

    public init(id: SystemID, name: String, createdAt: UInt64) {
        self.id = id
        self.name = name
        self.createdAt = createdAt
    }
}

public struct ProtectionDomain: Equatable, Sendable {
    public var id: ProtectionDomainID
    public var name: String
}

/// Servers of a domain that may fail together, like those of one rack: the copies of a comb never share one.
public struct FaultSet: Equatable, Sendable {
    public var id: FaultSetID
    public var domain: ProtectionDomainID
    public var name: String
}

public struct StoragePool: Equatable, Sendable {
    public var id: StoragePoolID
    public var domain: ProtectionDomainID
    public var name: String
    /// Indexed by comb number; its length is a power of two and never changes. Unplaced until the first volume is made.
    public var combs: [Comb]
    /// Percentage of the capacity kept for rebuilding.
    public var sparePercentage: UInt32
    public var settings = PoolSettings()
    public var combCount: UInt32 { UInt32(combs.count) }
}

/// A storage server.
public struct Sds: Equatable, Sendable {
    public enum Status: String, Sendable { case up, down }

    public var id: SdsID
    public var domain: ProtectionDomainID
    public var name: String
    /// Where clients and other servers reach its data port, `host:port`.
    public var address: String
    public var status: Status
    /// Which run of the server process was last admitted; a new one means that the process was restarted.
    public var incarnation: UInt64
    /// Which run of its host's kernel that was; empty while unknown.
    public var hostBoot: String = ""
    /// Counts admitted incarnations; makes session numbers grow over restarts.
    public var generation: UInt32
    /// Revision of the commit that last declared it down (0: never).
    public var downRevision: UInt64
    /// Given at its first introduction, for good; nil: it may fail alone.
    public var faultSet: FaultSetID?
    /// To be removed as soon as all copies have moved away.
    public var isLeaving = false
    public var maintenance = Maintenance.none

    /// A server that is taken out of use for a while. In instant maintenance its copies stay where they are and are brought up
    /// to date afterwards: meanwhile there is one copy of them. For protected maintenance they move away first.
    public enum Maintenance: String, Sendable {
        case none, enteringInstant, instant, enteringProtected, protected

        public var isProtected: Bool { self == .enteringProtected || self == .protected }
        public var isEntering: Bool { self == .enteringInstant || self == .enteringProtected }
    }
}

/// A file or a raw disk of one server.
public struct Device: Equatable, Sendable {
    public enum Status: String, Sendable { case normal, failed }

    public var id: DeviceID
    public var sds: SdsID
    public var pool: StoragePoolID
    public var path: String
    public var capacityUnits: UInt32
    public var status: Status
    /// The mount counter of the label as last admitted: a lower one means that an old image was restored.
    public var mountCounter: UInt64
    /// What an operator calls it; empty: nothing yet.
    public var name = ""
    /// To be removed as soon as all copies have moved away.
    public var isLeaving = false
}

/// A server that an operator removed, and which may not introduce itself again before it is added.
public struct RemovedServer: Equatable, Sendable {
    public var id: SdsID
    public var name: String
    public var address: String
    /// Revision of the commit that removed it.
    public var revision: UInt64
}

/// A device that an operator removed: its server may go on offering it, and it is not used.
public struct RemovedDevice: Equatable, Sendable {
    public var id: DeviceID
    public var sds: SdsID
    public var path: String
    public var revision: UInt64
}

/// A storage client: a host that attaches volumes.
public struct Sdc: Equatable, Sendable {
    public var id: SdcID
    /// Upper-case UUID, unique; what `drv_cfg --query_guid` prints.
    public var guid: String
    public var name: String
    public var ip: String
    public var generation: UInt32
    public var incarnation: UInt64
}

public enum AccessMode: String, Sendable, CaseIterable { case readWrite, readOnly, noAccess }

/// One client's right to use a volume.
public struct VolumeMapping: Equatable, Sendable {
    public var sdc: SdcID
    public var mode: AccessMode
    /// The volume's attach epoch at which this right was granted; every data request carries it.
    public var epoch: UInt64
    /// 0: unlimited. The client enforces them.
    public var limitIops: UInt32
    public var limitKibibytesPerSecond: UInt32
}

public struct Volume: Equatable, Sendable {
    public enum Provisioning: String, Sendable { case thin, thick }

    public var id: VolumeID
    public var pool: StoragePoolID
    public var name: String
    /// Whole units of 1 MiB.
    public var sizeUnits: UInt32
    public var provisioning: Provisioning
    public var createdAt: UInt64
    /// In the order in which they were granted.
    public var mappings: [VolumeMapping]
    /// Grows with each change of `mappings`.
    public var attachEpoch: UInt64
    /// Every right older than this epoch that is no longer listed is proven refused everywhere. A mapping granted at
    /// a later epoch is not shown to its client before the proof reaches it.
    public var fencedThrough: UInt64
    /// Revision of the commit that changed this record last.
    public var revision: UInt64
    /// Where its data is, and in it the node that its writes go to and nobody else's.
    public var tree: TreeID
    public var head: UInt32
    /// The volume of which this is a snapshot, which may be gone; nil: none, and the group too.
    public var ancestor: VolumeID?
    public var snapshotGroup: SnapshotGroupID?

    /// A volume without relatives.
    init(
        id: VolumeID, pool: StoragePoolID, name: String, sizeUnits: UInt32, provisioning: Provisioning,
        createdAt: UInt64, mappings: [VolumeMapping], attachEpoch: UInt64, fencedThrough: UInt64, revision: UInt64
    ) {
        self.id = id
        self.pool = pool
        self.name = name
        self.sizeUnits = sizeUnits
        self.provisioning = provisioning
        self.createdAt = createdAt
        self.mappings = mappings
        self.attachEpoch = attachEpoch
        self.fencedThrough = fencedThrough
        self.revision = revision
        tree = TreeID(rawValue: id.rawValue)
        head = 0
    }

    /// Also one whose ancestors are gone.
    public var isSnapshot: Bool { snapshotGroup != nil }
    public func mapping(of sdc: SdcID) -> VolumeMapping? { mappings.first { $0.sdc == sdc } }
    /// The mappings whose clients may already use the volume.
    public var usableMappings: [VolumeMapping] { mappings.filter { $0.epoch <= fencedThrough } }
    public var isFencePending: Bool { fencedThrough < attachEpoch }
}

/// Where one copy of a comb lies.
public struct CopyPlace: Hashable, Sendable, CustomStringConvertible {
    public var sds: SdsID
    public var device: DeviceID

    public init(sds: SdsID, device: DeviceID) {
        self.sds = sds
        self.device = device
    }
    public var description: String { "\(sds):\(device)" }
}

/// A copy that left its comb, and the comb epoch at which it was still in sync. When it returns, it needs only what changed
/// under later epochs (docs/design/resync.md).
public struct FormerCopy: Hashable, Sendable {
    public var place: CopyPlace
    public var epoch: UInt64

    public init(place: CopyPlace, epoch: UInt64) {
        self.place = place
        self.epoch = epoch
    }
}

/// The unit of placement, failover and rebuild. `unavailable` is `degraded` whose only in-sync copy is on a server
/// or device that is not usable now: nothing else may serve it.
public struct Comb: Equatable, Sendable {
    public enum State: Equatable, Sendable {
        case unplaced
        /// Both copies are equal in all that was ever acknowledged.
        case normal(secondary: CopyPlace)
        case degraded
        /// `target` is being filled from the primary and does not count as a copy.
        case rebuilding(target: CopyPlace)
        /// Both copies are equal as in `normal`; `target` is being filled and takes the secondary's part when it is complete.
        case moving(secondary: CopyPlace, target: CopyPlace)
        /// Both copies are equal; the primary finishes its writes and begins none, then the two exchange their parts.
        case swapping(secondary: CopyPlace)
        case unavailable
    }

    /// Grows with each change; never reused.
    public var epoch: UInt64
    /// Meaningless while unplaced.
    public var primary: CopyPlace
    public var state: State
    /// Revision of the commit that changed it last.
    public var revision: UInt64
    /// The copy that left last, until another one is complete or what is there cannot be trusted any more.
    public var former: FormerCopy?

    static let unplaced = Comb(
        epoch: 0, primary: CopyPlace(sds: SdsID(rawValue: 0), device: DeviceID(rawValue: 0)), state: .unplaced,
        revision: 0)

    public var secondary: CopyPlace? {
        switch state {
        case .normal(let secondary), .moving(let secondary, _), .swapping(let secondary): secondary
        case .unplaced, .degraded, .rebuilding, .unavailable: nil
        }
    }
    public var target: CopyPlace? {
        switch state {
        case .rebuilding(let target), .moving(_, let target): target
        case .unplaced, .normal, .degraded, .swapping, .unavailable: nil
        }
    }
    /// The epoch from which the target needs the changes; nil unless it is a copy that returns.
    public var targetEpoch: UInt64? {
        guard let target, let former, former.place == target else { return nil }
        return former.epoch
    }
    /// Every place that has, or is about to have, a copy.
    public var places: [CopyPlace] { inSync + [target].compactMap { $0 } }
    public var isPlaced: Bool { state != .unplaced }
    /// The copies that hold everything acknowledged: what may serve, now or after a promotion.
    public var inSync: [CopyPlace] {
        switch state {
        case .unplaced: []
        case .normal(let secondary), .moving(let secondary, _), .swapping(let secondary): [primary, secondary]
        case .degraded, .rebuilding, .unavailable: [primary]
        }
    }
}
