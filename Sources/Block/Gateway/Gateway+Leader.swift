import Base
import BlockCore
import HTTPKit
import HTTPTypes
import Hummingbird
import Logging
import NIOCore
import NIOHTTP1

/// One request, read completely.
struct GatewayCall: Sendable {
    var method: HTTPRequest.Method
    /// With the query, as it arrived.
    var uri: String
    var path: String
    var authorization: String?
    var body: [UInt8]
    /// Another manager's gateway sent it here.
    var isForwarded: Bool

    /// Reads, and queries in the shape of an action, may be asked again wherever the answer was lost.
    var isRepeatable: Bool { method == .get || path.contains("/action/query") }
}

/// Every manager has a gateway, and each answers for the leader: it hands requests on to the leader's.
extension Gateway {
    /// How long a request waits for a leader: clients take an election for a slow answer.
    static let patience = Duration.seconds(10)
    /// How long the leader's gateway may take for a change; it waits for proofs.
    private static let forwardMax = Duration.seconds(30)
    private static let lastWordMax = Duration.seconds(1)
    private static let forwarded = "x-holdfast-forwarded"

    static func isForwarded(_ request: Request) -> Bool {
        HTTPField.Name(forwarded).map { request.headers[$0] != nil } ?? false
    }

    /// Answers here if the manager here leads, else by the leader's gateway.
    func respond(to call: GatewayCall) async throws -> Response {
        let end = ContinuousClock.now + Gateway.patience
        while true {
            switch leadership {
            case .here:
                if let answer = try await answerHere(call) { return answer }
            case .elsewhere(let gateway?) where !call.isForwarded:
                let left = end - .now
                if let answer = try await forward(call, to: gateway, within: left) { return answer }
            // A gateway that nobody reaches makes this one useless; the client has others.
            case .elsewhere: throw GatewayError.notLeader
            case .nowhere: break
            }
            // Whoever sent it here looks for the leader itself.
            guard !call.isForwarded, .now < end else { throw GatewayError.notLeader }
            try await Task.sleep(for: .milliseconds(100))
        }
    }

    /// Nil when this manager led no longer, and so did nothing.
    private func answerHere(_ call: GatewayCall) async throws(GatewayError) -> Response? {
        do throws(GatewayError) {
            return .json(
                try await answer(
                    method: call.method, path: call.path, authorization: call.authorization, body: call.body))
        } catch {
            guard error == .notLeader else { throw error }
            return nil
        }
    }

    /// Nil when nothing was done there.
    private func forward(_ call: GatewayCall, to gateway: String, within left: Duration) async throws -> Response? {
        guard let address = HTTPAddress(gateway) else { throw GatewayError.notLeader }
        do {
            let reply = try await ask(address, call, within: left) {
                if case .elsewhere(gateway) = leadership { true } else { false }
            }
            if reply.status == GatewayError.notLeader.status,
                (try? reply.json())?["errorCode"]?.integer == Int64(GatewayError.notLeader.code)
            {
                return nil
            }
            return Response(
                status: .init(code: reply.status), headers: [.contentType: "application/json"],
                body: .init(byteBuffer: ByteBuffer(bytes: reply.body)))
        } catch {
            logger.info("The leader's gateway gave no answer", metadata: ["error": "\(error)"])
            if (error as? HTTPCallError)?.isUnsent == true || call.isRepeatable { return nil }
            // The change may have been made. The original says the same when its manager is lost.
            throw GatewayError.communication
        }
    }

    /// Waits no longer than `isLeader` holds: of a former leader, perhaps stopped, nothing is to be expected. Only a
    /// last word, since it may have answered with giving way.
    private func ask(
        _ address: HTTPAddress, _ call: GatewayCall, within left: Duration,
        while isLeader: @escaping @Sendable () -> Bool
    ) async throws -> HTTPReply {
        var headers: HTTPHeaders = [Gateway.forwarded: "1", "content-type": "application/json"]
        if let authorization = call.authorization { headers.add(name: "authorization", value: authorization) }
        let sent = headers
        let deadline = call.isRepeatable ? max(left, .seconds(1)) : Gateway.forwardMax
        return try await withThrowingTaskGroup(of: HTTPReply?.self) { group in
            group.addTask {
                try await caller.call(
                    HTTPMethod(rawValue: call.method.rawValue), address, call.uri, headers: sent,
                    body: call.body.isEmpty ? nil : call.body, deadline: deadline)
            }
            group.addTask {
                while isLeader() { try await Task.sleep(for: .milliseconds(100)) }
                try await Task.sleep(for: Gateway.lastWordMax)
                return nil
            }
            defer { group.cancelAll() }
            guard let reply = try await group.next() ?? nil else {
                throw HTTPCallError(.timedOut, "\(address) leads no longer")
            }
            return reply
        }
    }
}
