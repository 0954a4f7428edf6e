/// What an operator or another part of the system asks the manager to do.
public enum ManagerCommand: Equatable, Sendable {
    case createProtectionDomain(name: String)
    /// `combCount` must be a power of two between 1 and 65536.
    case createStoragePool(domain: ProtectionDomainID, name: String, combCount: UInt32 = Geometry.defaultCombCount)
    case renameSds(SdsID, name: String)
    /// A server without copies goes at once. From another one the copies move away first, both in sync all the time; it is
    /// removed when nothing is left. Afterwards it is refused until it is added again.
    case removeSds(SdsID)
    /// Registers a client before it has connected, or updates one that is known by this guid.
    case registerSdc(guid: String, ip: String, name: String)
    case renameSdc(SdcID, name: String)
    /// Only a client without mappings; otherwise `inUse`.
    case removeSdc(SdcID)
    case createVolume(
        pool: StoragePoolID, name: String, sizeUnits: UInt32, provisioning: Volume.Provisioning, createdAt: UInt64)
    /// Growing only.
    case resizeVolume(VolumeID, sizeUnits: UInt32)
    case renameVolume(VolumeID, name: String)
    /// Refused as `volumeMapped` while mapped, unless `unmapping`.
    case removeVolume(VolumeID, unmapping: Bool)
    /// All of them or none.
    case removeVolumes([VolumeID], unmapping: Bool)
    /// Takes snapshots of up to 64 volumes of one pool, of one moment: if a write is in them, so is everything that was
    /// acknowledged before it began.
    case takeSnapshots([SnapshotDefinition], createdAt: UInt64)
    /// Grants a client the use of a volume. With `preempt` all other mappings are withdrawn in the same commit, and the
    /// answer comes only when every one of them is proven fenced. Without it a volume that is mapped elsewhere is
    /// refused (`mappedElsewhere`) unless `allowMultiple`. Repeating a map whose proof is still awaited waits on.
    case map(VolumeID, SdcID, mode: AccessMode, allowMultiple: Bool, preempt: Bool)
    /// Withdraws a client's right (of all clients if nil) and answers when it is proven fenced.
    case unmap(VolumeID, SdcID?)
    case setMappingLimits(VolumeID, SdcID, iops: UInt32, kibibytesPerSecond: UInt32)
    case configure(ConfigurationCommand)
}

/// A snapshot that is asked for.
public struct SnapshotDefinition: Equatable, Sendable {
    public var volume: VolumeID
    /// Of the snapshot; may be empty.
    public var name: String
    /// A volume of the same tree that shows what the snapshot would, instead of a new one: unmapped, and as large.
    public var overwritten: VolumeID?

    public init(volume: VolumeID, name: String, overwriting overwritten: VolumeID? = nil) {
        self.volume = volume
        self.name = name
        self.overwritten = overwritten
    }
}

/// A change of what volumes live on: domains, fault sets, pools, devices.
public enum ConfigurationCommand: Equatable, Sendable {
    case renameProtectionDomain(ProtectionDomainID, name: String)
    /// Only an empty one: without servers, pools and fault sets.
    case removeProtectionDomain(ProtectionDomainID)
    case createFaultSet(ProtectionDomainID, name: String)
    case renameFaultSet(FaultSetID, name: String)
    /// Only one without servers.
    case removeFaultSet(FaultSetID)
    case renameStoragePool(StoragePoolID, name: String)
    /// Only one without volumes and devices.
    case removeStoragePool(StoragePoolID)
    /// 0 to 90. Answered with a warning when it is less than the largest part that may fail at once.
    case setSparePercentage(StoragePoolID, UInt32)
    /// Percentages, 1 to 100, the first not above the second; nil: as before.
    case setCapacityAlertThresholds(StoragePoolID, high: UInt32?, critical: UInt32?)
    /// Copies that have begun go on.
    case setCopying(StoragePoolID, CopyKind, isEnabled: Bool)
    case setIoPriorityPolicy(StoragePoolID, CopyKind, IoPriorityPolicy)
    /// KiB/s for a device, at least 1; nil: as before.
    case setBackgroundScanner(StoragePoolID, BackgroundScannerMode, kibibytesPerSecond: UInt32?)
    case renameDevice(DeviceID, name: String)
    /// As with servers: its copies move away first.
    case removeDevice(DeviceID)
    /// What has moved away comes back by rebalancing.
    case abortRemoveSds(SdsID)
    case abortRemoveDevice(DeviceID)
    /// Takes a server out of use for a while; refused unless everything of its domain has two copies and no other is out.
    case enterMaintenance(SdsID, protected: Bool)
    /// Brings it back, also while it is still on its way out.
    case exitMaintenance(SdsID)
    /// This server, or one device of it, is lost for good: where it has the only good copy of something, the older copy that left
    /// before is promoted. Every volume touched is marked. The operator has to be sure: if the server goes on serving
    /// somewhere, what is written there is lost.
    case promoteStaleCopies(SdsID, DeviceID?)
    /// Ends the mark of a volume that lost data.
    case clearDataLoss(VolumeID)
    /// Lets a removed server introduce itself again, as a new one.
    case addSds(SdsID)
    /// Lets a removed device be used again, as an empty one.
    case addDevice(DeviceID)
}

/// The proof that a volume's withdrawn rights can no longer write: what every server that could serve them did.
public struct FencingProof: Equatable, Sendable {
    public enum Evidence: Equatable, Sendable {
        /// The server refuses the old rights and has finished what it had accepted; it confirmed this map revision.
        case acknowledged(revision: UInt64)
        /// The server is out of all combs by a committed change that the remaining copies have confirmed.
        case removed(revision: UInt64)
        /// The server holds no in-sync copy in the volume's pool.
        case holdsNothing
    }
    public struct Entry: Equatable, Sendable {
        public var sds: SdsID
        public var evidence: Evidence
    }

    public var volume: VolumeID
    /// Rights of this epoch and later are in force.
    public var attachEpoch: UInt64
    /// In order of server id.
    public var entries: [Entry]
    /// From the arrival of the command to the completed proof.
    public var elapsed: Duration
}

public enum ManagerReply: Equatable, Sendable {
    case done
    case createdProtectionDomain(ProtectionDomainID)
    case createdStoragePool(StoragePoolID)
    case createdFaultSet(FaultSetID)
    /// Done, but the operator should know something.
    case doneWithWarning(String)
    case registeredSdc(SdcID)
    case createdVolume(VolumeID)
    /// In the order of the definitions.
    case tookSnapshots(SnapshotGroupID, [VolumeID])
    /// Answer to map and unmap.
    case fenced(FencingProof)
}

/// The way to the leading manager, for the Gateway and the tools.
public protocol ManagerPort: Sendable {
    /// All objects, as last committed.
    func state() async throws(ManagerError) -> SystemState
    /// Throws what the manager refused, or `notLeader`/`unavailable` when it could not decide.
    func submit(_ command: ManagerCommand) async throws(ManagerError) -> ManagerReply
    /// What happened, in order; of what is long past only the last thousand or so.
    func events(after number: UInt64) async throws(ManagerError) -> [StorageEvent]
}
