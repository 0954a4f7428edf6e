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
    /// Gives the leadership up.
    let resign: @Sendable () -> Void

    /// Bytes of a request's body.
    static let bodyMax = 8 << 20

    /// One request, taken apart.
    struct Call {
        var method: HTTPRequest.Method
        /// Decoded, without empty ones.
        var path: ArraySlice<String>
        var query: [(name: String, value: String)]
        var request: Request
        var remoteIP: String

        init(_ request: Request, remoteIP: String) {
            method = request.method
            path = MarathonAPI.segments(request.uri.path)[...]
            query = MarathonAPI.query(request.uri.query ?? "")
            self.request = request
            self.remoteIP = remoteIP
        }

        func values(_ name: String) -> [String] { query.filter { $0.name == name }.map(\.value) }
        func value(_ name: String) -> String? { query.last { $0.name == name }?.value }

        /// Booleans in any case, as the Python client writes "True".
        func flag(_ name: String, default fallback: Bool = false) -> Bool {
            guard let value = value(name)?.lowercased() else { return fallback }
            return value == "true" || value == "1" || value.isEmpty
        }

        func body() async throws -> JSONValue {
            let bytes = try await request.bytes(limit: MarathonAPI.bodyMax)
            do throws(JSONError) {
                return try JSONValue(parsing: bytes)
            } catch {
                throw HTTPFailure(
                    .badRequest, json: ["message": "Invalid JSON", "details": .string(error.description)])
            }
        }
    }

    func respond(_ call: Call) async throws -> Response {
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
        configuration.decorate(&response, request: call.request, leader: leader)
        return response
    }

    /// What is the same on every Marathon.
    static func local(_ call: Call) -> Response? {
        let isRead = call.method == .get || call.method == .head
        if call.path.isEmpty { return Response(status: .found, headers: [.location: "/ui/"]) }
        if call.path.elementsEqual(["ping"]), isRead { return ping(call) }
        if call.path.elementsEqual(["v2", "plugins"]), isRead { return .json(["plugins": []]) }
        return nil
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
        if call.method == .options {
            return Response(status: .ok, headers: [.allow: "GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE"])
        }
        guard call.path.first == "v2", let resource = call.path.dropFirst().first else {
            throw MarathonAPI.notFound()
        }
        var inner = call
        inner.path = call.path.dropFirst(2)
        return try await dispatch(resource, inner)
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
        case "pods": throw HTTPFailure(.notImplemented, json: ["message": "Pods are not implemented"])
        default: throw MarathonAPI.notFound()
        }
    }

    private static func ping(_ call: Call) -> Response {
        let accept = call.request.headers[.accept] ?? "*/*"
        if accept.contains("text/plain") || accept.contains("*/*") { return .text("pong") }
        if accept.contains("text/html") { return .text("pong", headers: [.contentType: "text/html; charset=utf-8"]) }
        if accept.contains("application/json") { return .json("pong") }
        return Response(status: .noContent)
    }

    private func leader(_ call: Call) throws -> Response {
        switch call.method {
        case .get, .head: return .json(["leader": .string(leader)])
        case .delete:
            guard call.value("backup") == nil, call.value("restore") == nil else {
                throw HTTPFailure(.notImplemented, json: ["message": "Backup and restore are not implemented"])
            }
            resign()
            return .json(["message": "Leadership abdicated"])
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
        func milliseconds(_ duration: Duration) -> JSONValue { .integer(duration.wholeNanoseconds / 1_000_000) }
        var config: JSONValue.Object = [
            "master": .string(ZooKeeperFlags.masked(configuration.masterFlag)),
            "failover_timeout": .integer(configuration.failoverTimeout.components.seconds),
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
            "mesos_heartbeat_interval": milliseconds(configuration.heartbeatInterval),
            "mesos_heartbeat_failure_threshold": .integer(Int64(configuration.heartbeatFailureThreshold)),
            "mesos_bridge_name": .string(core.rules.bridgeName), "webui_url": .optional(configuration.webUIURL),
            "on_elected_prepare_timeout": milliseconds(configuration.preparationTimeout),
            "leader_proxy_connection_timeout_ms": milliseconds(configuration.leaderProxyConnectionTimeout),
            "leader_proxy_read_timeout_ms": milliseconds(configuration.leaderProxyReadTimeout),
        ]
        config["default_network_name"] = core.rules.defaultNetworkName.map(JSONValue.string)
        var zooKeeper: JSONValue.Object = [:]
        if let url = configuration.zooKeeper.url.map(ZooKeeperFlags.masked) {
            zooKeeper = [
                "zk": .string(url), "zk_session_timeout": milliseconds(configuration.zooKeeper.sessionTimeout),
                "zk_connection_timeout": milliseconds(configuration.zooKeeper.connectionTimeout),
                "zk_timeout": milliseconds(configuration.zooKeeper.timeout),
                "zk_max_versions": .integer(Int64(core.versionsMax)),
            ]
        }
        var http: JSONValue.Object = [:]
        if case .tcp(_, let port) = configuration.httpAddress { http["http_port"] = .integer(Int64(port)) }
        return [
            "name": "marathon", "version": .string(MarathonConfiguration.version), "buildref": "holdfast",
            "elected": true,
            "leader": .string(leader), "frameworkId": .optional(await scheduler.frameworkID),
            "marathon_config": .object(config), "zookeeper_config": .object(zooKeeper), "http_config": .object(http),
        ]
    }
}

extension MarathonConfiguration {
    /// The headers of every answer.
    func decorate(_ response: inout Response, request: Request, leader: String?) {
        if let leader { response.headers[field("X-Marathon-Leader")] = "http://\(leader)" }
        response.headers[field("X-Frame-Options")] = "DENY"
        response.headers[field("X-XSS-Protection")] = "1; mode=block"
        response.headers[.cacheControl] = "no-cache, no-store, must-revalidate"
        response.headers[field("Pragma")] = "no-cache"
        response.headers[.expires] = "0"
        for origin in accessControlAllowOrigin {
            response.headers.append(HTTPField(name: .accessControlAllowOrigin, value: origin))
        }
        guard !accessControlAllowOrigin.isEmpty else { return }
        response.headers[.accessControlAllowMethods] = "GET, HEAD, OPTIONS"
        response.headers[.accessControlMaxAge] = "86400"
        if let asked = request.headers[.accessControlRequestHeaders] {
            response.headers[.accessControlAllowHeaders] = asked
        }
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
