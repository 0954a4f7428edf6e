import Base
public import BlockCore

/// What a run is made of. Everything else follows from the seed.
public struct SimulationOptions: Sendable {
    public var seed: UInt64
    public var rules: ProtocolRules
    public var profile: SimulationProfile
    /// Virtual time under faults, before everything is healed.
    public var turmoil: Duration
    /// Virtual time within which everything must be well again.
    public var recovery: Duration
    public var keepsTrace: Bool

    /// Without a `profile` the seed decides that too.
    public init(
        seed: UInt64, rules: ProtocolRules = .all, profile: SimulationProfile? = nil, turmoil: Duration? = nil,
        recovery: Duration? = nil, keepsTrace: Bool = false
    ) {
        self.seed = seed
        self.rules = rules
        self.profile = profile ?? .ofSeed(seed)
        self.turmoil = turmoil ?? self.profile.turmoil
        self.recovery = recovery ?? self.profile.recovery
        self.keepsTrace = keepsTrace
    }
}

/// How a run ended.
public struct SimulationReport: Sendable, Equatable {
    public var seed: UInt64
    /// What went wrong, if anything.
    public var failure: String?
    public var acknowledgedWrites: Int
    public var reads: Int
    public var fences: Int
    public var faults: [String: Int]
    public var simulated: Duration
    /// From the end of the faults until everything was well.
    public var wellAfter: Duration?
    public var copies: CopyCounts
    public var damage: DamageCounts
    /// Snapshots that were taken, and nodes that went because another has what they held.
    public var snapshots: Int
    public var merges: Int
    public var events: Int
    /// A digest of everything that happened, for comparing replays.
    public var digest: UInt64
}

/// How combs got their second copies.
public struct CopyCounts: Sendable, Equatable {
    /// From nothing.
    public var full = 0
    /// From a copy that returned; of its units so many were copied, and so many were not.
    public var resyncs = 0
    public var resyncedUnits = 0
    public var sparedUnits = 0
}

/// The whole block store in one thread and in virtual time: a manager with its store, servers with disks, clients with
/// a workload, a network between them, and an adversary. One seed, one run.
public final class Simulation {
    enum Event {
        case tick(NodeID, life: Int)
        case deliver(ConnectionID, toOpener: Bool, Message)
        case opened(ConnectionID)
        case closed(ConnectionID, toOpener: Bool)
        case refused(NodeID, life: Int, PeerChannel?)
        case disk(NodeID, life: Int, DeviceID, DiskOperationID, flushMark: UInt64)
        case stored(NodeID, life: Int, [StoreMutation])
        case committed(NodeID, life: Int, isKnown: Bool)
        case abdicate(NodeID, life: Int)
        case adversary
        case start(NodeID)
        /// Its process dies, and is started again.
        case die(NodeID, life: Int)
        case work(NodeID, life: Int)
        case wake(NodeID, life: Int)
        case operate
        /// Whatever volume this client has is given to the other.
        case preempt(NodeID)
        /// Somebody looks after a server whose device has stopped.
        case restart(NodeID, life: Int)
        case inspect
        /// What the one sends to the other takes long for a while.
        case clog(NodeID, NodeID)
        /// This server, and this client, hear nothing of what becomes of the server.
        case separate(NodeID, NodeID, until: Instant)
        /// A volume that this client has alone is given to the other one as well.
        case share(NodeID)
    }

    enum Message {
        case toManager(MessageToManager)
        case fromManager(MessageFromManager)
        case data(DataHeader, [UInt64]?)
        case list(DataHeader, [UInt8])
    }

    public let options: SimulationOptions
    var now = Instant(nanoseconds: 1_000_000_000)
    var random: SeededRandom
    var coreRandom: SeededRandom
    var heap = EventHeap()
    var network = FakeNetwork()
    var store = FakeStore()
    var managers = IDTable<NodeID, ManagerNode>()
    let managerIDs = [NodeID(rawValue: 200), NodeID(rawValue: 201)]
    var leader = NodeID(rawValue: 200)
    var servers = IDTable<NodeID, ServerNode>()
    var clients = IDTable<NodeID, ClientNode>()
    let serverIDs: [NodeID]
    let clientIDs: [NodeID]
    /// Ids of servers that were removed.
    var formerServers: Set<SdsID> = []
    /// Who does not come back, whatever was planned for it before.
    var lostForGood: NodeID?
    var history = History()
    var nextValue: UInt64 = 1
    var nextPayload: UInt64 = 1
    var nextTicket: UInt64 = 1
    var tickets: [Ticket: Question] = [:]
    var faultKinds: [FaultKind] = []
    var isHealed = false
    var healedAt = Instant.distantFuture
    var wellAfter: Duration?
    var failure: String?
    var fences = 0
    /// When a device was last seen without room for clients.
    var fullAt: Instant?
    /// How often each kind of fault struck.
    var faults: [String: Int] = [:]
    var copies = CopyCounts()
    var damage = DamageCounts()
    /// Blocks of volumes that a disk has spoilt somewhere.
    var spoilt: Set<UnitBlock> = []
    /// How the servers and managers of this run are set.
    let intentCooling: Duration
    let hotUnitsMax: Int
    let absenceGrace: Duration
    /// Whether snapshots are taken: in every third busy, cramped or lasting run, so that the others stay what they were.
    let takesSnapshots: Bool
    /// Whether servers lose their disks and last copies stay away: in lossy runs and a third of the lasting ones. Nothing else
    /// spoils blocks there.
    let losesDisks: Bool
    /// Units of each device.
    let deviceUnits: UInt32
    let cutHoldTime: Duration
    /// That have appeared.
    var snapshots = 0
    /// Nodes merged.
    var merges = 0
    /// Those that were asked for, by their names.
    var askedSnapshots: [String: (source: VolumeID, at: Instant)] = [:]
    /// Volumes that are to be overwritten.
    var askedOverwriting: [VolumeID: (source: VolumeID, at: Instant)] = [:]
    /// Until when what two clients see is split, and nothing else happens.
    var splitEnd = Instant.zero
    /// Per mille of the right one.
    var clockRates = IDTable<NodeID, UInt64>()
    var events = 0
    var digest: UInt64 = 0
    public private(set) var trace: [String] = []

    /// At each end of a unit.
    static let blocksInPlay: UInt16 = 4

    public init(_ options: SimulationOptions) {
        self.options = options
        random = SeededRandom(seed: options.seed)
        coreRandom = SeededRandom(seed: mix64(options.seed))
        let serverCount = Int.random(in: 3...5, using: &random)
        serverIDs = (1...serverCount).map { NodeID(rawValue: $0) }
        clientIDs = (0..<2).map { NodeID(rawValue: 100 + $0) }
        for id in managerIDs { managers[id] = ManagerNode() }
        takesSnapshots = options.seed % 3 == 0 && [.busy, .cramped, .lasting].contains(options.profile)
        losesDisks = options.profile == .lossy || (options.profile == .lasting && options.seed % 3 == 1)
        deviceUnits = takesSnapshots && options.profile != .cramped ? 400 : options.profile.capacityUnits
        for id in serverIDs { servers[id] = ServerNode(id, capacityUnits: deviceUnits) }
        for id in clientIDs { clients[id] = ClientNode(id) }
        intentCooling = .milliseconds(Int.random(in: options.profile.intentCooling, using: &random))
        hotUnitsMax = [1, 2, 3, 16].randomElement(using: &random) ?? 1
        absenceGrace = .milliseconds(Int.random(in: 200...6000, using: &random))
        // Mostly so short that holds end before the heads have been switched.
        let holdTimes = [10, 10, 30, 100, 2000]
        let endsHoldsEarly = takesSnapshots && options.profile != .lasting
        cutHoldTime = .milliseconds(endsHoldsEarly ? holdTimes.randomElement(using: &random) ?? 10 : 2000)
        chooseFaults()
        for id in managerIDs + serverIDs + clientIDs { clockRates[id] = UInt64.random(in: 950...1050, using: &random) }
    }

    /// Runs to the end and judges.
    public func run() -> SimulationReport {
        startNode(leader)
        for id in serverIDs + clientIDs { heap.add(.start(id), at: now + delay(1, 20)) }
        setUp()
        if failure == nil {
            for id in clientIDs { heap.add(.work(id, life: clients[id]?.life ?? 0), at: now + .milliseconds(10)) }
            heap.add(.adversary, at: now + .milliseconds(500))
            heap.add(.inspect, at: now)
            step(until: now + options.turmoil)
        }
        if failure == nil { failure = history.check() }
        if failure == nil { heal() }
        return SimulationReport(
            seed: options.seed, failure: failure, acknowledgedWrites: history.acknowledgedWrites,
            reads: history.finishedReads, fences: fences, faults: faults, simulated: now - .zero, wellAfter: wellAfter,
            copies: copies, damage: damage, snapshots: snapshots, merges: merges,
            events: events, digest: digest)
    }

    func step(until end: Instant, unless isDone: () -> Bool = { false }) {
        while failure == nil, let (at, event) = heap.next() {
            if at > end {
                heap.add(event, at: at)
                break
            }
            now = at
            events += 1
            digest = mix64(digest ^ at.nanoseconds)
            perform(event)
            if events % 64 == 0, isDone() { return }
        }
        if now < end { now = end }
    }

    func note(_ text: @autoclosure () -> String) {
        if options.keepsTrace { trace.append("\(now) \(text())") }
    }

    func did(_ fault: String) {
        faults[fault, default: 0] += 1
        note("fault: \(fault)")
    }

    func fail(_ reason: String) {
        if failure == nil { failure = reason }
        note("FAILURE \(reason)")
    }

    /// Between `low` and `high` milliseconds.
    func delay(_ low: Double, _ high: Double) -> Duration {
        .nanoseconds(Int64(Double.random(in: low * 1e6...high * 1e6, using: &random)))
    }

    private func perform(_ event: Event) {
        switch event {
        case .tick(let node, let life): tick(node, life)
        case .deliver(let connection, let toOpener, let message): deliver(connection, toOpener: toOpener, message)
        case .opened(let connection): opened(connection)
        case .closed(let connection, let toOpener): closed(connection, toOpener: toOpener)
        case .refused(let node, let life, let server): refused(node, life, server)
        case .disk(let node, let life, let device, let id, let mark): diskDone(node, life, device, id, mark)
        case .stored(let node, let life, let mutations): stored(node, life, mutations)
        case .committed(let node, let life, let isKnown): committed(node, life, isKnown)
        case .abdicate(let node, let life): abdicate(node, life)
        case .adversary: adversary()
        case .start(let node): startNode(node)
        case .die(let node, let life): die(node, life)
        case .work(let node, let life): work(node, life)
        case .wake(let node, let life): wake(node, life)
        case .operate: operate()
        case .preempt(let client): preempt(client)
        case .restart(let node, let life): restart(node, life)
        case .inspect: inspect()
        case .clog(let one, let other): network.clog(one, other, until: now + delay(20, 600))
        case .separate(let server, let client, let until): separate(server, client, until)
        case .share(let client): share(client)
        }
    }

    // MARK: Phases

    private func setUp() {
        step(until: now + .seconds(5)) { self.manager.core?.state.servers.count == self.serverIDs.count }
        heap.add(.operate, at: now)
        step(until: now + .seconds(10)) {
            self.clientIDs.contains { !(self.clients[$0]?.core?.attachments.isEmpty ?? true) }
        }
    }
}
