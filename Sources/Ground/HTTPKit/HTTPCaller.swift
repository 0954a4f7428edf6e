public import AsyncHTTPClient
public import Base
import Glibc
import NIOCore
public import NIOHTTP1
import NIOPosix

/// Why a call brought no answer. An answer with an error status is no failure: the caller decides by its status.
public struct HTTPCallError: CodedError {
    public enum Code: Hashable, Sendable {
        /// No connection: refused, unreachable, reset.
        case unreachable
        case timedOut
        /// The answer exceeds the limit or is not what its headers say.
        case malformed
        case invalidAddress
    }

    public var code: Code
    public var message: String
    public var cause: (any Error)?
    /// No connection came about: nothing of the request was sent.
    public internal(set) var isUnsent = false

    public init(_ code: Code, _ message: String, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }
}

/// A whole answer.
public struct HTTPReply: Sendable {
    public var status: Int
    public var headers: HTTPHeaders
    public var body: [UInt8]

    public var isSuccess: Bool { (200..<300).contains(status) }
    public var text: String { String(decoding: body, as: UTF8.self) }

    public func json() throws(JSONError) -> JSONValue { try JSONValue(parsing: body) }
}

/// One way to call HTTP, over TCP and unix sockets. Cheap to copy; all copies share one connection pool of the process.
public struct HTTPCaller: Sendable {
    /// Headers sent with every call.
    public var headers: HTTPHeaders
    private let client: HTTPClient

    /// The pool that callers share unless told otherwise. It follows no redirects, so that leaders' redirects are seen.
    public static let sharedClient: HTTPClient = {
        var configuration = HTTPClient.Configuration()
        configuration.redirectConfiguration = .disallow
        configuration.timeout = .init(connect: .seconds(3))
        // Long polls and subscriptions hold connections to one peer for as long as they last.
        configuration.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = 1024
        return HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
    }()

    /// As `sharedClient`, but a refused connection is an error at once: for callers who know another address, or try
    /// again by themselves.
    public static let promptClient: HTTPClient = {
        var configuration = HTTPClient.Configuration()
        configuration.redirectConfiguration = .disallow
        configuration.timeout = .init(connect: .seconds(1))
        configuration.connectionPool.retryConnectionEstablishment = false
        return HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
    }()

    /// As `sharedClient`, but an answer of which nothing arrives for five minutes is given up: for bodies whose whole
    /// length in time nobody can foresee.
    public static let downloadClient: HTTPClient = {
        var configuration = HTTPClient.Configuration()
        configuration.redirectConfiguration = .disallow
        configuration.timeout = .init(connect: .seconds(3), read: .seconds(300))
        return HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
    }()

    public init(headers: HTTPHeaders = [:], client: HTTPClient = HTTPCaller.sharedClient) {
        self.headers = headers
        self.client = client
    }

    /// Sends one request and reads the whole answer.
    ///
    /// - Parameters:
    ///   - path: with its query, starting with "/".
    ///   - deadline: from now until the whole answer is read.
    ///   - bodyLimit: an answer longer than this is an error (`malformed`).
    public func call(
        _ method: HTTPMethod, _ address: HTTPAddress, _ path: String, headers: HTTPHeaders = [:], body: [UInt8]? = nil,
        deadline: Duration = .seconds(10), bodyLimit: Int = 64 << 20
    ) async throws(HTTPCallError) -> HTTPReply {
        let request = try request(method, address, path, headers: headers, body: body)
        let context = "\(method.rawValue) \(address)\(path)"
        do {
            // The client's own deadline ends with the answer's head; it knows why no connection came about.
            let end = ContinuousClock.now + deadline
            let response = try await client.execute(request, deadline: .now() + .nanoseconds(deadline.wholeNanoseconds))
            let content = try await withDeadline(max(end - .now, .zero)) {
                try await response.body.collect(upTo: bodyLimit)
            }
            return HTTPReply(
                status: Int(response.status.code), headers: response.headers, body: Array(buffer: content))
        } catch {
            throw HTTPCaller.failure(error, context: context)
        }
    }

    /// As `call`, with a JSON body.
    public func call(
        _ method: HTTPMethod, _ address: HTTPAddress, _ path: String, json: JSONValue, headers: HTTPHeaders = [:],
        deadline: Duration = .seconds(10)
    ) async throws(HTTPCallError) -> HTTPReply {
        var headers = headers
        if !headers.contains(name: "content-type") { headers.add(name: "content-type", value: "application/json") }
        return try await call(method, address, path, headers: headers, body: json.bytes, deadline: deadline)
    }

    /// Sends one request and answers with the head and the body as it arrives.
    ///
    /// - Parameter deadline: from now until the answer's **head**. Nothing bounds the body: whoever reads it has
    ///   heartbeats, puts `withDeadline` around the reading, or calls through `downloadClient`.
    public func stream(
        _ method: HTTPMethod, _ address: HTTPAddress, _ path: String, headers: HTTPHeaders = [:], body: [UInt8]? = nil,
        deadline: Duration = .seconds(30)
    ) async throws(HTTPCallError) -> HTTPClientResponse {
        let request = try request(method, address, path, headers: headers, body: body)
        do {
            return try await client.execute(request, deadline: .now() + .nanoseconds(deadline.wholeNanoseconds))
        } catch {
            throw HTTPCaller.failure(error, context: "\(method.rawValue) \(address)\(path)")
        }
    }

    private func request(
        _ method: HTTPMethod, _ address: HTTPAddress, _ path: String, headers: HTTPHeaders, body: [UInt8]?
    ) throws(HTTPCallError) -> HTTPClientRequest {
        guard path.hasPrefix("/") else {
            throw HTTPCallError(.invalidAddress, "The path \(path) does not start with '/'.")
        }
        var request: HTTPClientRequest
        switch address {
        case .tcp(let host, let port):
            request = HTTPClientRequest(url: "http://\(host):\(port)\(path)")
        case .unix(let socket):
            request = HTTPClientRequest(url: "http+unix://\(percentEncoded(socket))\(path)")
            request.headers.add(name: "host", value: "localhost")
        }
        request.method = method
        for (name, value) in self.headers where !headers.contains(name: name) {
            request.headers.add(name: name, value: value)
        }
        request.headers.add(contentsOf: headers)
        if let body { request.body = .bytes(body) }
        return request
    }

    static func failure(_ error: any Error, context: String) -> HTTPCallError {
        var failure = classified(error, context: context)
        failure.isUnsent =
            error is NIOConnectionError || [ECONNREFUSED, ENOENT].contains((error as? IOError)?.errnoCode)
            || [.connectTimeout, .getConnectionFromPoolTimeout].contains(error as? HTTPClientError)
        return failure
    }

    private static func classified(_ error: any Error, context: String) -> HTTPCallError {
        if error is DeadlineExceeded {
            return HTTPCallError(.timedOut, "\(context) was not answered in time", cause: error)
        }
        return switch error as? HTTPClientError {
        case .deadlineExceeded?, .readTimeout?, .connectTimeout?, .writeTimeout?, .getConnectionFromPoolTimeout?:
            HTTPCallError(.timedOut, "\(context) was not answered in time", cause: error)
        case .invalidURL?, .emptyHost?, .emptyScheme?:
            HTTPCallError(.invalidAddress, "\(context) is no valid address", cause: error)
        default:
            error is NIOTooManyBytesError
                ? HTTPCallError(.malformed, "The answer to \(context) is too long", cause: error)
                : HTTPCallError(.unreachable, "\(context) could not be reached", cause: error)
        }
    }
}

/// `text` with everything but unreserved characters (RFC 3986) percent-encoded, also "/".
public func percentEncoded(_ text: String) -> String {
    var result = ""
    for byte in text.utf8 {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"),
            UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "~"):
            result.unicodeScalars.append(Unicode.Scalar(byte))
        default:
            let digits = String(byte, radix: 16, uppercase: true)
            result += digits.count == 1 ? "%0\(digits)" : "%\(digits)"
        }
    }
    return result
}
