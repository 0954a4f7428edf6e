import AsyncHTTPClient
public import Base
public import HTTPKit
import NIOCore
import NIOHTTP1
import OrderedCollections
import Synchronization

/// The part of the Docker Engine API (1.24 to 1.41) that an agent needs, over dockerd's socket.
///
/// Every call is bounded by a deadline except `wait` and `logs`, which last as long as their container.
public final class DockerClient: Sendable {
    /// The newest version of the API that this client was written for.
    static let newestVersion = DockerVersion(major: 1, minor: 41)
    static let oldestVersion = DockerVersion(major: 1, minor: 24)

    public let address: HTTPAddress
    private let caller: HTTPCaller
    private let negotiated = Mutex<DockerVersion?>(nil)

    public init(address: HTTPAddress, caller: HTTPCaller = HTTPCaller()) {
        self.address = address
        self.caller = caller
    }

    /// A container of `list`.
    public struct Summary: Hashable, Sendable {
        public var id: String
        /// Without the leading slash.
        public var name: String
        /// `created`, `running`, `paused`, `restarting`, `removing`, `exited` or `dead`.
        public var state: String
        public var labels: [String: String]
    }

    /// How a container ended.
    public struct Exit: Hashable, Sendable {
        public var status: Int
        public var isOutOfMemory: Bool
        /// What dockerd says went wrong, empty when nothing did.
        public var error: String
    }

    // MARK: Images

    public func hasImage(_ image: String) async throws(ContainerizerError) -> Bool {
        let reply = try await call(.GET, "/images/\(image)/json", allowing: [404])
        return reply.isSuccess
    }

    /// Pulls `image`; `authorization` is the content of X-Registry-Auth (base64 of JSON), if the registry wants one.
    public func pull(_ image: String, authorization: String?) async throws(ContainerizerError) {
        let (name, tag) = DockerClient.splitReference(image)
        var headers = HTTPHeaders()
        if let authorization { headers.add(name: "X-Registry-Auth", value: authorization) }
        let reply = try await call(
            .POST, "/images/create?fromImage=\(percentEncoded(name))&tag=\(percentEncoded(tag))", headers: headers,
            deadline: .seconds(4 * 3600), through: HTTPCaller(client: HTTPCaller.downloadClient))
        // Progress comes as one JSON document per line; a failure after the first byte is only told in such a line.
        for line in reply.body.split(separator: UInt8(ascii: "\n")) {
            if let document = try? JSONValue(parsing: Array(line)), let error = document["error"]?.string {
                throw ContainerizerError(.launchFailed, "Failed to pull the image '\(image)': \(error)")
            }
        }
    }

    /// Name and tag (or digest) of a reference, `latest` when it has neither.
    static func splitReference(_ image: String) -> (name: String, tag: String) {
        if let at = image.firstIndex(of: "@") {
            return (String(image[..<at]), String(image[image.index(after: at)...]))
        }
        let slash = image.lastIndex(of: "/") ?? image.startIndex
        guard let colon = image[slash...].lastIndex(of: ":") else { return (image, "latest") }
        return (String(image[..<colon]), String(image[image.index(after: colon)...]))
    }

    // MARK: Containers

    public func create(name: String, _ body: JSONValue) async throws(ContainerizerError) -> String {
        let reply = try await call(.POST, "/containers/create?name=\(percentEncoded(name))", json: body)
        guard let id = (try? reply.json())?["Id"]?.string else {
            throw ContainerizerError(.unavailable, "dockerd answered a creation without an id.")
        }
        return id
    }

    /// Starts a container; volumes are mounted in this call, which may take minutes. A started one stays as it is.
    public func start(_ id: String) async throws(ContainerizerError) {
        _ = try await call(.POST, "/containers/\(percentEncoded(id))/start", allowing: [304], deadline: .seconds(300))
    }

    public func inspect(_ id: String) async throws(ContainerizerError) -> JSONValue? {
        let reply = try await call(.GET, "/containers/\(percentEncoded(id))/json", allowing: [404])
        guard reply.isSuccess else { return nil }
        return try document(reply)
    }

    /// Returns when the container is not running (any more), which dockerd tells at once; nil when there is no such
    /// container.
    public func wait(_ id: String) async throws(ContainerizerError) -> Int? {
        let reply = try await call(
            .POST, "/containers/\(percentEncoded(id))/wait?condition=not-running", allowing: [404],
            deadline: .seconds(10 * 365 * 86400))
        guard reply.isSuccess else { return nil }
        return try document(reply)["StatusCode"]?.integer.map(Int.init)
    }

    /// SIGTERM (or the image's stop signal), then SIGKILL after `grace` (rounded up to seconds). A missing or stopped
    /// one is no error.
    public func stop(_ id: String, grace: Duration) async throws(ContainerizerError) {
        let seconds = max(0, Int(grace.inSeconds.rounded(.up)))
        _ = try await call(
            .POST, "/containers/\(percentEncoded(id))/stop?t=\(seconds)", allowing: [304, 404],
            deadline: .seconds(seconds + 60))
    }

    /// A missing or stopped container is no error.
    public func kill(_ id: String, signal: String) async throws(ContainerizerError) {
        _ = try await call(
            .POST, "/containers/\(percentEncoded(id))/kill?signal=\(percentEncoded(signal))", allowing: [404, 409])
    }

    /// Removes a container with its anonymous volumes. A missing one is no error.
    public func remove(_ id: String, force: Bool = false) async throws(ContainerizerError) {
        _ = try await call(
            .DELETE, "/containers/\(percentEncoded(id))?v=1&force=\(force ? 1 : 0)", allowing: [404],
            deadline: .seconds(150))
    }

    /// All containers, running or not, whose name starts with `prefix`.
    public func list(namePrefix prefix: String) async throws(ContainerizerError) -> [Summary] {
        let filters: JSONValue = ["name": [.string(prefix)]]
        let reply = try await call(.GET, "/containers/json?all=1&filters=\(percentEncoded(filters.text))")
        return try document(reply).array?.compactMap { entry -> Summary? in
            guard let id = entry["Id"]?.string, let names = entry["Names"]?.array else { return nil }
            let name = names.compactMap(\.string).map { $0.hasPrefix("/") ? String($0.dropFirst()) : $0 }
                .first { $0.hasPrefix(prefix) }
            guard let name else { return nil }
            let labels = (entry["Labels"]?.object ?? [:]).compactMap { key, value in value.string.map { (key, $0) } }
            return Summary(
                id: id, name: name, state: entry["State"]?.string ?? "",
                labels: Dictionary(labels, uniquingKeysWith: { _, last in last }))
        } ?? []
    }

    /// One sample of the container's use of resources.
    public func statistics(_ id: String) async throws(ContainerizerError) -> JSONValue? {
        let reply = try await call(
            .GET, "/containers/\(percentEncoded(id))/stats?stream=0&one-shot=1", allowing: [404], deadline: .seconds(5))
        return reply.isSuccess ? try document(reply) : nil
    }

    /// What the container writes, from its beginning, until it stops or the task is cancelled. `receive` gets whole
    /// pieces in order.
    public func followLogs(
        _ id: String, isTerminal: Bool, _ receive: (DockerLogDecoder.Piece) async throws -> Void
    ) async throws {
        let path = "/containers/\(percentEncoded(id))/logs?follow=1&stdout=1&stderr=1"
        // Some daemons send the head only with the first output.
        let response = try await caller.stream(
            .GET, address, try await versioned(path), deadline: .seconds(10 * 365 * 86400))
        guard response.status == .ok else {
            throw ContainerizerError(.unavailable, "dockerd refused the logs of \(id): \(response.status.code)")
        }
        var decoder = DockerLogDecoder(isTerminal: isTerminal)
        for try await buffer in response.body {
            for piece in try decoder.append(buffer.readableBytesView) { try await receive(piece) }
        }
    }

    // MARK: Commands within containers

    /// Runs a command within a running container. Answers its exit status, or nil when the deadline passed first.
    public func execute(
        _ id: String, command: [String], environment: [String], deadline: Duration
    ) async throws(ContainerizerError) -> Int? {
        let body: JSONValue = [
            "Cmd": .array(command.map(JSONValue.string)), "Env": .array(environment.map(JSONValue.string)),
            "AttachStdout": true, "AttachStderr": true,
        ]
        let created = try await call(.POST, "/containers/\(percentEncoded(id))/exec", json: body)
        guard let execution = try document(created)["Id"]?.string else {
            throw ContainerizerError(.unavailable, "dockerd answered an exec without an id.")
        }
        do {
            // The answer is the command's output and ends with it.
            _ = try await caller.call(
                .POST, address, try await versioned("/exec/\(execution)/start"), json: ["Detach": false, "Tty": false],
                deadline: deadline)
        } catch let error as HTTPCallError where error.code == .timedOut {
            return nil
        } catch let error as ContainerizerError {
            throw error
        } catch {
            throw ContainerizerError(.unavailable, "dockerd did not run a command in \(id)", cause: error)
        }
        let reply = try await call(.GET, "/exec/\(execution)/json")
        return try document(reply)["ExitCode"]?.integer.map(Int.init)
    }

    // MARK: Calling

    private func document(_ reply: HTTPReply) throws(ContainerizerError) -> JSONValue {
        do {
            return try reply.json()
        } catch {
            throw ContainerizerError(.unavailable, "dockerd answered something that is no JSON", cause: error)
        }
    }

    /// `path` under the newest version that both sides speak; asked of the daemon once.
    private func versioned(_ path: String) async throws(ContainerizerError) -> String {
        if let version = negotiated.withLock({ $0 }) { return "/v\(version)\(path)" }
        let reply: HTTPReply
        do {
            reply = try await caller.call(.GET, address, "/_ping", deadline: .seconds(10))
        } catch {
            throw ContainerizerError(.unavailable, "dockerd at \(address) does not answer", cause: error)
        }
        let theirs = reply.headers.first(name: "api-version").flatMap(DockerVersion.init) ?? DockerClient.oldestVersion
        guard reply.isSuccess, theirs >= DockerClient.oldestVersion else {
            throw ContainerizerError(
                .unavailable, "dockerd at \(address) speaks version \(theirs), older than 1.24, or is not well.")
        }
        let version = min(theirs, DockerClient.newestVersion)
        negotiated.withLock { $0 = version }
        return "/v\(version)\(path)"
    }

    private func call(
        _ method: HTTPMethod, _ path: String, headers: HTTPHeaders = [:], json: JSONValue? = nil,
        allowing allowed: [Int] = [], deadline: Duration = .seconds(60), through special: HTTPCaller? = nil
    ) async throws(ContainerizerError) -> HTTPReply {
        let path = try await versioned(path)
        var headers = headers
        if json != nil { headers.add(name: "content-type", value: "application/json") }
        let reply: HTTPReply
        do {
            reply = try await (special ?? caller).call(
                method, address, path, headers: headers, body: json?.bytes, deadline: deadline)
        } catch {
            throw ContainerizerError(.unavailable, "dockerd did not answer", cause: error)
        }
        if reply.isSuccess || allowed.contains(reply.status) { return reply }
        let message = (try? reply.json())?["message"]?.string ?? reply.text
        let code: ContainerizerError.Code =
            switch reply.status {
            case 404: .notFound
            case 400: .invalidRequest
            default: .launchFailed
            }
        throw ContainerizerError(code, message)
    }
}

/// A version of the Engine API.
struct DockerVersion: Hashable, Comparable, Sendable, CustomStringConvertible {
    var major: Int
    var minor: Int

    init(major: Int, minor: Int) {
        self.major = major
        self.minor = minor
    }

    init?(_ text: String) {
        let parts = text.split(separator: ".").map { Int($0) }
        guard parts.count == 2, let major = parts[0], let minor = parts[1] else { return nil }
        self.init(major: major, minor: minor)
    }

    static func < (left: DockerVersion, right: DockerVersion) -> Bool {
        (left.major, left.minor) < (right.major, right.minor)
    }

    var description: String { "\(major).\(minor)" }
}
