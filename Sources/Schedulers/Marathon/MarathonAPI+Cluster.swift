import Base
import HTTPKit
import HTTPTypes
import Hummingbird
import MarathonCore
import OrderedCollections

extension MarathonAPI {
    func tasks(_ call: Call) async throws -> Response {
        if call.path.elementsEqual(["delete"]) {
            guard call.method == .post else { throw MarathonAPI.notAllowed() }
            guard let ids = try await call.body()["ids"]?.array, ids.allSatisfy({ $0.string != nil }) else {
                throw HTTPFailure(
                    .badRequest,
                    json: ["message": "Invalid JSON", "details": [["path": "/ids", "errors": ["error.path.missing"]]]])
            }
            return try await kill(call, .tasks(ids.compactMap(\.string)), single: false)
        }
        guard call.path.isEmpty else { throw MarathonAPI.notFound() }
        guard call.method == .get || call.method == .head else { throw MarathonAPI.notAllowed() }
        if wantsText(call) { return .text(await legacyRows(nil)) }
        let wanted = Set(call.values("status").map { $0.lowercased() })
        let list = await scheduler.read { core, _ in
            core.instances.values.filter { instance in
                if wanted.isEmpty { return true }
                return wanted.contains(instance.condition == .running ? "running" : "staging")
            }.map { core.task($0) }
        }
        return .json(["tasks": .array(list)])
    }

    func deployments(_ call: Call) async throws -> Response {
        switch (call.method, call.path.count) {
        case (.get, 0), (.head, 0): return .json(await scheduler.read { core, _ in core.deploymentsView() })
        case (.delete, 1):
            let force = call.flag("force")
            let id = call.path.first ?? ""
            let reply = try await scheduler.submit(.cancelDeployment(id, force: force))
            return force ? Response(status: .accepted) : answer(reply)
        default: throw call.path.count > 1 ? MarathonAPI.notFound() : MarathonAPI.notAllowed()
        }
    }

    func queue(_ call: Call) async throws -> Response {
        switch call.method {
        case .get, .head:
            guard call.path.isEmpty else { throw MarathonAPI.notFound() }
            let embedsOffers = call.values("embed").contains("lastUnusedOffers")
            return .json(await scheduler.read { core, time in core.queueView(embedsOffers: embedsOffers, time: time) })
        case .delete:
            guard call.path.count >= 2, call.path.last == "delay" else { throw MarathonAPI.notFound() }
            _ = try await scheduler.submit(.resetDelay(AppID(call.path.dropLast())))
            return Response(status: .noContent)
        default: throw MarathonAPI.notAllowed()
        }
    }

    // MARK: Groups

    func groups(_ call: Call) async throws -> Response {
        switch call.method {
        case .get, .head: return try await showGroup(call)
        case .post: return try await createGroup(call)
        case .delete:
            let id = AppID(call.path)
            let apps = await scheduler.read { core, _ in core.apps.keys.filter { $0.isWithin(id) && $0 != id }.sorted()
            }
            guard !apps.isEmpty || id.isRoot else { throw MarathonAPI.notFound("Group '\(id)' does not exist") }
            let changes = apps.map { AppChange(.delete, id: $0) }
            return answer(try await scheduler.submit(.change(changes, force: call.flag("force"))))
        case .put, .patch:
            throw HTTPFailure(
                .notImplemented, json: ["message": "Changing groups is not implemented; change their apps instead"])
        default: throw MarathonAPI.notAllowed()
        }
    }

    private func showGroup(_ call: Call) async throws -> Response {
        var path = call.path
        if path.last == "versions" {
            path = path.dropLast()
            let version = await scheduler.read { core, _ in core.rootVersion }
            return .json([.string(version.description)])
        }
        let listsApps = path.last == "apps"
        if listsApps { path = path.dropLast() }
        let id = AppID(path)
        let parameters = call.values("embed")
        let embedsApps = parameters.isEmpty || parameters.contains { $0.hasPrefix("group.apps") }
        let embedsGroups = parameters.isEmpty || parameters.contains("group.groups")
        let embeds = AppEmbeds(parameters: parameters.filter { $0.hasPrefix("group.apps.") })
        let view = await scheduler.read { core, time in
            core.groupView(
                id, embedsApps: embedsApps || listsApps, embedsGroups: embedsGroups, embeds: embeds, time: time)
        }
        guard let view else { throw MarathonAPI.notFound("Group '\(id)' does not exist") }
        return .json(listsApps ? view["apps"] ?? [] : view)
    }

    /// Creates the apps of a group that does not exist yet, all in one deployment.
    private func createGroup(_ call: Call) async throws -> Response {
        let body = try await call.body()
        guard let text = body["id"]?.string else {
            throw CommandError.spec(SpecError(.malformed, [Violation(path: "/id", errors: ["error.path.missing"])]))
        }
        let id = AppID(text, parent: AppID(call.path))
        let exists = await scheduler.read { core, _ in core.apps.keys.contains { $0.isWithin(id) && $0 != id } }
        if exists { throw CommandError.conflict("Group \(id) is already created. Use PUT to change this group.") }
        if await scheduler.read({ core, _ in core.apps[id] != nil }) {
            throw CommandError.conflict("An app with the path \(id) already exists.")
        }
        var changes: [AppChange] = []
        try collect(body, id: id, dependencies: [], into: &changes)
        let reply = try await scheduler.submit(.change(changes, force: call.flag("force")))
        return answer(reply, location: "/v2/groups\(id)")
    }

    /// A group's dependencies are those of every app in it.
    private func collect(
        _ group: JSONValue, id: AppID, dependencies: [JSONValue], into changes: inout [AppChange]
    ) throws {
        let own = try elements("dependencies", of: group).compactMap(\.string)
            .map { JSONValue.string(AppID($0, parent: id.parent).description) }
        let all = dependencies + own
        for app in try elements("apps", of: group) {
            guard let text = app["id"]?.string else {
                throw CommandError.spec(
                    SpecError(.malformed, [Violation(path: "/apps/id", errors: ["error.path.missing"])]))
            }
            var document = app
            let appID = AppID(text, parent: id)
            document["id"] = .string(appID.description)
            if !all.isEmpty { document["dependencies"] = .array((app["dependencies"]?.array ?? []) + all) }
            changes.append(AppChange(.create, id: appID, document: document))
        }
        for child in try elements("groups", of: group) {
            guard let text = child["id"]?.string else {
                throw CommandError.spec(
                    SpecError(.malformed, [Violation(path: "/groups/id", errors: ["error.path.missing"])]))
            }
            try collect(child, id: AppID(text, parent: id), dependencies: all, into: &changes)
        }
    }

    private func elements(_ name: String, of group: JSONValue) throws -> [JSONValue] {
        guard let value = group[name], !value.isNull else { return [] }
        guard let elements = value.array else {
            throw CommandError.spec(
                SpecError(.malformed, [Violation(path: "/\(name)", errors: ["error.expected.jsarray"])]))
        }
        return elements
    }
}
