/// Every object of the block store as the manager has committed it. A value: take a copy and read it at leisure.
public struct SystemState: Equatable, Sendable {
    public internal(set) var system: System
    public internal(set) var domains = Table<ProtectionDomainID, ProtectionDomain>()
    public internal(set) var faultSets = Table<FaultSetID, FaultSet>()
    public internal(set) var pools = Table<StoragePoolID, StoragePool>()
    public internal(set) var servers = Table<SdsID, Sds>()
    public internal(set) var devices = Table<DeviceID, Device>()
    public internal(set) var removedServers = Table<SdsID, RemovedServer>()
    public internal(set) var removedDevices = Table<DeviceID, RemovedDevice>()
    public internal(set) var clients = Table<SdcID, Sdc>()
    public internal(set) var volumes = Table<VolumeID, Volume>()
    /// Of volumes that are or were in snapshots; every other is alone in a tree that has no record.
    public internal(set) var trees = Table<TreeID, VolumeTree>()
    /// Volumes that may hold older data than was acknowledged, by an operator's decision.
    public internal(set) var dataLosses = Table<VolumeID, DataLoss>()
    /// Grows with every commit; what servers and clients acknowledge.
    public internal(set) var revision: UInt64 = 0
    /// Units in use as the devices last told; not stored.
    public internal(set) var usedUnits: [DeviceID: UInt32] = [:]
    /// Of these, those that thick volumes were promised; not stored.
    public internal(set) var thickUnits: [DeviceID: UInt32] = [:]
    /// What devices did lately; not stored.
    public internal(set) var activity: [DeviceID: Activity] = [:]
    /// What is known of damage on the devices; not stored.
    public internal(set) var integrity: [DeviceID: DeviceIntegrity] = [:]
    /// Servers that were declared down often lately, and how often; not stored.
    public internal(set) var oscillating: [SdsID: Int] = [:]
    /// Clients that hold a connection to the manager now; not stored.
    public internal(set) var connectedClients: Set<SdcID> = []

    public init(system: System) { self.system = system }

    public func domain(named name: String) -> ProtectionDomain? { domains.values.first { $0.name == name } }
    public func pool(named name: String, in domain: ProtectionDomainID) -> StoragePool? {
        pools.values.first { $0.name == name && $0.domain == domain }
    }
    public func faultSet(named name: String, in domain: ProtectionDomainID) -> FaultSet? {
        faultSets.values.first { $0.name == name && $0.domain == domain }
    }
    public func server(named name: String) -> Sds? { servers.values.first { $0.name == name } }
    public func volume(named name: String) -> Volume? { volumes.values.first { $0.name == name } }
    public func client(guid: String) -> Sdc? { clients.values.first { $0.guid == guid } }
    public func devices(in pool: StoragePoolID) -> [Device] { devices.values.filter { $0.pool == pool } }
    public func volumes(in pool: StoragePoolID) -> [Volume] { volumes.values.filter { $0.pool == pool } }
    /// Volumes that share data by snapshots, in order of their ids.
    public func volumes(in tree: TreeID) -> [Volume] { volumes.values.filter { $0.tree == tree } }
    /// The snapshots of a volume, theirs, and so on, in order of their ids.
    public func descendants(of volume: Volume) -> [VolumeID] {
        let relatives = volumes(in: volume.tree)
        var found: Set<VolumeID> = []
        var last: Set<VolumeID> = [volume.id]
        while !last.isEmpty {
            last = Set(relatives.filter { $0.ancestor.map(last.contains) ?? false }.map(\.id)).subtracting(found)
            found.formUnion(last)
        }
        return found.sorted()
    }
    public func volumes(mappedTo client: SdcID) -> [Volume] {
        volumes.values.filter { $0.mapping(of: client) != nil }
    }

    /// Whether a copy there can be read and written now, as far as the manager knows.
    public func isUsable(_ place: CopyPlace) -> Bool {
        servers[place.sds]?.status == .up && devices[place.device]?.status == .normal
    }

    /// Whether an operator wants nothing to be there any more.
    public func isLeaving(_ place: CopyPlace) -> Bool {
        guard let server = servers[place.sds] else { return false }
        return server.isLeaving || server.maintenance.isProtected || devices[place.device]?.isLeaving == true
    }

    /// Whether no copy may be brought there.
    public func isAvoided(_ place: CopyPlace) -> Bool {
        isLeaving(place) || servers[place.sds].map { $0.maintenance != .none } ?? true
    }

    public struct PoolHealth: Equatable, Sendable {
        public var normal = 0
        public var degraded = 0
        public var rebuilding = 0
        /// With two equal copies, one of which is moving elsewhere.
        public var moving = 0
        public var unavailable = 0
        public var unplaced = 0
    }

    /// How many combs of the pool are in which state.
    public func health(of pool: StoragePoolID) -> PoolHealth {
        var health = PoolHealth()
        for comb in pools[pool]?.combs ?? [] {
            switch comb.state {
            case .unplaced: health.unplaced += 1
            case .normal, .swapping: health.normal += 1
            case .moving: health.moving += 1
            case .degraded: health.degraded += 1
            case .rebuilding: health.rebuilding += 1
            case .unavailable: health.unavailable += 1
            }
        }
        return health
    }
}
