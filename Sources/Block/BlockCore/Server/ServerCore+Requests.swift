import Base

extension ServerCore {
    mutating func receive(
        _ header: DataHeader, _ payload: PayloadID?, on link: LinkID, _ now: Instant,
        _ actions: inout [ServerAction]
    ) {
        func refuse(_ status: DataStatus, closing: Bool = false) {
            if let payload { actions.append(.release(payload)) }
            actions.append(.send(link, header.reply(status), nil))
            if closing { actions.append(.close(link)) }
        }
        if header.isReply { return violation(link, "an answer without a question", payload, &actions) }
        if header.opcode == .hello {
            if let payload { actions.append(.release(payload)) }
            return hello(header, on: link, now, &actions)
        }
        guard let peer = inbound[link] else { return refuse(.staleSession, closing: true) }
        if header.session != peer.session || (sessions[peer.peer] != peer.session && rules.contains(.sessionFencing)) {
            return refuse(.staleSession, closing: true)
        }
        // A request that was already seen on this session is a duplicate: its answer is on the way.
        if header.request <= peer.lastRequest, rules.contains(.sessionFencing) {
            if let payload { actions.append(.release(payload)) }
            return
        }
        inbound.change(link) { $0.lastRequest = header.request }
        switch header.opcode {
        case .ping, .flush: refuse(.ok)
        case .beginCopy:
            guard let sender = peer.peer.server else { return refuse(.invalid) }
            if let payload { actions.append(.release(payload)) }
            beginCopy(header, from: sender, on: link, &actions)
        case .listUnits:
            guard let sender = peer.peer.server else { return refuse(.invalid) }
            if let payload { actions.append(.release(payload)) }
            listUnits(header, from: sender, on: link, &actions)
        case .read, .write, .writeZeroes, .map, .replicate, .replicateZeroes, .copy, .dropUnit, .dropMerged,
            .fetch, .verify:
            admit(header, payload, peer.peer.server.map { .server($0) } ?? peer.peer, on: link, now, &actions)
        case .hello: preconditionFailure("answered above")
        }
    }

    private mutating func violation(
        _ link: LinkID, _ text: String, _ payload: PayloadID?, _ actions: inout [ServerAction]
    ) {
        if let payload { actions.append(.release(payload)) }
        actions.append(.notice(.protocolViolation(link, text)))
        actions.append(.close(link))
        inbound[link] = nil
    }

    /// Opens a session. Older sessions of the same peer end here: what they have begun keeps its blocks until it is
    /// done, so that the new session's requests come after it; what waits is dropped, and nothing more is accepted.
    private mutating func hello(
        _ header: DataHeader, on link: LinkID, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        guard let kind = PeerKind(rawValue: header.offset), header.volume != 0, header.session != 0 else {
            return violation(link, "a malformed hello", nil, &actions)
        }
        let key: PeerKey =
            switch kind {
            case .client: .client(SdcID(rawValue: header.volume))
            case .server: .server(SdsID(rawValue: header.volume))
            case .copyingServer: .copyingServer(SdsID(rawValue: header.volume))
            }
        if rules.contains(.sessionFencing) {
            guard header.session > sessions[key] ?? 0 else {
                actions.append(.send(link, header.reply(.staleSession), nil))
                actions.append(.close(link))
                return
            }
            for old in inbound.keys.sorted() where inbound[old]?.peer == key && old != link {
                for id in operations.keys.sorted() where operations[id]?.link == old {
                    if operations[id]?.isStarted == false { remove(id, now, &actions) }
                }
                inbound[old] = nil
                actions.append(.close(old))
            }
        }
        sessions[key] = max(header.session, sessions[key] ?? 0)
        inbound[link] = Inbound(peer: key, session: header.session)
        actions.append(.send(link, header.reply(.ok), nil))
    }

    private mutating func admit(
        _ header: DataHeader, _ payload: PayloadID?, _ peer: PeerKey, on link: LinkID, _ now: Instant,
        _ actions: inout [ServerAction]
    ) {
        let range = BlockRange(offset: header.offset, length: header.length)
        let hasBytes = payload != nil && header.flags.contains(.payload)
        let status: DataStatus?
        let kind: Operation.Kind
        switch (header.opcode, peer) {
        case (.read, .client): (kind, status) = (.clientRead, nil)
        case (.write, .client): (kind, status) = (.clientWrite, hasBytes ? nil : .invalid)
        case (.writeZeroes, .client): (kind, status) = (.clientZeroes, nil)
        case (.map, .client): (kind, status) = (.clientMap, range == .wholeUnit ? nil : .invalid)
        case (.replicate, .server), (.copy, .server): (kind, status) = (.replicaWrite, hasBytes ? nil : .invalid)
        case (.replicateZeroes, .server): (kind, status) = (.replicaZeroes, nil)
        // What is forgotten is whole units: under less than its lock a write could still be under way there.
        case (.dropUnit, .server): (kind, status) = (.replicaDrop, range == .wholeUnit ? nil : .invalid)
        case (.dropMerged, .server):
            let isOther = header.attachEpoch != UInt64(header.node)
            (kind, status) = (.replicaDrop, range == .wholeUnit && isOther ? nil : .invalid)
        case (.fetch, .server): (kind, status) = (.replicaRead, nil)
        case (.verify, .server): (kind, status) = (.replicaRead, range == .wholeUnit ? nil : .invalid)
        default: (kind, status) = (.clientRead, .invalid)
        }
        var refusal = range == nil ? .invalid : status
        let (unit, key) = meaning(of: header, peer) ?? (nil, nil)
        if key == nil, refusal == nil { refusal = .notReady }
        var place: CopyPlace?
        if refusal == nil, let key {
            switch peer {
            case .client:
                refusal = self.refusal(of: header, link, key, isWrite: kind.isClientsWrite)
                if refusal == nil, let comb = map.comb(key), comb.epoch != header.combEpoch {
                    refusal = comb.epoch < header.combEpoch ? .notReady : .staleComb
                }
                place = map.comb(key)?.primary
            case .server(let sender), .copyingServer(let sender):
                refusal = replicaRefusal(header, key, from: sender)
                place = ownPlace(key)
            }
        }
        if refusal == nil, case .client = peer, clientOperations >= configuration.requestsMax { refusal = .overloaded }
        let store = place.flatMap { storeIndex($0.device) }
        if store == nil, refusal == nil { refusal = .notReady }
        // What cannot be told from data must not become data.
        if refusal == nil, let store, header.flags.contains(.damaged), !stores[store].keepsChecksums {
            refusal = .mediaError
        }
        guard refusal == nil, let range, let unit, let key, let store else {
            if let payload { actions.append(.release(payload)) }
            actions.append(.send(link, header.reply(refusal ?? .invalid), nil))
            return
        }
        enqueue(
            Operation(
                kind: kind, link: link, header: header, payload: payload, unit: unit, range: range,
                comb: key, store: store), now, &actions)
    }

    /// A client names its volume, a server the unit itself: the two copies cannot disagree about it.
    private func meaning(of header: DataHeader, _ peer: PeerKey) -> (unit: UnitKey?, key: CombKey?)? {
        switch peer {
        case .client: map.place(of: VolumeID(rawValue: header.volume), at: header.unit).map { ($0.unit, $0.key) }
        case .server, .copyingServer: map.combKey(of: header.unitKey).map { (header.unitKey, $0) }
        }
    }

    /// The device of this server that takes part in the comb other than as its primary.
    private func ownPlace(_ key: CombKey) -> CopyPlace? {
        guard let comb = map.comb(key) else { return nil }
        for place in [comb.secondary, comb.target, comb.primary] {
            if let place, place.sds == sds { return place }
        }
        return nil
    }

    /// Why a primary's message to its second copy may not be obeyed.
    func replicaRefusal(_ header: DataHeader, _ key: CombKey, from sender: SdsID?) -> DataStatus? {
        guard let comb = map.comb(key) else { return .notReady }
        if !rules.contains(.combEpochAtSecondary) { return ownPlace(key) == nil ? .staleComb : nil }
        if header.combEpoch > comb.epoch { return .notReady }
        if header.combEpoch < comb.epoch { return .staleComb }
        if let sender, comb.primary.sds != sender { return .staleComb }
        if comb.secondary?.sds == sds { return nil }
        if comb.target?.sds == sds { return readyTargets[key] == comb.epoch ? nil : .notReady }
        return .staleComb
    }
}
