public import Base
import OrderedCollections

/// What the representation of an app includes besides its definition.
public struct AppEmbeds: OptionSet, Sendable {
    public let rawValue: Int
    public init(rawValue: Int) { self.rawValue = rawValue }

    public static let tasks = AppEmbeds(rawValue: 1)
    public static let counts = AppEmbeds(rawValue: 2)
    public static let deployments = AppEmbeds(rawValue: 4)
    public static let lastTaskFailure = AppEmbeds(rawValue: 8)
    public static let taskStats = AppEmbeds(rawValue: 16)
    public static let readiness = AppEmbeds(rawValue: 32)

    /// Reads the values of `embed` parameters; unknown ones are ignored.
    public init(parameters: some Sequence<String>) {
        self = []
        for parameter in parameters {
            var name = Substring(parameter)
            for prefix in ["group.apps.", "apps.", "app."] where name.hasPrefix(prefix) {
                name = name.dropFirst(prefix.count)
            }
            switch name {
            case "tasks": formUnion([.tasks, .deployments])
            case "counts": insert(.counts)
            case "deployments": insert(.deployments)
            case "lastTaskFailure": insert(.lastTaskFailure)
            case "failures": formUnion([.tasks, .lastTaskFailure, .deployments])
            case "taskStats": insert(.taskStats)
            case "readiness": insert(.readiness)
            default: continue
            }
        }
    }
}

extension SchedulerCore {
    /// An app as `/v2/apps` shows it; nil when there is none.
    public func appInfo(_ id: AppID, embeds: AppEmbeds, time: Timestamp) -> JSONValue? {
        guard let app = apps[id], var object = app.json.object else { return nil }
        let mine = instances(of: id)
        if embeds.contains(.counts) {
            let counts = self.counts(mine)
            object["tasksStaged"] = .integer(Int64(counts.staged))
            object["tasksRunning"] = .integer(Int64(counts.running))
            object["tasksHealthy"] = .integer(Int64(counts.healthy))
            object["tasksUnhealthy"] = .integer(Int64(counts.unhealthy))
        }
        if embeds.contains(.deployments) {
            let ids = deployments.filter { $0.affectedApps.contains(id) }.map(\.id)
            object["deployments"] = .array(ids.map { ["id": .string($0)] })
        }
        if embeds.contains(.readiness) { object["readinessCheckResults"] = [] }
        if embeds.contains(.tasks) { object["tasks"] = .array(mine.map { task($0) }) }
        if embeds.contains(.lastTaskFailure) { object["lastTaskFailure"] = failures[id]?.json }
        if embeds.contains(.taskStats) {
            let stats = taskStats(app, mine, time: time)
            object["taskStats"] = stats
            object["tasksStats"] = stats
        }
        return .object(object)
    }

    /// A task as the API shows it.
    public func task(_ instance: Instance) -> JSONValue {
        let app = spec(of: instance)
        var object: JSONValue.Object = [
            "ipAddresses": .array(instance.addresses.map(\.json)), "stagedAt": .string(instance.stagedAt.description),
            "state": .string(instance.state.rawValue), "ports": .array(instance.ports.map { .integer(Int64($0)) }),
        ]
        object["startedAt"] = instance.startedAt.map { .string($0.description) }
        object["version"] = .string(instance.appVersion.description)
        object["id"] = .string(instance.taskID)
        object["appId"] = .string(instance.appID.description)
        object["slaveId"] = .string(instance.agentID)
        object["host"] = .string(instance.host)
        let servicePorts = zip(app?.servicePorts ?? [], instance.hostPorts).filter { $0.1 != nil }.map(\.0)
        object["servicePorts"] = .array(servicePorts.map { .integer(Int64($0)) })
        object["role"] = .string(app?.role ?? "*")
        let results = instance.health.filter { $0.isAlive != nil }
        if !results.isEmpty { object["healthCheckResults"] = .array(results.map { $0.json(instance: instance.id) }) }
        return .object(object)
    }

    private struct Counts {
        var staged = 0
        var running = 0
        var healthy = 0
        var unhealthy = 0
    }

    private func counts(_ mine: [Instance]) -> Counts {
        var counts = Counts()
        for instance in mine {
            switch instance.condition {
            case .provisioned, .staging, .starting: counts.staged += 1
            case .running: counts.running += 1
            case .killing: if instance.startedAt != nil { counts.running += 1 }
            case .unreachable, .unreachableInactive: continue
            }
            let results = instance.health.compactMap(\.isAlive)
            guard !results.isEmpty, instance.condition == .running else { continue }
            if results.allSatisfy({ $0 }) { counts.healthy += 1 } else { counts.unhealthy += 1 }
        }
        return counts
    }

    private func taskStats(_ app: AppSpec, _ mine: [Instance], time: Timestamp) -> JSONValue {
        func stats(_ instances: [Instance]) -> JSONValue? {
            guard !instances.isEmpty else { return nil }
            let counts = self.counts(instances)
            var members: JSONValue.Object = [
                "counts": [
                    "staged": .integer(Int64(counts.staged)), "running": .integer(Int64(counts.running)),
                    "healthy": .integer(Int64(counts.healthy)), "unhealthy": .integer(Int64(counts.unhealthy)),
                ]
            ]
            let lives = instances.compactMap(\.startedAt).map { Double(time.milliseconds - $0.milliseconds) / 1000 }
                .sorted()
            if !lives.isEmpty {
                let median = (lives[lives.count / 2] + lives[(lives.count - 1) / 2]) / 2
                members["lifeTime"] = [
                    "averageSeconds": .number(lives.reduce(0, +) / Double(lives.count)),
                    "medianSeconds": .number(median),
                ]
            }
            return ["stats": .object(members)]
        }
        var object: JSONValue.Object = [:]
        object["startedAfterLastScaling"] = stats(mine.filter { $0.appVersion >= app.lastScalingAt })
        object["withLatestConfig"] = stats(mine.filter { $0.configVersion == app.lastConfigChangeAt })
        object["withOutdatedConfig"] = stats(mine.filter { $0.configVersion != app.lastConfigChangeAt })
        object["totalSummary"] = stats(mine)
        return .object(object)
    }

    /// `/v2/deployments`.
    public func deploymentsView() -> JSONValue {
        .array(
            deployments.map { deployment in
                let current =
                    deployment.steps.indices.contains(deployment.currentStep)
                    ? deployment.steps[deployment.currentStep] : []
                return [
                    "id": .string(deployment.id), "version": .string(deployment.version.description),
                    "affectedApps": .array(deployment.affectedApps.map { .string($0.description) }), "affectedPods": [],
                    "steps": .array(deployment.steps.map { ["actions": .array($0.map { $0.json(nameOf: "action") })] }),
                    "currentActions": .array(
                        current.map { action in
                            var object = action.json(nameOf: "action").object ?? [:]
                            object["readinessCheckResults"] = []
                            return .object(object)
                        }),
                    "currentStep": .integer(Int64(min(deployment.currentStep + 1, deployment.steps.count))),
                    "totalSteps": .integer(Int64(deployment.steps.count)),
                ]
            })
    }

    /// `/v2/queue`.
    public func queueView(embedsOffers: Bool, time: Timestamp) -> JSONValue {
        let items = queue.sorted { $0.key < $1.key }.compactMap { id, entry -> JSONValue? in
            guard let app = apps[id], entry.count > 0 else { return nil }
            let left = backoffs[id].map { max(0, $0.until.milliseconds - time.milliseconds) } ?? 0
            var item: JSONValue.Object = [
                "count": .integer(Int64(entry.count)),
                "delay": ["timeLeftSeconds": .integer((left + 999) / 1000), "overdue": .bool(left == 0)],
                "since": .string(entry.since.description), "processedOffersSummary": entry.summary,
            ]
            if embedsOffers {
                item["lastUnusedOffers"] = .array(
                    entry.unusedOffers.values.map { unused in
                        [
                            "offer": unused.offer.json,
                            "reason": .array(unused.reasons.map { .string($0.rawValue) }),
                            "timestamp": .string(unused.time.description),
                        ]
                    })
            }
            // Old clients take no unknown member: the role is only told where it says something.
            if app.role != "*" { item["role"] = .string(app.role) }
            item["app"] = app.json
            return .object(item)
        }
        return ["queue": .array(items)]
    }

    /// `/v2/groups/{id}`: the tree below a path; nil when nothing is there.
    public func groupView(_ id: AppID, embedsApps: Bool, embedsGroups: Bool, embeds: AppEmbeds, time: Timestamp)
        -> JSONValue?
    {
        let inside = apps.keys.filter { $0.isWithin(id) && $0 != id }.sorted()
        guard id.isRoot || !inside.isEmpty else { return nil }
        return group(id, apps: inside, embedsApps: embedsApps, embedsGroups: embedsGroups, embeds: embeds, time: time)
    }

    private func group(
        _ id: AppID, apps inside: [AppID], embedsApps: Bool, embedsGroups: Bool, embeds: AppEmbeds, time: Timestamp
    ) -> JSONValue {
        let depth = id.segments.count
        var object: JSONValue.Object = ["id": .string(id.description)]
        if embedsApps {
            let direct = inside.filter { $0.segments.count == depth + 1 }
            object["apps"] = .array(direct.compactMap { appInfo($0, embeds: embeds, time: time) })
        }
        object["pods"] = []
        if embedsGroups {
            let names = OrderedSet(inside.filter { $0.segments.count > depth + 1 }.map { $0.segments[depth] })
            object["groups"] = .array(
                names.map { name in
                    let child = AppID(segments: id.segments + [name])
                    return group(
                        child, apps: inside.filter { $0.isWithin(child) && $0 != child }, embedsApps: embedsApps,
                        embedsGroups: true, embeds: embeds, time: time)
                })
        }
        object["dependencies"] = []
        object["version"] = .string(rootVersion.description)
        return .object(object)
    }
}

extension HealthState {
    func json(instance: String) -> JSONValue {
        var object: JSONValue.Object = [
            "alive": .bool(isAlive ?? false), "consecutiveFailures": .integer(Int64(consecutiveFailures)),
        ]
        object["firstSuccess"] = firstSuccess.map { .string($0.description) }
        object["lastSuccess"] = lastSuccess.map { .string($0.description) }
        object["lastFailure"] = lastFailure.map { .string($0.description) }
        object["lastFailureCause"] = lastFailureCause.map(JSONValue.string)
        object["instanceId"] = .string(instance)
        return .object(object)
    }
}

extension QueueEntry {
    fileprivate var summary: JSONValue {
        var object: JSONValue.Object = [
            "processedOffersCount": .integer(Int64(processed)), "unusedOffersCount": .integer(Int64(unused)),
        ]
        object["lastUnusedOfferAt"] = lastUnused.map { .string($0.description) }
        object["lastUsedOfferAt"] = lastUsed.map { .string($0.description) }
        var latest: [RejectReason: Int] = [:]
        for offer in unusedOffers.values {
            if let first = RejectReason.allCases.first(where: { offer.reasons.contains($0) }) {
                latest[first, default: 0] += 1
            }
        }
        object["rejectSummaryLastOffers"] = QueueEntry.funnel(latest, processed: unusedOffers.count)
        object["rejectSummaryLaunchAttempt"] = QueueEntry.funnel(refusals, processed: processed)
        return .object(object)
    }

    /// Each row's offers are those that passed the rows before.
    private static func funnel(_ declined: [RejectReason: Int], processed: Int) -> JSONValue {
        var left = processed
        return .array(
            RejectReason.allCases.map { reason in
                let row: JSONValue = [
                    "reason": .string(reason.rawValue), "declined": .integer(Int64(declined[reason] ?? 0)),
                    "processed": .integer(Int64(left)),
                ]
                left -= declined[reason] ?? 0
                return row
            })
    }
}
