import Base
import HTTPKit
import HTTPTypes
import Hummingbird
import Logging
import MarathonCore
import OrderedCollections
import Telemetry

/// The REST API v2. Paths are taken apart here rather than by the router: ids hold slashes, doubled and encoded ones
/// included, and sub-resources are found from the right end.
struct MarathonAPI: Sendable {
    let scheduler: MarathonScheduler
    let configuration: MarathonConfiguration
    /// "host:port" of this leader.
    let leader: String
    let logger: Logger

    /// One request, taken apart.
    struct Call {
        var method: HTTPRequest.Method
        /// Decoded, without empty ones.
        var path: ArraySlice<String>
        var query: [(name: String, value: String)]
        var request: Request
        var remoteIP: String

        func values(_ name: String) -> [String] { query.filter { $0.name == name }.map(\.value) }
        func value(_ name: String) -> String? { query.last { $0.name == name }?.value }

        /// Booleans in any case, as the Python client writes "True".
        func flag(_ name: String, default fallback: Bool = false) -> Bool {
            guard let value = value(name)?.lowercased() else { return fallback }
            return value == "true" || value == "1" || value.isEmpty
        }

        func body() async throws -> JSONValue {
            let bytes = try await request.bytes(limit: 8 << 20)
            do throws(JSONError) {
                return try JSONValue(parsing: bytes)
            } catch {
                throw HTTPFailure(
                    .badRequest, json: ["message": "Invalid JSON", "details": .string(error.description)])
            }
        }
    }

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
        let call = Call(
            method: request.method, path: MarathonAPI.segments(request.uri.path)[...],
            query: MarathonAPI.query(request.uri.query ?? ""), request: request, remoteIP: remoteIP)
        var response: Response
        do {
            response = try await dispatch(call)
        } catch let failure as HTTPFailure {
            response = Response(
                status: failure.status, headers: failure.headers,
                body: .init(byteBuffer: .init(string: failure.body)))
        } catch let error as CommandError {
            response = MarathonAPI.response(to: error)
        }
        decorate(&response, request: request)
        return response
    }

    private func decorate(_ response: inout Response, request: Request) {
        response.headers[field("X-Marathon-Leader")] = "http://\(leader)"
        response.headers[field("X-Frame-Options")] = "DENY"
        response.headers[field("X-XSS-Protection")] = "1; mode=block"
        response.headers[.cacheControl] = "no-cache, no-store, must-revalidate"
        response.headers[field("Pragma")] = "no-cache"
        response.headers[.expires] = "0"
        for origin in configuration.accessControlAllowOrigin {
            response.headers.append(HTTPField(name: .accessControlAllowOrigin, value: origin))
        }
        guard !configuration.accessControlAllowOrigin.isEmpty else { return }
        response.headers[.accessControlAllowMethods] = "GET, HEAD, OPTIONS"
        response.headers[.accessControlMaxAge] = "86400"
        if let asked = request.headers[.accessControlRequestHeaders] {
            response.headers[.accessControlAllowHeaders] = asked
        }
    }

    /// Splits at slashes before and after decoding: "%2Fa%2Fb" is two segments, "//" is one border.
    static func segments(_ path: String) -> [String] {
        path.split(separator: "/").flatMap { segment in
            (percentDecoded(segment)).split(separator: "/").map(String.init)
        }
    }

    static func query(_ text: String) -> [(name: String, value: String)] {
        text.split(separator: "&").map { pair in
            let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            func decode(_ part: Substring) -> String {
                percentDecoded(part.map { $0 == "+" ? " " : $0 })
            }
            var name = decode(parts[0])
            if name.hasSuffix("[]") { name.removeLast(2) }
            return (name, parts.count > 1 ? decode(parts[1]) : "")
        }
    }

    // MARK: Errors

    static func response(to error: CommandError) -> Response {
        switch error {
        case .spec(let error):
            Response.json(error.json, status: error.kind == .malformed ? .badRequest : .unprocessableContent)
        case .badRequest(let message): Response.json(["message": .string(message)], status: .badRequest)
        case .notFound(let message): Response.json(["message": .string(message)], status: .notFound)
        case .conflict(let message): Response.json(["message": .string(message)], status: .conflict)
        case .locked(let deployments):
            Response.json(
                [
                    "message": .string(
                        "App is locked by one or more deployments. Override with the option '?force=true'. "
                            + "View details at '/v2/deployments/<DEPLOYMENT_ID>'."),
                    "deployments": .array(deployments.map { ["id": .string($0)] }),
                ], status: .conflict)
        case .tooManyDeployments(let limit):
            Response.json(
                [
                    "message": .string(
                        "Max number (\(limit)) of running deployments is achieved. Wait for existing deployments to complete "
                            + "or cancel one using force=true parameter. You can increase max deployment number by using "
                            + "--max_running_deployments parameter.")
                ], status: .forbidden)
        case .portsExhausted(let range):
            Response.json(
                [
                    "message": .string(
                        "All ports in the range \(range.lowerBound)-\(range.upperBound) are already in use")
                ],
                status: .internalServerError)
        case .unavailable(let message): Response.json(["message": .string(message)], status: .serviceUnavailable)
        }
    }

    static func notFound(_ message: String = "URI not found") -> HTTPFailure {
        HTTPFailure(.notFound, json: ["message": .string(message)])
    }

    static func notAllowed() -> HTTPFailure {
        HTTPFailure(.methodNotAllowed, json: ["message": "HTTP method not allowed, supported methods: GET"])
    }

    // MARK: Dispatch

    private func dispatch(_ call: Call) async throws -> Response {
        guard let first = call.path.first else {
            return Response(status: .found, headers: [.location: "/ui/"])
        }
        if call.method == .options {
            return Response(status: .ok, headers: [.allow: "GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE"])
        }
        switch first {
        case "ping" where call.path.count == 1: return ping(call)
        case "v2":
            guard let resource = call.path.dropFirst().first else { throw MarathonAPI.notFound() }
            var inner = call
            inner.path = call.path.dropFirst(2)
            return try await dispatch(resource, inner)
        default: throw MarathonAPI.notFound()
        }
    }

    private func dispatch(_ resource: String, _ call: Call) async throws -> Response {
        switch resource {
        case "apps": try await apps(call)
        case "tasks": try await tasks(call)
        case "deployments": try await deployments(call)
        case "groups": try await groups(call)
        case "queue": try await queue(call)
        case "info": Response.json(await info())
        case "leader": try leader(call)
        case "events": try await events(call)
        case "plugins" where call.path.isEmpty: Response.json(["plugins": []])
        case "pods": throw HTTPFailure(.notImplemented, json: ["message": "Pods are not implemented"])
        default: throw MarathonAPI.notFound()
        }
    }

    private func ping(_ call: Call) -> Response {
        let accept = call.request.headers[.accept] ?? "*/*"
        if accept.contains("text/plain") || accept.contains("*/*") { return .text("pong") }
        if accept.contains("text/html") { return .text("pong", headers: [.contentType: "text/html; charset=utf-8"]) }
        if accept.contains("application/json") { return .json("pong") }
        return Response(status: .noContent)
    }

    private func leader(_ call: Call) throws -> Response {
        switch call.method {
        case .get, .head: return .json(["leader": .string(leader)])
        case .delete: throw HTTPFailure(.notImplemented, json: ["message": "Abdication is not implemented"])
        default: throw MarathonAPI.notAllowed()
        }
    }

    private func events(_ call: Call) async throws -> Response {
        guard call.request.headers[.accept]?.contains("text/event-stream") ?? false else {
            throw HTTPFailure(.notAcceptable, json: ["message": "Only text/event-stream is served"])
        }
        let feed = scheduler.hub.attach(
            types: Set(call.values("event_type")), remote: call.remoteIP, at: await scheduler.time)
        return .stream(
            feed, request: call.request,
            headers: [.contentType: "text/event-stream;charset=UTF-8", .cacheControl: "no-cache"])
    }

    private func info() async -> JSONValue {
        let core = configuration.core
        let master = configuration.masters.map(\.description).joined(separator: ",")
        func milliseconds(_ duration: Duration) -> JSONValue { .integer(duration.wholeNanoseconds / 1_000_000) }
        var config: JSONValue.Object = [
            "master": .string(master), "failover_timeout": .integer(configuration.failoverTimeout.components.seconds),
            "framework_name": .string(configuration.frameworkName), "ha": true,
            "checkpoint": .bool(configuration.checkpoint),
            "local_port_min": .integer(Int64(core.servicePorts.lowerBound)),
            "local_port_max": .integer(Int64(core.servicePorts.upperBound)), "executor": "//cmd",
            "hostname": .string(configuration.hostname), "mesos_role": .string(core.rules.role),
            "mesos_user": .string(configuration.user),
            "features": .array(core.rules.features.sorted().map(JSONValue.string)),
            "env_vars_prefix": .string(configuration.environmentPrefix),
            "decline_offer_duration": milliseconds(core.declineDuration),
            "max_instances_per_offer": .integer(Int64(core.instancesPerOfferMax)),
            "min_revive_offers_interval": milliseconds(core.minReviveInterval),
            "reconciliation_interval": milliseconds(core.reconciliationInterval),
            "task_launch_timeout": milliseconds(core.launchTimeout),
            "task_launch_confirm_timeout": milliseconds(core.launchConfirmTimeout),
            "mesos_bridge_name": .string(core.rules.bridgeName), "webui_url": .optional(configuration.webUIURL),
        ]
        config["default_network_name"] = core.rules.defaultNetworkName.map(JSONValue.string)
        var http: JSONValue.Object = [:]
        if case .tcp(_, let port) = configuration.httpAddress { http["http_port"] = .integer(Int64(port)) }
        return [
            "name": "marathon", "version": .string(MarathonConfiguration.version), "buildref": "holdfast",
            "elected": true,
            "leader": .string(leader), "frameworkId": .optional(await scheduler.frameworkID),
            "marathon_config": .object(config), "zookeeper_config": [:], "http_config": .object(http),
        ]
    }
}

func field(_ name: String) -> HTTPField.Name {
    guard let field = HTTPField.Name(name) else { preconditionFailure("\(name) is no header's name") }
    return field
}

/// `text` with its %XX sequences as the bytes that they stand for; sequences that are none stay as they are.
func percentDecoded(_ text: some Sequence<Character>) -> String {
    let bytes = Array(String(text).utf8)
    var result: [UInt8] = []
    var position = 0
    while position < bytes.count {
        if bytes[position] == UInt8(ascii: "%"), position + 2 < bytes.count,
            let high = Character(Unicode.Scalar(bytes[position + 1])).hexDigitValue,
            let low = Character(Unicode.Scalar(bytes[position + 2])).hexDigitValue
        {
            result.append(UInt8(high << 4 | low))
            position += 3
        } else {
            result.append(bytes[position])
            position += 1
        }
    }
    return String(decoding: result, as: UTF8.self)
}
