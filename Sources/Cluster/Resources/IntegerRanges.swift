/// A set of integers as sorted, disjoint, non-adjacent closed ranges.
public struct IntegerRanges: Hashable, Sendable, CustomStringConvertible {
    public private(set) var ranges: [ClosedRange<UInt64>] = []

    public init() {}

    public init(_ ranges: [ClosedRange<UInt64>]) {
        for range in ranges.sorted(by: { $0.lowerBound < $1.lowerBound }) {
            if let last = self.ranges.last, range.lowerBound == 0 || last.upperBound >= range.lowerBound - 1 {
                self.ranges[self.ranges.count - 1] = last.lowerBound...max(last.upperBound, range.upperBound)
            } else {
                self.ranges.append(range)
            }
        }
    }

    public var isEmpty: Bool { ranges.isEmpty }

    /// How many integers, saturating.
    public var count: UInt64 {
        ranges.reduce(0) { sum, range in
            let (size, wraps) = (range.upperBound - range.lowerBound).addingReportingOverflow(1)
            let (total, overflow) = sum.addingReportingOverflow(wraps ? .max : size)
            return overflow ? .max : total
        }
    }

    public func contains(_ other: IntegerRanges) -> Bool {
        var index = 0
        for range in other.ranges {
            while index < ranges.count, ranges[index].upperBound < range.lowerBound { index += 1 }
            guard index < ranges.count, ranges[index].lowerBound <= range.lowerBound,
                ranges[index].upperBound >= range.upperBound
            else { return false }
        }
        return true
    }

    public static func + (left: IntegerRanges, right: IntegerRanges) -> IntegerRanges {
        IntegerRanges(left.ranges + right.ranges)
    }

    public static func - (left: IntegerRanges, right: IntegerRanges) -> IntegerRanges {
        var result = IntegerRanges()
        var cuts = right.ranges[...]
        for range in left.ranges {
            var begin = range.lowerBound
            var isGone = false
            while let cut = cuts.first, cut.upperBound < begin { cuts.removeFirst() }
            for cut in cuts {
                if cut.lowerBound > range.upperBound { break }
                if cut.lowerBound > begin { result.ranges.append(begin...(cut.lowerBound - 1)) }
                if cut.upperBound >= range.upperBound {
                    isGone = true
                    break
                }
                begin = max(begin, cut.upperBound + 1)
            }
            if !isGone { result.ranges.append(begin...range.upperBound) }
        }
        return result
    }

    public var description: String {
        "[" + ranges.map { "\($0.lowerBound)-\($0.upperBound)" }.joined(separator: ", ") + "]"
    }
}
