import Base

/// The units that a copy has of a comb, as it tells them to a primary: entries of 16 bytes, padded to whole blocks with
/// entries of tree 0.
enum UnitList {
    static let entryBytes = 16
    static let entriesMax = Int(Geometry.unitBytes) / entryBytes
    /// Numbers of nodes are below this: an entry has 31 bits for them.
    static let nodesMax: UInt32 = 1 << 31

    struct Entry: Equatable {
        var unit: UnitKey
        var isHot: Bool
    }

    static func encode(_ entries: ArraySlice<Entry>) -> [UInt8] {
        var writer = ByteWriter()
        for entry in entries {
            precondition(entry.unit.node < nodesMax, "a node with a number that fits")
            writer.put(entry.unit.tree)
            writer.put(entry.unit.index)
            writer.put(entry.unit.node << 1 | (entry.isHot ? 1 : 0))
        }
        let block = Int(Geometry.blockBytes)
        let size = max(1, (writer.bytes.count + block - 1) / block) * block
        return writer.bytes + [UInt8](repeating: 0, count: size - writer.bytes.count)
    }

    static func decode(_ bytes: [UInt8]) throws(WireError) -> [Entry] {
        guard bytes.count % entryBytes == 0 else { throw WireError(description: "a list of \(bytes.count) bytes") }
        var reader = ByteReader(bytes)
        var entries: [Entry] = []
        while reader.remaining > 0 {
            let tree = try reader.id(TreeID.self)
            let index = try reader.number(UInt32.self)
            let flags = try reader.number(UInt32.self)
            if tree.rawValue == 0 { break }
            let unit = UnitKey(tree: tree, node: flags >> 1, index: index)
            entries.append(Entry(unit: unit, isHot: flags & 1 == 1))
        }
        return entries
    }
}

/// Bringing a copy that returns up to date: what has to move, as docs/design/resync.md derives it.
extension ServerCore {
    // MARK: Source

    mutating func askForList(_ key: CombKey, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let rebuild = rebuilds[key], rebuild.phase == .listing, !rebuild.isAsking, now >= rebuild.nextTry else {
            return
        }
        let header = listHeader(key, epoch: rebuild.epoch, from: rebuild.listedEntries)
        let channel = PeerChannel(rebuild.target.sds, .copying)
        if ask(channel, .list(key, epoch: rebuild.epoch), header, nil, now, &actions) != nil {
            rebuilds[key]?.isAsking = true
        }
    }

    /// Asks for what the second copy has of a comb, from the entry of that number on.
    func listHeader(_ key: CombKey, epoch: UInt64, from first: UInt64) -> DataHeader {
        var header = DataHeader(opcode: .listUnits)
        header.volume = key.pool.rawValue
        header.unit = key.index
        header.combEpoch = epoch
        header.attachEpoch = first
        return header
    }

    mutating func listAnswered(
        _ key: CombKey, _ epoch: UInt64, _ status: DataStatus, _ bytes: [UInt8], _ now: Instant,
        _ actions: inout [ServerAction]
    ) {
        guard let rebuild = rebuilds[key], rebuild.epoch == epoch, rebuild.phase == .listing else { return }
        rebuilds[key]?.isAsking = false
        guard status == .ok, let entries = try? UnitList.decode(bytes) else {
            rebuilds[key]?.nextTry = now + .milliseconds(20)
            return
        }
        rebuilds[key]?.progressAt = now
        rebuilds[key]?.listedEntries += UInt64(entries.count)
        for entry in entries where map.combKey(of: entry.unit) == key {
            rebuilds[key]?.listed[entry.unit] = entry.isHot
        }
        if entries.count == UnitList.entriesMax {
            askForList(key, now, &actions)
        } else {
            startCopying(key, now, &actions)
        }
    }

    /// Decides what has to be copied. From now on every write to any other unit goes to the target too.
    mutating func startCopying(_ key: CombKey, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let rebuild = rebuilds[key], let primary = map.comb(key)?.primary,
            let store = storeIndex(primary.device)
        else { return }
        let own = units(of: key, in: store)
        var lacking = Set(own.map(\.family))
        let families = lacking.count
        if let since = rebuild.since {
            let changed = own.filter { unit in
                guard let isHot = rebuild.listed[unit] else { return rules.contains(.survivorsListIsTruth) }
                if isHot, rules.contains(.resyncOfTargetsIntents) { return true }
                return stores[store].isDirty(
                    unit, since: since, countingIntents: rules.contains(.resyncOfSurvivorsIntents))
            }
            lacking = Set(changed.map(\.family))
            if rules.contains(.survivorsListIsTruth) {
                for unit in rebuild.listed.keys where stores[store].location(of: unit) == nil {
                    lacking.insert(unit.family)
                }
            }
        }
        rebuilds[key]?.phase = .copying
        rebuilds[key]?.remaining = lacking
        rebuilds[key]?.order = lacking.sorted(by: >)
        if !rules.contains(.stableBeforeMove), map.comb(key)?.secondary != nil {
            rebuilds[key]?.remaining = []
            rebuilds[key]?.order = []
        }
        actions.append(
            .notice(.copying(key, to: rebuild.target, since: rebuild.since, units: lacking.count, of: families)))
        copyNext(key, store, now, &actions)
    }

    // MARK: Second copy

    mutating func listUnits(
        _ header: DataHeader, from sender: SdsID, on link: LinkID, _ actions: inout [ServerAction]
    ) {
        let key = CombKey(pool: StoragePoolID(rawValue: header.volume), index: header.unit)
        guard let comb = map.comb(key), comb.epoch == header.combEpoch, comb.primary.sds == sender,
            let place = listedPlace(key, comb), let store = storeIndex(place.device), stores[store].stopReason == nil
        else {
            actions.append(.send(link, header.reply(.staleComb), nil))
            return
        }
        let units = units(of: key, in: store)
        let first = Int(min(header.attachEpoch, UInt64(units.count)))
        let page = units[first..<min(first + UnitList.entriesMax, units.count)].map {
            UnitList.Entry(unit: $0, isHot: stores[store].isHot($0))
        }
        let bytes = UnitList.encode(page[...])
        var answer = header.reply(.ok)
        answer.flags.insert(.payload)
        answer.length = UInt32(bytes.count)
        actions.append(.sendBytes(link, answer, bytes))
    }

    /// What the device has of a comb, in order.
    func units(of key: CombKey, in store: Int) -> [UnitKey] {
        guard let combCount = map.pools[key.pool]?.combs.count else { return [] }
        return stores[store].units(inComb: key.index, of: UInt32(combCount)) { map.combKey(of: $0) == key }
    }

    /// This server's copy, if it is one that a primary may ask for a list of: a target that keeps its units, or the second copy.
    private func listedPlace(_ key: CombKey, _ comb: Comb) -> CopyPlace? {
        if readyTargets[key] == comb.epoch, let target = comb.target { return target }
        if case .normal(let secondary) = comb.state, secondary.sds == sds { return secondary }
        return nil
    }
}
