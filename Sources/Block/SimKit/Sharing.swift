import Base
import BlockCore

/// Volumes that both clients have, and faults that make one see what the other has already replaced, if anything lets it.
extension Simulation {
    // MARK: What clients do

    /// The first client writes as much as it reads, the second mostly reads and makes one change at a time. Nobody writes what
    /// another write is under way to, as hosts that share a disk arrange among themselves (docs/design/leases.md, section 1).
    func workTogether(_ id: NodeID, _ target: AttachedVolume) {
        let isReader = id != clientIDs[0]
        var action = ClientNode.IO.Action.read
        switch Int.random(in: 0..<(isReader ? 24 : 8), using: &random) {
        case 0, 1, 2: action = .write
        case 3: action = .zero
        case 4: action = .map
        default: break
        }
        let part = extent(action, units: target.sizeBytes / UInt64(Geometry.unitBytes))
        if isChange(action) {
            var mustWait = now < clients[id]?.readsOnlyUntil ?? .zero
            if isReader, clients[id]?.ios.values.contains(where: { isChange($0.action) }) == true { mustWait = true }
            if mustWait || isContested(target.attachment, part.first, part.count, by: id) { action = .read }
        }
        begin(action, target.attachment, first: part.first, count: part.count, by: id)
    }

    private func isChange(_ action: ClientNode.IO.Action) -> Bool { action == .write || action == .zero }

    private func isContested(_ attachment: Attachment, _ first: UInt64, _ count: Int, by id: NodeID) -> Bool {
        let blocks = first..<first + UInt64(count)
        let isOwn = clients[id]?.ios.values.contains { io in
            isChange(io.action) && io.volume == attachment.volume
                && blocks.overlaps(io.first..<io.first + UInt64(io.values.count))
        }
        if isOwn == true { return true }
        let volume = manager.core?.state.volumes[attachment.volume]
        let rights = volume.flatMap { $0.isFencePending ? nil : Set($0.mappings.map(\.epoch)) }
        return blocks.contains { block in
            Simulation.isInPlay(block)
                && history.isContested(
                    History.Block(volume: attachment.volume, number: block), by: attachment.epoch, rights: rights)
        }
    }

    // MARK: Who has what

    /// Mostly lets another client have a volume too, and leaves it to both for a while; sometimes takes it from one. False: it is
    /// time for something else.
    func regroup(_ state: SystemState) -> Bool {
        guard let volume = state.volumes.values.randomElement(using: &random) else { return false }
        let choice = Int.random(in: 0..<12, using: &random)
        if volume.mappings.count == 1 { return choice > 7 && share(volume, state) }
        if choice < 4, choice > 0, let leaving = volume.mappings.randomElement(using: &random) {
            submit(.unmap(volume.id, leaving.sdc), .fence(volume.id))
        }
        return choice > 0
    }

    func share(_ client: NodeID) {
        guard !isHealed, let state = manager.core?.state, now >= manager.pausedUntil,
            let owner = clients[client]?.core?.sdc
        else { return }
        for volume in state.volumes.values where volume.mappings.map(\.sdc) == [owner] { _ = share(volume, state) }
    }

    private func share(_ volume: Volume, _ state: SystemState) -> Bool {
        guard let other = state.clients.keys.first(where: { volume.mapping(of: $0) == nil }) else { return false }
        submit(.map(volume.id, other, mode: .readWrite, allowMultiple: true, preempt: false), .fence(volume.id))
        return true
    }

    /// A client that has the volume but has not been served since the end of the faults.
    func unservedClient(of volume: Volume) -> NodeID? {
        guard options.profile == .shared else { return nil }
        return clientIDs.first { id in
            guard let sdc = clients[id]?.core?.sdc, volume.mapping(of: sdc) != nil else { return false }
            return clients[id]?.servedSinceHeal.contains(volume.id) != true
        }
    }

    // MARK: What goes wrong

    /// Most faults are such. They take their time, and everybody else has to be well meanwhile.
    func addSplits() {
        let others = faultKinds.count
        for kind in [FaultKind.splitView, .splitView, .splitLeaders] {
            faultKinds += [FaultKind](repeating: kind, count: others)
        }
        faultKinds += [FaultKind](repeating: .unreadable, count: others / 2)
    }

    /// Of a volume with so many clients: one of them, rather the one that reads, and the primary of one of its units. Nil while
    /// anything is amiss.
    private func someView(_ state: SystemState, clients count: Int) -> (client: NodeID, server: NodeID)? {
        let isWell =
            state.servers.values.allSatisfy { $0.status == .up }
            && state.pools.values.allSatisfy { $0.combs.allSatisfy { $0.secondary != nil } }
        guard isWell else { return nil }
        let volumes = state.volumes.values.filter { $0.mappings.count == count }
        guard let volume = volumes.randomElement(using: &random), let pool = state.pools[volume.pool] else {
            return nil
        }
        let users = clientIDs.filter { id in
            clients[id]?.core?.sdc.map { volume.mapping(of: $0) != nil } ?? false
        }
        let unit = FamilyKey(tree: volume.tree, index: UInt32.random(in: 0..<volume.sizeUnits, using: &random))
        let primary = pool.combs[Int(Geometry.comb(of: unit, combCount: pool.combCount))].primary.sds
        let isReader = Int.random(in: 0..<3, using: &random) > 0
        guard let client = isReader ? users.last : users.first,
            let server = serverIDs.first(where: { servers[$0]?.sds == primary })
        else { return nil }
        return (client, server)
    }

    /// A primary and a client see each other and nobody who knows better. Sometimes what the manager has granted before arrives
    /// late, sometimes it gives the client's volume to the other one as well.
    func splitView() {
        let isAlone = Int.random(in: 0..<3, using: &random) == 0
        guard let state = manager.core?.state, let view = someView(state, clients: isAlone ? 1 : 2) else { return }
        did("server and client cut off together")
        splitEnd = now + delay(2500, 4500)
        clients[view.client]?.readsOnlyUntil = splitEnd
        if isAlone {
            heap.add(.share(view.client), at: now + delay(600, 2500))
        } else if Bool.random(using: &random) {
            // Just before the lease that it is about ends.
            network.clog(leader, view.server, until: now + delay(1300, 1700))
            return heap.add(.separate(view.server, view.client, until: splitEnd), at: now + delay(250, 400))
        }
        separate(view.server, view.client, splitEnd)
    }

    func separate(_ server: NodeID, _ client: NodeID, _ until: Instant) {
        if isHealed { return }
        isolateFromManagers(server, until)
        isolateFromManagers(client, until)
        for peer in serverIDs where peer != server { isolate(server, peer, until) }
        // Sometimes the manager notices at once.
        if Bool.random(using: &random) { breakManagersEnd(of: server) }
    }

    private func breakManagersEnd(of server: NodeID) {
        for id in network.order {
            guard let connection = network.connections[id], connection.opener.node == server, connection.server == nil,
                connection.accepter.isOpen
            else { continue }
            heap.add(.closed(id, toOpener: false), at: now + delay(1, 50))
        }
    }

    /// Another manager leads, and only one server and one client do not hear of it.
    func splitLeaders() {
        let former = leader
        guard let state = manager.core?.state, let heir = managerIDs.first(where: { !isUp($0) }),
            let (client, server) = someView(state, clients: 2)
        else { return }
        did("leader deposed with a server and a client")
        startNode(heir)
        let until = now + delay(3000, 5000)
        splitEnd = until
        clients[client]?.readsOnlyUntil = until
        for node in serverIDs + clientIDs {
            let isBehind = node == server || node == client
            isolate(node, isBehind ? heir : former, until)
            if isBehind { continue }
            for id in network.order {
                guard let connection = network.connections[id], connection.opener.node == node,
                    connection.accepter.node == former, connection.opener.isOpen
                else { continue }
                heap.add(.closed(id, toOpener: true), at: now + delay(1, 200))
            }
        }
    }

    /// A server that has asked to be replaced does not hear that it was, nor does a client of it.
    func hamperResignation(_ message: MessageToManager, _ server: NodeID) {
        let isLikely: Bool
        switch message {
        case .copyUnreadable: isLikely = true
        case .drained: isLikely = false
        default: return
        }
        guard !isHealed, now >= splitEnd, Int.random(in: 0..<8, using: &random) < (isLikely ? 6 : 1) else { return }
        did("server does not hear that it was replaced")
        let client = clientIDs.randomElement(using: &random) ?? clientIDs[0]
        splitEnd = now + delay(1000, 3000)
        clients[client]?.readsOnlyUntil = splitEnd
        heap.add(.separate(server, client, until: splitEnd), at: now + .milliseconds(1))
    }
}
