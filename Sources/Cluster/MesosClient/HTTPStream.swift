import AsyncHTTPClient
import HTTPKit
import NIOCore
import NIOHTTP1

/// An answer whose body goes on.
struct HTTPStreamReply: Sendable {
    var status: Int
    var headers: HTTPHeaders
    fileprivate var body: HTTPClientResponse.Body

    /// The body as it arrives.
    var chunks: AsyncMapSequence<HTTPClientResponse.Body, [UInt8]> { body.map { Array(buffer: $0) } }

    /// The beginning of the body as text, for errors.
    func text(limit: Int) async -> String {
        let body = body
        guard let buffer = try? await withDeadline(.seconds(5), { try await body.collect(upTo: limit) }) else {
            return ""
        }
        return String(buffer: buffer)
    }
}

extension HTTPCaller {
    func openStream(
        _ method: HTTPMethod, _ address: HTTPAddress, _ path: String, body: [UInt8]
    ) async throws(HTTPCallError) -> HTTPStreamReply {
        let response = try await stream(method, address, path, body: body)
        return HTTPStreamReply(status: Int(response.status.code), headers: response.headers, body: response.body)
    }
}
