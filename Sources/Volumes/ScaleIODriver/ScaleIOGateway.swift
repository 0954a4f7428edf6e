import Base
import HTTPKit
import Logging
import NIOHTTP1
import VolumeDriver

/// The Gateway's REST API as far as the driver needs it: login, token renewal, errors, retries.
///
/// A token may die at any time (expiry, a Gateway that was restarted): a 401 or 403 leads to one new login and one
/// repetition.
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
        static let busy = 164
    }

    /// The Gateway's own error object, as an error.
    struct Refusal: CodedError {
        /// The manager's error number, 0 when the Gateway refused the request itself.
        var code: Int
        var message: String
        var cause: (any Error)? { nil }
        var status: Int
    }

    private let configuration: ScaleIOConfiguration
    private let caller: HTTPCaller
    private let logger: Logger
    private var token: String?

    init(configuration: ScaleIOConfiguration, logger: Logger) {
        self.configuration = configuration
        self.logger = logger
        caller = HTTPCaller(headers: ["accept": "application/json"])
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

    /// One call with its repetitions: after a new login, and while the manager or the Gateway is briefly away.
    private func call(_ method: HTTPMethod, _ path: String, body: JSONValue?) async throws -> JSONValue {
        let clock = ContinuousClock()
        let end = clock.now + configuration.callDeadline
        var pause = Duration.milliseconds(50)
        var loginsLeft = 1
        while true {
            let left = end - clock.now
            do {
                let token = try await currentToken(deadline: left)
                let reply = try await send(method, path, user: "", password: token, body: body, deadline: left)
                if reply.status == 401 || reply.status == 403, loginsLeft > 0 {
                    loginsLeft -= 1
                    if self.token == token { self.token = nil }
                    continue
                }
                return try ScaleIOGateway.content(of: reply)
            } catch let refusal as Refusal
                where refusal.code == ErrorNumber.communication || refusal.code == ErrorNumber.busy
            {
                guard clock.now + pause < end else { throw refusal }
                logger.debug("the manager is busy or away; trying again", metadata: ["scaleio.path": "\(path)"])
            } catch let failure as HTTPCallError where failure.code == .unreachable {
                guard clock.now + pause < end else {
                    throw VolumeDriverError(
                        .unreachable, "The Gateway \(configuration.endpoint) could not be reached", cause: failure)
                }
            } catch let failure as HTTPCallError {
                throw VolumeDriverError(
                    failure.code == .timedOut ? .timedOut : .unreachable,
                    "The Gateway \(configuration.endpoint) did not answer", cause: failure)
            }
            try await clock.sleep(for: pause)
            pause = min(pause * 2, .seconds(1))
        }
    }

    private func currentToken(deadline: Duration) async throws -> String {
        if let token { return token }
        let reply = try await send(
            .GET, "/login", user: configuration.userName, password: configuration.password, body: nil,
            deadline: deadline)
        guard reply.isSuccess else {
            if reply.status == 401 || reply.status == 403 {
                throw VolumeDriverError(
                    .unauthorized, "The Gateway \(configuration.endpoint) refuses the user \(configuration.userName)")
            }
            throw ScaleIOGateway.refusal(reply)
        }
        guard let fresh = (try? reply.json())?.string, !fresh.isEmpty else {
            throw VolumeDriverError(.unreachable, "The Gateway \(configuration.endpoint) gave no token at login")
        }
        token = fresh
        return fresh
    }

    private func send(
        _ method: HTTPMethod, _ path: String, user: String, password: String, body: JSONValue?, deadline: Duration
    ) async throws(HTTPCallError) -> HTTPReply {
        var headers: HTTPHeaders = ["authorization": "Basic " + base64(Array("\(user):\(password)".utf8))]
        if body != nil { headers.add(name: "content-type", value: "application/json") }
        return try await caller.call(
            method, configuration.endpoint.address, configuration.endpoint.path + path, headers: headers,
            body: body?.bytes, deadline: max(deadline, .milliseconds(1)))
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
            case (ErrorNumber.communication, _), (ErrorNumber.busy, _): .unreachable
            case (_, 401), (_, 403): .unauthorized
            case (_, 400): .invalid
            default: .failed
            }
        return VolumeDriverError(code, "\(activity) was refused", cause: refusal)
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
