/// What happened to one register, as those saw it who wrote and read it, and whether one order of everything explains it.
///
/// Every written value is unique, except the blank one, 0: it is there at the beginning and may be written any number of
/// times. Times are numbers of one clock. Without blanks the answer is exact: a history is refused if and only if it is
/// not linearizable (Gibbons and Korach 1997, "Testing shared memories"). With blanks every refusal is right, and what
/// is accepted may rarely be wrong: to decide that exactly is NP-complete.
///
/// Takes n log n steps for n operations.
public struct RegisterHistory: Sendable {
    public static let blank: UInt64 = 0

    private struct Write {
        var start: UInt64
        var end: UInt64
        var isCertain: Bool
    }

    private struct Interval {
        var start: UInt64
        var end: UInt64
    }

    /// A written value with everybody who saw it. It was current from `firstEnd` to `lastStart` if they come in that
    /// order, else at one moment between them at least.
    private struct Zone {
        var value: UInt64
        var firstEnd: UInt64
        var lastStart: UInt64
        var isForward: Bool { firstEnd < lastStart }
    }

    private var writes: [UInt64: Write] = [:]
    private var blanks: [Write] = []
    private var reads: [(value: UInt64, seen: Interval)] = []

    public init() {}

    /// - Parameters:
    ///   - end: when the writer had its answer; without one, the last moment at which the write may have taken effect.
    ///   - isCertain: whether it took effect for sure.
    public mutating func write(_ value: UInt64, from start: UInt64, to end: UInt64, isCertain: Bool) {
        let write = Write(start: start, end: end, isCertain: isCertain)
        if value == RegisterHistory.blank {
            blanks.append(write)
        } else {
            precondition(writes.updateValue(write, forKey: value) == nil, "value \(value) is written twice")
        }
    }

    /// What the register holds from `start` on, before anything else; false, and nothing is changed, if this value is among the
    /// writes already: then it may have been there from their beginning.
    public mutating func begin(with value: UInt64, at start: UInt64) -> Bool {
        if value != RegisterHistory.blank, writes[value] != nil { return false }
        write(value, from: start, to: start, isCertain: true)
        return true
    }

    /// A read that was answered with `value`.
    public mutating func read(_ value: UInt64, from start: UInt64, to end: UInt64) {
        reads.append((value, Interval(start: start, end: end)))
    }

    public enum Violation: Equatable, Sendable {
        case neverWritten(value: UInt64)
        case readBeforeWritten(value: UInt64)
        /// Each was current at a time at which the other was.
        case bothCurrent(UInt64, UInt64)
        /// A value (or blank) came and went while another was current all the time.
        case insideOf(UInt64, current: UInt64)
        /// Blank was read after a value although too few blanks were written since.
        case unexplainedBlank(readAt: UInt64, after: UInt64)
    }

    /// The first thing that no order explains; nil if there is none.
    public func violation() -> Violation? {
        let zones: [Zone]
        switch self.zones() {
        case .success(let found): zones = found
        case .failure(let error): return error.violation
        }
        let forward = zones.filter(\.isForward).sorted { ($0.firstEnd, $0.value) < ($1.firstEnd, $1.value) }
        for (one, other) in zip(forward, forward.dropFirst()) where other.firstEnd < one.lastStart {
            return .bothCurrent(one.value, other.value)
        }
        for zone in zones where !zone.isForward {
            if let current = enclosing(zone.lastStart, zone.firstEnd, forward) {
                return .insideOf(zone.value, current: current)
            }
        }
        for blank in blanks where blank.isCertain {
            if let current = enclosing(blank.start, blank.end, forward) { return .insideOf(0, current: current) }
        }
        let blankReads = reads.filter { $0.value == RegisterHistory.blank }.map(\.seen)
        for read in blankReads {
            if let current = enclosing(read.start, read.end, forward) { return .insideOf(0, current: current) }
        }
        return unexplained(blankReads, zones)
    }

    private struct Refused: Error { var violation: Violation }

    private func zones() -> Result<[Zone], Refused> {
        var zones: [UInt64: Zone] = [:]
        for (value, write) in writes where write.isCertain {
            zones[value] = Zone(value: value, firstEnd: write.end, lastStart: write.start)
        }
        for (value, seen) in reads where value != RegisterHistory.blank {
            guard let write = writes[value] else { return .failure(Refused(violation: .neverWritten(value: value))) }
            if write.start > seen.end { return .failure(Refused(violation: .readBeforeWritten(value: value))) }
            let known = zones[value] ?? Zone(value: value, firstEnd: write.end, lastStart: write.start)
            zones[value] = Zone(
                value: value, firstEnd: min(known.firstEnd, seen.end), lastStart: max(known.lastStart, seen.start))
        }
        return .success(zones.values.sorted { $0.value < $1.value })
    }

    /// The value that was current from before `start` to after `end`. Forward zones do not overlap and are in order.
    private func enclosing(_ start: UInt64, _ end: UInt64, _ forward: [Zone]) -> UInt64? {
        var low = 0
        var high = forward.count
        while low < high {
            let middle = (low + high) / 2
            if forward[middle].firstEnd < start { low = middle + 1 } else { high = middle }
        }
        guard low > 0, end < forward[low - 1].lastStart else { return nil }
        return forward[low - 1].value
    }

    /// A blank that was read after values that were there for sure needs a blank written between them and the read. One
    /// written blank may serve several reads, but it was written at one moment only: the moments are dealt out to the
    /// reads in the order of their ends, each time to the blank that had to be written first, as late as it may be.
    private func unexplained(_ blankReads: [Interval], _ zones: [Zone]) -> Violation? {
        // For each read the latest beginning of a value's end that lies before it.
        let ended = zones.sorted { ($0.firstEnd, $0.value) < ($1.firstEnd, $1.value) }
        var latest: [(lastStart: UInt64, value: UInt64)] = []
        for zone in ended {
            let known = latest.last ?? (0, 0)
            latest.append(zone.lastStart >= known.lastStart ? (zone.lastStart, zone.value) : known)
        }
        var open: [Write] = []
        var coming = blanks.sorted { ($0.start, $0.end) > ($1.start, $1.end) }
        var lastMoment: UInt64?
        for read in blankReads.sorted(by: { ($0.end, $0.start) < ($1.end, $1.start) }) {
            var low = 0
            var high = ended.count
            while low < high {
                let middle = (low + high) / 2
                if ended[middle].firstEnd < read.start { low = middle + 1 } else { high = middle }
            }
            guard low > 0 else { continue }
            let after = latest[low - 1]
            while let next = coming.last, next.start <= read.end {
                coming.removeLast()
                open.insert(next, at: open.partitioningIndex { $0.end >= next.end })
            }
            if let lastMoment, lastMoment >= after.lastStart { continue }
            let position = open.partitioningIndex { $0.end >= after.lastStart }
            guard position < open.count else { return .unexplainedBlank(readAt: read.start, after: after.value) }
            lastMoment = min(open.remove(at: position).end, read.end)
        }
        return nil
    }
}

extension Array {
    /// The first position from which on `isSecond` holds.
    fileprivate func partitioningIndex(_ isSecond: (Element) -> Bool) -> Int {
        var low = 0
        var high = count
        while low < high {
            let middle = (low + high) / 2
            if isSecond(self[middle]) { high = middle } else { low = middle + 1 }
        }
        return low
    }
}
