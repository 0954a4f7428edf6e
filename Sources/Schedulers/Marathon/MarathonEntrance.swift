import Base
import HTTPKit
import HTTPTypes
import Hummingbird
import Logging
import Telemetry

/// What every Marathon serves, whether it leads or not: a little by itself, the rest as the leader or through it.
struct MarathonEntrance: Sendable {
    let standing: Standing
    let configuration: MarathonConfiguration
    let proxy: LeaderProxy
    let logger: Logger

    func router() -> HTTPRouter {
        let router = HTTPRouter(context: HTTPContext.self)
        addMetricsRoutes(to: router, registry: ProcessTelemetry.registry)
        let methods: [HTTPRequest.Method] = [.get, .head, .post, .put, .patch, .delete, .options]
        for method in methods {
            for path in ["/", "/**"] as [RouterPath] where !(method == .get && path == "/metrics") {
                router.on(path, method: method) { request, context in
                    try await respond(request, remoteIP: context.remoteIP ?? "")
                }
            }
        }
        return router
    }

    private func respond(_ request: Request, remoteIP: String) async throws -> Response {
        let call = MarathonAPI.Call(request, remoteIP: remoteIP)
        if var response = MarathonAPI.local(call) {
            var leader: String?
            if case .leading = standing.role { leader = standing.address }
            configuration.decorate(&response, request: request, leader: leader)
            return response
        }
        let role = try await standing.settled(
            leaderWait: configuration.leaderWait, preparationWait: configuration.preparationTimeout)
        switch role {
        case .leading(let scheduler):
            let standing = standing
            let api = MarathonAPI(
                scheduler: scheduler, configuration: configuration, leader: standing.address, logger: logger,
                resign: { standing.end(.resigned) })
            return try await api.respond(call)
        case .following(let leader?): return try await forward(call, to: leader)
        case .following(leader: nil):
            if call.path.elementsEqual(["v2", "leader"]), call.method == .get {
                throw MarathonAPI.notFound("There is no leader")
            }
            throw HTTPFailure(.badGateway, json: ["message": "Could not determine the current leader"])
        case .preparing:
            throw HTTPFailure(
                .serviceUnavailable, json: ["message": "This Marathon leads, but could not load its state in time"])
        }
    }

    /// An event stream goes to the leader directly: it would cost every Marathon on its way a connection for ever.
    private func forward(_ call: MarathonAPI.Call, to leader: String) async throws -> Response {
        if call.path.elementsEqual(["v2", "events"]), call.method == .get {
            return Response(
                status: .found, headers: [.location: "http://\(leader)\(call.request.uri.string)"])
        }
        return try await proxy.forward(call.request, to: leader, remoteIP: call.remoteIP)
    }
}
