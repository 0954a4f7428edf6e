import Base
import BlockCore

/// What clients did to blocks and saw of them, and whether one order of everything explains it.
///
/// Every 4 KiB block is a register, every written value is unique. A register's history is linearizable exactly if no
/// two values were both current at one time, and no value came and went while another was current (Gibbons and Korach:
/// zones of the clusters formed by each write and its reads). Zeros are not unique: each zeroing and each sight of
/// zeros has to find a moment when no other value was current, and each sight a zeroing (or the beginning) that
/// nothing had overwritten for certain.
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
        /// By numbers that no value has.
        var zeroings: [UInt64: Write] = [:]
        var reads: [Read] = []
    }

    /// When a value was current: between its first end and its last start if that order holds, else sometime inside.
    private struct Zone {
        var value: UInt64
        var end: UInt64
        var start: UInt64
        var begun: UInt64
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
        return nil
    }

    private func check(_ register: Register, _ block: Block) -> String? {
        var zones: [UInt64: Zone] = [:]
        for write in register.writes.values where write.isAcknowledged {
            let end = min(write.ended, fencedAt(block.volume, write.epoch))
            zones[write.value] = Zone(value: write.value, end: end, start: write.invoked, begun: write.invoked)
        }
        for read in register.reads where read.value != 0 {
            guard let write = register.writes[read.value] else { return "value \(read.value) was never written" }
            if write.invoked > read.ended { return "value \(read.value) was read before it was written" }
            let end = min(write.ended, fencedAt(block.volume, write.epoch), read.ended)
            let known = zones[read.value] ?? Zone(value: read.value, end: end, start: 0, begun: write.invoked)
            zones[read.value] = Zone(
                value: read.value, end: min(known.end, end), start: max(known.start, write.invoked, read.invoked),
                begun: write.invoked)
        }
        let values = zones.keys.sorted().compactMap { zones[$0] }
        let current = values.filter { $0.end < $0.start }.sorted { ($0.end, $0.value) < ($1.end, $1.value) }
        for (one, other) in zip(current, current.dropFirst()) where other.end < one.start {
            return "values \(describe(one)) and \(describe(other)) were both current"
        }
        for passing in values.filter({ $0.end >= $0.start }) + zeros(register, block) {
            for zone in current where zone.end < passing.start && passing.end < zone.start {
                return "value \(describe(passing)) came and went while \(describe(zone)) was current"
            }
        }
        return lostZeros(register, block, values)
    }

    /// Acknowledged zeroings and sights of zeros, each for itself: it happened sometime inside.
    private func zeros(_ register: Register, _ block: Block) -> [Zone] {
        let zeroings = register.zeroings.keys.sorted().compactMap { register.zeroings[$0] }.filter(\.isAcknowledged)
        return zeroings.map {
            Zone(
                value: 0, end: min($0.ended, fencedAt(block.volume, $0.epoch)), start: $0.invoked, begun: $0.invoked)
        }
            + register.reads.filter { $0.value == 0 }.map {
                Zone(value: 0, end: $0.ended, start: $0.invoked, begun: $0.invoked)
            }
    }

    /// Zeros that were seen although every zeroing before had been overwritten.
    private func lostZeros(_ register: Register, _ block: Block, _ values: [Zone]) -> String? {
        for read in register.reads where read.value == 0 {
            let overwriting = values.filter { $0.end < read.invoked }.max {
                ($0.begun, $0.value) < ($1.begun, $1.value)
            }
            guard let overwriting else { continue }
            let isExplained = register.zeroings.values.contains {
                $0.invoked <= read.ended && min($0.ended, fencedAt(block.volume, $0.epoch)) >= overwriting.begun
            }
            if !isExplained {
                return
                    "zeros were read at \(Double(read.invoked) / 1e9) s although \(describe(overwriting)) was written"
            }
        }
        return nil
    }

    private func describe(_ zone: Zone) -> String {
        "\(zone.value) (\(Double(min(zone.end, zone.start)) / 1e9)-\(Double(max(zone.end, zone.start)) / 1e9) s)"
    }
}
