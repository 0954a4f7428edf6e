public import Base

/// Decides by the results of a task's health check what to tell and when to give the task up, as Mesos' executors do.
///
/// Failures within the grace period count for nothing until a check has succeeded once.
public struct HealthMonitor: Hashable, Sendable {
    public struct Verdict: Hashable, Sendable {
        /// Non-nil when the scheduler is to be told.
        public var healthy: Bool?
        public var isFatal: Bool
    }

    private let graceEnd: Instant
    private let failuresMax: Int
    private var failures = 0
    private var hasSucceeded = false

    /// - Parameter failuresMax: 0 lets the task live whatever happens.
    public init(startedAt start: Instant, grace: Duration, failuresMax: Int) {
        graceEnd = start + grace
        self.failuresMax = failuresMax
    }

    public mutating func apply(success: Bool, now: Instant) -> Verdict {
        if success {
            let isNews = !hasSucceeded || failures > 0
            hasSucceeded = true
            failures = 0
            return Verdict(healthy: isNews ? true : nil, isFatal: false)
        }
        if !hasSucceeded, now < graceEnd { return Verdict(healthy: nil, isFatal: false) }
        failures += 1
        return Verdict(healthy: false, isFatal: failuresMax > 0 && failures >= failuresMax)
    }
}
