import Base
import BlockCore

extension Simulation {
    // MARK: Servers

    func drive(_ id: NodeID, _ event: ServerEvent) {
        var actions: [ServerAction] = []
        let time = clock(of: id)
        let room = asksForRoom(event) ? room(of: id) : nil
        servers[id]?.core?.apply(event, now: time, into: &actions)
        watchRoom(id, before: room)
        perform(actions, id)
    }

    func perform(_ actions: [ServerAction], _ id: NodeID) {
        for action in actions {
            switch action {
            case .sendManager(let message):
                if let link = servers[id]?.managerLink { send(link, fromOpener: true, .toManager(message)) }
                if options.profile == .shared { hamperResignation(message, id) }
            case .send(let link, let header, let slice):
                let connection = ConnectionID(rawValue: link.rawValue)
                let isOpener = network.connections[connection]?.opener.node == id
                send(connection, fromOpener: isOpener, .data(header, slice.map { values($0, id) }))
            case .sendBytes(let link, let header, let bytes):
                let connection = ConnectionID(rawValue: link.rawValue)
                let isOpener = network.connections[connection]?.opener.node == id
                if header.opcode == .map {
                    let words = stride(from: 0, to: bytes.count, by: 8).map { start in
                        bytes[start..<start + 8].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
                    }
                    send(connection, fromOpener: isOpener, .data(header, words))
                } else {
                    send(connection, fromOpener: isOpener, .list(header, bytes))
                }
            case .close(let link):
                let connection = ConnectionID(rawValue: link.rawValue)
                close(connection, byOpener: network.connections[connection]?.opener.node == id)
            case .connectPeer(let peer, _):
                guard let to = serverIDs.first(where: { servers[$0]?.sds == peer.peer }) else {
                    refuseFormer(peer, to: id)
                    continue
                }
                connect(id, to: to, server: peer)
            case .disk(let device, let operation, let request): startDisk(id, device, operation, request)
            case .release(let payload):
                if servers[id]?.payloads.removeValue(forKey: payload) == nil { fail("\(id) released a buffer twice") }
            case .notice(.refused(ManagerError.Code.sdsRemoved.rawValue, _)): reinstall(id)
            case .notice(let notice):
                note("\(id): \(notice)")
                count(notice, id)
            }
        }
    }

    /// Nobody listens any more where a removed server was.
    private func refuseFormer(_ server: PeerChannel, to id: NodeID) {
        guard formerServers.contains(server.peer) else { return fail("\(id) connects to an unknown server") }
        heap.add(.refused(id, life: life(id), server), at: now + delay(0.1, 1))
    }

    private func count(_ notice: ServerNotice, _ id: NodeID) {
        switch notice {
        case .copying(_, _, nil, _, _): copies.full += 1
        case .copying(_, _, _, let units, let all):
            copies.resyncs += 1
            copies.resyncedUnits += units
            copies.sparedUnits += max(0, all - units)
        case .damaged(_, let unit, let blocks): foundDamage(id, unit, blocks)
        case .examined(_, let unit, let result):
            damage.mended += result.mended
            damage.lost += result.lost
            if result.differing > 0 { fail("\(id) found \(result.differing) good blocks of \(unit) not alike") }
        case .welcomed, .refused, .deviceStopped, .peerUnanswering, .protocolViolation: break
        }
    }

    private func values(_ slice: PayloadSlice, _ id: NodeID) -> [UInt64] {
        guard let all = servers[id]?.payloads[slice.payload] ?? clients[id]?.payloads[slice.payload] else {
            fail("\(id) uses a buffer after its release")
            return []
        }
        let first = Int(slice.offset / Geometry.blockBytes)
        return Array(all[first..<first + Int(slice.length / Geometry.blockBytes)])
    }

    private func startDisk(_ id: NodeID, _ device: DeviceID, _ operation: DiskOperationID, _ request: DiskRequest) {
        guard let node = servers[id] else { return }
        var mark: UInt64 = 0
        var time = delay(0.02, 0.3)
        switch request {
        case .write(let at, let slice), .writeThrough(let at, let slice):
            if case .writeThrough = request {
                node.through.insert(operation)
                time = delay(0.1, 1.5)
            }
            if let left = node.writesToLive {
                node.writesToLive = left > 1 ? left - 1 : nil
                // The record of a write and its flush come after the data.
                let latest = node.takesAll ? 2.5 : 0.7
                if left == 1 { heap.add(.die(id, life: node.life), at: now + delay(0.05, latest)) }
            }
            node.underWay[operation] = values(slice, id).enumerated().map {
                .set(block: at / 4096 + UInt64($0.offset), .value($0.element))
            }
        case .writeZeros(let at, let length), .punch(let at, let length):
            node.underWay[operation] = [.zero(first: at / 4096, count: UInt64(length) / 4096)]
        case .writeBytes(let at, let bytes): node.underWay[operation] = FakeDisk.changes(bytes: bytes, at: at)
        case .read(let at, let length, let holes):
            // Read at the end of the operation, see `diskDone`; here only what and where.
            let whole = ReadPart(at: at, into: 0..<length)
            node.reads[operation] = blocks([whole], length, holes)
        case .gather(let parts, let length, let holes): node.reads[operation] = blocks(parts, length, holes)
        case .flush:
            mark = node.disk.flushMark
            time = delay(0.2, 2)
        }
        if node.slowUntil > now { time = time * Int.random(in: 2...300, using: &random) }
        heap.add(.disk(id, life: node.life, device, operation, flushMark: mark), at: now + time)
    }

    /// The block of the disk for each of the buffer, nil for holes.
    private func blocks(_ parts: [ReadPart], _ length: UInt32, _ holes: [Range<UInt32>]) -> [UInt64?] {
        var blocks = [UInt64?](repeating: nil, count: Int(length / 4096))
        for part in parts {
            for block in part.into.lowerBound / 4096..<part.into.upperBound / 4096 {
                blocks[Int(block)] = part.at / 4096 + UInt64(block - part.into.lowerBound / 4096)
            }
        }
        for hole in holes {
            for block in hole.lowerBound / 4096..<hole.upperBound / 4096 { blocks[Int(block)] = nil }
        }
        return blocks
    }

    func diskDone(
        _ id: NodeID, _ life: Int, _ device: DeviceID, _ operation: DiskOperationID, _ mark: UInt64
    ) {
        guard let node = servers[id], node.life == life, node.core != nil else { return }
        if now < node.pausedUntil {
            heap.add(
                .disk(id, life: life, device, operation, flushMark: mark), at: node.pausedUntil + .nanoseconds(1))
            return
        }
        var outcome = DiskOutcome.done
        if isBroken(node, operation) {
            outcome = .failed(reason: "injected")
        } else if let changes = node.underWay.removeValue(forKey: operation) {
            node.disk.write(misdirect(changes, node) ?? changes, isThrough: node.through.remove(operation) != nil)
            let values = changes.compactMap { change in
                if case .set(_, .value(let value)) = change { value } else { nil }
            }
            if !values.isEmpty { outcome = .written(BlockChecksums(values.map { FakeDisk.checksum($0) })) }
        } else if let read = node.reads.removeValue(forKey: operation) {
            let values = read.map { $0.map { node.disk.value($0) } ?? 0 }
            let payload = PayloadID(rawValue: nextPayload)
            nextPayload += 1
            node.payloads[payload] = values
            outcome = .read(payload, BlockChecksums(values.map { FakeDisk.checksum($0) }))
        } else {
            node.disk.flush(mark)
        }
        drive(id, ServerEvent.disk(device, operation, outcome))
    }

    /// Whether the operation fails, as some do from a given one on until a restart. Of a write that fails anything may
    /// have arrived, and what a failed flush covered may stay unwritten for ever.
    private func isBroken(_ node: ServerNode, _ operation: DiskOperationID) -> Bool {
        if node.failsNextRead, node.reads.removeValue(forKey: operation) != nil {
            did("read error")
            node.failsNextRead = false
            return true
        }
        if let blocks = node.reads[operation],
            blocks.contains(where: { $0.map(node.disk.unreadable.contains) ?? false })
        {
            did("read of an unreadable sector")
            node.reads[operation] = nil
            return true
        }
        guard let left = node.operationsToError else { return false }
        node.operationsToError = max(0, left - 1)
        guard left == 0, Bool.random(using: &random) else { return false }
        if let changes = node.underWay.removeValue(forKey: operation) {
            did("write error")
            node.disk.write(changes.filter { _ in Bool.random(using: &random) })
        } else if node.reads.removeValue(forKey: operation) != nil {
            did("read error")
        } else {
            did("flush error")
        }
        return true
    }

    // MARK: Clients

    func drive(_ id: NodeID, _ event: ClientEvent) {
        var actions: [ClientAction] = []
        let time = clock(of: id)
        clients[id]?.core?.apply(event, now: time, into: &actions)
        for action in actions {
            switch action {
            case .sendManager(let message):
                if let link = clients[id]?.managerLink { send(link, fromOpener: true, .toManager(message)) }
            case .connect(let server, _):
                guard let to = serverIDs.first(where: { servers[$0]?.sds == server }) else {
                    refuseFormer(PeerChannel(server), to: id)
                    continue
                }
                connect(id, to: to, server: PeerChannel(server))
            case .close(let link): close(ConnectionID(rawValue: link.rawValue), byOpener: true)
            case .send(let link, let header, let slice):
                send(
                    ConnectionID(rawValue: link.rawValue), fromOpener: true,
                    .data(header, slice.map { values($0, id) }))
            case .deliver(let io, let offset, let length, let payload):
                // A map comes as one word for each 64 blocks.
                let isMap = clients[id]?.ios[io]?.action == .map
                let grain = isMap ? 8 : Geometry.blockBytes
                let count = Int(length / grain)
                var part = [UInt64](repeating: 0, count: count)
                if let payload {
                    part = clients[id]?.payloads.removeValue(forKey: payload) ?? []
                    if part.count != count { fail("\(id) was delivered \(part.count) of \(count) blocks") }
                }
                let first = Int(offset / grain)
                for (index, value) in part.enumerated() { clients[id]?.ios[io]?.seen[first + index] = value }
            case .complete(let io, let result): completed(id, io, result)
            case .release(let payload):
                if clients[id]?.payloads.removeValue(forKey: payload) == nil { fail("\(id) released a buffer twice") }
            case .wake(let delay): heap.add(.wake(id, life: life(id)), at: now + delay)
            case .welcomed, .attached, .changed, .detached: note("\(id): \(action)")
            case .refused(_, let message): fail("\(id) was refused: \(message)")
            }
        }
    }

    func wake(_ id: NodeID, _ life: Int) {
        guard let node = clients[id], node.life == life, node.core != nil else { return }
        if now < node.pausedUntil {
            heap.add(.wake(id, life: life), at: node.pausedUntil + .nanoseconds(1))
        } else {
            drive(id, ClientEvent.wake)
        }
    }
}
