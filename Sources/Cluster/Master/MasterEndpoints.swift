import Base
import HTTPKit
import HTTPTypes
import Hummingbird
import MasterCore
import MesosAPI
import SwiftProtobuf

extension HTTPField.Name {
    static let mesosStreamID = HTTPField.Name("Mesos-Stream-Id")!
}

/// Where the leader is, protocol-relative as Mesos writes it.
func redirection(to leader: JSONValue, target: String) -> HTTPFailure {
    let host = leader["hostname"]?.string ?? leader["address"]?["ip"]?.string ?? ""
    let port = leader["port"]?.integer ?? 5050
    var failure = HTTPFailure(.temporaryRedirect, text: "")
    failure.headers = [.location: "//\(host):\(port)\(target)"]
    return failure
}

extension MasterService {
    nonisolated func makeRouter() -> HTTPRouter {
        var routes = Routes()
        addCalls(to: &routes)
        addReaders(to: &routes)
        let exact: Set<String> = ["/redirect"]
        let table = routes
        let router = HTTPRouter(context: HTTPContext.self)
        for method in [HTTPRequest.Method.get, .post, .put, .delete, .head] {
            for pattern in ["/", "/**"] {
                router.on(RouterPath(pattern), method: method) { request, _ in
                    try await table.respond(to: request, exact: exact)
                }
            }
        }
        return router
    }

    private nonisolated func addCalls(to routes: inout Routes) {
        routes.on(["/api/v1/scheduler"], [.post]) { request, _ in try await self.schedulerCall(request) }
        routes.on(["/holdfast/v1/agent"], [.post]) { request, _ in try await self.agentCall(request) }
        routes.on(["/api/v1"], [.post]) { request, _ in try await self.operatorCall(request) }
        routes.on(["/teardown"], [.post]) { request, _ in try await self.teardown(request) }
    }

    private nonisolated func requireLeading(_ request: Request) async throws {
        try await requireLeading(request.uri.string)
    }

    // MARK: Schedulers

    private nonisolated func schedulerCall(_ request: Request) async throws -> Response {
        try await requireLeading(request)
        let content = try Negotiation.contentType(request)
        let body = try await request.bytes(limit: 16 << 20)
        let call: SchedulerCall = try decoded(body, content, name: "Call")
        if let fault = FrameworkValidation.fault(in: call) {
            throw HTTPFailure(.badRequest, text: "Failed to validate scheduler::Call: \(fault)")
        }
        let streamID = request.headers[.mesosStreamID]
        guard call.type == .subscribe else {
            if call.type == .unknown { throw HTTPFailure(.notImplemented, text: "501 Not Implemented.") }
            let refusal = try await take(
                .call(call, streamID.map { ConnectionID($0) }, principal: nil), for: request.uri.string)
            if let refusal { throw HTTPFailure(.init(code: refusal.status), text: refusal.text) }
            return Response(status: call.type == .updateFramework ? .ok : .accepted)
        }
        let accept = try Negotiation.accept(request)
        if streamID != nil {
            throw HTTPFailure(
                .badRequest, text: "Subscribe calls should not include the 'Mesos-Stream-Id' header")
        }
        let (connection, feed) = try await subscribe(
            call, media: accept, principal: nil, target: request.uri.string)
        return .stream(
            feed, request: request,
            headers: [.contentType: accept.rawValue, .mesosStreamID: connection.value])
    }

    // MARK: Agents

    private nonisolated func agentCall(_ request: Request) async throws -> Response {
        try await requireLeading(request)
        let content = try Negotiation.contentType(request)
        let message: ClusterAgentMessage = try decoded(
            try await request.bytes(limit: 64 << 20), content, name: "AgentMessage")
        switch message.kind {
        case .register, .reregister:
            let accept = try Negotiation.accept(request)
            let (connection, feed) = try await connect(message, media: accept, target: request.uri.string)
            return .stream(
                feed, request: request,
                headers: [.contentType: accept.rawValue, .mesosStreamID: connection.value])
        case .unregister, .pong, .statusUpdate, .executorMessage, .exitedExecutor, nil:
            guard let streamID = request.headers[.mesosStreamID] else {
                throw HTTPFailure(.badRequest, text: "Expecting the 'Mesos-Stream-Id' header")
            }
            if let refusal = try await take(.agent(message, ConnectionID(streamID)), for: request.uri.string) {
                throw HTTPFailure(.init(code: refusal.status), text: refusal.text)
            }
            return Response(status: .accepted)
        }
    }

    // MARK: Operators

    private nonisolated func teardown(_ request: Request) async throws -> Response {
        try await requireLeading(request)
        let form = String(decoding: try await request.bytes(), as: UTF8.self)
        let values = form.split(separator: "&").map { $0.split(separator: "=", maxSplits: 1).map(String.init) }
        guard let id = values.first(where: { $0.first == "frameworkId" })?.last, values.first?.count == 2 else {
            throw HTTPFailure(.badRequest, text: "Missing 'frameworkId' query parameter in the request body")
        }
        if let refusal = try await take(.teardown(MesosFrameworkID(id)), for: request.uri.string) {
            throw HTTPFailure(.init(code: refusal.status), text: refusal.text)
        }
        return Response(status: .ok)
    }

    private nonisolated func operatorCall(_ request: Request) async throws -> Response {
        try await requireLeading(request)
        let content = try Negotiation.contentType(request)
        let call: MasterCall = try decoded(try await request.bytes(), content, name: "Call")
        guard call.hasType else {
            throw HTTPFailure(
                .badRequest, text: "Failed to validate master::Call: Expecting 'type' to be present")
        }
        let accept = try Negotiation.accept(request)
        switch call.type {
        case .subscribe:
            let feed = try await watch(media: accept, target: request.uri.string)
            return .stream(feed, request: request, headers: [.contentType: accept.rawValue])
        case .teardown: return try await operate(.teardown(call.teardown.frameworkID), request)
        case .markAgentGone: return try await operate(.markAgentGone(call.markAgentGone.agentID), request)
        case .deactivateAgent: return try await operate(.setAgentActive(call.deactivateAgent.agentID, false), request)
        case .reactivateAgent: return try await operate(.setAgentActive(call.reactivateAgent.agentID, true), request)
        case .getHealth, .getFlags, .getVersion, .getMetrics, .getLoggingLevel, .getState, .getAgents, .getFrameworks,
            .getExecutors, .getOperations, .getTasks, .getRoles, .getWeights, .getMaster, .getMaintenanceStatus,
            .getMaintenanceSchedule, .getQuota:
            let views = OperatorViews(core: try await leadingSnapshot(request.uri.string))
            guard let response = views.answer(call.type, configuration: configuration, service: await times) else {
                throw HTTPFailure(.notImplemented, text: "501 Not Implemented.")
            }
            return Response(
                status: .ok, headers: [.contentType: accept.rawValue],
                body: .init(byteBuffer: .init(bytes: accept.encode(response))))
        case .unknown, .setLoggingLevel, .listFiles, .readFile, .updateWeights, .reserveResources,
            .unreserveResources, .createVolumes, .destroyVolumes, .growVolume, .shrinkVolume,
            .updateMaintenanceSchedule, .startMaintenance, .stopMaintenance, .drainAgent, .updateQuota, .setQuota,
            .removeQuota:
            throw HTTPFailure(.notImplemented, text: "501 Not Implemented.")
        }
    }

    private nonisolated func operate(_ event: MasterCore.Event, _ request: Request) async throws -> Response {
        if let refusal = try await take(event, for: request.uri.string) {
            throw HTTPFailure(.init(code: refusal.status), text: refusal.text)
        }
        return Response(status: .ok)
    }

    private nonisolated func decoded<M: Message>(
        _ body: [UInt8], _ media: MesosAPI.MediaType, name: String
    ) throws -> M {
        do {
            return try media.decode(M.self, from: body)
        } catch {
            let text =
                switch (media, error.code) {
                case (.protobuf, _): "Failed to parse body into \(name) protobuf"
                case (.json, .malformed): "Failed to parse body into JSON: \(error.message)"
                case (.json, .wrongType), (.json, .missingFields):
                    "Failed to convert JSON into \(name) protobuf: \(error.message)"
                }
            throw HTTPFailure(.badRequest, text: text)
        }
    }

    // MARK: Readers

    private nonisolated func addReaders(to routes: inout Routes) {
        routes.on(["/health"], [.get]) { _, _ in Response(status: .ok) }
        routes.on(["/version"], [.get]) { request, _ in answer(StateViews.version, to: request) }
        routes.on(["/flags"], [.get]) { request, _ in
            answer(["flags": StateViews.flags(self.configuration)], to: request)
        }
        routes.on(["/redirect"], [.get]) { _, _ in throw redirection(to: await self.leader, target: "") }
        routes.on(["/metrics/snapshot"], [.get]) { request, _ in
            let views = StateViews(
                core: await self.snapshot, configuration: self.configuration, times: await self.times)
            return answer(views.metrics(isLeading: await self.isLeading), to: request)
        }
        read("/state", from: &routes) { views, _ in views.state }
        read("/state-summary", from: &routes) { views, _ in views.summary }
        read("/slaves", from: &routes) { views, query in views.slaves(only: query("slave_id")) }
        read("/frameworks", from: &routes) { views, query in views.frameworks(only: query("framework_id")) }
        read("/roles", from: &routes) { views, _ in views.roles }
        read("/tasks", from: &routes) { views, query in
            views.tasks(
                framework: query("framework_id"), task: query("task_id"), limit: query("limit").flatMap { Int($0) },
                offset: query("offset").flatMap { Int($0) }, isAscending: query("order") == "asc")
        }
        read("/maintenance/schedule", from: &routes) { _, _ in [:] }
        read("/maintenance/status", from: &routes) { _, _ in [:] }
        read("/weights", from: &routes) { views, _ in views.weights }
    }

    private nonisolated func read(
        _ path: String, from routes: inout Routes,
        _ view: @escaping @Sendable (StateViews, (String) -> String?) -> JSONValue
    ) {
        routes.on([path], [.get]) { request, _ in
            let views = StateViews(
                core: try await self.leadingSnapshot(request.uri.string), configuration: self.configuration,
                times: await self.times)
            return answer(view(views) { request.uri.queryParameters[Substring($0)].map { String($0) } }, to: request)
        }
    }
}

/// JSON, or JavaScript when the web interface asks for a callback.
private func answer(_ json: JSONValue, to request: Request) -> Response {
    guard let callback = request.uri.queryParameters["jsonp"] else { return .json(json) }
    return .text("\(callback)(\(json.text));", headers: [.contentType: "text/javascript"])
}
