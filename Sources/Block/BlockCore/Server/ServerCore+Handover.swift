import Base

/// A primary that is to exchange its part with its secondary: it finishes the writes that it has begun and begins none, so that
/// both copies are equal when the other one takes over.
extension ServerCore {
    struct Handover {
        var epoch: UInt64
        var nextTell: Instant
    }

    /// Whether a client's write to the comb has begun and not ended.
    public func isChanging(_ key: CombKey) -> Bool {
        operations.values.contains { $0.comb == key && $0.isStarted && $0.kind.isClientsWrite }
    }

    /// Whether writes to the comb have to wait.
    func isHolding(_ key: CombKey) -> Bool { handovers[key] != nil && rules.contains(.drainBeforeSwap) }

    mutating func reviseHandover(_ key: CombKey, _ comb: Comb, _ now: Instant, _ actions: inout [ServerAction]) {
        if let handover = handovers[key], handover.epoch != comb.epoch {
            handovers[key] = nil
            // What was held back goes on: here, or refused to whoever has to ask the new primary.
            var families: [FamilyKey] = []
            for id in operations.keys.sorted() {
                guard let operation = operations[id], operation.comb == key, !operation.isStarted else { continue }
                if families.last != operation.unit.family { families.append(operation.unit.family) }
            }
            for family in families { startReady(family, now, &actions) }
        }
        guard comb.primary.sds == sds, case .swapping = comb.state, handovers[key] == nil else { return }
        handovers[key] = Handover(epoch: comb.epoch, nextTell: now)
        tellDrained(key, now, &actions)
    }

    /// Tells the manager once nothing is under way; again until it has decided.
    mutating func tellDrained(_ key: CombKey, _ now: Instant, _ actions: inout [ServerAction]) {
        guard let handover = handovers[key], isManagerConnected, now >= handover.nextTell else { return }
        if rules.contains(.drainBeforeSwap), isChanging(key) { return }
        handovers[key]?.nextTell = now + .milliseconds(500)
        resign(key, handover.epoch, repeating: nil, now)
        actions.append(.sendManager(.drained(key, epoch: handover.epoch)))
    }

    mutating func tickHandovers(_ now: Instant, _ actions: inout [ServerAction]) {
        for key in handovers.keys.sorted() { tellDrained(key, now, &actions) }
    }
}
