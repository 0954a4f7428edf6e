import Base
import BlockCore

/// What clients did to blocks and saw of them, and whether one order of everything explains it.
///
/// Every 4 KiB block is a register, every written value is unique. A register's history is linearizable exactly if no
/// two values were both current at one time, and no value came and went while another was current (Gibbons and Korach:
/// zones of the clusters formed by each write and its reads).
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

    struct Register {
        var writes: [UInt64: Write] = [:]
        var reads: [Read] = []
    }

    private var registers: [Block: Register] = [:]
    private var fences: [VolumeID: [(epoch: UInt64, at: UInt64)]] = [:]
    private(set) var acknowledgedWrites = 0
    private(set) var finishedReads = 0
    private(set) var violation: String?

    /// From `at` on, rights older than `epoch` must be without effect.
    mutating func fence(_ volume: VolumeID, _ epoch: UInt64, at: UInt64) {
        fences[volume, default: []].append((epoch, at))
    }

    private func fencedAt(_ volume: VolumeID, _ epoch: UInt64) -> UInt64 {
        fences[volume, default: []].filter { $0.epoch > epoch }.map(\.at).min() ?? .max
    }

    mutating func began(_ block: Block, _ value: UInt64, _ epoch: UInt64, at: UInt64) {
        registers[block, default: Register()].writes[value] = Write(value: value, epoch: epoch, invoked: at)
    }

    mutating func acknowledged(_ block: Block, _ value: UInt64, at: UInt64) {
        acknowledgedWrites += 1
        guard let write = registers[block]?.writes[value] else { return }
        registers[block]?.writes[value]?.ended = at
        registers[block]?.writes[value]?.isAcknowledged = true
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
        return nil
    }

    private func check(_ register: Register, _ block: Block) -> String? {
        var firstEnd: [UInt64: UInt64] = [0: 0]
        var lastStart: [UInt64: UInt64] = [0: 0]
        var isRelevant: Set<UInt64> = []
        for write in register.writes.values {
            let limit = fencedAt(block.volume, write.epoch)
            firstEnd[write.value] = min(write.ended, limit)
            lastStart[write.value] = write.invoked
            if write.isAcknowledged { isRelevant.insert(write.value) }
        }
        for read in register.reads {
            guard let written = lastStart[read.value] else { return "value \(read.value) was never written" }
            let begun = register.writes[read.value]?.invoked ?? 0
            if begun > read.ended { return "value \(read.value) was read before it was written" }
            isRelevant.insert(read.value)
            firstEnd[read.value] = min(firstEnd[read.value] ?? .max, read.ended)
            lastStart[read.value] = max(written, read.invoked)
        }
        let zones = isRelevant.sorted().map { (value: $0, end: firstEnd[$0] ?? .max, start: lastStart[$0] ?? 0) }
        let current = zones.filter { $0.end < $0.start }.sorted { ($0.end, $0.value) < ($1.end, $1.value) }
        for (one, other) in zip(current, current.dropFirst()) where other.end < one.start {
            return "values \(describe(one)) and \(describe(other)) were both current"
        }
        for passing in zones where passing.end >= passing.start {
            for zone in current where zone.end < passing.start && passing.end < zone.start {
                return "value \(describe(passing)) came and went while \(describe(zone)) was current"
            }
        }
        return nil
    }

    private func describe(_ zone: (value: UInt64, end: UInt64, start: UInt64)) -> String {
        "\(zone.value) (\(Double(min(zone.end, zone.start)) / 1e9)-\(Double(max(zone.end, zone.start)) / 1e9) s)"
    }
}
