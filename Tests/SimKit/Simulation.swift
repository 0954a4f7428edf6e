import Base
public import BlockCore

/// What a run is made of. Everything else follows from the seed.
public struct SimulationOptions: Sendable {
    public var seed: UInt64
    public var rules: ProtocolRules
    /// Virtual time under faults, before everything is healed.
    public var turmoil: Duration
    /// Virtual time within which everything must be well again.
    public var recovery: Duration
    public var keepsTrace: Bool

    public init(
        seed: UInt64, rules: ProtocolRules = .all, turmoil: Duration = .seconds(12),
        recovery: Duration = .seconds(90), keepsTrace: Bool = false
    ) {
        self.seed = seed
        self.rules = rules
        self.turmoil = turmoil
        self.recovery = recovery
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
    public var crashes: Int
    public var events: Int
    /// A digest of everything that happened, for comparing replays.
    public var digest: UInt64
}

/// The whole block store in one thread and in virtual time: a manager with its store, servers with disks, clients with
/// a workload, a network between them, and an adversary. One seed, one run.
public final class Simulation {
    enum Event {
        case tick(NodeID, life: Int)
        case deliver(ConnectionID, toOpener: Bool, Message)
        case opened(ConnectionID)
        case closed(ConnectionID, toOpener: Bool)
        case refused(NodeID, life: Int, SdsID?)
        case disk(NodeID, life: Int, DeviceID, DiskOperationID, flushMark: UInt64)
        case committed(life: Int, [StoreMutation])
        case adversary
        case start(NodeID)
        case work(NodeID, life: Int)
        case operate
        case preempt
        case inspect
    }

    enum Message {
        case toManager(MessageToManager)
        case fromManager(MessageFromManager)
        case data(DataHeader, [UInt64]?)
    }

    public let options: SimulationOptions
    var now = Instant(nanoseconds: 1_000_000_000)
    var random: SeededRandom
    var coreRandom: SeededRandom
    var heap = EventHeap<Event>()
    var network = FakeNetwork()
    var manager: ManagerNode
    var servers: [NodeID: ServerNode] = [:]
    var clients: [NodeID: ClientNode] = [:]
    let serverIDs: [NodeID]
    let clientIDs: [NodeID]
    var history = History()
    var nextValue: UInt64 = 1
    var nextPayload: UInt64 = 1
    var nextTicket: UInt64 = 1
    var tickets: [Ticket: Question] = [:]
    var isHealed = false
    var failure: String?
    var fences = 0
    var crashes = 0
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
        manager = ManagerNode()
        for id in serverIDs { servers[id] = ServerNode(id) }
        for id in clientIDs { clients[id] = ClientNode(id) }
    }

    /// Runs to the end and judges.
    public func run() -> SimulationReport {
        startNode(NodeID.manager)
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
            reads: history.finishedReads, fences: fences, crashes: crashes, events: events, digest: digest)
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
        case .committed(let life, let mutations): committed(life, mutations)
        case .adversary: adversary()
        case .start(let node): startNode(node)
        case .work(let node, let life): work(node, life)
        case .operate: operate()
        case .preempt: preempt()
        case .inspect: inspect()
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

    /// Ends all faults and demands that everything becomes well: two equal copies everywhere, every volume readable
    /// and writable by its owner, no fence pending.
    private func heal() {
        isHealed = true
        network.heal()
        for id in [NodeID.manager] + serverIDs + clientIDs {
            if !isUp(id) { startNode(id) }
        }
        let deadline = now + options.recovery
        step(until: deadline) { self.isWell() }
        guard failure == nil else { return }
        guard isWell() else { return fail("not well again within \(options.recovery): \(illness())") }
        for id in clientIDs { clients[id]?.isResting = true }
        step(until: now + .seconds(5))
        if failure == nil { failure = history.check() }
        if failure == nil { compareCopies() }
        if failure == nil { account() }
    }

    private func isWell() -> Bool { illness().isEmpty }

    private func illness() -> String {
        guard let state = manager.core?.state else { return "no manager" }
        if state.volumes.values.contains(where: \.isFencePending) { return "a fence is pending" }
        for pool in state.pools.values {
            for (index, comb) in pool.combs.enumerated() where comb.secondary == nil {
                return "comb \(index) is \(comb.state)"
            }
        }
        for volume in state.volumes.keys {
            let answered = clientIDs.contains { clients[$0]?.servedSinceHeal.contains(volume) == true }
            if !answered { return "no I/O of volume \(volume) has been answered" }
        }
        return ""
    }
}
