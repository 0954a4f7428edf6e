/// Names one connection of a shell; never reused by the same process.
public struct LinkID: Hashable, Comparable, Sendable, CustomStringConvertible {
    public var rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
    public static func < (left: LinkID, right: LinkID) -> Bool { left.rawValue < right.rawValue }
    public var description: String { "link \(rawValue)" }
}

/// A device as its server offers it to the manager. Server and device ids are chosen by the server when it first
/// formats the device, and kept in the label.
public struct DeviceOffer: Equatable, Sendable {
    public var id: DeviceID
    public var poolName: String
    public var path: String
    public var capacityUnits: UInt32
    public var mountCounter: UInt64

    public init(id: DeviceID, poolName: String, path: String, capacityUnits: UInt32, mountCounter: UInt64) {
        self.id = id
        self.poolName = poolName
        self.path = path
        self.capacityUnits = capacityUnits
        self.mountCounter = mountCounter
    }
}

/// A server's introduction on a new control connection.
public struct ServerHello: Equatable, Sendable {
    /// As in the device labels; nil while they are new.
    public var system: SystemID?
    public var sds: SdsID
    public var name: String
    public var domainName: String
    /// Where its data port is reached, `host:port`.
    public var address: String
    /// Random, non-zero, chosen at process start.
    public var incarnation: UInt64
    /// Names the run of the host's kernel (Linux: /proc/sys/kernel/random/boot_id), up to 64 bytes; empty if unknown.
    public var hostBoot: String
    public var devices: [DeviceOffer]
    /// Where it belongs if it is new; empty: nowhere.
    public var faultSetName: String

    public init(
        system: SystemID?, sds: SdsID, name: String, domainName: String, address: String, incarnation: UInt64,
        hostBoot: String = "", devices: [DeviceOffer], faultSetName: String = ""
    ) {
        self.system = system
        self.sds = sds
        self.name = name
        self.domainName = domainName
        self.address = address
        self.incarnation = incarnation
        self.hostBoot = hostBoot
        self.devices = devices
        self.faultSetName = faultSetName
    }
}

/// A client's introduction on a new control connection.
public struct ClientHello: Equatable, Sendable {
    public var guid: String
    public var name: String
    public var ip: String
    /// Random, non-zero, chosen at process start.
    public var incarnation: UInt64

    public init(guid: String, name: String, ip: String, incarnation: UInt64) {
        self.guid = guid
        self.name = name
        self.ip = ip
        self.incarnation = incarnation
    }
}

/// Units in use on a device, and what was done on it.
public struct DeviceUsage: Equatable, Sendable {
    public var device: DeviceID
    public var usedUnits: UInt32
    /// Of these, those that thick volumes were promised.
    public var thickUnits: UInt32
    public var counters: IOCounters
    public var integrity: DeviceIntegrity

    public init(
        device: DeviceID, usedUnits: UInt32, thickUnits: UInt32 = 0, counters: IOCounters = IOCounters(),
        integrity: DeviceIntegrity = DeviceIntegrity()
    ) {
        self.device = device
        self.usedUnits = usedUnits
        self.thickUnits = thickUnits
        self.counters = counters
        self.integrity = integrity
    }
}

/// From a server or a client to the manager.
public enum MessageToManager: Equatable, Sendable {
    case serverHello(ServerHello)
    case clientHello(ClientHello)
    case keepAlive([DeviceUsage])
    /// Everything up to this map revision is in force here, and work accepted under older rules has ended.
    case acknowledge(revision: UInt64)
    /// The secondary does not answer the primary: take it out of the comb, provided the comb is still at `epoch`.
    case removeSecondary(CombKey, epoch: UInt64, secondary: CopyPlace)
    /// The target holds everything on stable media.
    case rebuildDone(CombKey, epoch: UInt64, target: CopyPlace)
    case rebuildFailed(CombKey, epoch: UInt64, target: CopyPlace)
    case deviceFailed(DeviceID)
    /// The primary cannot read something of its own copy that the secondary has.
    case copyUnreadable(CombKey, epoch: UInt64, copy: CopyPlace)
    /// The primary of a comb whose parts are to be exchanged has finished every write and begins none.
    case drained(CombKey, epoch: UInt64)
    /// Something arrived from a peer that knows more: send the whole map again.
    case requestMap
    /// An answer to a step of taking snapshots. Not intact: the server did not keep to it, and the snapshots may show what never
    /// was at one moment.
    case cut(UInt64, CutAnswer, isIntact: Bool)
    /// This server has no unit of the node, and puts none there as the tree is at map revision `revision`.
    case nodeEmpty(TreeID, node: UInt32, revision: UInt64)
    /// A server asks that it may go on answering reads of volumes which several clients have; numbers only grow.
    case leaseRequest(number: UInt64)
}

public enum CutAnswer: UInt8, Sendable, CaseIterable {
    /// No write to the volumes is under way, and none begins.
    case held = 1
    /// So it was when this was asked, and every write that begins from now on is noted.
    case sealed = 2
    /// The new heads were learned before any write began.
    case concluded = 3
}

/// A step of taking snapshots, see docs/design/snapshots.md. A server that is in none is told nothing.
public enum CutStep: Equatable, Sendable {
    /// Begin no write to these volumes and say when none is under way.
    case hold([VolumeID])
    case seal
    /// The map that was sent before this has the new heads: say whether they were learned in time.
    case conclude
    /// It is given up.
    case release
}

/// One volume as servers and clients need to know it. A client is told only of its own, usable mappings.
public struct VolumeRecord: Equatable, Sendable {
    public var id: VolumeID
    public var pool: StoragePoolID
    public var name: String
    public var sizeUnits: UInt32
    /// Whether servers keep room for all of it.
    public var isThick: Bool
    public var attachEpoch: UInt64
    public var mappings: [VolumeMapping]
    /// Its data is in the units of this tree; what is written goes to the node `head`.
    public var tree: TreeID
    public var head: UInt32

    /// A volume without relatives unless `tree` says otherwise.
    public init(
        id: VolumeID, pool: StoragePoolID, name: String, sizeUnits: UInt32, isThick: Bool = false,
        attachEpoch: UInt64, mappings: [VolumeMapping], tree: TreeID? = nil, head: UInt32 = 0
    ) {
        self.id = id
        self.pool = pool
        self.name = name
        self.sizeUnits = sizeUnits
        self.isThick = isThick
        self.attachEpoch = attachEpoch
        self.mappings = mappings
        self.tree = tree ?? TreeID(rawValue: id.rawValue)
        self.head = head
    }
}

/// Combs of one pool.
public struct PoolUpdate: Equatable, Sendable {
    public struct Entry: Equatable, Sendable {
        public var index: UInt32
        public var comb: Comb
    }

    public var pool: StoragePoolID
    public var combCount: UInt32
    public var settings = PoolSettings()
    /// Percentage of each device that writes of clients leave free.
    public var sparePercentage: UInt32 = 0
    public var entries: [Entry]
}

public struct ServerAddress: Equatable, Sendable {
    public var sds: SdsID
    public var address: String
}

/// What changed, or everything (`isFull`: what is not mentioned does not exist).
public struct MapUpdate: Equatable, Sendable {
    public var revision: UInt64
    public var isFull: Bool
    public var servers: [ServerAddress] = []
    public var pools: [PoolUpdate] = []
    public var volumes: [VolumeRecord] = []
    public var removedVolumes: [VolumeID] = []
    /// For servers only, and only of volumes that are or were in snapshots.
    public var trees: [VolumeTree] = []
    public var removedTrees: [TreeID] = []
}

/// From the manager to a server or a client.
public enum MessageFromManager: Equatable, Sendable {
    case welcomeServer(system: SystemID, sds: SdsID, generation: UInt32)
    case welcomeClient(system: SystemID, sdc: SdcID, generation: UInt32)
    /// The introduction was not accepted; `code` is a `ManagerError.Code`.
    case refused(code: String, message: String)
    case update(MapUpdate)
    case keepAlive
    /// To servers: a step of the cut of this number.
    case cut(UInt64, CutStep)
    /// The request of this number is granted, counted from when it was sent.
    case lease(number: UInt64)
    /// This manager does not lead. `leader` is where the one that does is told to be (host:port), nil while nobody is known.
    case redirect(leader: String?)
}
