import Base

/// Many runs, one seed after the other, until a time is over or one fails.
public struct Campaign: Sendable {
    public private(set) var runs = 0
    /// Virtual time of all runs together.
    public private(set) var simulated = Duration.zero
    public private(set) var acknowledgedWrites = 0
    public private(set) var reads = 0
    public private(set) var fences = 0
    public private(set) var snapshots = 0
    /// Nodes of snapshots whose data went to another.
    public private(set) var merges = 0
    /// How often each kind of fault struck.
    public private(set) var faults: [String: Int] = [:]
    /// The longest that any run took to be well again.
    public private(set) var slowestRecovery = Duration.zero
    /// The run that failed, if one did.
    public private(set) var failure: SimulationReport?

    public init() {}

    public mutating func add(_ report: SimulationReport) {
        runs += 1
        simulated += report.simulated
        acknowledgedWrites += report.acknowledgedWrites
        reads += report.reads
        fences += report.fences
        snapshots += report.snapshots
        merges += report.merges
        faults.merge(report.faults, uniquingKeysWith: +)
        slowestRecovery = max(slowestRecovery, report.wellAfter ?? .zero)
        if failure == nil, report.failure != nil { failure = report }
    }

    /// What was seen, in lines for people; `elapsed` is real time.
    public func summary(elapsed: Duration) -> [String] {
        let hours = simulated.inSeconds / 3600
        let seconds = max(elapsed.inSeconds, 0.001)
        var lines = [
            "runs                  \(runs) (\(Campaign.rounded(Double(runs) / seconds, 1)) seeds/s)",
            "simulated             \(Campaign.rounded(hours, 2)) hours of a cluster",
            "acknowledged writes   \(acknowledgedWrites)",
            "reads                 \(reads)",
            "fences proven         \(fences)",
            "snapshots taken       \(snapshots), nodes merged \(merges)",
            "slowest recovery      \(Campaign.rounded(slowestRecovery.inSeconds, 1)) s",
            "faults",
        ]
        for (fault, count) in faults.sorted(by: { $0.key < $1.key }) { lines.append("  \(count)\t\(fault)") }
        return lines
    }

    private static func rounded(_ number: Double, _ places: Int) -> String {
        var scale = 1.0
        for _ in 0..<places { scale *= 10 }
        return "\((number * scale).rounded() / scale)"
    }
}
