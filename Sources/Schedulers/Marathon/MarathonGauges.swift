import Base
import MarathonCore
import OrderedCollections
import Synchronization
import Telemetry

/// The numbers that people alert on, under the names of Marathon 1.7 and later. Read when asked for, updated every
/// second.
final class MarathonGauges: Sendable {
    private let values = Mutex<[String: Double]>([:])

    private static let names = [
        "marathon.apps.active.gauge", "marathon.instances.running.gauge", "marathon.instances.staged.gauge",
        "marathon.instances.inflight-kills.gauge", "marathon.deployments.active.gauge", "marathon.deployments.counter",
        "marathon.deployments.dismissed.counter", "marathon.tasks.launched.counter",
        "marathon.mesos.offers.incoming.counter", "marathon.mesos.offers.declined.counter",
        "marathon.mesos.offers.used.counter", "marathon.mesos.calls.revive.counter",
        "marathon.mesos.calls.suppress.counter", "marathon.uptime.gauge.seconds",
        "marathon.leadership.duration.gauge.seconds",
    ]

    init(registry: MetricsRegistry = ProcessTelemetry.registry) {
        for name in MarathonGauges.names {
            registry.gauge(name) { [weak self] in self?.values.withLock { $0[name] } ?? 0 }
        }
    }

    /// For the time without leadership: what others do is counted there.
    func reset() { values.withLock { $0 = [:] } }

    func update(_ core: SchedulerCore, uptime: Double) {
        let instances = core.instances.values
        let counters = core.counters
        let numbers: [Double] = [
            Double(core.apps.count), Double(instances.filter { $0.condition == .running }.count),
            Double(instances.filter { [.provisioned, .staging, .starting].contains($0.condition) }.count),
            Double(instances.filter { $0.goal == .decommissioned }.count), Double(core.deployments.count),
            Double(counters.deployments), Double(counters.deploymentsDismissed), Double(counters.tasksLaunched),
            Double(counters.offersIncoming), Double(counters.offersDeclined), Double(counters.offersUsed),
            Double(counters.revives), Double(counters.suppresses), uptime, uptime,
        ]
        values.withLock { values in
            for (name, number) in zip(MarathonGauges.names, numbers) { values[name] = number }
        }
    }
}
