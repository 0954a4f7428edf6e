import Base
import CoreMetrics
import Telemetry
import Testing

@Suite struct MetricsRegistryTests {
    @Test func showsCountersAndGaugesInBothForms() {
        let registry = MetricsRegistry()
        let counter = registry.makeCounter(label: "master/tasks_running", dimensions: [])
        counter.increment(by: 3)
        // The same label is the same counter, whoever makes it.
        registry.makeCounter(label: "master/tasks_running", dimensions: []).increment(by: 2)
        registry.makeMeter(label: "master/cpus_percent", dimensions: []).set(0.25)
        registry.gauge("master/elected") { 1 }
        let snapshot = registry.snapshot()
        #expect(snapshot["master/tasks_running"] == 5.0)
        #expect(snapshot["master/cpus_percent"] == 0.25)
        #expect(snapshot["master/elected"] == 1.0)
        let text = registry.prometheusText()
        #expect(text.contains("# TYPE master_tasks_running counter\nmaster_tasks_running 5\n"))
        #expect(text.contains("# TYPE master_elected gauge\nmaster_elected 1\n"))
    }

    @Test func dimensionsAreEscapedAndOrderIndependent() {
        let registry = MetricsRegistry()
        registry.makeCounter(label: "calls", dimensions: [("b", "x\"y\n"), ("a", "1")]).increment(by: 1)
        registry.makeCounter(label: "calls", dimensions: [("a", "1"), ("b", "x\"y\n")]).increment(by: 1)
        #expect(registry.prometheusText().contains("calls{a=\"1\",b=\"x\\\"y\\n\"} 2\n"))
    }

    @Test func timersHaveMesosQuantiles() {
        let registry = MetricsRegistry()
        let timer = registry.makeTimer(label: "allocator/run_ms", dimensions: [])
        for milliseconds in 1...100 { timer.recordNanoseconds(Int64(milliseconds) * 1_000_000) }
        let snapshot = registry.snapshot()
        #expect(snapshot["allocator/run_ms/count"] == 100.0)
        #expect(snapshot["allocator/run_ms/min"] == 1.0)
        #expect(snapshot["allocator/run_ms/max"] == 100.0)
        #expect(snapshot["allocator/run_ms/p50"] == 51.0)
        #expect(snapshot["allocator/run_ms/p99"] == 100.0)
        #expect(snapshot["allocator/run_ms/p9999"] == 100.0)
        #expect(registry.prometheusText().contains("allocator_run_ms_count 100\n"))
    }

    @Test func refusesEndlessSeries() {
        let registry = MetricsRegistry()
        for index in 0..<(MetricsRegistry.seriesMax + 7) {
            registry.makeCounter(label: "calls", dimensions: [("peer", "\(index)")]).increment(by: 1)
        }
        let lines = registry.prometheusText().split(separator: "\n").filter { $0.hasPrefix("calls{") }
        #expect(lines.count == MetricsRegistry.seriesMax)
        #expect(registry.snapshot()["telemetry/series_refused"] == 7.0)
    }

    @Test func destroyedMetricsDisappear() {
        let registry = MetricsRegistry()
        let counter = registry.makeCounter(label: "gone", dimensions: [])
        counter.increment(by: 1)
        registry.destroyCounter(counter)
        #expect(registry.snapshot()["gone"] == nil)
    }
}
