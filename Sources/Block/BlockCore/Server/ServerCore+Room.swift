import Base

/// Devices without room. A write that needs a new unit is refused with `noSpace` when one of the copies cannot bind it; it is
/// then on none of them. Everything else goes on: reads, writes to units that are bound, zeroing and discards.
extension ServerCore {
    /// Units of the device that this operation has to leave free: the spare, and what thick volumes were promised. Copies between
    /// devices may use all.
    func spare(for operation: Operation) -> UInt32 {
        guard operation.kind == .clientWrite || operation.header.opcode == .replicate else { return 0 }
        var spare: UInt64 = 0
        if rules.contains(.spareIsForCopies) {
            spare += UInt64(map.pools[operation.comb.pool]?.spare(of: stores[operation.store].label.capacityUnits) ?? 0)
        }
        if rules.contains(.promisesAreKept) { spare += stores[operation.store].promised(besides: operation.unit) }
        return UInt32(clamping: spare)
    }

    /// Tells the devices what thick volumes may still want of them.
    mutating func promise(_ changes: ClusterMap.Changes) {
        guard changes.isThickDifferent || !changes.combs.isEmpty && !map.thickUnits.isEmpty else { return }
        var placed: [DeviceID: UInt64] = [:]
        for (pool, units) in map.thickUnits {
            for (comb, count) in zip(map.pools[pool]?.combs ?? [], units) where comb.isPlaced {
                for place in comb.places where place.sds == sds { placed[place.device, default: 0] += UInt64(count) }
            }
        }
        for index in stores.indices {
            stores[index].promise(
                changes.isThickDifferent ? map.thickTrees : nil, placed: placed[devices[index]] ?? 0)
        }
    }

    /// Whether a write has to be on this other copy. A target that only evens the pool is left instead.
    func isNeeded(_ place: CopyPlace, _ key: CombKey) -> Bool {
        guard let comb = map.comb(key) else { return false }
        if case .moving(_, place) = comb.state { return rebuilds[key]?.phase == .finishing }
        return comb.secondary == place || comb.target == place
    }

    /// The unit is not here, and there is no room for it. A primary hears whether these blocks read as zeros here.
    mutating func refuseForSpace(
        _ id: UInt64, _ operation: Operation, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        guard operation.kind == .replicaWrite || operation.kind == .replicaZeroes, let link = operation.link,
            !showsAncestors(operation)
        else { return reject(id, .noSpace, now, &actions) }
        var answer = operation.header.reply(.noSpace)
        answer.flags.insert(.zeros)
        actions.append(.send(link, answer, nil))
        remove(id, now, &actions)
    }

    /// Whether holes make this copy equal to the one that has refused. They do not where the other one has forgotten what is
    /// merged into the unit, and zeros hid it here: holes would show it. Such a copy is given up.
    func canUndo(_ operation: Operation, _ refusal: DataHeader) -> Bool {
        !refusal.flags.contains(.zeros) || !showsAncestors(operation)
    }

    /// Whether holes of the unit would show something in the range.
    private func showsAncestors(_ operation: Operation) -> Bool {
        let below = map.ancestors(of: operation.unit)
        return !stores[operation.store].shown(to: operation.unit, by: below).isEmpty(in: operation.range)
    }

    /// Another copy has refused a write that is done here. It refused because it has nothing of the unit, so holes make the
    /// copies equal again (`canUndo`). Readers have waited.
    mutating func undo(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        operations[id]?.kind = .clientZeroes
        operations[id]?.isUndoing = true
        guard let operation = operations[id] else { return }
        startParts(id, operation, now, &actions)
    }
}
