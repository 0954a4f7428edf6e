import Base
import HTTPKit
import Logging
import NIOHTTP1
import VolumeDriver

/// The Gateway's REST API as far as the driver needs it: login, token renewal, errors, retries.
///
/// A token may die at any time (expiry, a Gateway that was restarted): a 401 or 403 leads to a new login and a
/// repetition. A gateway that is away or has no manager is left for the next one. So a change may be asked for twice:
/// refusals say whether an earlier try may have done it (`Refusal.isRepeated`).
actor ScaleIOGateway {
    /// The manager's error numbers that the driver decides by.
    enum ErrorNumber {
        static let notFound = 3
        static let communication = 69
        static let volumeNotFound = 79
        static let alreadyMappedToThisClient = 81
        static let notMapped = 84
        static let nameInUse = 99
        static let volumeIsMapped = 104
        static let noLeader = 105
        static let busy = 164
    }

    /// The Gateway's own error object, as an error.
    struct Refusal: CodedError {
        /// The manager's error number, 0 when the Gateway refused the request itself.
        var code: Int
        var message: String
        var cause: (any Error)? { nil }
        var status: Int
        /// An earlier try of the same call may have been carried out.
        var isRepeated = false
    }

    private let configuration: ScaleIOConfiguration
    private let caller: HTTPCaller
    private let logger: Logger
    private var token: String?
    /// The endpoint in use.
    private var current = 0
    /// When it answered last.
    private var heard: ContinuousClock.Instant?

    init(configuration: ScaleIOConfiguration, logger: Logger) {
        self.configuration = configuration
        self.logger = logger
        caller = HTTPCaller(headers: ["accept": "application/json"], client: HTTPCaller.promptClient)
    }

    func get(_ path: String) async throws(VolumeDriverError) -> JSONValue {
        do {
            return try await call(.GET, path, body: nil)
        } catch let refusal as Refusal {
            throw ScaleIOGateway.error(refusal, doing: "Reading \(path)")
        } catch {
            throw ScaleIOGateway.error(error, doing: "Reading \(path)")
        }
    }

    /// Posts `body`. Refusals of the manager come as `Refusal`, everything else as `VolumeDriverError`.
    func post(_ path: String, _ body: JSONValue) async throws -> JSONValue {
        try await call(.POST, path, body: body)
    }

    /// One call with its repetitions: after a new login, at another gateway, and while managers are briefly away.
    private func call(_ method: HTTPMethod, _ path: String, body: JSONValue?) async throws -> JSONValue {
        let clock = ContinuousClock()
        let end = clock.now + configuration.callDeadline
        var pause = Duration.milliseconds(50)
        var tries = 0
        var loginsLeft = configuration.endpoints.count
        var isUncertain = false
        while true {
            let index = current
            var isAlive = false
            let failure: any Error
            do {
                let left = patience(for: method, left: end - clock.now)
                try await confirmLife(of: index)
                isAlive = true
                let token = try await currentToken(at: index, deadline: left)
                let reply = try await send(method, path, at: index, password: token, body: body, deadline: left)
                if reply.status == 401 || reply.status == 403, loginsLeft > 0 {
                    loginsLeft -= 1
                    if self.token == token { self.token = nil }
                    continue
                }
                return try ScaleIOGateway.content(of: reply)
            } catch var refusal as Refusal {
                guard refusal.isPassing else {
                    refusal.isRepeated = isUncertain
                    throw refusal
                }
                if !refusal.isWithoutEffect { isUncertain = true }
                failure = refusal
            } catch let error as HTTPCallError where error.code == .unreachable || error.code == .timedOut {
                if isAlive, !error.isUnsent { isUncertain = true }
                failure = VolumeDriverError(
                    error.code == .timedOut ? .timedOut : .unreachable,
                    "The Gateway \(configuration.endpoints[index]) did not answer", cause: error)
            } catch let error as HTTPCallError {
                throw VolumeDriverError(
                    .unreachable, "The Gateway \(configuration.endpoints[index]) did not answer", cause: error)
            }
            tries += 1
            if current == index {
                current = (index + 1) % configuration.endpoints.count
                heard = nil
            }
            // Every gateway gets its chance before there is a pause.
            let wait = tries % configuration.endpoints.count == 0 ? pause : .zero
            guard clock.now + wait < end else { throw failure }
            logger.debug(
                "trying again", metadata: ["scaleio.path": "\(path)", "error": "\(failure)"])
            if wait > .zero {
                try await clock.sleep(for: wait)
                pause = min(pause * 2, .seconds(1))
            }
        }
    }

    /// With other gateways to ask, one that is silent must not use up all the time.
    private func patience(for method: HTTPMethod, left: Duration) -> Duration {
        guard configuration.endpoints.count > 1 else { return left }
        return min(left, method == .GET ? configuration.readPatience : configuration.changePatience)
    }

    /// A machine that has lost its power does not even refuse connections: asks a gateway that was silent for a while
    /// for any answer, before it gets something to do.
    private func confirmLife(of index: Int) async throws(HTTPCallError) {
        let isFresh = heard.map { ContinuousClock.now - $0 < configuration.silencePatience } ?? false
        guard configuration.endpoints.count > 1, !isFresh else { return }
        _ = try await send(
            .GET, "/version", at: index, password: token ?? "", body: nil, deadline: configuration.silencePatience)
    }

    private func currentToken(at index: Int, deadline: Duration) async throws -> String {
        if let token { return token }
        let endpoint = configuration.endpoints[index]
        let reply = try await send(
            .GET, "/login", at: index, user: configuration.userName, password: configuration.password, body: nil,
            deadline: deadline)
        guard reply.isSuccess else {
            if reply.status == 401 || reply.status == 403 {
                throw VolumeDriverError(
                    .unauthorized, "The Gateway \(endpoint) refuses the user \(configuration.userName)")
            }
            throw ScaleIOGateway.refusal(reply)
        }
        guard let fresh = (try? reply.json())?.string, !fresh.isEmpty else {
            throw VolumeDriverError(.unreachable, "The Gateway \(endpoint) gave no token at login")
        }
        token = fresh
        return fresh
    }

    private func send(
        _ method: HTTPMethod, _ path: String, at index: Int, user: String = "", password: String, body: JSONValue?,
        deadline: Duration
    ) async throws(HTTPCallError) -> HTTPReply {
        let endpoint = configuration.endpoints[index]
        var headers: HTTPHeaders = ["authorization": "Basic " + base64(Array("\(user):\(password)".utf8))]
        if body != nil { headers.add(name: "content-type", value: "application/json") }
        let reply = try await caller.call(
            method, endpoint.address, endpoint.path + path, headers: headers, body: body?.bytes,
            deadline: max(deadline, .milliseconds(1)))
        if index == current { heard = .now }
        return reply
    }

    private static func content(of reply: HTTPReply) throws -> JSONValue {
        guard reply.isSuccess else { throw refusal(reply) }
        if reply.body.isEmpty { return [:] }
        do {
            return try reply.json()
        } catch {
            throw VolumeDriverError(.unreachable, "The Gateway's answer is no JSON", cause: error)
        }
    }

    private static func refusal(_ reply: HTTPReply) -> Refusal {
        let object = try? reply.json()
        return Refusal(
            code: Int(clamping: object?["errorCode"]?.integer ?? 0),
            message: object?["message"]?.string ?? "HTTP status \(reply.status)", status: reply.status)
    }

    /// `error` in the driver's terms.
    static func error(_ error: any Error, doing activity: String) -> VolumeDriverError {
        if let error = error as? VolumeDriverError { return error }
        guard let refusal = error as? Refusal else {
            return VolumeDriverError(.failed, "\(activity) failed", cause: error)
        }
        let code: VolumeDriverError.Code =
            switch (refusal.code, refusal.status) {
            case (ErrorNumber.notFound, _), (ErrorNumber.volumeNotFound, _): .notFound
            case (ErrorNumber.nameInUse, _): .alreadyExists
            case (ErrorNumber.volumeIsMapped, _): .heldElsewhere
            case (ErrorNumber.communication, _), (ErrorNumber.busy, _), (ErrorNumber.noLeader, _): .unreachable
            case (_, 401), (_, 403): .unauthorized
            case (_, 400): .invalid
            default: .failed
            }
        return VolumeDriverError(code, "\(activity) was refused", cause: refusal)
    }
}

extension ScaleIOGateway.Refusal {
    /// Whether it is worth asking again, here or elsewhere: nobody decided.
    var isPassing: Bool {
        switch code {
        case ScaleIOGateway.ErrorNumber.communication, ScaleIOGateway.ErrorNumber.busy,
            ScaleIOGateway.ErrorNumber.noLeader:
            true
        // What stands in front of gateways speaks without the manager's numbers.
        case 0: (502...504).contains(status)
        default: false
        }
    }

    /// Whether a passing refusal proves that nothing was done.
    var isWithoutEffect: Bool {
        code == ScaleIOGateway.ErrorNumber.busy || code == ScaleIOGateway.ErrorNumber.noLeader
    }
}

/// `bytes` in base64 (RFC 4648) with padding.
func base64(_ bytes: [UInt8]) -> String {
    let digits = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
    var text: [UInt8] = []
    for start in stride(from: 0, to: bytes.count, by: 3) {
        let group = bytes[start..<min(start + 3, bytes.count)]
        let bits = group.enumerated().reduce(0) { $0 | Int($1.element) << (16 - 8 * $1.offset) }
        for index in 0..<4 {
            text.append(index <= group.count ? digits[bits >> (18 - 6 * index) & 63] : UInt8(ascii: "="))
        }
    }
    return String(decoding: text, as: UTF8.self)
}
