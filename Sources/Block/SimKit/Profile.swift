import Base
import BlockCore

/// What kind of cluster a run has, and what happens to it most. Each brings something about that is rare in the others.
public enum SimulationProfile: String, CaseIterable, Sendable {
    /// Devices with room, and clients that write the same few units all the time.
    case busy
    /// Devices that are too small for what clients want to write: space runs out again and again.
    case cramped
    /// Servers that lose their disks, last copies that stay away, and an operator who has older ones promoted.
    case lossy
    /// Volumes that two clients have, with one of them and a primary cut off together from what becomes of them.
    case shared
    /// Many units that are written rarely, so that most rest when something happens to them, and clients that stay away.
    case quiet
    /// Minutes instead of seconds, with the patience that managers and servers have in production and with time between the
    /// faults: copies move for evenness, servers stay away for long, and the scanner comes round. No seed decides for it.
    case lasting

    /// What a run of this seed has unless something else is asked for: almost half of them are busy.
    static func ofSeed(_ seed: UInt64) -> SimulationProfile {
        let mixed = mix64(seed)
        let isShared = mixed / 6 % 6 == 5 && seed % 3 != 0
        return switch mixed % 6 {
        case 0: .cramped
        case 1: .lossy
        case 2: .quiet
        default: isShared ? .shared : .busy
        }
    }

    /// Units of each device.
    var capacityUnits: UInt32 {
        switch self {
        case .busy: 16
        case .shared: 24
        case .cramped: 6
        case .lossy, .quiet, .lasting: 32
        }
    }

    /// Percentage of each device that is kept for rebuilding: in cramped runs as much as three servers need to lose one.
    var sparePercentage: UInt32 { self == .cramped ? 34 : 10 }

    /// Units of new volumes, and how far they grow.
    var volumeUnits: ClosedRange<UInt32> {
        switch self {
        case .busy, .shared: 2...3
        case .cramped, .lossy: 4...6
        case .quiet, .lasting: 6...8
        }
    }
    var volumeUnitsMax: UInt32 {
        switch self {
        case .busy, .shared: 5
        case .cramped, .lossy: 8
        case .quiet, .lasting: 10
        }
    }

    /// How long clients wait between two I/Os, in milliseconds.
    var workPause: ClosedRange<Double> {
        switch self {
        case .busy, .cramped, .shared: 0.2...20
        case .lossy, .quiet: 5...200
        case .lasting: 5...1500
        }
    }

    /// How long units have to rest before they are cold, in milliseconds.
    var intentCooling: ClosedRange<Int> {
        switch self {
        case .busy, .cramped, .shared: 100...3000
        case .lossy, .quiet: 40...150
        case .lasting: 3000...3000
        }
    }

    /// Virtual time under faults.
    var turmoil: Duration {
        switch self {
        case .busy, .cramped: .seconds(12)
        case .lossy, .quiet, .shared: .seconds(25)
        case .lasting: .seconds(1200)
        }
    }

    /// Virtual time within which everything must be well again.
    var recovery: Duration { self == .lasting ? .seconds(240) : .seconds(90) }

    /// How often servers and clients are told the time.
    var tickInterval: Duration { self == .lasting ? .milliseconds(50) : .milliseconds(20) }

    /// How often copies are compared and new snapshots looked for.
    func inspectionInterval(takingSnapshots: Bool) -> Duration {
        if self == .lasting { return .milliseconds(200) }
        return takingSnapshots ? .milliseconds(40) : .milliseconds(10)
    }
}

/// Space that runs out.
extension Simulation {
    /// Units of a device that clients may use once the pool is set up.
    private var unitsForClients: UInt32 {
        let capacity = deviceUnits
        return capacity - capacity * options.profile.sparePercentage / 100
    }

    struct Room {
        var used: UInt32
        var promised: UInt32
    }

    func room(of id: NodeID) -> Room {
        let room = servers[id]?.look { core in
            Room(used: core.stores[0].usedUnits, promised: UInt32(clamping: core.stores[0].promisedUnits))
        }
        return room ?? Room(used: 0, promised: 0)
    }

    /// Whether the event may take room for a client.
    func asksForRoom(_ event: ServerEvent) -> Bool {
        guard case .request(_, let header, _) = event else { return false }
        return header.opcode == .write || header.opcode == .replicate
    }

    /// Looks at a server that has just done something: has it no room for clients, and did a client, for which there was so much
    /// before, take what is not its?
    func watchRoom(_ id: NodeID, before: Room?) {
        let room = room(of: id)
        if room.used + room.promised >= unitsForClients { fullAt = now }
        guard let before, room.used > before.used else { return }
        if room.used > unitsForClients { return fail("\(id) gave its spare to a client") }
        if room.promised == before.promised, room.used + room.promised > unitsForClients {
            fail("\(id) gave away what a thick volume was promised")
        }
    }

    /// Of those that are thick: what is left does for others.
    static let thickUnits: UInt32 = 2

    /// In every fourth cramped run half of the volumes are thick, if they find room.
    func wantsThick(_ capacity: PoolCapacity) -> Bool {
        options.profile == .cramped && options.seed % 4 == 1 && nextTicket % 2 == 0
            && capacity.hasRoom(for: Simulation.thickUnits, .thick)
    }

    /// The spare of three servers is large enough for the loss of one: what the two others hold gets its second copies, if it
    /// could be written while all three were there.
    func loseOneForGood() {
        guard options.profile == .cramped, serverIDs.count == 3, let state = manager.core?.state,
            let lost = serverIDs.randomElement(using: &random)
        else { return }
        let units = Set(serverIDs.flatMap { servers[$0]?.core?.stores.first?.units { _ in true } ?? [] })
        let capacity = Int(options.profile.capacityUnits)
        guard units.count <= capacity, let id = state.pools.keys.first else { return }
        lostForGood = lost
        crash(lost)
        did("server lost for good with \(units.count) units in use")
        func isWhole() -> Bool {
            guard let state = manager.core?.state, state.servers.values.contains(where: { $0.status == .down }),
                let pool = state.pools[id]
            else { return false }
            let holding = Set(units.map { Int(Geometry.comb(of: $0.family, combCount: pool.combCount)) })
            return pool.combs.enumerated().allSatisfy { index, comb in
                switch comb.state {
                case .normal, .swapping: true
                // Devices that are full with all that is in use take no more combs, not even those that hold nothing.
                default: units.count == capacity && !holding.contains(index)
                }
            }
        }
        step(until: now + options.recovery, unless: isWhole)
        if failure == nil, !isWhole() { fail("what \(lost) held has no second copy, although there is room") }
        if failure == nil { compareCopies() }
        if failure == nil { account() }
    }

    /// A client was told that there is no space: it must be true, and only of what needs space.
    func refusedForSpace(_ io: ClientNode.IO) {
        did("no space")
        // Zeros that hide what an ancestor has need room like data.
        let hasAncestors = manager.core.map { $0.state.volumes[io.volume]?.head != 0 } ?? true
        guard io.action == .write || (io.action == .zero && hasAncestors) else {
            return fail("\(io.action) was refused for lack of space")
        }
        if (fullAt ?? .zero) < io.invoked {
            fail("a write begun at \(io.invoked) was refused, and no device has been full since \(fullAt ?? .zero)")
        }
    }
}
