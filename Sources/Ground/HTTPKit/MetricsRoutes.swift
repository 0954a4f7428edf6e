import HTTPTypes
public import Hummingbird
public import Telemetry

/// Adds `/metrics` (Prometheus text) and `/metrics/snapshot` (Mesos' flat JSON object).
public func addMetricsRoutes(to router: HTTPRouter, registry: MetricsRegistry = ProcessTelemetry.registry) {
    router.get("/metrics") { _, _ in
        Response.text(
            registry.prometheusText(), headers: [.contentType: "text/plain; version=0.0.4; charset=utf-8"])
    }
    router.get("/metrics/snapshot") { _, _ in Response.json(registry.snapshot()) }
}
