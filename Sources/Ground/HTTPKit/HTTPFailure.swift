public import Base
public import HTTPTypes
public import Hummingbird
import NIOCore

/// An error that a handler throws to answer with a status and a body of its protocol's own shape.
public struct HTTPFailure: Error, HTTPResponseError, CustomStringConvertible {
    public var status: HTTPResponse.Status
    public var headers: HTTPFields
    public var body: String

    /// A plain text answer, as Mesos gives its errors.
    public init(_ status: HTTPResponse.Status, text: String) {
        self.status = status
        headers = [.contentType: "text/plain; charset=utf-8"]
        body = text
    }

    /// A JSON answer, as Marathon, the Gateway and libStorage give their errors.
    public init(_ status: HTTPResponse.Status, json: JSONValue, headers: HTTPFields = [:]) {
        self.status = status
        self.headers = headers
        self.headers[.contentType] = "application/json"
        body = json.text
    }

    public func response(from request: Request, context: some RequestContext) throws -> Response {
        Response(status: status, headers: headers, body: .init(byteBuffer: .init(string: body)))
    }

    public var description: String { "\(status.code) \(body)" }
}

extension Response {
    /// A JSON document as the answer.
    public static func json(_ value: JSONValue, status: HTTPResponse.Status = .ok, headers: HTTPFields = [:])
        -> Response
    {
        var headers = headers
        if headers[.contentType] == nil { headers[.contentType] = "application/json" }
        return Response(status: status, headers: headers, body: .init(byteBuffer: .init(bytes: value.bytes)))
    }

    public static func text(_ text: String, status: HTTPResponse.Status = .ok, headers: HTTPFields = [:]) -> Response {
        var headers = headers
        if headers[.contentType] == nil { headers[.contentType] = "text/plain; charset=utf-8" }
        return Response(status: status, headers: headers, body: .init(byteBuffer: .init(string: text)))
    }

    /// An answer whose body goes on until `feed` finishes, its reader falls behind, or the peer closes the connection.
    ///
    /// - Parameter request: its body has been read, or it has none.
    public static func stream(_ feed: BoundedFeed, request: Request, headers: HTTPFields) -> Response {
        var request = request
        // Watching for the peer's close reads on from the body's end, which a handler that read the body has passed
        // already.
        request.body = RequestBody(buffer: ByteBuffer())
        return streaming(feed, request: request, headers: headers)
    }

    private static func streaming(_ feed: BoundedFeed, request: Request, headers: HTTPFields) -> Response {
        Response(
            status: .ok, headers: headers,
            body: ResponseBody { writer in
                defer { feed.finish() }
                // SAFETY: used by the one task that writes, which ends before this body goes on.
                nonisolated(unsafe) var output = writer
                try await request.body.consumeWithCancellationOnInboundClose { _ in
                    try await withThrowingTaskGroup(of: Void.self) { group in
                        group.addTask { for try await chunk in feed.chunks { try await output.write(chunk) } }
                        // A write to a reader that does not read waits for ever unless it is cancelled.
                        group.addTask { try await feed.awaitOverflow() }
                        defer { group.cancelAll() }
                        try await group.next()
                    }
                }
                try await writer.finish(nil)
            })
    }
}

extension Request {
    /// The whole body, refused with 413 beyond `limit` bytes.
    public func bytes(limit: Int = 2 << 20) async throws -> [UInt8] {
        do {
            return Array(buffer: try await body.collect(upTo: limit))
        } catch is NIOTooManyBytesError {
            throw HTTPFailure(.contentTooLarge, text: "The body exceeds \(limit) bytes.")
        }
    }
}
