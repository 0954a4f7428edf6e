import Base

extension ServerCore {
    /// Our own connection to another server.
    struct Peer {
        enum State: Equatable {
            case closed(retryAt: Instant)
            case connecting(since: Instant)
            case greeting(LinkID, since: Instant)
            case open(LinkID)
        }
        enum Question {
            case operation(UInt64, slot: Int)
            case begin(CombKey, epoch: UInt64)
            case list(CombKey, epoch: UInt64)
            case remnants(CombKey, epoch: UInt64)
        }
        struct Outstanding {
            var question: Question
            var sentAt: Instant
        }

        var state: State
        var session: UInt64 = 0
        var nextRequest: UInt64 = 1
        var outstanding = IDTable<UInt64, Outstanding>()

        var link: LinkID? {
            switch state {
            case .closed, .connecting: nil
            case .greeting(let link, _), .open(let link): link
            }
        }
    }

    // MARK: Connections

    /// The open connection to a server; begins to open one if there is none.
    private mutating func openLink(_ peer: PeerChannel, _ now: Instant, _ actions: inout [ServerAction]) -> LinkID? {
        switch peers[peer]?.state {
        case .open(let link): return link
        case .connecting, .greeting: return nil
        case .closed(let retryAt) where now < retryAt: return nil
        case .closed, nil:
            guard generation != nil, let address = map.addresses[peer.peer] else { return nil }
            peers[peer, default: Peer(state: .connecting(since: now))].state = .connecting(since: now)
            actions.append(.connectPeer(peer, address: address))
            return nil
        }
    }

    mutating func connected(_ peer: PeerChannel, _ link: LinkID, _ now: Instant, _ actions: inout [ServerAction]) {
        guard case .connecting = peers[peer]?.state, let generation else {
            actions.append(.close(link))
            return
        }
        let number = (peers[peer]?.session ?? 0) & 0xFFFF_FFFF
        peers[peer]?.session = UInt64(generation) << 32 | (number + 1)
        peers[peer]?.state = .greeting(link, since: now)
        peers[peer]?.nextRequest = 1
        var hello = DataHeader(opcode: .hello)
        hello.volume = sds.rawValue
        hello.offset = (peer.use == .copying ? PeerKind.copyingServer : .server).rawValue
        hello.session = peers[peer]?.session ?? 0
        actions.append(.send(link, hello, nil))
    }

    /// The connection is gone: what was sent over it has to be sent again over another.
    mutating func disconnected(_ peer: PeerChannel, _ now: Instant) {
        guard let outstanding = peers[peer]?.outstanding else { return }
        peers[peer]?.outstanding = IDTable()
        peers[peer]?.state = .closed(retryAt: now + .milliseconds(50))
        for request in outstanding.keys.sorted() {
            switch outstanding[request]?.question {
            case .operation(let id, let slot): operations[id]?.forwards[slot]?.state = .due(now)
            case .begin(let key, _), .list(let key, _): rebuilds[key]?.isAsking = false
            case .remnants: merging.search?.isAsked = false
            case nil: break
            }
        }
    }

    private mutating func reconnect(_ peer: PeerChannel, _ now: Instant, _ actions: inout [ServerAction]) {
        if let link = peers[peer]?.link { actions.append(.close(link)) }
        disconnected(peer, now)
    }

    mutating func tickPeers(_ now: Instant, _ actions: inout [ServerAction]) {
        let patience = configuration.replicaTimeout / 2
        for id in peers.keys.sorted() {
            guard let peer = peers[id] else { continue }
            switch peer.state {
            case .closed: break
            case .connecting(let since):
                if now - since > patience { peers[id]?.state = .closed(retryAt: now) }
            case .greeting(_, let since): if now - since > patience { reconnect(id, now, &actions) }
            case .open:
                if peer.outstanding.values.contains(where: { now - $0.sentAt > patience }) {
                    reconnect(id, now, &actions)
                }
            }
        }
    }

    /// Sends a question over the peer's open session; false if there is none.
    mutating func ask(
        _ peer: PeerChannel, _ question: Peer.Question, _ header: DataHeader, _ slice: PayloadSlice?, _ now: Instant,
        _ actions: inout [ServerAction]
    ) -> UInt64? {
        guard let link = openLink(peer, now, &actions), let known = peers[peer] else { return nil }
        var header = header
        header.request = known.nextRequest
        header.session = known.session
        peers.change(peer) {
            $0.nextRequest += 1
            $0.outstanding[header.request] = Peer.Outstanding(question: question, sentAt: now)
        }
        actions.append(.send(link, header, slice))
        return header.request
    }

    /// The server at the other end of one of our own connections: no two have the same.
    private func peer(on link: LinkID) -> PeerChannel? { peers.firstKey { $0.link == link } }

    /// `payload`: blocks that were fetched.
    mutating func answered(
        _ header: DataHeader, _ bytes: [UInt8], _ payload: PayloadID? = nil, on link: LinkID, _ now: Instant,
        _ actions: inout [ServerAction]
    ) {
        var unclaimed = payload
        defer { if let unclaimed { actions.append(.release(unclaimed)) } }
        guard let peer = peer(on: link), header.isReply else { return }
        if header.opcode == .hello {
            guard case .greeting = peers[peer]?.state, header.session == peers[peer]?.session else { return }
            if header.status == .ok {
                peers[peer]?.state = .open(link)
                tickForwards(now, &actions)
                tickRebuilds(now, &actions)
            } else {
                reconnect(peer, now, &actions)
            }
            return
        }
        guard header.session == peers[peer]?.session,
            case let outstanding?? = peers.change(peer, { $0.outstanding.removeValue(forKey: header.request) })
        else { return }
        switch outstanding.question {
        case .operation(let id, let slot):
            if isAwaiting(id, slot, header), operations[id]?.kind == .examine, header.status == .ok {
                operations[id]?.forwards[slot] = nil
                if let payload { operations[id]?.payload = payload }
                unclaimed = nil
                examinationAnswered(id, header, bytes, now, &actions)
            } else {
                forwardAnswered(id, slot, header, now, &actions)
            }
        case .begin(let key, let epoch): beginAnswered(key, epoch, header.status, now, &actions)
        case .list(let key, let epoch): listAnswered(key, epoch, header.status, bytes, now, &actions)
        case .remnants(let key, let epoch): remnantsAnswered(key, epoch, header.status, bytes, now, &actions)
        }
        if header.status == .staleSession { reconnect(peer, now, &actions) }
    }

    // MARK: Forwarding writes

    /// Where a write that starts now has to go besides the two copies: to a target that has the family already.
    func targetPlace(_ family: FamilyKey, _ key: CombKey) -> CopyPlace? {
        guard let comb = map.comb(key), let target = comb.target, let rebuild = rebuilds[key],
            rebuild.epoch == comb.epoch
        else { return nil }
        switch rebuild.phase {
        case .beginning, .listing, .aborted: return nil
        case .copying: return rebuild.remaining.contains(family) ? nil : target
        case .finishing: return target
        }
    }

    mutating func forward(_ id: UInt64, _ slot: Int, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let operation = operations[id], let place = operation.forwards[slot]?.place,
            let comb = map.comb(operation.comb)
        else { return }
        if operation.kind == .copyUnit, let step = operation.steps.first,
            !map.nodes(of: operation.unit.tree).contains(step.node)
        {
            // Its node is gone meanwhile, and the target, which may know, would not take it.
            operations[id]?.forwards[slot] = nil
            return stepDone(id, now, &actions)
        }
        var header = DataHeader(opcode: .replicate)
        header.volume = operation.unit.tree.rawValue
        header.node = operation.unit.node
        header.unit = operation.unit.index
        header.combEpoch = comb.epoch
        header.attachEpoch = operation.header.attachEpoch
        var range = operation.range
        switch operation.kind {
        case .clientWrite: header.flags = .payload
        case .clientZeroes:
            header.opcode = .replicateZeroes
            if operation.isUndoing { header.flags = .hole }
        case .examine:
            guard let question = examinationHeader(operation.unit) else { return }
            (header.opcode, header.flags, range) = question
        case .mergeDrop:
            header.opcode = .dropMerged
            header.node = operation.mergedNode ?? 0
            header.attachEpoch = UInt64(operation.unit.node)
        case .copyUnit, .mergeUnit:
            switch operation.steps.first {
            case .data(let run, let node), .damaged(let run, let node), .unreadable(let run, let node):
                header.opcode = .copy
                header.flags = .payload
                if operation.steps.first != .data(run, node: node), rules.contains(.damageStaysDamage) {
                    header.flags.insert(.damaged)
                }
                header.node = node
                range = run
            case .zeros(let hole, let node):
                header.opcode = .replicateZeroes
                header.node = node
                range = hole
            case .drop(let node):
                header.opcode = .dropUnit
                header.node = node
            case nil: return
            }
        case .clientRead, .clientMap, .replicaWrite, .replicaZeroes, .replicaDrop, .replicaRead:
            preconditionFailure("only writes have a second copy")
        }
        header.offset = range.offset
        header.length = range.length
        var slice: PayloadSlice?
        if header.flags.contains(.payload), let payload = operation.payload {
            slice = PayloadSlice(payload: payload, offset: 0, length: range.length)
        }
        // A write that waited for a copy which returns meanwhile comes to it after it has told what it has.
        if operation.kind.isClientsWrite, rebuilds[operation.comb]?.target == place,
            targetPlace(operation.unit.family, operation.comb) == nil
        {
            rebuilds[operation.comb]?.listed[operation.unit] = true
        }
        let channel = operation.channel(to: place)
        if let request = ask(channel, .operation(id, slot: slot), header, slice, now, &actions) {
            operations.change(id) { $0.forwards[slot]?.state = .sent(request: request, combEpoch: comb.epoch) }
        }
    }

    /// Whether the answer is to what was sent last.
    private func isAwaiting(_ id: UInt64, _ slot: Int, _ header: DataHeader) -> Bool {
        guard case .sent(let request, _) = operations[id]?.forwards[slot]?.state else { return false }
        return request == header.request
    }

    private mutating func forwardAnswered(
        _ id: UInt64, _ slot: Int, _ header: DataHeader, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        guard let operation = operations[id], let known = operation.forwards[slot],
            case .sent(let request, let epoch) = known.state, request == header.request
        else { return }
        switch header.status {
        case .ok:
            operations.change(id) { $0.forwards[slot] = nil }
            switch operation.kind {
            case .copyUnit: stepDone(id, now, &actions)
            case .mergeUnit: mergePartDone(id, now, &actions)
            case .mergeDrop: dropMerged(id, now, &actions)
            default: endIfDone(id, now, &actions)
            }
        case .staleComb:
            let isNewer = (map.comb(operation.comb)?.epoch ?? 0) > epoch
            operations[id]?.forwards[slot]?.state = .due(isNewer ? now : now + .milliseconds(20))
            if isNewer { forward(id, slot, now, &actions) }
        case .notReady, .staleSession, .overloaded:
            operations[id]?.forwards[slot]?.state = .due(now + .milliseconds(10))
        case .noSpace
        where operation.kind.isClientsWrite && isNeeded(known.place, operation.comb) && canUndo(operation, header):
            operations[id]?.forwards[slot] = nil
            operations[id]?.isRefused = true
            endIfDone(id, now, &actions)
        case .fenced, .readOnly, .invalid, .noSpace, .mediaError:
            if operation.kind == .examine {
                operations[id]?.forwards[slot] = nil
                return examinationRefused(id, header, now, &actions)
            }
            if operation.kind.isMerge { return mergeRefused(id, header.status, now, &actions) }
            operations[id]?.forwards[slot]?.state = .impossible
            giveUp(on: known.place, operation.comb, now, &actions)
        }
    }

    mutating func tickForwards(_ now: Instant, _ actions: inout [ServerAction]) {
        var overdue: Set<SdsID> = []
        for id in operations.keys.sorted() {
            for slot in Forwards.slots {
                guard let operation = operations[id], let known = operation.forwards[slot],
                    known.state != .afterIntent
                else { continue }
                if case .due(let moment) = known.state, now >= moment { forward(id, slot, now, &actions) }
                guard known.state == .impossible || now - known.since >= configuration.replicaTimeout else { continue }
                if operation.kind == .examine {
                    abandonExamination(operation.unit, now, &actions)
                    continue
                }
                if operation.kind.isMerge {
                    abandonMerge(id, now, &actions)
                    continue
                }
                if known.state != .impossible, overdue.insert(known.place.sds).inserted {
                    actions.append(.notice(.peerUnanswering(known.place.sds)))
                }
                giveUp(on: known.place, operation.comb, now, &actions)
                if !rules.contains(.removalBeforeLoneAcknowledgement), operation.kind != .copyUnit {
                    forgetForward(id, slot)
                    endIfDone(id, now, &actions)
                }
            }
        }
    }

    /// The second copy cannot follow. A target that is not in sync yet is simply left; a secondary, or a target that
    /// was already reported complete, counts until the manager has committed its removal.
    private mutating func giveUp(
        on place: CopyPlace, _ key: CombKey, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        guard let comb = map.comb(key), comb.secondary == place || comb.target == place else { return }
        if comb.target == place, let rebuild = rebuilds[key], rebuild.phase != .finishing {
            abort(key, now, &actions)
            return
        }
        if let asked = removalAsked[key], now - asked < .milliseconds(300) { return }
        removalAsked[key] = now
        if isManagerConnected {
            actions.append(.sendManager(.removeSecondary(key, epoch: comb.epoch, secondary: place)))
        }
    }

    /// A write in progress under a changed map.
    mutating func reviseRemote(
        _ id: UInt64, _ operation: Operation, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        let comb = map.comb(operation.comb)
        let isPrimary = comb?.primary.sds == sds && comb?.state != .unavailable
        let exists = map.volumes[VolumeID(rawValue: operation.header.volume)] != nil
        if let comb, isPrimary, exists {
            for slot in Forwards.slots {
                guard let place = operation.forwards[slot]?.place, comb.secondary != place, comb.target != place else {
                    continue
                }
                forgetForward(id, slot)
            }
        } else {
            if operation.failure == nil, let link = operation.link {
                let status: DataStatus = exists ? .staleComb : .notReady
                actions.append(.send(link, operation.header.reply(status), nil))
            }
            operations[id]?.failure = .staleComb
            for slot in Forwards.slots { forgetForward(id, slot) }
        }
        endIfDone(id, now, &actions)
    }

    /// Stops waiting for another copy.
    mutating func forgetForward(_ id: UInt64, _ slot: Int) {
        if let operation = operations[id] { forgetQuestion(operation, slot) }
        operations[id]?.forwards[slot] = nil
    }

    mutating func forgetQuestion(_ operation: Operation, _ slot: Int) {
        if let forward = operation.forwards[slot], case .sent(let request, _) = forward.state {
            peers[operation.channel(to: forward.place)]?.outstanding[request] = nil
        }
    }
}

extension ServerCore.Operation {
    /// Merges and what mends copies stay with the writes, from which nothing but the order of messages keeps them apart when they
    /// are given up under way. A copy that is given up ends the target with it.
    fileprivate func channel(to place: CopyPlace) -> PeerChannel {
        PeerChannel(place.sds, kind == .copyUnit ? .copying : .replication)
    }
}
