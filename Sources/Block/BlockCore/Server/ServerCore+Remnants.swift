import Base

/// Units of a node that goes which only the second copy has: its part in the comb was exchanged with the primary's between the
/// two copies' forgetting (docs/design/snapshots.md, 4). Who leads a comb after another asks its second copy once what it has.
extension ServerCore {
    /// A comb that was led by another before.
    struct Inherited {
        /// For these the second copy has nothing left.
        var clearedFor: [TreeID: NodeMerge] = [:]
    }

    /// The list that is being fetched.
    struct RemnantSearch {
        var key: CombKey
        var epoch: UInt64
        var merges: [TreeID: NodeMerge]
        var listedEntries: UInt64 = 0
        var isAsked = false
        /// A unit was seen that has to go now, and one of a node that may have to later.
        var foundDue = false
        var foundOther = false
    }

    /// Units to be forgotten of one comb at once; the rest is found when these are gone.
    private static let remnantsMax = 1024

    mutating func noteLead(_ key: CombKey, before: Comb?) {
        guard let comb = map.comb(key), comb.primary.sds == sds, comb.secondary != nil else {
            // A copy that is made, or returns, gets what the primary has and nothing else.
            merging.inherited[key] = nil
            return
        }
        if before?.primary.sds != sds { merging.inherited[key] = Inherited() }
    }

    /// Looks at one comb at a time.
    mutating func askForRemnants(_ now: Instant, _ actions: inout [ServerAction]) {
        guard rules.contains(.remnantsAreAskedFor) else { return }
        if let search = merging.search, map.comb(search.key)?.epoch != search.epoch { merging.search = nil }
        if merging.search == nil, now >= merging.nextSearch {
            let due = merging.inherited.keys.sorted().first { key in
                guard let comb = map.comb(key), case .normal = comb.state else { return false }
                return merging.inherited[key]?.clearedFor != map.merges
            }
            guard let key = due, let comb = map.comb(key) else { return }
            merging.search = RemnantSearch(key: key, epoch: comb.epoch, merges: map.merges)
        }
        guard let search = merging.search, !search.isAsked, let secondary = map.comb(search.key)?.secondary else {
            return
        }
        let header = listHeader(search.key, epoch: search.epoch, from: search.listedEntries)
        let question = Peer.Question.remnants(search.key, epoch: search.epoch)
        let isAsked = ask(PeerChannel(secondary.sds), question, header, nil, now, &actions) != nil
        merging.search?.isAsked = isAsked
    }

    mutating func remnantsAnswered(
        _ key: CombKey, _ epoch: UInt64, _ status: DataStatus, _ bytes: [UInt8], _ now: Instant,
        _ actions: inout [ServerAction]
    ) {
        guard let search = merging.search, search.key == key, search.epoch == epoch, search.isAsked else { return }
        merging.search?.isAsked = false
        guard status == .ok, let entries = try? UnitList.decode(bytes), map.comb(key)?.epoch == epoch,
            let store = map.comb(key).flatMap({ storeIndex($0.primary.device) })
        else {
            // Its map is older, or ours.
            merging.search = nil
            merging.nextSearch = now + configuration.mergeInterval
            return
        }
        for entry in entries where map.combKey(of: entry.unit) == key {
            let unit = entry.unit
            guard stores[store].location(of: unit) == nil, let tree = map.trees[unit.tree] else { continue }
            if map.merges[unit.tree]?.node != unit.node {
                if tree.hasChildren(unit.node) { merging.search?.foundOther = true }
            } else if merging.remnants.count < ServerCore.remnantsMax {
                merging.search?.foundDue = true
                if merging.remnants.insert(unit).inserted { merging.backlog.append(unit) }
            }
        }
        merging.search?.listedEntries += UInt64(entries.count)
        if entries.count < UnitList.entriesMax { endSearch(now) }
    }

    private mutating func endSearch(_ now: Instant) {
        guard let search = merging.search else { return }
        merging.search = nil
        if search.foundDue {
            merging.nextSearch = now + configuration.mergeInterval
        } else if search.foundOther {
            merging.inherited[search.key]?.clearedFor = search.merges
        } else {
            merging.inherited[search.key] = nil
        }
    }
}
