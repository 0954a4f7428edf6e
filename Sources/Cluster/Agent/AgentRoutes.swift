import AgentCore
import Base
import HTTPKit
import HTTPTypes
import Hummingbird
import MesosAPI
import NIOCore
import OrderedCollections
import Telemetry

/// The agent's HTTP API: every path bare and under `/slave(1)/`.
struct AgentRoutes: Sendable {
    let agent: AgentService

    func router() -> HTTPRouter {
        let router = HTTPRouter(context: HTTPContext.self)
        for prefix in ["", "/slave(1)"] {
            addState(router, prefix)
            addFiles(router, prefix)
            addCalls(router, prefix)
        }
        router.get("/metrics") { _, _ in
            Response.text(
                ProcessTelemetry.registry.prometheusText(),
                headers: [.contentType: "text/plain; version=0.0.4; charset=utf-8"])
        }
        return router
    }

    private func addState(_ router: HTTPRouter, _ prefix: String) {
        let agent = agent
        let path = { (name: String) in RouterPath("\(prefix)/\(name)") }
        router.get(path("health")) { _, _ in Response(status: .ok) }
        router.get(path("version")) { request, _ in AgentRoutes.answer(AgentRoutes.version, request) }
        router.get(path("state")) { request, _ in AgentRoutes.answer(await agent.stateDocument(), request) }
        router.get(path("flags")) { request, _ in
            AgentRoutes.answer(["flags": agent.configuration.flagsDocument], request)
        }
        router.get(path("containers")) { request, _ in
            let container = request.uri.queryParameters.get("container_id")
            return AgentRoutes.answer(await agent.containersDocument(only: container), request)
        }
        router.get(path("monitor/statistics")) { request, _ in
            AgentRoutes.answer(await agent.containersDocument(only: nil), request)
        }
        router.get(path("containerizer/debug")) { request, _ in AgentRoutes.answer(["pending": []], request) }
        router.get(path("metrics/snapshot")) { request, _ in
            AgentRoutes.answer(await agent.metricsDocument(), request)
        }
    }

    private func addFiles(_ router: HTTPRouter, _ prefix: String) {
        let files = SandboxFiles(workDirectory: agent.configuration.workDirectory)
        let agent = agent
        let path = { (name: String) in RouterPath("\(prefix)/files/\(name)") }
        router.get(path("browse")) { request, _ in
            AgentRoutes.answer(.array(try await files.browse(AgentRoutes.path(request, agent))), request)
        }
        router.get(path("read")) { request, _ in
            let parameters = request.uri.queryParameters
            let document = try await files.read(
                AgentRoutes.path(request, agent), offset: parameters.get("offset"), length: parameters.get("length"))
            return AgentRoutes.answer(document, request)
        }
        router.get(path("download")) { request, _ in
            try await files.download(AgentRoutes.path(request, agent))
        }
        router.get(path("debug")) { request, _ in AgentRoutes.answer(await agent.attachedPaths(), request) }
    }

    private static func path(_ request: Request, _ agent: AgentService) async throws -> String {
        guard let path = request.uri.queryParameters.get("path"), !path.isEmpty else {
            throw HTTPFailure(.badRequest, text: "Expecting 'path=value' in query.\n")
        }
        return await agent.realPath(path)
    }

    private func addCalls(_ router: HTTPRouter, _ prefix: String) {
        let agent = agent
        router.post(RouterPath("\(prefix)/api/v1/executor")) { request, _ in
            let media = try CallRequest.media(request)
            let bytes = try await request.bytes()
            let call: ExecutorCall
            do {
                call = try media.decode(ExecutorCall.self, from: bytes)
            } catch {
                throw HTTPFailure(.badRequest, text: "\(error)")
            }
            let answer = call.type == .subscribe ? try CallRequest.accepted(request) : .json
            guard let feed = try await agent.executorCall(call, answer: answer) else {
                return Response(status: .accepted)
            }
            var response = Response.stream(feed, request: request, headers: [.contentType: answer.rawValue])
            response.body = AgentRoutes.notifying(response.body) { await agent.executorLeft(call, feed) }
            return response
        }
        router.post(RouterPath("\(prefix)/api/v1")) { request, _ in
            let media = try CallRequest.media(request)
            let bytes = try await request.bytes()
            let call: AgentCall
            do {
                call = try media.decode(AgentCall.self, from: bytes)
            } catch {
                throw HTTPFailure(.badRequest, text: "\(error)")
            }
            let answer = try CallRequest.accepted(request)
            guard let reply = try await OperatorCalls(agent: agent).perform(call) else { return Response(status: .ok) }
            return Response(
                status: .ok, headers: [.contentType: answer.rawValue],
                body: .init(byteBuffer: ByteBuffer(bytes: answer.encode(reply))))
        }
    }

    /// `body`, with `onEnd` called when it is over for whatever reason.
    private static func notifying(_ body: ResponseBody, _ onEnd: @escaping @Sendable () async -> Void) -> ResponseBody {
        ResponseBody { writer in
            do {
                try await body.write(writer)
            } catch {
                await onEnd()
                throw error
            }
            await onEnd()
        }
    }

    /// A v0 answer: JSON, or a call of the JavaScript function that `jsonp` names.
    static func answer(_ document: JSONValue, _ request: Request) -> Response {
        guard let callback = request.uri.queryParameters.get("jsonp"), !callback.isEmpty else {
            return .json(document)
        }
        return .text("\(callback)(\(document.text));", headers: [.contentType: "text/javascript"])
    }

    static let version: JSONValue = [
        "build_date": "2026-01-01 00:00:00", "build_time": 1767225600.0, "build_user": "holdfast",
        "version": .string(AgentConfiguration.version),
    ]
}

extension AgentConfiguration {
    var flagsDocument: JSONValue {
        .object(.init(flags.map { ($0.name, .string($0.value)) }, uniquingKeysWith: { _, last in last }))
    }
}
