import Base
import HTTPKit
import HTTPTypes
import Hummingbird
import MarathonCore
import OrderedCollections

extension MarathonAPI {
    func apps(_ call: Call) async throws -> Response {
        guard !call.path.isEmpty else { return try await allApps(call) }
        let path = Array(call.path)
        let last = path[path.count - 1]
        if path.count >= 2, last == "restart", call.method == .post {
            return try await restart(call, AppID(path.dropLast()))
        }
        if path.count >= 2, last == "tasks" { return try await appTasks(call, AppID(path.dropLast())) }
        if path.count >= 3, path[path.count - 2] == "tasks", call.method == .delete {
            return try await kill(call, .task(AppID(path.dropLast(2)), last), single: true)
        }
        if path.count >= 2, last == "versions" { return try await versions(call, AppID(path.dropLast())) }
        if path.count >= 3, path[path.count - 2] == "versions" {
            return try await version(call, AppID(path.dropLast(2)), text: last)
        }
        return try await oneApp(call, AppID(path[...]))
    }

    // MARK: All apps

    private func allApps(_ call: Call) async throws -> Response {
        switch call.method {
        case .get, .head:
            let selector = try call.value("label").map(LabelSelector.init)
            let embeds = AppEmbeds(parameters: call.values("embed")).union([.counts, .deployments])
            let cmd = call.value("cmd")?.lowercased()
            let id = call.value("id")
            let list = await scheduler.read { core, time in
                core.apps.keys.sorted().compactMap { key -> JSONValue? in
                    guard let app = core.apps[key] else { return nil }
                    if let cmd, !(app.cmd ?? "").lowercased().contains(cmd) { return nil }
                    if let id, !key.description.contains(id) { return nil }
                    if let selector, !selector.matches(app.labels) { return nil }
                    return core.appInfo(key, embeds: embeds, time: time)
                }
            }
            return .json(["apps": .array(list)])
        case .post:
            let body = try await call.body()
            guard body.object != nil else {
                throw HTTPFailure(.badRequest, json: ["message": "Please specify data in JSON format"])
            }
            let reply = try await change(call, [AppChange(.create, document: body)], default: false)
            guard case .deployment(let deployment, _, let apps, _) = reply, let id = apps.first else {
                return .json([:])
            }
            return await created(id, deployment: deployment)
        case .put, .patch:
            guard let list = try await call.body().array else {
                throw HTTPFailure(.badRequest, json: ["message": "Please specify data in JSON format"])
            }
            let kind = AppChange.Kind.update(
                isPartial: call.method == .patch || call.flag("partialUpdate", default: true),
                mustExist: call.method == .patch)
            return answer(try await change(call, list.map { AppChange(kind, document: $0) }, default: false))
        default: throw MarathonAPI.notAllowed()
        }
    }

    private func change(_ call: Call, _ changes: [AppChange], default force: Bool) async throws -> CommandReply {
        let reply = try await scheduler.submit(.change(changes, force: call.flag("force", default: force)))
        if case .deployment(_, _, let apps, _) = reply {
            for id in apps {
                guard let app = await scheduler.read({ core, _ in core.apps[id] }) else { continue }
                await scheduler.publish(
                    "api_post_event",
                    [
                        "clientIp": .string(call.remoteIP), "uri": .string(call.request.uri.path),
                        "appDefinition": app.json,
                    ])
            }
        }
        return reply
    }

    private func created(_ id: AppID, deployment: String) async -> Response {
        let info = await scheduler.read { core, time in
            core.appInfo(id, embeds: [.counts, .deployments, .tasks], time: time) ?? [:]
        }
        var body = info
        // Clients follow this one; it may already be over.
        body["deployments"] = [["id": .string(deployment)]]
        return .json(
            body, status: .created,
            headers: [.location: "/v2/apps\(id)", field("Marathon-Deployment-Id"): deployment])
    }

    /// A deployment's id and version, or what was killed.
    func answer(_ reply: CommandReply, location: String? = nil) -> Response {
        switch reply {
        case .deployment(let id, let version, _, _):
            var headers: HTTPFields = [field("Marathon-Deployment-Id"): id]
            if let location { headers[.location] = location }
            return .json(
                ["version": .string(version.description), "deploymentId": .string(id)],
                status: location == nil ? .ok : .created, headers: headers)
        case .killed(let tasks): return .json(["tasks": .array(tasks)])
        case .done: return .json([:])
        }
    }

    // MARK: One app

    private func oneApp(_ call: Call, _ id: AppID) async throws -> Response {
        switch call.method {
        case .get, .head: return try await show(call, id)
        case .put, .patch:
            let body = try await call.body()
            guard body.object != nil else {
                throw HTTPFailure(.badRequest, json: ["message": "Please specify data in JSON format"])
            }
            let kind = AppChange.Kind.update(
                isPartial: call.method == .patch || call.flag("partialUpdate", default: true),
                mustExist: call.method == .patch)
            let reply = try await change(call, [AppChange(kind, id: id, document: body)], default: false)
            guard case .deployment(_, _, _, let isNew) = reply else { return answer(reply) }
            return answer(reply, location: isNew ? "/v2/apps\(id)" : nil)
        case .delete:
            // The one command that forces by default.
            return answer(try await change(call, [AppChange(.delete, id: id)], default: true))
        default: throw MarathonAPI.notAllowed()
        }
    }

    private func show(_ call: Call, _ id: AppID) async throws -> Response {
        let extra = AppEmbeds(parameters: call.values("embed"))
        if id.segments.last == "*" {
            let group = id.parent
            let list = await scheduler.read { core, time in
                core.apps.keys.filter { $0.isWithin(group) && $0 != group }.sorted().compactMap {
                    core.appInfo($0, embeds: extra.union([.counts, .deployments]), time: time)
                }
            }
            guard !list.isEmpty || group.isRoot else { throw MarathonAPI.notFound("Group '\(group)' does not exist") }
            return .json(["*": .array(list)])
        }
        let embeds = extra.union([.counts, .deployments, .tasks, .lastTaskFailure])
        guard let info = await scheduler.read({ core, time in core.appInfo(id, embeds: embeds, time: time) }) else {
            throw MarathonAPI.notFound("App '\(id)' does not exist")
        }
        return .json(["app": info])
    }

    private func restart(_ call: Call, _ id: AppID) async throws -> Response {
        answer(try await change(call, [AppChange(.restart, id: id)], default: false))
    }

    private func versions(_ call: Call, _ id: AppID) async throws -> Response {
        guard call.method == .get || call.method == .head else { throw MarathonAPI.notAllowed() }
        guard let list = await scheduler.read({ core, _ in core.apps[id] == nil ? nil : core.versions(of: id) }) else {
            throw MarathonAPI.notFound("App '\(id)' does not exist")
        }
        return .json(["versions": .array(list.reversed().map { .string($0.version.description) })])
    }

    private func version(_ call: Call, _ id: AppID, text: String) async throws -> Response {
        guard call.method == .get || call.method == .head else { throw MarathonAPI.notAllowed() }
        guard let version = Timestamp(text),
            let app = await scheduler.read({ core, _ in core.app(id, version: version) })
        else { throw MarathonAPI.notFound("App '\(id)' does not exist in version \(text)") }
        return .json(app.json)
    }

    // MARK: Tasks of an app

    private func appTasks(_ call: Call, _ id: AppID) async throws -> Response {
        switch call.method {
        case .get, .head:
            let isGroup = id.segments.last == "*"
            let parent = id.parent
            let found = await scheduler.read { core, _ -> [Instance]? in
                if isGroup {
                    return core.apps.keys.filter { $0.isWithin(parent) }.sorted().flatMap { core.instances(of: $0) }
                }
                let mine = core.instances(of: id)
                return core.apps[id] == nil && mine.isEmpty ? nil : mine
            }
            guard let found else { throw MarathonAPI.notFound("App '\(id)' does not exist") }
            if wantsText(call) { return .text(await legacyRows(isGroup ? nil : id)) }
            let list = await scheduler.read { core, _ in found.map { core.task($0) } }
            return .json(["tasks": .array(list)])
        case .delete: return try await kill(call, .app(id, host: call.value("host")), single: false)
        default: throw MarathonAPI.notAllowed()
        }
    }

    func kill(_ call: Call, _ target: KillTarget, single: Bool) async throws -> Response {
        let reply = try await scheduler.submit(
            .kill(target, scale: call.flag("scale"), wipe: call.flag("wipe"), force: call.flag("force")))
        if single, case .killed(let tasks) = reply, let task = tasks.first { return .json(["task": task]) }
        return answer(reply)
    }

    func wantsText(_ call: Call) -> Bool {
        let accept = call.request.headers[.accept] ?? ""
        return accept.contains("text/plain") && !accept.contains("json") && !accept.contains("*/*")
    }

    /// The rows that haproxy bridges read: app, service port, host:port of every running task.
    func legacyRows(_ only: AppID?) async -> String {
        await scheduler.read { core, _ in
            var text = ""
            for id in core.apps.keys.sorted() where only == nil || only == id {
                guard let app = core.apps[id] else { continue }
                let running = core.instances(of: id).filter { $0.condition == .running }
                let name = id.safe
                if app.servicePorts.isEmpty {
                    text += name + "\t \t" + running.map { $0.host + "\t" }.joined() + "\n"
                }
                for (index, port) in app.servicePorts.enumerated() {
                    let addresses = running.compactMap { instance -> String? in
                        guard instance.hostPorts.indices.contains(index), let number = instance.hostPorts[index] else {
                            return nil
                        }
                        return "\(instance.host):\(number)\t"
                    }
                    text += "\(name)\t\(port)\t" + addresses.joined() + "\n"
                }
            }
            return text
        }
    }
}

extension AppID {
    /// The id whose segments a request's path holds.
    init(_ path: ArraySlice<String>) { self.init(segments: Array(path)) }
}
