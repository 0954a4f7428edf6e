import HTTPKit
import HTTPTypes
import Hummingbird
import MesosAPI

/// Finds the handler of a path as libprocess does: bare or below "/master", with or without a trailing slash, and the
/// nearest registered parent of paths that are not registered.
struct Routes: Sendable {
    typealias Handler = @Sendable (Request, String) async throws -> Response

    private struct Entry: Sendable {
        var methods: [HTTPRequest.Method]
        var handler: Handler
    }

    private var entries: [String: Entry] = [:]

    mutating func on(_ paths: [String], _ methods: [HTTPRequest.Method], _ handler: @escaping Handler) {
        for path in paths { entries[path] = Entry(methods: methods, handler: handler) }
    }

    /// - Parameter exact: paths that have no children ("/redirect/x" is not found).
    func respond(to request: Request, exact: Set<String>) async throws -> Response {
        var path = Routes.normalized(request.uri.path)
        let whole = path
        while true {
            if let entry = entries[path], path == whole || !exact.contains(path) {
                guard entry.methods.contains(request.method) else {
                    let allowed = entry.methods.map { "'\($0.rawValue)'" }.joined(separator: ", ")
                    var failure = HTTPFailure(
                        .methodNotAllowed,
                        text: "405 Method Not Allowed. Expecting one of { \(allowed) }, but received "
                            + "'\(request.method.rawValue)'.")
                    failure.headers[.allow] = entry.methods.map(\.rawValue).joined(separator: ", ")
                    throw failure
                }
                return try await entry.handler(request, String(whole.dropFirst(path.count)))
            }
            guard let slash = path.lastIndex(of: "/"), slash > path.startIndex else { break }
            path = String(path[..<slash])
        }
        throw HTTPFailure(.notFound, text: "404 Not Found.")
    }

    static func normalized(_ path: String) -> String {
        var path = path
        if path == "/master" || path.hasPrefix("/master/") { path.removeFirst("/master".count) }
        while path.hasSuffix("/") { path.removeLast() }
        return path
    }
}

/// The media types of a call: the body's, by Content-Type, and the answer's, by Accept.
enum Negotiation {
    static func contentType(_ request: Request) throws -> MesosAPI.MediaType {
        guard let value = request.headers[.contentType] else {
            throw HTTPFailure(.badRequest, text: "Expecting 'Content-Type' to be present")
        }
        guard let media = MesosAPI.MediaType(rawValue: value) else {
            throw HTTPFailure(
                .unsupportedMediaType,
                text: "Expecting 'Content-Type' of application/json or application/x-protobuf")
        }
        return media
    }

    /// JSON unless only protobuf is acceptable.
    static func accept(_ request: Request) throws -> MesosAPI.MediaType {
        guard let value = request.headers[.accept] else { return .json }
        if accepts(value, .json) { return .json }
        if accepts(value, .protobuf) { return .protobuf }
        throw HTTPFailure(
            .notAcceptable, text: "Expecting 'Accept' to allow 'application/x-protobuf' or 'application/json'")
    }

    private static func accepts(_ header: String, _ media: MesosAPI.MediaType) -> Bool {
        header.split(separator: ",").contains { part in
            let pieces = part.split(separator: ";").map { $0.filter { !$0.isWhitespace } }
            guard let range = pieces.first else { return false }
            if pieces.dropFirst().contains(where: { $0 == "q=0" || $0 == "q=0.0" }) { return false }
            return range == media.rawValue || range == "*/*" || range == "application/*"
        }
    }
}
