import Base
import BlockCore

extension Simulation {
    /// Ends all faults and demands that everything becomes well in time, and stays so: every I/O and every command
    /// answered, every fence proven, two equal copies of everything, every volume served to its client.
    func heal() {
        isHealed = true
        healedAt = now
        network.heal()
        store.slowUntil = .zero
        for id in serverIDs {
            servers[id]?.slowUntil = .zero
            servers[id]?.operationsToError = nil
            servers[id]?.failsNextRead = false
            restart(id, life(id))
        }
        for id in [leader] + serverIDs + clientIDs where !isUp(id) && servers[id]?.isRestarting != true {
            startNode(id)
        }
        step(until: now + options.recovery) { self.illness() == nil }
        if failure != nil { return }
        if let illness = illness() { return fail("not well again within \(options.recovery): \(illness)") }
        wellAfter = now - healedAt
        for id in clientIDs { clients[id]?.isResting = true }
        readAll()
        step(until: now + .seconds(5))
        // The scanner looks at something now and then, and what waits for a client's limit takes its time.
        if failure == nil { step(until: now + (isLimited ? .seconds(60) : .seconds(5))) { self.unrest == nil } }
        if failure == nil, let unrest { fail("no rest: \(unrest)") }
        if failure == nil, let violation = history.check() { fail(violation) }
        if failure == nil { compareCopies() }
        // What is still damaged in one copy has to be found by those who look for it.
        if failure == nil { step(until: now + .seconds(20)) { self.difference(toleratingDamage: false) == nil } }
        if failure == nil, let difference = difference(toleratingDamage: false) { fail("not mended: \(difference)") }
        if failure == nil { account() }
        if failure == nil { loseOneForGood() }
    }

    /// What is not as it should be, if anything.
    private func illness() -> String? {
        guard let state = manager.core?.state else { return "no manager" }
        if managerIDs.contains(where: { $0 != leader && isUp($0) }) { return "a former leader goes on" }
        for server in state.servers.values where server.status != .up { return "server \(server.id) is down" }
        for device in state.devices.values where device.status != .normal { return "device \(device.id) has failed" }
        for server in state.servers.values where server.maintenance != .none {
            return "server \(server.id) is in maintenance"
        }
        for server in state.servers.values where server.isLeaving { return "server \(server.id) is leaving" }
        for pool in state.pools.values {
            for (index, comb) in pool.combs.enumerated() {
                guard case .normal = comb.state else { return "comb \(index) is \(comb.state)" }
            }
        }
        // Where space is short some pieces are too large to lie evenly, and units that merge have no room.
        if options.profile != .cramped {
            if manager.core?.isSettled == false { return "copies are still to move" }
            for tree in state.trees.values {
                let heads = Set(state.volumes(in: tree.id).map(\.head))
                if let merge = tree.mergeable(heads: heads) { return "node \(merge.node) of \(tree.id) is still there" }
            }
        }
        for volume in state.volumes.values {
            if volume.isFencePending { return "a fence of \(volume.id) is pending" }
            let isServed = clientIDs.contains { clients[$0]?.servedSinceHeal.contains(volume.id) == true }
            if !isServed { return "no I/O of volume \(volume.id) has been answered" }
            if let unserved = unservedClient(of: volume) { return "no I/O of \(unserved) on \(volume.id) was answered" }
        }
        if state.volumes.count < Simulation.volumesWanted { return "only \(state.volumes.count) volumes" }
        for id in clientIDs {
            if let old = clients[id]?.ios.values.first(where: { $0.invoked < healedAt }) {
                return "an I/O of \(old.volume) begun at \(old.invoked) has not ended"
            }
        }
        return nil
    }

    /// Whether a client may only do so much in a second.
    private var isLimited: Bool {
        manager.core?.state.volumes.values.contains {
            $0.mappings.contains { $0.limitIops > 0 || $0.limitKibibytesPerSecond > 0 }
        } ?? false
    }

    /// What is still under way although nobody asks for anything any more.
    private var unrest: String? {
        for id in clientIDs {
            if let io = clients[id]?.ios.keys.min(by: { $0.rawValue < $1.rawValue }) {
                return "\(id) waits for its I/O \(io.rawValue)"
            }
            if clients[id]?.payloads.isEmpty == false { return "\(id) keeps a buffer" }
        }
        for id in serverIDs {
            if servers[id]?.core?.isIdle == false { return "\(id) has work" }
            if servers[id]?.payloads.isEmpty == false { return "\(id) keeps a buffer" }
        }
        return tickets.isEmpty ? nil : "\(tickets.count) commands are not answered"
    }
}
