import Base
import BlockCore

/// A simulated machine.
struct NodeID: Hashable, Comparable, CustomStringConvertible, IDTableKey {
    var rawValue: Int
    var place: UInt64 { UInt64(rawValue) }
    static func < (left: NodeID, right: NodeID) -> Bool { left.rawValue < right.rawValue }
    var description: String { "n\(rawValue)" }
}

struct ConnectionID: IDTableKey {
    var rawValue: UInt64
    var place: UInt64 { rawValue }
    /// The same number names the link at both ends.
    var link: LinkID { LinkID(rawValue: rawValue) }
}

/// Streams between nodes: what is sent arrives in order, late, or (from some point on) not at all; an end that closes
/// learns nothing of what still arrives at the other.
struct FakeNetwork {
    struct Direction: Hashable {
        var from: NodeID
        var to: NodeID
    }

    struct End {
        var node: NodeID
        var life: Int
        var isOpen = true
        /// Nothing sent from this end arrives any more.
        var isCut = false
        var lastArrival = Instant.zero
    }

    struct Connection {
        var opener: End
        var accepter: End
        /// Which server the opener wanted; nil for the manager.
        var server: PeerChannel?
    }

    var connections = IDTable<ConnectionID, Connection>()
    /// Connections in the order of their making.
    var order: [ConnectionID] = []
    private var blockedUntil: [Direction: Instant] = [:]
    private var cloggedUntil: [Direction: Instant] = [:]
    private var next: UInt64 = 1

    mutating func open(_ opener: End, _ accepter: End, _ server: PeerChannel?) -> ConnectionID {
        let id = ConnectionID(rawValue: next)
        next += 1
        connections[id] = Connection(opener: opener, accepter: accepter, server: server)
        order.append(id)
        return id
    }

    mutating func block(_ from: NodeID, _ to: NodeID, until: Instant) {
        blockedUntil[Direction(from: from, to: to)] = until
    }
    mutating func clog(_ from: NodeID, _ to: NodeID, until: Instant) {
        cloggedUntil[Direction(from: from, to: to)] = until
    }
    mutating func heal() {
        blockedUntil = [:]
        cloggedUntil = [:]
    }

    func isBlocked(_ from: NodeID, _ to: NodeID, _ now: Instant) -> Bool {
        (blockedUntil[Direction(from: from, to: to)] ?? .zero) > now
    }
    func clogEnd(_ from: NodeID, _ to: NodeID) -> Instant { cloggedUntil[Direction(from: from, to: to)] ?? .zero }
}

extension Simulation {
    func connect(_ from: NodeID, to: NodeID, server: PeerChannel?) {
        let fromLife = life(from)
        if network.isBlocked(from, to, now) || network.isBlocked(to, from, now) {
            heap.add(.refused(from, life: fromLife, server), at: now + delay(300, 1000))
            return
        }
        guard isUp(to) else {
            heap.add(.refused(from, life: fromLife, server), at: now + delay(0.1, 5))
            return
        }
        let id = network.open(
            FakeNetwork.End(node: from, life: fromLife), FakeNetwork.End(node: to, life: life(to)), server)
        heap.add(.opened(id), at: max(now + delay(0.1, 1), network.clogEnd(from, to)))
    }

    func send(_ id: ConnectionID, fromOpener: Bool, _ message: Message) {
        guard let connection = network.connections[id] else { return }
        let sender = fromOpener ? connection.opener : connection.accepter
        let receiver = fromOpener ? connection.accepter : connection.opener
        guard sender.isOpen, !sender.isCut else { return }
        let isLost =
            network.isBlocked(sender.node, receiver.node, now)
            || (!isHealed && Int.random(in: 0..<4000, using: &random) == 0)
        if isLost {
            // A stream has no holes: what follows is lost too, and in the end both sides notice.
            if fromOpener {
                network.connections[id]?.opener.isCut = true
            } else {
                network.connections[id]?.accepter.isCut = true
            }
            let notice = now + delay(500, 4000)
            heap.add(.closed(id, toOpener: true), at: notice)
            heap.add(.closed(id, toOpener: false), at: notice + delay(0, 3000))
            return
        }
        var arrival = max(now + delay(0.02, 0.4), network.clogEnd(sender.node, receiver.node))
        if isLateToTell(message) { arrival = arrival + delay(50, 500) }
        arrival = max(arrival, sender.lastArrival + .nanoseconds(1))
        if fromOpener {
            network.connections[id]?.opener.lastArrival = arrival
        } else {
            network.connections[id]?.accepter.lastArrival = arrival
        }
        heap.add(.deliver(id, toOpener: !fromOpener, message), at: arrival)
        let isControl =
            switch message {
            case .data, .list: false
            case .toManager, .fromManager: true
            }
        if !isControl, !isHealed, Int.random(in: 0..<200, using: &random) == 0 {
            heap.add(.deliver(id, toOpener: !fromOpener, message), at: arrival + delay(0, 300))
        }
    }

    /// A secondary has forgotten a merged unit, and its primary hears of it late: much may happen in between.
    private func isLateToTell(_ message: Message) -> Bool {
        guard case .data(let header, _) = message, header.opcode == .dropMerged, header.isReply, !isHealed,
            Int.random(in: 0..<4, using: &random) == 0
        else { return false }
        did("primary slow to hear what was forgotten")
        return true
    }

    /// One end closes; the other hears of it after everything that is still on the way.
    func close(_ id: ConnectionID, byOpener: Bool) {
        guard let connection = network.connections[id] else { return }
        let end = byOpener ? connection.opener : connection.accepter
        guard end.isOpen else { return }
        if byOpener {
            network.connections[id]?.opener.isOpen = false
        } else {
            network.connections[id]?.accepter.isOpen = false
        }
        let other = byOpener ? connection.accepter : connection.opener
        if network.isBlocked(end.node, other.node, now) || end.isCut { return }
        let arrival = max(
            now + delay(0.1, 1), max(end.lastArrival + .nanoseconds(1), network.clogEnd(end.node, other.node)))
        heap.add(.closed(id, toOpener: !byOpener), at: arrival)
    }
}
