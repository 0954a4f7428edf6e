/// What a server has done on one device since it started, in ScaleIO's classes.
public struct IOCounters: Equatable, Sendable {
    public enum Class: Int, CaseIterable, Sendable {
        /// For clients, as the primary.
        case primaryRead, primaryWrite
        /// For a primary.
        case secondaryWrite
        /// Copies that give combs their second copy back.
        case rebuildRead, rebuildWrite
        /// Copies that move.
        case rebalanceRead, rebalanceWrite
    }

    public struct Counter: Equatable, Sendable {
        public var count: UInt64 = 0
        public var bytes: UInt64 = 0
    }

    private var counters = Array(repeating: Counter(), count: Class.allCases.count)

    public init() {}

    public subscript(kind: Class) -> Counter {
        get { counters[kind.rawValue] }
        set { counters[kind.rawValue] = newValue }
    }

    public mutating func add(_ kind: Class, bytes: UInt32) {
        counters[kind.rawValue].count += 1
        counters[kind.rawValue].bytes += UInt64(bytes)
    }

    func isAtLeast(_ other: IOCounters) -> Bool {
        Class.allCases.allSatisfy { self[$0].count >= other[$0].count && self[$0].bytes >= other[$0].bytes }
    }

    /// What was added since `earlier`, which must not be more.
    func since(_ earlier: IOCounters) -> IOCounters {
        var difference = IOCounters()
        for kind in Class.allCases {
            difference[kind] = Counter(
                count: self[kind].count - earlier[kind].count, bytes: self[kind].bytes - earlier[kind].bytes)
        }
        return difference
    }
}

/// What a device did in a period that ended lately.
public struct Activity: Equatable, Sendable {
    public var seconds: UInt64
    public var counters: IOCounters
}
