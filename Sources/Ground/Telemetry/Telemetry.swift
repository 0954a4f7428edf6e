import CoreMetrics
import Logging

/// What every executable sets up first: logs to standard error and one registry of metrics for the whole process.
public enum ProcessTelemetry {
    /// The registry of this process. Empty until `bootstrap` has made it the one that swift-metrics uses.
    public static let registry = MetricsRegistry()

    /// Call once, before anything logs or counts.
    public static func bootstrap() {
        LoggingSystem.bootstrap { LineLogHandler.standardError(label: $0) }
        MetricsSystem.bootstrap(registry)
    }
}
