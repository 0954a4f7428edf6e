import Base
import OrderedCollections

extension SchedulerCore {
    mutating func perform(
        _ command: Command, time: Timestamp, rng: inout some RandomNumberGenerator
    ) throws(CommandError) -> CommandReply {
        switch command {
        case .change(let changes, let force): return try change(changes, force: force, time: time, rng: &rng)
        case .kill(let target, let scale, let wipe, let force):
            return try kill(target, scale: scale, wipe: wipe, force: force, time: time, rng: &rng)
        case .cancelDeployment(let id, let force): return try cancel(id, force: force, time: time, rng: &rng)
        case .resetDelay(let id):
            guard queue[id] != nil else { throw .notFound("Application \(id) not found in tasks queue.") }
            backoffs[id] = nil
            return .done
        }
    }

    // MARK: Changes

    private mutating func change(
        _ changes: [AppChange], force: Bool, time: Timestamp, rng: inout some RandomNumberGenerator
    ) throws(CommandError) -> CommandReply {
        var targets: [Deployment.Change] = []
        var created = false
        let version = nextVersion(time)
        for (index, change) in changes.enumerated() {
            let planned: Deployment.Change
            do throws(CommandError) {
                planned = try plan(change, version: version)
            } catch {
                guard changes.count > 1, case .spec(var failure) = error else { throw error }
                for position in failure.violations.indices {
                    failure.violations[position].path = "(\(index))" + failure.violations[position].path
                }
                throw .spec(failure)
            }
            if index == 0 { created = planned.original == nil }
            targets.removeAll { $0.app == planned.app }
            targets.append(planned)
        }
        try assignPorts(&targets)
        try check(targets)
        let deployment = try start(targets, version: version, force: force, time: time, rng: &rng)
        return .deployment(id: deployment, version: version, apps: targets.map(\.app), created: created)
    }

    /// Versions are strictly monotonic, whatever the clock does.
    private func nextVersion(_ time: Timestamp) -> Timestamp {
        max(time, rootVersion + .milliseconds(1))
    }

    /// What one change makes of its app.
    private func plan(_ change: AppChange, version: Timestamp) throws(CommandError) -> Deployment.Change {
        let rules = configuration.rules
        switch change.kind {
        case .create:
            let app = try parse { () throws(SpecError) in
                try AppSpec(parsing: change.document, id: change.id, rules: rules)
            }
            guard apps[app.id] == nil else { throw .conflict("An app with id [\(app.id)] already exists.") }
            return Deployment.Change(app: app.id, original: nil, target: stamped(app, over: nil, version: version))
        case .update(let isPartial, let mustExist):
            let id = try id(of: change)
            guard let former = apps[id] else {
                if mustExist { throw .notFound("App '\(id)' does not exist") }
                let app = try parse { () throws(SpecError) in
                    try AppSpec(parsing: change.document, id: id, rules: rules)
                }
                return Deployment.Change(app: id, original: nil, target: stamped(app, over: nil, version: version))
            }
            return Deployment.Change(
                app: id, original: former,
                target: stamped(
                    try update(former, by: change.document, isPartial: isPartial), over: former, version: version))
        case .delete:
            let id = try id(of: change)
            guard let former = apps[id] else { throw .notFound("App '\(id)' does not exist") }
            return Deployment.Change(app: id, original: former, target: nil)
        case .restart:
            let id = try id(of: change)
            guard let former = apps[id] else { throw .notFound("App '\(id)' does not exist") }
            var target = former
            target.version = version
            target.lastScalingAt = version
            target.lastConfigChangeAt = version
            return Deployment.Change(app: id, original: former, target: target)
        }
    }

    private func id(of change: AppChange) throws(CommandError) -> AppID {
        if let id = change.id { return id }
        guard let text = change.document["id"]?.string else {
            throw .spec(SpecError(.malformed, [Violation(path: "/id", errors: ["error.path.missing"])]))
        }
        return AppID(text)
    }

    private func parse(_ body: () throws(SpecError) -> AppSpec) throws(CommandError) -> AppSpec {
        do throws(SpecError) { return try body() } catch { throw .spec(error) }
    }

    /// A PUT: a document that holds only a version goes back to it.
    private func update(_ former: AppSpec, by document: JSONValue, isPartial: Bool) throws(CommandError) -> AppSpec {
        let rules = configuration.rules
        if let text = document["version"]?.string,
            document.object?.keys.allSatisfy({ $0 == "version" || $0 == "id" }) ?? false
        {
            guard let version = Timestamp(text) else {
                throw .spec(SpecError(.malformed, [Violation(path: "/version", errors: ["error.expected.date"])]))
            }
            guard let stored = app(former.id, version: version) else {
                throw .notFound("App '\(former.id)' does not exist in version \(text)")
            }
            return stored
        }
        if isPartial {
            if document["version"] != nil, document["versionInfo"] == nil {
                throw .spec(.invalid("/version", "The 'version' field may only be combined with the 'id' field."))
            }
            return try parse { () throws(SpecError) in try former.updated(by: document, rules: rules) }
        }
        var app = try parse { () throws(SpecError) in try AppSpec(parsing: document, id: former.id, rules: rules) }
        app.reuseServicePorts(of: former)
        return app
    }

    /// Sets the version, and which of the two kinds of change it was.
    private func stamped(_ app: AppSpec, over former: AppSpec?, version: Timestamp) -> AppSpec {
        var app = app
        guard let former else {
            app.version = version
            app.lastScalingAt = version
            app.lastConfigChangeAt = version
            return app
        }
        var comparable = app
        // Ports that are yet to be assigned are a change anyway; all others must compare as they are.
        comparable.instances = former.instances
        let isSame = comparable.hasSameConfiguration(as: former)
        if isSame, app.instances == former.instances { return former }
        app.version = version
        app.lastScalingAt = version
        app.lastConfigChangeAt = isSame ? former.lastConfigChangeAt : version
        return app
    }

    /// Draws the lowest service ports that no app has.
    private func assignPorts(_ changes: inout [Deployment.Change]) throws(CommandError) {
        let range = configuration.servicePorts
        let changed = Set(changes.map(\.app))
        var used = Set(apps.values.filter { !changed.contains($0.id) }.flatMap(\.servicePorts))
        for change in changes { used.formUnion(change.target?.servicePorts ?? []) }
        var candidate = range.lowerBound
        for index in changes.indices {
            guard var target = changes[index].target else { continue }
            let isComplete = target.assignServicePorts {
                while used.contains(candidate) { candidate += 1 }
                guard range.contains(candidate) else { return nil }
                used.insert(candidate)
                return candidate
            }
            guard isComplete else { throw .portsExhausted(range) }
            changes[index].target = target
        }
    }

    /// Rules between apps.
    private func check(_ changes: [Deployment.Change]) throws(CommandError) {
        var after = apps
        for change in changes { after[change.app] = change.target }
        if let limit = configuration.appsMax, after.count > limit, after.count > apps.count {
            throw .spec(
                .invalid(
                    "/",
                    "This Marathon instance may only handle up to \(limit) Apps! (Override with command line option --max_apps)"
                ))
        }
        var holders: [String: [AppID]] = [:]
        for app in after.values.sorted(by: { $0.id < $1.id }) {
            for volume in app.container?.volumes ?? [] {
                guard case .external(let external) = volume.source, !external.shared else { continue }
                holders[external.name, default: []].append(app.id)
            }
        }
        for change in changes {
            guard let target = change.target else { continue }
            for (index, volume) in (target.container?.volumes ?? []).enumerated() {
                guard case .external(let external) = volume.source, !external.shared else { continue }
                let others = (holders[external.name] ?? []).filter { $0 != target.id }
                guard !others.isEmpty else { continue }
                let names = others.map(\.description).joined(separator: ", ")
                throw .spec(
                    .invalid(
                        "/container/volumes(\(index))/external/name",
                        "Volume name '\(external.name)' in \(target.id) conflicts with volume(s) of same name in app(s): \(names)"
                    ))
            }
        }
        if SchedulerCore.layers(of: Set(after.keys), apps: after) == nil {
            throw .spec(.invalid("/", "Dependency graph has cyclic dependencies."))
        }
    }

    // MARK: Planning

    /// The apps in layers, each depending only on earlier ones; nil when the dependencies are cyclic. A dependency on a
    /// path means every app in it.
    static func layers(of ids: Set<AppID>, apps: [AppID: AppSpec]) -> [[AppID]]? {
        var needs: [AppID: Set<AppID>] = [:]
        for id in ids {
            let paths = apps[id]?.dependencies ?? []
            needs[id] = ids.filter { other in other != id && paths.contains { other.isWithin($0) } }
        }
        var layers: [[AppID]] = []
        var rest = ids
        while !rest.isEmpty {
            let layer = rest.filter { needs[$0]?.isDisjoint(with: rest) ?? true }.sorted()
            guard !layer.isEmpty else { return nil }
            layers.append(layer)
            rest.subtract(layer)
        }
        return layers
    }

    /// Stop what is removed, record what is new, then scale or restart layer by layer. Apps that stay equal get no
    /// action.
    static func steps(for changes: [Deployment.Change]) -> [[Deployment.Step]] {
        let sorted = changes.sorted { $0.app < $1.app }
        let stops = sorted.filter { $0.original != nil && $0.target == nil }
        let starts = sorted.filter { $0.original == nil && $0.target != nil }
        var steps = [
            stops.map { Deployment.Step(kind: .stop, app: $0.app) },
            starts.map { Deployment.Step(kind: .start, app: $0.app) },
        ]
        var targets: [AppID: AppSpec] = [:]
        for change in sorted { targets[change.app] = change.target }
        for layer in layers(of: Set(targets.keys), apps: targets) ?? [targets.keys.sorted()] {
            steps.append(
                layer.compactMap { id in
                    guard let change = sorted.first(where: { $0.app == id }), let target = change.target else {
                        return nil
                    }
                    guard let original = change.original else { return Deployment.Step(kind: .scale, app: id) }
                    if original.lastConfigChangeAt != target.lastConfigChangeAt {
                        return Deployment.Step(kind: target.instances == 0 ? .scale : .restart, app: id)
                    }
                    return original.instances == target.instances ? nil : Deployment.Step(kind: .scale, app: id)
                })
        }
        return steps.filter { !$0.isEmpty }
    }

    /// Makes the changes the present state, and a deployment that brings the instances there.
    private mutating func start(
        _ changes: [Deployment.Change], version: Timestamp, force: Bool, time: Timestamp,
        rng: inout some RandomNumberGenerator
    ) throws(CommandError) -> String {
        let affected = Set(changes.map(\.app))
        let conflicting = deployments.filter { !affected.isDisjoint(with: $0.affectedApps) }
        if !conflicting.isEmpty, !force { throw .locked(conflicting.map(\.id)) }
        if !force, deployments.count >= configuration.runningDeploymentsMax {
            throw .tooManyDeployments(configuration.runningDeploymentsMax)
        }
        for deployment in conflicting { dismiss(deployment, time: time) }
        rootVersion = version
        writes["root"] = .some(["version": .string(version.description)])
        var deployment = Deployment(
            id: randomUUID(using: &rng), version: version, changes: changes, steps: SchedulerCore.steps(for: changes))
        resumeReplacements(&deployment)
        if !conflicting.isEmpty { resumeScaling(&deployment) }
        for change in changes {
            if let target = change.target {
                if target != change.original { set(target) }
                if let backoff = backoffs[change.app], backoff.configVersion != target.lastConfigChangeAt {
                    backoffs[change.app] = nil
                }
            } else {
                remove(change.app)
            }
            dirtyApps.insert(change.app)
        }
        counters.deployments += 1
        deployments.append(deployment)
        writes["deployments/" + deployment.id] = .some(deployment.record)
        publish("group_change_success", time, ["groupId": "/", "version": .string(version.description)])
        publishStep("deployment_info", deployment, time: time)
        return deployment.id
    }

    /// A forced change over an unfinished replacement must finish it too: tasks of former configurations are still
    /// there.
    private func resumeReplacements(_ deployment: inout Deployment) {
        for change in deployment.changes {
            guard let target = change.target, target.instances > 0 else { continue }
            let hasOld = instances(of: change.app).contains {
                $0.isActive && $0.configVersion != target.lastConfigChangeAt
            }
            guard hasOld else { continue }
            let isPlanned = deployment.steps.contains { $0.contains { $0.app == change.app && $0.kind == .restart } }
            guard !isPlanned else { continue }
            if !deployment.steps.contains(where: { $0.contains { $0.app == change.app } }) {
                deployment.steps.append([Deployment.Step(kind: .restart, app: change.app)])
            }
            for step in deployment.steps.indices {
                for index in deployment.steps[step].indices
                where deployment.steps[step][index].app == change.app && deployment.steps[step][index].kind == .scale {
                    deployment.steps[step][index].kind = .restart
                }
            }
        }
    }

    /// A forced change that equals what a dismissed plan had not reached yet still has to reach it.
    private func resumeScaling(_ deployment: inout Deployment) {
        let planned = Set(deployment.steps.flatMap { $0 }.map(\.app))
        let missing = deployment.changes.filter { $0.target != nil && !planned.contains($0.app) }
        guard !missing.isEmpty else { return }
        deployment.steps.append(missing.map { Deployment.Step(kind: .scale, app: $0.app) })
    }

    private mutating func dismiss(_ deployment: Deployment, time: Timestamp) {
        deployments.removeAll { $0.id == deployment.id }
        writes["deployments/" + deployment.id] = .some(nil)
        counters.deploymentsDismissed += 1
        dirtyApps.formUnion(deployment.affectedApps)
        publish(
            "deployment_failed", time,
            ["id": .string(deployment.id), "plan": deployment.plan, "reason": "The upgrade has been cancelled"])
    }

    private mutating func cancel(
        _ id: String, force: Bool, time: Timestamp, rng: inout some RandomNumberGenerator
    ) throws(CommandError) -> CommandReply {
        guard let deployment = deployments.first(where: { $0.id == id }) else {
            throw .notFound("DeploymentPlan \(id) does not exist")
        }
        guard !force else {
            dismiss(deployment, time: time)
            return .done
        }
        let version = nextVersion(time)
        var changes: [Deployment.Change] = []
        for change in deployment.changes {
            // What a later deployment has changed stays.
            guard apps[change.app] == change.target || apps[change.app] == nil && change.target == nil else { continue }
            var target = change.original
            target?.version = version
            changes.append(Deployment.Change(app: change.app, original: apps[change.app], target: target))
        }
        let reverse = try start(changes, version: version, force: true, time: time, rng: &rng)
        if deployments.contains(where: { $0.id == id }) { dismiss(deployment, time: time) }
        return .deployment(id: reverse, version: version, apps: changes.map(\.app), created: false)
    }

    // MARK: Killing

    private mutating func kill(
        _ target: KillTarget, scale: Bool, wipe: Bool, force: Bool, time: Timestamp,
        rng: inout some RandomNumberGenerator
    ) throws(CommandError) -> CommandReply {
        guard !(scale && wipe) else { throw .badRequest("You cannot use scale and wipe at the same time.") }
        let victims = try select(target)
        guard scale else {
            let killed = victims.map { task($0) }
            for victim in victims { kill(victim.id, time: time) }
            return .killed(killed)
        }
        let version = nextVersion(time)
        var changes: [Deployment.Change] = []
        for id in Set(victims.map(\.appID)).sorted() {
            guard let app = apps[id] else { continue }
            var target = app
            target.instances = max(0, app.instances - victims.filter { $0.appID == id }.count)
            target.version = version
            target.lastScalingAt = version
            changes.append(Deployment.Change(app: id, original: app, target: target))
        }
        let deployment = try start(changes, version: version, force: force, time: time, rng: &rng)
        for victim in victims { kill(victim.id, time: time) }
        return .deployment(id: deployment, version: version, apps: changes.map(\.app), created: false)
    }

    private func select(_ target: KillTarget) throws(CommandError) -> [Instance] {
        switch target {
        case .tasks(let ids):
            if let bad = ids.first(where: { instanceID(ofTask: $0) == nil }) {
                throw .badRequest("Invalid task id '\(bad)'.")
            }
            return ids.compactMap { instanceID(ofTask: $0) }.compactMap { instances[$0] }.filter { $0.goal == .running }
        case .task(let app, let id):
            guard apps[app] != nil || !instances(of: app).isEmpty else {
                throw .notFound("App '\(app)' does not exist")
            }
            guard let instance = instanceID(ofTask: id).flatMap({ instances[$0] }), instance.appID == app else {
                throw .notFound("Task '\(id)' does not exist")
            }
            return [instance]
        case .app(let app, let host):
            guard apps[app] != nil || !instances(of: app).isEmpty else {
                throw .notFound("App '\(app)' does not exist")
            }
            return instances(of: app).filter { $0.goal == .running && (host == nil || host == "*" || $0.host == host) }
        }
    }
}
