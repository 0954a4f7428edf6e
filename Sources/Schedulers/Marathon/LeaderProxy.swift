import AsyncHTTPClient
import Base
import HTTPKit
import HTTPTypes
import Hummingbird
import NIOCore
import NIOHTTP1

/// Hands requests on to the leader and its answers back, so that clients may ask any Marathon.
struct LeaderProxy: Sendable {
    let standing: Standing
    private let caller: HTTPCaller

    /// - Parameter caller: with the client that `client` made.
    init(standing: Standing, caller: HTTPCaller) {
        self.standing = standing
        self.caller = caller
    }

    /// A client with the proxy's time limits, for the owner to shut down.
    static func client(_ configuration: MarathonConfiguration) -> HTTPClient {
        func amount(_ duration: Duration) -> TimeAmount { .nanoseconds(duration.wholeNanoseconds) }
        var options = HTTPClient.Configuration()
        options.redirectConfiguration = .disallow
        // The read timeout counts from one piece of an answer to the next.
        options.timeout = .init(
            connect: amount(configuration.leaderProxyConnectionTimeout),
            read: amount(configuration.leaderProxyReadTimeout))
        options.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = 1024
        // A leader that has just died refuses: the client decides whether to try again.
        options.connectionPool.retryConnectionEstablishment = false
        return HTTPClient(eventLoopGroupProvider: .singleton, configuration: options)
    }

    private static let via = field("X-Marathon-Via")
    private static let forwardedFor = field("X-Forwarded-For")

    /// What belongs to one connection only, and what is made anew for the next.
    private static let hopByHop: Set<String> = [
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade", "expect", "host", "content-length",
    ]

    func forward(_ request: Request, to leader: String, remoteIP: String) async throws -> Response {
        let own = "1.1 \(standing.address)"
        let passed = request.headers[values: LeaderProxy.via].flatMap { $0.split(separator: ",") }
        guard !passed.contains(where: { $0.drop { $0 == " " } == own }) else {
            throw LeaderProxy.failure(.badGateway, "Detected proxying loop.")
        }
        guard let address = HTTPAddress(leader) else {
            throw LeaderProxy.failure(.badGateway, "Could not determine the current leader")
        }
        var headers = HTTPHeaders()
        for header in request.headers where !LeaderProxy.hopByHop.contains(header.name.canonicalName) {
            headers.add(name: header.name.rawName, value: header.value)
        }
        headers.add(name: LeaderProxy.via.rawName, value: own)
        if !remoteIP.isEmpty {
            let clients = request.headers[values: LeaderProxy.forwardedFor] + [remoteIP]
            headers.replaceOrAdd(name: LeaderProxy.forwardedFor.rawName, value: clients.joined(separator: ", "))
        }
        let body = try await request.bytes(limit: MarathonAPI.bodyMax)
        let answer: HTTPClientResponse
        do throws(HTTPCallError) {
            // Beside the client's own limits, which end silences, nothing limits how long the leader takes.
            answer = try await caller.stream(
                HTTPMethod(rawValue: request.method.rawValue), address, request.uri.string, headers: headers,
                body: body.isEmpty ? nil : body, deadline: .seconds(86_400))
        } catch {
            switch error.code {
            case .timedOut: throw LeaderProxy.failure(.gatewayTimeout, "Connection to leader timed out.")
            case .unreachable: throw LeaderProxy.failure(.badGateway, "Connection to leader refused.")
            case .malformed, .invalidAddress:
                throw LeaderProxy.failure(
                    .badGateway, "Failed to successfully establish a connection to the leader.")
            }
        }
        return LeaderProxy.response(answer)
    }

    private static func failure(_ status: HTTPResponse.Status, _ message: String) -> HTTPFailure {
        HTTPFailure(status, json: ["message": .string(message)])
    }

    /// The answer as it comes in; the client's reading is what paces ours.
    private static func response(_ answer: HTTPClientResponse) -> Response {
        var headers = HTTPFields()
        for (name, value) in answer.headers {
            let plain = name.lowercased()
            // The length tells the end of the body to the client; the server writes its own name and date.
            guard plain == "content-length" || !hopByHop.contains(plain), plain != "server", plain != "date",
                let field = HTTPField.Name(name)
            else { continue }
            headers.append(HTTPField(name: field, value: value))
        }
        return Response(
            status: .init(code: Int(answer.status.code), reasonPhrase: answer.status.reasonPhrase), headers: headers,
            body: ResponseBody { writer in
                for try await chunk in answer.body { try await writer.write(chunk) }
                try await writer.finish(nil)
            })
    }
}
