import Base

/// A server's part in taking snapshots of several volumes at one moment: it holds up their writes until it has learned where the
/// next ones go, and tells whether it kept to that (docs/design/snapshots.md).
///
/// Invariants:
/// - No write is held up for longer than `cutHoldTime`, whatever the manager does.
/// - Who says *intact* at the end has begun no write to these volumes from *sealed* until it learned their new heads.
extension ServerCore {
    struct Cut {
        var id: UInt64
        /// Where writes to these volumes go before it.
        var heads: [VolumeID: UInt32]
        var holdsUntil: Instant
        var isHolding = true
        var isHeldTold = false
        var isSealed = false
        /// A write has begun after all.
        var isDisturbed = false
        var hasSwitched = false
    }

    mutating func take(_ step: CutStep, of id: UInt64, _ now: Instant, _ actions: inout [ServerAction]) {
        switch step {
        case .hold(let volumes):
            endCut(now, &actions)
            var heads: [VolumeID: UInt32] = [:]
            for volume in volumes { heads[volume] = map.volumes[volume]?.head }
            cut = Cut(id: id, heads: heads, holdsUntil: now + configuration.cutHoldTime)
            if heads.count < volumes.count { return endCut(now, &actions) }
            tellHeld(&actions)
        case .seal:
            let isIntact = cut.map { $0.id == id && $0.isHolding && $0.isHeldTold } ?? false
            if isIntact { cut?.isSealed = true }
            answer(.sealed, id, isIntact, &actions)
        case .conclude:
            let isIntact = cut.map { $0.id == id && $0.isSealed && $0.hasSwitched && !$0.isDisturbed } ?? false
            if cut?.id == id { endCut(now, &actions) }
            answer(.concluded, id, isIntact, &actions)
        case .release: if cut?.id == id { endCut(now, &actions) }
        }
    }

    private func answer(_ step: CutAnswer, _ id: UInt64, _ isIntact: Bool, _ actions: inout [ServerAction]) {
        actions.append(.sendManager(.cut(id, step, isIntact: isIntact)))
    }

    private func isConcerned(_ operation: Operation) -> Bool {
        cut?.heads[VolumeID(rawValue: operation.header.volume)] != nil
    }

    /// Whether a client's write has to wait.
    func isCutting(_ operation: Operation) -> Bool { cut?.isHolding == true && isConcerned(operation) }

    /// Once nothing of these volumes is being written.
    mutating func tellHeld(_ actions: inout [ServerAction]) {
        guard let known = cut, known.isHolding, !known.isHeldTold else { return }
        let isWriting = operations.values.contains { $0.isStarted && $0.kind.isClientsWrite && isConcerned($0) }
        if isWriting { return }
        cut?.isHeldTold = true
        answer(.held, known.id, true, &actions)
    }

    /// A client's write begins: one that nothing holds up any more, although the new heads are not known.
    mutating func noteForCut(_ operation: Operation) {
        guard cut != nil, cut?.hasSwitched == false, isConcerned(operation), rules.contains(.sealedCutsNoteWrites)
        else {
            return
        }
        cut?.isDisturbed = true
    }

    /// What was held up goes on to the new heads.
    mutating func switchHeads(_ now: Instant, _ actions: inout [ServerAction]) {
        guard let known = cut, !known.hasSwitched,
            known.heads.contains(where: { map.volumes[$0.key].map(\.head) ?? $0.value != $0.value })
        else { return }
        cut?.hasSwitched = true
        endHold(now, &actions)
    }

    private mutating func endHold(_ now: Instant, _ actions: inout [ServerAction]) {
        guard cut?.isHolding == true else { return }
        let families = operations.keys.sorted().compactMap { operations[$0] }
            .filter { !$0.isStarted && isConcerned($0) }.map(\.unit.family)
        cut?.isHolding = false
        for family in families { startReady(family, now, &actions) }
    }

    mutating func endCut(_ now: Instant, _ actions: inout [ServerAction]) {
        endHold(now, &actions)
        cut = nil
    }

    mutating func tickCut(_ now: Instant, _ actions: inout [ServerAction]) {
        if let known = cut, known.isHolding, now >= known.holdsUntil { endHold(now, &actions) }
    }
}
