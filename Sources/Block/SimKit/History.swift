import Base
import BlockCore
import Linearizability

/// What clients did to blocks and saw of them, and whether one order of everything explains it.
///
/// Every 4 KiB block is a register, and every written value is unique but zero (see `RegisterHistory`).
struct History {
    struct Block: Hashable, Comparable {
        var volume: VolumeID
        var number: UInt64

        static func < (left: Block, right: Block) -> Bool {
            (left.volume, left.number) < (right.volume, right.number)
        }
    }

    struct Write {
        var value: UInt64
        var epoch: UInt64
        var invoked: UInt64
        /// When it was acknowledged, or the last moment at which it may have taken effect.
        var ended: UInt64 = .max
        var isAcknowledged = false
    }

    struct Read {
        var value: UInt64
        var epoch: UInt64
        var invoked: UInt64
        var ended: UInt64
    }

    /// Whose snapshot a volume is, and when it was taken: between these moments, with the others of its group.
    struct Origin {
        var source: VolumeID
        var group: UInt64
        var from: UInt64
        var to: UInt64
    }

    struct Register {
        var writes: [UInt64: Write] = [:]
        /// By numbers that no value has.
        var zeroings: [UInt64: Write] = [:]
        var reads: [Read] = []
    }

    private(set) var registers: [Block: Register] = [:]
    /// When units fell back to an older state.
    private var losses: [VolumeID: [UInt32: [UInt64]]] = [:]
    private var fences: [VolumeID: [(epoch: UInt64, kept: Set<UInt64>, at: UInt64)]] = [:]
    /// Of volumes that are snapshots.
    private(set) var origins: [VolumeID: Origin] = [:]
    /// Of volumes that were overwritten: the names under which they go on.
    private var lineages: [VolumeID: VolumeID] = [:]
    private(set) var acknowledgedWrites = 0
    private(set) var finishedReads = 0
    private(set) var violation: String?

    /// From `at` on, rights older than `epoch` must be without effect, but for those of the epochs in `kept`.
    mutating func fence(_ volume: VolumeID, _ epoch: UInt64, keeping kept: Set<UInt64>, at: UInt64) {
        fences[lineage(of: volume), default: []].append((epoch, kept, at))
    }

    /// Whether a write of the block is under way, or has ended unanswered, whose right is another one that still holds. If it is
    /// sent again, or was and is on its way, it may take effect after what is written now. `rights`: those that may hold, if
    /// that is known.
    func isContested(_ block: Block, by epoch: UInt64, rights: Set<UInt64>?) -> Bool {
        guard let register = registers[block] else { return false }
        func contests(_ write: Write) -> Bool {
            !write.isAcknowledged && write.epoch != epoch && rights?.contains(write.epoch) != false
                && fencedAt(block.volume, write.epoch) == .max
        }
        return register.writes.values.contains(where: contests) || register.zeroings.values.contains(where: contests)
    }

    /// From `at` on the unit may hold what it held at any one moment before, each block by itself.
    mutating func lost(_ volume: VolumeID, _ unit: UInt32, at: UInt64) {
        losses[volume, default: [:]][unit, default: []].append(at)
    }

    private func fencedAt(_ volume: VolumeID, _ epoch: UInt64) -> UInt64 {
        fences[volume, default: []].filter { $0.epoch > epoch && !$0.kept.contains(epoch) }.map(\.at).min() ?? .max
    }

    mutating func appeared(_ snapshot: VolumeID, of source: VolumeID, group: UInt64, from: UInt64, to: UInt64) {
        origins[snapshot] = Origin(source: lineage(of: source), group: group, from: from, to: to)
    }

    /// What the volume is called here by now.
    func lineage(of volume: VolumeID) -> VolumeID { lineages[volume] ?? volume }

    /// At a moment between `from` and `to` the source was cut, and at `to` the volume began to show that; rights older than
    /// `epoch` are without effect.
    mutating func overwritten(
        _ volume: VolumeID, from source: VolumeID, fencing epoch: UInt64, since from: UInt64, at to: UInt64
    ) {
        fence(volume, epoch, keeping: [], at: to)
        // No group and no volume has such a number.
        let number = UInt64.max - UInt64(origins.count)
        let next = VolumeID(rawValue: number)
        origins[next] = Origin(source: lineage(of: source), group: number, from: from, to: to)
        lineages[volume] = next
        fence(volume, epoch, keeping: [], at: to)
    }

    mutating func began(_ block: Block, _ value: UInt64, _ epoch: UInt64, at: UInt64) {
        registers[block, default: Register()].writes[value] = Write(value: value, epoch: epoch, invoked: at)
    }

    mutating func beganZeroing(_ block: Block, _ number: UInt64, _ epoch: UInt64, at: UInt64) {
        registers[block, default: Register()].zeroings[number] = Write(value: 0, epoch: epoch, invoked: at)
    }

    /// A write of this value, or the zeroing of this number.
    mutating func acknowledged(_ block: Block, _ value: UInt64, at: UInt64) {
        acknowledgedWrites += 1
        guard let write = registers[block]?.writes[value] ?? registers[block]?.zeroings[value] else { return }
        registers[block]?.writes[value]?.ended = at
        registers[block]?.writes[value]?.isAcknowledged = true
        registers[block]?.zeroings[value]?.ended = at
        registers[block]?.zeroings[value]?.isAcknowledged = true
        if write.invoked > fencedAt(block.volume, write.epoch) {
            violation = violation ?? "a write begun after its right was proven fenced was acknowledged: \(block)"
        }
    }

    mutating func saw(_ block: Block, _ value: UInt64, _ epoch: UInt64, from invoked: UInt64, to ended: UInt64) {
        finishedReads += 1
        // A fenced reader may see what was: without a lease only its writes are worth refusing.
        if ended > fencedAt(block.volume, epoch) { return }
        registers[block, default: Register()].reads.append(
            Read(value: value, epoch: epoch, invoked: invoked, ended: ended))
    }

    mutating func check() -> String? {
        if violation != nil { return violation }
        for block in registers.keys.sorted() {
            if let register = registers[block], let problem = check(register, block) {
                violation = "block \(block.number) of \(block.volume): \(problem)"
                return violation
            }
        }
        violation = checkCuts()
        return violation
    }

    private func check(_ register: Register, _ block: Block) -> String? {
        let unit = UInt32(block.number / UInt64(Geometry.blocksPerUnit))
        let losses = losses[block.volume]?[unit] ?? []
        var start: UInt64 = 0
        for end in losses + [.max] {
            if let problem = check(register, block, since: start, until: end) { return problem }
            start = end
        }
        return nil
    }

    /// Between two losses: what the block holds at the beginning is one of the values of before, and the rest is as always. What
    /// was under way at a loss may have happened before it, after it, or both.
    private func check(_ register: Register, _ block: Block, since start: UInt64, until end: UInt64) -> String? {
        var history = RegisterHistory()
        var past: Set<UInt64> = []
        let writes = [register.writes, register.zeroings].flatMap { writes in
            writes.keys.sorted().compactMap { writes[$0] }
        }
        for write in writes where write.invoked < end {
            let last = min(write.ended, fencedAt(block.volume, write.epoch))
            if write.invoked < start { past.insert(write.value) }
            guard last >= start else { continue }
            history.write(
                write.value, from: max(write.invoked, start), to: last,
                isCertain: write.isAcknowledged && write.invoked >= start && write.ended < end)
        }
        // Volumes that are snapshots suffer no losses: runs have either.
        switch inherited(block) {
        case .success(nil): break
        case .success(let initial?):
            history.write(initial.value, from: initial.invoked, to: initial.ended, isCertain: true)
        case .failure(let problem): return problem.text
        }
        let reads = register.reads.filter { $0.invoked >= start && $0.ended < end }
        for read in reads { history.read(read.value, from: read.invoked, to: read.ended) }
        guard start > 0 else { return history.violation().map { "\($0)" } }
        return violation(of: history, beginningWithOneOf: past, seenBy: reads, at: start)
    }

    /// Nil if one of the values explains everything as what was there at `start`.
    private func violation(
        of history: RegisterHistory, beginningWithOneOf past: Set<UInt64>, seenBy reads: [Read], at start: UInt64
    ) -> String? {
        // A value that nobody saw explains as much as any other.
        let unseen: UInt64 = .max
        var problem: String?
        for value in Set(reads.map(\.value)).intersection(past).sorted() + [RegisterHistory.blank, unseen] {
            var whole = history
            guard whole.begin(with: value, at: start) else { continue }
            guard let found = whole.violation() else { return nil }
            problem = problem ?? "\(found), after the loss at \(start)"
        }
        return problem
    }
}
