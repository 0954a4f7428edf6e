import Base
import OrderedCollections

/// How many instances to start and which to stop, for one app at one moment.
struct Adjustment: Equatable {
    var launches = 0
    var kills: [String] = []
}

extension SchedulerCore {
    /// Brings apps towards their targets and deployments forward until nothing moves without the outside.
    mutating func converge(_ time: Timestamp) {
        // Every round kills something, finishes a step or is the last one, and all of these are finite.
        repeat {
            let ids = dirtyApps.sorted()
            dirtyApps.removeAll(keepingCapacity: true)
            for id in ids { adjust(id, time: time) }
            advanceDeployments(touching: Set(ids), time: time)
        } while !dirtyApps.isEmpty
    }

    /// What holds an app at the moment.
    private enum Control {
        /// The number of instances counts; also without any deployment.
        case scale(Int)
        case restart(AppSpec)
        case stop
        /// Its deployment has not come to it yet, or is past it.
        case hold
    }

    private func control(of id: AppID) -> Control {
        guard let index = deploymentIndex(holding: id) else {
            return apps[id].map { .scale($0.instances) } ?? .stop
        }
        let deployment = deployments[index]
        guard deployment.steps.indices.contains(deployment.currentStep),
            let action = deployment.steps[deployment.currentStep].first(where: { $0.app == id })
        else {
            let isPast = deployment.steps.prefix(deployment.currentStep).contains {
                $0.contains { $0.app == id && $0.kind != .start }
            }
            return isPast ? apps[id].map { .scale($0.instances) } ?? .stop : .hold
        }
        switch action.kind {
        case .start: return .hold
        case .stop: return .stop
        case .scale: return apps[id].map { .scale($0.instances) } ?? .stop
        case .restart: return apps[id].map { .restart($0) } ?? .stop
        }
    }

    private mutating func adjust(_ id: AppID, time: Timestamp) {
        let mine = instances(of: id)
        let adjustment: Adjustment
        switch control(of: id) {
        case .scale(let count): adjustment = scaled(mine, to: count, app: apps[id])
        case .restart(let app): adjustment = replaced(mine, app: app)
        case .stop: adjustment = Adjustment(kills: mine.filter { $0.goal == .running }.map(\.id))
        case .hold: adjustment = Adjustment()
        }
        for instance in adjustment.kills { kill(instance, time: time) }
        setDemand(id, adjustment.launches, time: time)
    }

    private mutating func setDemand(_ id: AppID, _ count: Int, time: Timestamp) {
        guard count > 0 else {
            queue[id] = nil
            return
        }
        if queue[id] == nil {
            queue[id] = QueueEntry(count: count, since: time)
        } else {
            queue[id]?.count = count
        }
    }

    /// Doomed instances keep their place until they are gone: a replacement never runs beside what it replaces.
    private func scaled(_ mine: [Instance], to count: Int, app: AppSpec?) -> Adjustment {
        let active = mine.filter(\.isActive)
        if active.count > count {
            return Adjustment(kills: victims(active, app: app).prefix(active.count - count).map(\.id))
        }
        let doomed = mine.filter { $0.goal == .decommissioned }.count
        return Adjustment(launches: max(0, count - active.count - doomed))
    }

    /// The rolling replacement of all instances of former configurations (facts of the field: capacity bounds by
    /// `upgradeStrategy`, unhealthy ones go first, one extra instance if the bounds coincide). Computed from the
    /// present instances alone, so that it goes on after a restart of the scheduler where it was.
    private func replaced(_ mine: [Instance], app: AppSpec) -> Adjustment {
        let count = app.instances
        let old = mine.filter { $0.isActive && $0.configVersion != app.lastConfigChangeAt }
        let new = mine.filter { $0.isActive && $0.configVersion == app.lastConfigChangeAt }
        let doomed = mine.filter { $0.goal == .decommissioned }.count
        let limits = ReplacementLimits(app)
        let readyNew = new.filter(isReady).count
        let readyOld = old.filter(isReady).count

        let spareHealthy = readyOld + readyNew - limits.healthyMin
        let displaced = old.count - max(0, count - readyNew)
        let surplus = old.count + new.count - limits.instancesMax
        let killCount = min(old.count, max(0, spareHealthy, displaced, surplus))
        let order = victims(old.filter { !isReady($0) }, app: app) + victims(old.filter(isReady), app: app)
        var kills = order.prefix(killCount).map(\.id)
        if new.count > count { kills += victims(new, app: app).prefix(new.count - count).map(\.id) }

        let occupied = mine.filter(\.isActive).count + doomed
        let launches = min(count - new.count, limits.instancesMax - occupied)
        if limits.stopsFirst, !old.isEmpty || doomed > 0 { return Adjustment(kills: kills) }
        return Adjustment(launches: max(0, launches), kills: kills)
    }

    /// Least alive first, then by the app's kill selection; an app with GROUP_BY gives from its fullest value.
    func victims(_ candidates: [Instance], app: AppSpec?) -> [Instance] {
        let selection = app?.killSelection ?? .youngestFirst
        var rest = candidates.sorted { left, right in
            let leftRank = SchedulerCore.liveliness(left.condition)
            let rightRank = SchedulerCore.liveliness(right.condition)
            if leftRank != rightRank { return leftRank < rightRank }
            if left.stagedAt != right.stagedAt {
                return selection == .youngestFirst ? left.stagedAt > right.stagedAt : left.stagedAt < right.stagedAt
            }
            return left.id < right.id
        }
        guard let field = app?.constraints.first(where: { $0.relation == .groupBy })?.field else { return rest }
        var order: [Instance] = []
        while !rest.isEmpty {
            var counts: [String: Int] = [:]
            for instance in rest { counts[instance.placement[field] ?? "", default: 0] += 1 }
            let fullest = counts.values.max() ?? 0
            let index = rest.firstIndex { counts[$0.placement[field] ?? ""] == fullest } ?? 0
            order.append(rest.remove(at: index))
        }
        return order
    }

    private static func liveliness(_ condition: Instance.Condition) -> Int {
        switch condition {
        case .unreachableInactive: 0
        case .unreachable: 1
        case .killing: 2
        case .provisioned: 3
        case .staging: 4
        case .starting: 5
        case .running: 6
        }
    }

    // MARK: Deployments

    private mutating func advanceDeployments(touching ids: Set<AppID>, time: Timestamp) {
        for deployment in deployments
        where deployment.changes.isEmpty || deployment.affectedApps.contains(where: ids.contains) {
            guard let index = deployments.firstIndex(where: { $0.id == deployment.id }) else { continue }
            var current = deployments[index]
            let step = current.currentStep
            while current.steps.indices.contains(current.currentStep),
                current.steps[current.currentStep].allSatisfy(isDone)
            {
                publishStep("deployment_step_success", current, time: time)
                current.currentStep += 1
                if current.steps.indices.contains(current.currentStep) {
                    publishStep("deployment_info", current, time: time)
                }
            }
            guard current.currentStep >= current.steps.count else {
                if current.currentStep != step {
                    deployments[index] = current
                    writes["deployments/" + current.id] = .some(current.record)
                    dirtyApps.formUnion(current.affectedApps)
                }
                continue
            }
            finish(current, time: time)
        }
    }

    private mutating func finish(_ deployment: Deployment, time: Timestamp) {
        deployments.removeAll { $0.id == deployment.id }
        writes["deployments/" + deployment.id] = .some(nil)
        dirtyApps.formUnion(deployment.affectedApps)
        publish("deployment_success", time, ["id": .string(deployment.id), "plan": deployment.plan])
    }

    private func isDone(_ action: Deployment.Step) -> Bool {
        let mine = instances(of: action.app).filter { $0.condition != .unreachableInactive }
        guard let app = apps[action.app] else { return mine.isEmpty }
        switch action.kind {
        case .start: return true
        case .stop: return mine.isEmpty
        case .scale: return mine.count == app.instances && mine.allSatisfy(isReady)
        case .restart:
            return mine.count == app.instances
                && mine.allSatisfy { $0.configVersion == app.lastConfigChangeAt && isReady($0) }
        }
    }

    mutating func publishStep(_ type: String, _ deployment: Deployment, time: Timestamp) {
        let actions =
            deployment.steps.indices.contains(deployment.currentStep) ? deployment.steps[deployment.currentStep] : []
        publish(
            type, time,
            ["plan": deployment.plan, "currentStep": ["actions": .array(actions.map { $0.json(nameOf: "action") })]])
    }
}

/// The bounds that an app's upgrade strategy sets on a replacement.
struct ReplacementLimits: Equatable {
    var healthyMin: Int
    var instancesMax: Int
    /// Nothing new starts while anything old may still write.
    var stopsFirst: Bool

    init(_ app: AppSpec) {
        let count = Double(app.instances)
        // A tolerance keeps products such as 10 x 1.1 from being cut below their exact value.
        healthyMin = Int((count * app.upgradeStrategy.minimumHealthCapacity - 1e-9).rounded(.up))
        instancesMax = Int((count * (1 + app.upgradeStrategy.maximumOverCapacity) + 1e-9).rounded(.down))
        stopsFirst = app.holdsExclusiveVolume
        if stopsFirst {
            healthyMin = 0
            instancesMax = app.instances
        } else if healthyMin == instancesMax {
            instancesMax += 1
        }
    }
}
