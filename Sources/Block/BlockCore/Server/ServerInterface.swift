public import Base

public struct ServerConfiguration: Sendable {
    public var name: String
    public var domainName: String
    /// The fault set to which the server belongs from its first introduction on; empty: none.
    public var faultSetName = ""
    /// Where clients and other servers reach the data port, `host:port`.
    public var address: String
    /// Random, non-zero, chosen at process start.
    public var incarnation: UInt64
    /// Names the run of the host's kernel; empty if unknown.
    public var hostBoot = ""
    /// The storage pool of each device, by name; "default" where not given.
    public var poolNames: [DeviceID: String] = [:]
    /// For display.
    public var devicePaths: [DeviceID: String] = [:]
    public var keepAliveInterval: Duration = .milliseconds(250)
    /// A secondary that has not answered for so long is reported to the manager.
    public var replicaTimeout: Duration = .milliseconds(1500)
    /// A device on which one request is under way for so long counts as failed.
    public var deviceTimeout: Duration = .seconds(10)
    /// A unit that nobody has written for so long, or up to twice as long, is recorded as settled.
    public var intentCooling: Duration = .seconds(3)
    /// How often units are looked for that have to be merged into those of another node.
    public var mergeInterval: Duration = .seconds(1)
    /// How long writes to volumes of which snapshots are being taken are held up at most, whatever the manager does.
    public var cutHoldTime: Duration = .seconds(2)
    /// How long a lease lasts from the moment at which it was asked for. Less than the manager's own `leaseTime` by so much that
    /// their clocks may differ by a quarter in rate.
    public var leaseTime: Duration = .milliseconds(1500)
    /// A device of which so many blocks were found damaged since the server started is given up, unless it holds the only copy
    /// of something.
    public var damagedBlocksMax: UInt64 = 256
    /// Requests of clients accepted and unfinished; more are answered `overloaded`. Those of other servers are as many as
    /// their own clients' at most, and refusing them would hold up both servers.
    public var requestsMax = 4096
    public var rules = ProtocolRules.all

    public init(name: String, domainName: String, address: String, incarnation: UInt64) {
        self.name = name
        self.domainName = domainName
        self.address = address
        self.incarnation = incarnation
    }
}

/// One of the connections that a server opens to another: what fills a new copy has one of its own, so that clients' writes do
/// not wait behind it.
public struct PeerChannel: Hashable, Comparable, Sendable {
    public enum Use: UInt8, Sendable { case replication, copying }

    public var peer: SdsID
    public var use: Use

    public init(_ peer: SdsID, _ use: Use = .replication) {
        self.peer = peer
        self.use = use
    }

    public static func < (one: PeerChannel, other: PeerChannel) -> Bool {
        (one.peer, one.use.rawValue) < (other.peer, other.use.rawValue)
    }
}

extension PeerChannel: IDTableKey {
    public var place: UInt64 { peer.place &* 2 &+ UInt64(use.rawValue) }
}

public enum ServerEvent: Sendable {
    /// A control connection to the leading manager is open; the core introduces itself.
    case managerConnected
    case managerClosed
    case manager(MessageFromManager)
    /// A message on a data connection that a client or another server opened to us.
    case request(LinkID, DataHeader, PayloadID?)
    case linkClosed(LinkID)
    /// The connection asked for with `connectPeer` is open.
    case peerConnected(PeerChannel, LinkID)
    /// It could not be opened, or is closed.
    case peerClosed(PeerChannel)
    /// An answer on a connection that we opened to another server; with the bytes of its payload if it is a `listUnits` or
    /// a `verify`.
    case answer(LinkID, DataHeader, [UInt8])
    /// An answer to a `fetch`, with the blocks.
    case fetched(LinkID, DataHeader, PayloadID)
    case disk(DeviceID, DiskOperationID, DiskOutcome)
    /// To be given about every 20 ms.
    case tick
}

public enum ServerAction: Sendable {
    case sendManager(MessageToManager)
    case send(LinkID, DataHeader, PayloadSlice?)
    /// A message whose payload the core composed itself.
    case sendBytes(LinkID, DataHeader, [UInt8])
    case close(LinkID)
    case connectPeer(PeerChannel, address: String)
    case disk(DeviceID, DiskOperationID, DiskRequest)
    /// The core has no more use for the buffer. (The shell keeps it while its own sends and writes still need it.)
    case release(PayloadID)
    case notice(ServerNotice)
}

public enum ServerNotice: Equatable, Sendable {
    case welcomed(SystemID)
    /// Fatal: the manager does not accept this server.
    case refused(code: String, message: String)
    /// The device is no longer used; the mirror serves.
    case deviceStopped(DeviceID, reason: String)
    /// Blocks of the unit are not what was written.
    case damaged(DeviceID, UnitKey, BlockMap)
    /// Something was amiss with the unit, of which the device has the primary's copy.
    case examined(DeviceID, UnitKey, ExaminationResult)
    case peerUnanswering(SdsID)
    /// A second place is being filled: it lacks `units`, the comb has `of`. `since`: it has what was there at this comb epoch.
    case copying(CombKey, to: CopyPlace, since: UInt64?, units: Int, of: Int)
    case protocolViolation(LinkID, String)
}
