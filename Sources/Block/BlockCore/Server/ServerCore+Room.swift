import Base

/// Devices without room. A write that needs a new unit is refused with `noSpace` when one of the copies cannot bind it; it is
/// then on none of them. Everything else goes on: reads, writes to units that are bound, zeroing and discards.
extension ServerCore {
    /// Units of the device that this operation has to leave free. Copies between devices may use all: the spare is theirs.
    func spare(for operation: Operation) -> UInt32 {
        let isClients = operation.kind == .clientWrite || operation.header.opcode == .replicate
        guard isClients, rules.contains(.spareIsForCopies) else { return 0 }
        return map.pools[operation.comb.pool]?.spare(of: stores[operation.store].label.capacityUnits) ?? 0
    }

    /// Whether a write has to be on this other copy. A target that only evens the pool is left instead.
    func isNeeded(_ place: CopyPlace, _ key: CombKey) -> Bool {
        guard let comb = map.comb(key) else { return false }
        if case .moving(_, place) = comb.state { return rebuilds[key]?.phase == .finishing }
        return comb.secondary == place || comb.target == place
    }

    /// Another copy has refused a write that is done here. It refused because it has nothing of the unit, so these blocks were
    /// holes on every copy, and holes make the copies equal again. Readers have waited.
    mutating func undo(_ id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        operations[id]?.kind = .clientZeroes
        operations[id]?.isUndoing = true
        guard let operation = operations[id] else { return }
        startParts(id, operation, now, &actions)
    }
}
