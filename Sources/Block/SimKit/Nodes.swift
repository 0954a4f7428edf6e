import Base
import BlockCore

/// A server with its disk. A class, as the other nodes are: copies of a core would cost more than all that it does.
final class ServerNode {
    /// Others after each time that it was removed from the system and installed anew.
    private(set) var sds = SdsID(rawValue: 0)
    private(set) var device = DeviceID(rawValue: 0)
    private var installations: UInt64 = 0
    private let capacityUnits: UInt32
    var core: ServerCore?
    var disk = FakeDisk()
    var life = 0
    var pausedUntil = Instant.zero
    var payloads: [PayloadID: [UInt64]] = [:]
    var underWay: [DiskOperationID: [FakeDisk.Change]] = [:]
    /// Of those the ones that are stable when they end.
    var through: Set<DiskOperationID> = []
    var reads: [DiskOperationID: [UInt64?]] = [:]
    var managerLink: ConnectionID?
    var managerHeard = Instant.zero
    /// Operations until the device begins to fail; it is well again after a restart.
    var operationsToError: Int?
    /// Its device cannot read what it is asked for next.
    var failsNextRead = false
    /// Its next write of one block goes elsewhere.
    var isMisdirecting = false
    var slowUntil = Instant.zero
    /// Its keeper is about to start it.
    var isRestarting = false
    /// Writes of data it will begin before it dies.
    var writesToLive: Int?
    /// Whether the power of all servers fails then.
    var takesAll = false
    /// Counts the starts of its host.
    var hostBoots = 0

    init(_ id: NodeID, capacityUnits: UInt32) {
        self.capacityUnits = capacityUnits
        install(id)
    }

    /// Looks at the core where it is: a copy of it would take longer than most looks. Nil while the server does not run.
    func look<Result>(_ body: (inout ServerCore) -> Result) -> Result? {
        core == nil ? nil : body(&core!)
    }

    func install(_ id: NodeID) {
        sds = SdsID(rawValue: 0x5D5 << 32 | installations << 16 | UInt64(id.rawValue))
        device = DeviceID(rawValue: 0xDE << 32 | installations << 16 | UInt64(id.rawValue))
        installations += 1
        disk = FakeDisk()
        let label = DeviceLabel(sds: sds, device: device, capacityUnits: capacityUnits, logBlocks: 12)
        for (offset, bytes) in UnitStore.format(label) { disk.write(FakeDisk.changes(bytes: bytes, at: offset)) }
        disk.flush(disk.flushMark)
    }
}

final class ClientNode {
    struct IO {
        enum Action { case read, write, zero, map }

        var volume: VolumeID
        /// The volume's name in the history when the I/O began.
        var lineage: VolumeID
        var epoch: UInt64
        var first: UInt64
        var action: Action
        /// Of a write, block by block; of a zeroing its number.
        var values: [UInt64] = []
        var invoked: Instant
        /// Of a read, block by block; of a map, one bit for each.
        var seen: [UInt64]
    }

    let guid: String
    var core: ClientCore?
    var life = 0
    var pausedUntil = Instant.zero
    var payloads: [PayloadID: [UInt64]] = [:]
    var ios: [ClientIO: IO] = [:]
    var nextIO: UInt64 = 1
    var managerLink: ConnectionID?
    var managerHeard = Instant.zero
    var isResting = false
    /// Until then it does not write: what it writes to a primary without its secondary would soon be all that it waits for.
    var readsOnlyUntil = Instant.zero
    var servedSinceHeal: Set<VolumeID> = []

    init(_ id: NodeID) { guid = "GUID-\(id.rawValue)" }
}

extension Simulation {
    func life(_ id: NodeID) -> Int {
        managers[id]?.life ?? servers[id]?.life ?? clients[id]?.life ?? 0
    }
    func isUp(_ id: NodeID) -> Bool {
        managers[id]?.core != nil || servers[id]?.core != nil || clients[id]?.core != nil
    }
    func pausedUntil(_ id: NodeID) -> Instant {
        managers[id]?.pausedUntil ?? servers[id]?.pausedUntil ?? clients[id]?.pausedUntil ?? .zero
    }
    /// One pause at a time, and to its end: what arrived meanwhile keeps its order.
    func pause(_ id: NodeID, until: Instant) {
        guard now >= pausedUntil(id) else { return }
        managers[id]?.pausedUntil = until
        servers[id]?.pausedUntil = until
        clients[id]?.pausedUntil = until
    }
    /// What the node's own clock says: each goes at its own rate.
    func clock(of id: NodeID) -> Instant {
        Instant(nanoseconds: now.nanoseconds / 1000 * (clockRates[id] ?? 1000))
    }

    // MARK: Life and death

    func startNode(_ id: NodeID) {
        // Once all is well again nobody takes the lead from anybody.
        guard !isUp(id), id != lostForGood, !isHealed || managers[id] == nil || manager.core == nil else { return }
        note("\(id) starts")
        if managers[id] != nil {
            lead(id)
        } else if servers[id] != nil {
            startServer(id)
        } else {
            startClient(id)
        }
        heap.add(.tick(id, life: life(id)), at: now + .milliseconds(1))
    }

    private func startServer(_ id: NodeID) {
        guard let node = servers[id] else { return }
        node.life += 1
        do {
            let label = try DeviceLabel(device: node.disk.bytes(0..<(128 << 10)))
            let layout = label.layout
            var opened = try UnitStore.open(
                label, metadata: node.disk.bytes(0..<layout.checksums), hotUnitsMax: hotUnitsMax,
                searchedUnitsMax: hotUnitsMax, rules: options.rules
            ) { node.disk.dataOfUnit(at: $0) }
            opened.store.loadChecksums(at: layout.checksums, node.disk.bytes(layout.checksums..<layout.data))
            cureUnknown(of: opened.store, &node.disk)
            node.disk.write(
                opened.zeroes.map { .zero(first: $0.offset / 4096, count: UInt64($0.length) / 4096) })
            node.disk.flush(node.disk.flushMark)
            for (offset, bytes) in opened.writes {
                node.disk.write(FakeDisk.changes(bytes: bytes, at: offset))
                node.disk.flush(node.disk.flushMark)
            }
            var configuration = ServerConfiguration(
                name: "sds\(id.rawValue)", domainName: "domain", address: "\(id)",
                incarnation: random.next() | 1)
            configuration.rules = options.rules
            configuration.intentCooling = intentCooling
            configuration.cutHoldTime = cutHoldTime
            if options.profile != .lasting { configuration.mergeInterval = .milliseconds(100) }
            configuration.hostBoot = "\(id)-\(node.hostBoots)"
            node.core = ServerCore(
                configuration: configuration, sds: node.sds,
                system: label.system == 0 ? nil : SystemID(rawValue: label.system), stores: [opened.store])
        } catch {
            return fail("\(id) cannot open its device: \(error)")
        }
        node.managerLink = nil
        node.operationsToError = nil
        node.writesToLive = nil
        node.takesAll = false
        node.isRestarting = false
        var actions: [ServerAction] = []
        node.core?.begin(into: &actions)
        perform(actions, id)
    }

    private func startClient(_ id: NodeID) {
        guard let guid = clients[id]?.guid else { return }
        clients[id]?.life += 1
        var configuration = ClientConfiguration(
            guid: guid, name: "\(id)", ip: "\(id)", incarnation: random.next() | 1)
        configuration.holdTime = .seconds(30)
        clients[id]?.core = ClientCore(configuration: configuration)
        clients[id]?.managerLink = nil
        clients[id]?.ios = [:]
        clients[id]?.payloads = [:]
        heap.add(.work(id, life: life(id)), at: now + .milliseconds(5))
    }

    /// Of a server whose device has stopped, as its keeper does once the device is well again.
    func restart(_ id: NodeID, _ life: Int) {
        guard self.life(id) == life, let stores = servers[id]?.core?.stores,
            stores.contains(where: { $0.stopReason != nil })
        else { return }
        did("restart after a device error")
        crash(id)
        servers[id]?.isRestarting = true
        heap.add(.start(id), at: now + delay(20, 1000))
    }

    /// Of a server that was removed from the system: with new devices it joins as another one.
    func reinstall(_ id: NodeID) {
        guard let former = servers[id]?.sds else { return }
        did("server removed and installed anew")
        crash(id)
        formerServers.insert(former)
        servers[id]?.install(id)
        heap.add(.start(id), at: now + delay(50, 2000))
    }

    func die(_ id: NodeID, _ life: Int) {
        guard self.life(id) == life, isUp(id), !isHealed else { return }
        if servers[id]?.takesAll == true { return failEverywhere() }
        did("server dies writing")
        crash(id)
        // Clients that die too do not send again what the server alone has, and do not soon write over it.
        let isAlone = Bool.random(using: &random)
        heap.add(.start(id), at: now + delay(20, isAlone ? 3000 : 600))
        for client in clientIDs where !isAlone {
            crash(client)
            heap.add(.start(client), at: now + delay(1500, 5000))
        }
    }

    /// The power fails for all servers at once, in the middle of a write, and sometimes for the clients.
    private func failEverywhere() {
        did("power failure of all, amid a write")
        let clients = Bool.random(using: &random) ? clientIDs : []
        for victim in serverIDs + clients {
            crash(victim, cuttingPower: true)
            heap.add(.start(victim), at: now + delay(20, 450))
        }
    }

    func crash(_ id: NodeID, cuttingPower: Bool = false) {
        guard isUp(id) else { return }
        note("\(id) crashes")
        if managers[id] != nil {
            did("manager crash")
            stopManager(id)
        } else if let node = servers[id] {
            let underWay = node.underWay.keys.sorted { $0.rawValue < $1.rawValue }.compactMap { node.underWay[$0] }
            did("server crash")
            node.core = nil
            // The process dies alone, or its host with it.
            if !cuttingPower, Int.random(in: 0..<3, using: &random) == 0 {
                node.disk.kill(underWay: underWay, &random)
            } else {
                node.disk.crash(underWay: underWay, &random)
                node.hostBoots += 1
            }
            node.underWay = [:]
            node.through = []
            node.reads = [:]
            node.payloads = [:]
        } else {
            did("client crash")
            clients[id]?.core = nil
        }
        // Sometimes the host answers for its dead process, sometimes it is gone as well.
        let isSilent = Bool.random(using: &random)
        for connection in network.order {
            guard let ends = network.connections[connection] else { continue }
            for isOpener in [true, false] {
                let end = isOpener ? ends.opener : ends.accepter
                guard end.node == id, end.isOpen else { continue }
                if isSilent {
                    if isOpener {
                        network.connections[connection]?.opener.isOpen = false
                    } else {
                        network.connections[connection]?.accepter.isOpen = false
                    }
                    heap.add(.closed(connection, toOpener: !isOpener), at: now + delay(1000, 6000))
                } else {
                    close(connection, byOpener: isOpener)
                }
            }
        }
    }

    // MARK: Ticks

    func tick(_ id: NodeID, _ life: Int) {
        guard self.life(id) == life, isUp(id) else { return }
        if now < pausedUntil(id) {
            heap.add(.tick(id, life: life), at: pausedUntil(id) + .nanoseconds(1))
            return
        }
        if managers[id] != nil {
            drive(id, ManagerEvent.tick)
            heap.add(.tick(id, life: life), at: now + .milliseconds(50))
        } else if servers[id] != nil {
            watchManager(id)
            drive(id, ServerEvent.tick)
            heap.add(.tick(id, life: life), at: now + options.profile.tickInterval)
        } else {
            watchManager(id)
            drive(id, ClientEvent.tick)
            heap.add(.tick(id, life: life), at: now + options.profile.tickInterval)
        }
    }

    /// What the shells do: a manager that says nothing for 3 s is asked anew over another connection.
    private func watchManager(_ id: NodeID) {
        guard let link = servers[id]?.managerLink ?? clients[id]?.managerLink else { return connectToManager(id) }
        let heard = servers[id]?.managerHeard ?? clients[id]?.managerHeard ?? .zero
        guard link.rawValue != 0, now - heard > .seconds(3) else { return }
        close(link, byOpener: true)
        servers[id]?.managerLink = nil
        clients[id]?.managerLink = nil
        drive(id, ServerEvent.managerClosed)
        drive(id, ClientEvent.managerClosed)
    }

    private func connectToManager(_ id: NodeID) {
        // A placeholder link keeps the next tick from connecting once more; `refused` clears it.
        let pending = ConnectionID(rawValue: 0)
        servers[id]?.managerLink = pending
        clients[id]?.managerLink = pending
        // Whoever asks may still be sent to a leader of before.
        let former = managerIDs.first { $0 != leader && isUp($0) }
        let isMisled = former != nil && Int.random(in: 0..<3, using: &random) == 0
        connect(id, to: isMisled ? former ?? leader : leader, server: nil)
    }

    // MARK: Connections

    func opened(_ id: ConnectionID) {
        guard let connection = network.connections[id] else { return }
        let opener = connection.opener
        guard life(opener.node) == opener.life, isUp(opener.node) else { return }
        if now < pausedUntil(opener.node) {
            heap.add(.opened(id), at: pausedUntil(opener.node) + .nanoseconds(1))
            return
        }
        if let server = connection.server {
            if servers[opener.node] != nil {
                drive(opener.node, ServerEvent.peerConnected(server, id.link))
            } else {
                drive(opener.node, ClientEvent.serverConnected(server.peer, id.link))
            }
        } else {
            servers[opener.node]?.managerLink = id
            clients[opener.node]?.managerLink = id
            servers[opener.node]?.managerHeard = now
            clients[opener.node]?.managerHeard = now
            if servers[opener.node] != nil {
                drive(opener.node, ServerEvent.managerConnected)
            } else {
                drive(opener.node, ClientEvent.managerConnected)
            }
        }
    }

    func refused(_ node: NodeID, _ life: Int, _ server: PeerChannel?) {
        guard self.life(node) == life, isUp(node) else { return }
        if let server {
            if servers[node] != nil {
                drive(node, ServerEvent.peerClosed(server))
            } else {
                drive(node, ClientEvent.serverClosed(server.peer))
            }
        } else {
            servers[node]?.managerLink = nil
            clients[node]?.managerLink = nil
        }
    }

    func closed(_ id: ConnectionID, toOpener: Bool) {
        guard let connection = network.connections[id] else { return }
        let end = toOpener ? connection.opener : connection.accepter
        guard end.isOpen, life(end.node) == end.life, isUp(end.node) else { return }
        if now < pausedUntil(end.node) {
            heap.add(.closed(id, toOpener: toOpener), at: pausedUntil(end.node) + .nanoseconds(1))
            return
        }
        if toOpener {
            network.connections[id]?.opener.isOpen = false
            endOfOpener(id, connection)
        } else {
            network.connections[id]?.accepter.isOpen = false
            if managers[end.node] != nil {
                drive(end.node, ManagerEvent.linkClosed(id.link))
            } else {
                drive(end.node, ServerEvent.linkClosed(id.link))
            }
        }
    }

    private func endOfOpener(_ id: ConnectionID, _ connection: FakeNetwork.Connection) {
        let node = connection.opener.node
        if let server = connection.server {
            // The shell reports only the connection that it last opened to this server.
            let newer = network.order.contains { other in
                guard other.rawValue > id.rawValue, let known = network.connections[other] else { return false }
                return known.opener.node == node && known.server == server
                    && known.opener.life == connection.opener.life
            }
            if newer { return }
            if servers[node] != nil {
                drive(node, ServerEvent.peerClosed(server))
            } else {
                drive(node, ClientEvent.serverClosed(server.peer))
            }
        } else if servers[node]?.managerLink == id {
            servers[node]?.managerLink = nil
            drive(node, ServerEvent.managerClosed)
        } else if clients[node]?.managerLink == id {
            clients[node]?.managerLink = nil
            drive(node, ClientEvent.managerClosed)
        }
    }

    func deliver(_ id: ConnectionID, toOpener: Bool, _ message: Message) {
        guard let connection = network.connections[id] else { return }
        let end = toOpener ? connection.opener : connection.accepter
        guard end.isOpen, life(end.node) == end.life, isUp(end.node) else {
            // The host answers for a closed socket.
            let sender = toOpener ? connection.accepter : connection.opener
            if sender.isOpen, !network.isBlocked(end.node, sender.node, now) {
                heap.add(.closed(id, toOpener: !toOpener), at: now + delay(0.05, 1))
            }
            return
        }
        if now < pausedUntil(end.node) {
            heap.add(.deliver(id, toOpener: toOpener, message), at: pausedUntil(end.node) + .nanoseconds(1))
            return
        }
        note("\(end.node) receives on \(id.rawValue) \(message)")
        switch message {
        case .toManager(let message): drive(end.node, ManagerEvent.message(id.link, message))
        case .fromManager(let message):
            servers[end.node]?.managerHeard = now
            clients[end.node]?.managerHeard = now
            if servers[end.node]?.managerLink == id {
                drive(end.node, ServerEvent.manager(message))
            } else if clients[end.node]?.managerLink == id {
                drive(end.node, ClientEvent.manager(message))
            }
        case .data(let header, let values):
            let payload = values.map { keep($0, on: end.node) }
            if clients[end.node] != nil {
                drive(end.node, ClientEvent.answer(id.link, header, payload))
            } else if toOpener, header.opcode == .fetch, let payload {
                drive(end.node, ServerEvent.fetched(id.link, header, payload))
            } else if toOpener {
                if let payload { servers[end.node]?.payloads[payload] = nil }
                drive(end.node, ServerEvent.answer(id.link, header, []))
            } else {
                drive(end.node, ServerEvent.request(id.link, header, payload))
            }
        case .list(let header, let bytes):
            if toOpener, servers[end.node] != nil {
                drive(end.node, ServerEvent.answer(id.link, header, bytes))
            } else {
                fail("\(end.node) is sent a list that it did not ask for")
            }
        }
    }

    func keep(_ values: [UInt64], on node: NodeID) -> PayloadID {
        let id = PayloadID(rawValue: nextPayload)
        nextPayload += 1
        servers[node]?.payloads[id] = values
        clients[node]?.payloads[id] = values
        return id
    }
}
