import Base
import BlockCore

/// What the managers share: a store that takes a batch only from the leader of the newest term.
struct FakeStore {
    var records: [String: [UInt8]] = [:]
    var term = 0
    /// Until then commits take long.
    var slowUntil = Instant.zero
}

final class ManagerNode {
    var core: ManagerCore?
    var life = 0
    var term = 0
    var pausedUntil = Instant.zero
    /// Commands given to this life and not answered yet.
    var tickets: Set<Ticket> = []
    /// How its next commit ends, if not well.
    var nextCommit = CommitFault.none
}

extension StoreMutation {
    var isOfCombs: Bool { puts("combs/") }
    var isOfVolume: Bool { puts("volume/") }

    private func puts(_ prefix: String) -> Bool {
        switch self {
        case .put(let key, _): key.hasPrefix(prefix)
        case .delete: false
        }
    }
}

enum CommitFault: CaseIterable {
    case none
    /// It dies with the batch stored, or not, and nobody told.
    case diesStored, diesUnstored
    /// The outcome stays unknown to it.
    case unknownStored, unknownUnstored
}

extension Simulation {
    /// The leader, as an onlooker who sees the store knows it.
    var manager: ManagerNode { managers[leader] ?? ManagerNode() }

    /// Makes this node the leader. Another one that leads goes on until it notices.
    func lead(_ id: NodeID) {
        store.term += 1
        leader = id
        for other in managerIDs where other != id && managers[other]?.core != nil {
            did("leader change with overlap")
            let earliest = options.profile == .shared ? 2000.0 : 50
            heap.add(.abdicate(other, life: life(other)), at: now + delay(earliest, 5000))
        }
        managers[id]?.life += 1
        managers[id]?.term = store.term
        managers[id]?.tickets = []
        managers[id]?.nextCommit = .none
        var configuration = ManagerConfiguration()
        configuration.rules = options.rules
        configuration.combCount = 8
        if options.profile != .lasting {
            configuration.moveInterval = .milliseconds(100)
            configuration.rebalanceDelay = .milliseconds(500)
            configuration.oscillationPauseMax = .seconds(8)
            configuration.swapTimeout = .seconds(2)
            configuration.absenceGrace = absenceGrace
            configuration.cutPause = .milliseconds(20)
        }
        let records = store.records.keys.sorted().map { (key: $0, value: store.records[$0] ?? []) }
        do {
            let time = clock(of: id)
            managers[id]?.core =
                try ManagerCore(records: records, configuration: configuration, now: time)
                ?? ManagerCore(
                    system: System(id: SystemID(rawValue: 0x515), name: "sim", createdAt: 0),
                    configuration: configuration, now: time)
        } catch {
            fail("the manager cannot read its records: \(error)")
        }
    }

    func drive(_ id: NodeID, _ event: ManagerEvent) {
        let time = clock(of: id)
        guard let node = managers[id] else { return }
        var before: SystemState?
        if case .committed = event { before = node.core?.state }
        guard let actions = node.core?.apply(event, now: time, rng: &coreRandom) else { return }
        if let before { checkExchanges(before, id) }
        for action in actions {
            switch action {
            case .commit(let mutations): commit(mutations, by: id)
            case .reply(let ticket, let result):
                managers[id]?.tickets.remove(ticket)
                answer(ticket, result)
            case .send(let link, let message):
                if case .cut(_, .seal) = message { hamperCut(id, ConnectionID(rawValue: link.rawValue)) }
                send(ConnectionID(rawValue: link.rawValue), fromOpener: false, .fromManager(message))
            case .close(let link): close(ConnectionID(rawValue: link.rawValue), byOpener: false)
            case .notice(let notice):
                if case .nodeMerged = notice { merges += 1 }
                note("\(id): \(notice)")
            }
        }
    }

    /// A server that has sealed may hear of the new heads late: its hold ends before.
    private func hamperCut(_ manager: NodeID, _ connection: ConnectionID) {
        guard !isHealed, Int.random(in: 0..<3, using: &random) == 0,
            let server = network.connections[connection]?.opener.node
        else { return }
        did("server slow to hear of new heads")
        heap.add(.clog(manager, server), at: now + delay(0.5, 4))
    }

    /// Whoever hands over what it leads has no write under way when that is committed.
    private func checkExchanges(_ before: SystemState, _ id: NodeID) {
        guard let after = managers[id]?.core?.state else { return }
        for pool in before.pools.values {
            for (index, comb) in pool.combs.enumerated() {
                guard case .swapping(let secondary) = comb.state, let now = after.pools[pool.id]?.combs[index],
                    now.primary == secondary, now.secondary == comb.primary,
                    let server = servers.values.first(where: { $0.sds == comb.primary.sds })
                else { continue }
                if server.core?.isChanging(CombKey(pool: pool.id, index: UInt32(index))) == true {
                    return fail("comb \(index) changed hands while \(comb.primary) was writing to it")
                }
            }
        }
    }

    private func commit(_ mutations: [StoreMutation], by id: NodeID) {
        let time = store.slowUntil > now ? delay(100, 1500) : delay(0.5, 5)
        heap.add(.stored(id, life: life(id), mutations), at: now + time)
    }

    /// The batch has reached the store.
    func stored(_ id: NodeID, _ life: Int, _ mutations: [StoreMutation]) {
        guard let node = managers[id] else { return }
        let isLeaders = node.life == life && node.term == store.term
        // Of a manager that died meanwhile nothing may arrive after its successor has read everything.
        let fault = node.life == life && node.core != nil && !isHealed ? node.nextCommit : .none
        managers[id]?.nextCommit = .none
        let isTaken = isLeaders && fault != .diesUnstored && fault != .unknownUnstored
        if isTaken {
            let isLosing = losesDisks && mutations.contains(where: \.isOfCombs)
            let isOverwriting = !askedOverwriting.isEmpty && mutations.contains(where: \.isOfVolume)
            let before = isLosing || isOverwriting ? store.records : [:]
            defer {
                if isLosing { noteLosses(before) }
                if isOverwriting { noteOverwriting(before) }
            }
            for mutation in mutations {
                switch mutation {
                case .put(let key, let value): store.records[key] = value
                case .delete(let key): store.records[key] = nil
                }
            }
        }
        switch fault {
        case .none: break
        case .diesStored, .diesUnstored:
            did("manager dies in a commit, \(isTaken ? "stored" : "not stored")")
            crash(id)
            heap.add(.start(managerIDs.randomElement(using: &random) ?? id), at: now + delay(50, 3000))
            return
        case .unknownStored, .unknownUnstored: did("outcome of a commit unknown")
        }
        heap.add(.committed(id, life: life, isKnown: isTaken && fault == .none), at: now + delay(0.1, 2))
    }

    func committed(_ id: NodeID, _ life: Int, _ isKnown: Bool) {
        guard let node = managers[id], node.life == life, node.core != nil else { return }
        if now < node.pausedUntil {
            heap.add(.committed(id, life: life, isKnown: isKnown), at: node.pausedUntil + .nanoseconds(1))
        } else if isKnown {
            drive(id, .committed)
        } else {
            drive(id, .commitFailed)
            abdicate(id, life)
        }
    }

    /// A manager that has learned that it leads no more; if nobody else does, somebody soon will.
    func abdicate(_ id: NodeID, _ life: Int) {
        guard let node = managers[id], node.life == life, node.core != nil else { return }
        if now < node.pausedUntil {
            heap.add(.abdicate(id, life: life), at: node.pausedUntil + .nanoseconds(1))
            return
        }
        note("\(id) leads no more")
        stopManager(id)
        for connection in network.order where network.connections[connection]?.accepter.node == id {
            close(connection, byOpener: false)
        }
        if manager.core == nil {
            heap.add(.start(managerIDs.randomElement(using: &random) ?? id), at: now + delay(50, 2000))
        }
    }

    func stopManager(_ id: NodeID) {
        managers[id]?.core = nil
        for ticket in managers[id]?.tickets ?? [] { tickets[ticket] = nil }
        managers[id]?.tickets = []
    }
}
