import Base
public import CoreMetrics
import Synchronization

/// All metrics of this process: what swift-metrics makes them with, and what `/metrics` and `/metrics/snapshot` show.
///
/// Labels are named as Mesos names them ("master/tasks_running", "allocator/mesos/run_ms"); Prometheus gets the same
/// with underscores. A label has at most `seriesMax` combinations of dimensions; further ones are counted nowhere but
/// in "telemetry/series_refused", so that no client can fill the memory by inventing names.
public final class MetricsRegistry: MetricsFactory {
    public static let seriesMax = 200

    private struct State {
        var families: [String: Family] = [:]
        var gauges: [String: @Sendable () -> Double] = [:]
        var refused: Double = 0
    }

    struct Family {
        var kind: MetricKind
        var series: [SeriesKey: MetricSeries] = [:]
    }

    private let state = Mutex(State())

    public init() {}

    /// A value that is asked for at every read. Replaces one with the same label. `read` must be quick and must not
    /// call the registry.
    public func gauge(_ label: String, _ read: @escaping @Sendable () -> Double) {
        state.withLock { $0.gauges[label] = read }
    }

    public func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
        CounterSeries(series(label, dimensions, .counter))
    }

    public func makeFloatingPointCounter(
        label: String, dimensions: [(String, String)]
    ) -> any FloatingPointCounterHandler {
        FloatingCounterSeries(series(label, dimensions, .counter))
    }

    public func makeMeter(label: String, dimensions: [(String, String)]) -> any MeterHandler {
        MeterSeries(series(label, dimensions, .gauge))
    }

    public func makeRecorder(label: String, dimensions: [(String, String)], aggregate: Bool) -> any RecorderHandler {
        RecorderSeries(series(label, dimensions, aggregate ? .summary : .gauge))
    }

    public func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
        TimerSeries(series(label, dimensions, .timer))
    }

    public func destroyCounter(_ handler: any CounterHandler) { remove((handler as? CounterSeries)?.series) }
    public func destroyFloatingPointCounter(_ handler: any FloatingPointCounterHandler) {
        remove((handler as? FloatingCounterSeries)?.series)
    }
    public func destroyMeter(_ handler: any MeterHandler) { remove((handler as? MeterSeries)?.series) }
    public func destroyRecorder(_ handler: any RecorderHandler) { remove((handler as? RecorderSeries)?.series) }
    public func destroyTimer(_ handler: any TimerHandler) { remove((handler as? TimerSeries)?.series) }

    private func series(_ label: String, _ dimensions: [(String, String)], _ kind: MetricKind) -> MetricSeries {
        let key = SeriesKey(dimensions)
        return state.withLock { state in
            if let present = state.families[label]?.series[key] { return present }
            let fresh = MetricSeries(label: label, key: key, kind: kind)
            guard state.families[label]?.series.count ?? 0 < MetricsRegistry.seriesMax else {
                state.refused += 1
                return fresh
            }
            state.families[label, default: Family(kind: kind)].series[key] = fresh
            return fresh
        }
    }

    private func remove(_ series: MetricSeries?) {
        guard let series else { return }
        state.withLock { state in
            state.families[series.label]?.series[series.key] = nil
            if state.families[series.label]?.series.isEmpty == true { state.families[series.label] = nil }
        }
    }

    /// Everything at this moment, sorted by label. Gauges are read outside the lock.
    func read() -> (families: [(label: String, family: Family)], gauges: [(label: String, value: Double)]) {
        let (families, gauges, refused) = state.withLock { ($0.families, $0.gauges, $0.refused) }
        var values = gauges.map { (label: $0.key, value: $0.value()) }
        values.append((label: "telemetry/series_refused", value: refused))
        return (
            families.sorted { $0.key < $1.key }.map { (label: $0.key, family: $0.value) },
            values.sorted { $0.label < $1.label }
        )
    }
}

enum MetricKind: Hashable, Sendable { case counter, gauge, summary, timer }

struct SeriesKey: Hashable, Sendable {
    var names: [String]
    var values: [String]

    init(_ dimensions: [(String, String)]) {
        let sorted = dimensions.sorted { $0.0 < $1.0 }
        names = sorted.map(\.0)
        values = sorted.map(\.1)
    }
}

/// One number or distribution.
final class MetricSeries: Sendable {
    /// Recent values that quantiles are taken from, as in Mesos' timers a window and not all of history.
    static let windowLength = 1000

    struct Value {
        var total: Double = 0
        var count: UInt64 = 0
        var window: [Double] = []
        var next = 0
    }

    let label: String
    let key: SeriesKey
    let kind: MetricKind
    private let state = Mutex(Value())

    init(label: String, key: SeriesKey, kind: MetricKind) {
        self.label = label
        self.key = key
        self.kind = kind
    }

    var value: Value { state.withLock { $0 } }

    func add(_ amount: Double) { state.withLock { $0.total += amount } }

    func set(_ amount: Double) { state.withLock { $0.total = amount } }

    /// A value of a distribution; of a gauge it becomes the value.
    func record(_ amount: Double) {
        state.withLock { value in
            guard kind != .gauge else { return value.total = amount }
            value.total += amount
            value.count += 1
            if value.window.count < MetricSeries.windowLength {
                value.window.append(amount)
            } else {
                value.window[value.next] = amount
                value.next = (value.next + 1) % MetricSeries.windowLength
            }
        }
    }
}

private final class CounterSeries: CounterHandler {
    let series: MetricSeries
    init(_ series: MetricSeries) { self.series = series }
    func increment(by amount: Int64) { series.add(Double(amount)) }
    func reset() { series.set(0) }
}

private final class FloatingCounterSeries: FloatingPointCounterHandler {
    let series: MetricSeries
    init(_ series: MetricSeries) { self.series = series }
    func increment(by amount: Double) { series.add(amount) }
    func reset() { series.set(0) }
}

private final class MeterSeries: MeterHandler {
    let series: MetricSeries
    init(_ series: MetricSeries) { self.series = series }
    func set(_ value: Int64) { series.set(Double(value)) }
    func set(_ value: Double) { series.set(value) }
    func increment(by amount: Double) { series.add(amount) }
    func decrement(by amount: Double) { series.add(-amount) }
}

private final class RecorderSeries: RecorderHandler {
    let series: MetricSeries
    init(_ series: MetricSeries) { self.series = series }
    func record(_ value: Int64) { series.record(Double(value)) }
    func record(_ value: Double) { series.record(value) }
}

/// Kept in milliseconds, the unit of Mesos' timers.
private final class TimerSeries: TimerHandler {
    let series: MetricSeries
    init(_ series: MetricSeries) { self.series = series }
    func recordNanoseconds(_ duration: Int64) { series.record(Double(duration) / 1e6) }
    func preferDisplayUnit(_ unit: TimeUnit) {}
}
