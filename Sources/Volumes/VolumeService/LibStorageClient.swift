public import Base
public import HTTPKit
import NIOHTTP1
import OrderedCollections
public import VolumeDriver

/// A libStorage server's error answer, or none at all.
public struct LibStorageError: CodedError {
    public enum Code: Hashable, Sendable {
        case notFound
        /// The call goes on at the server; its task can be asked for.
        case unfinished
        case refused
        case unreachable
    }

    public var code: Code
    public var message: String
    public var cause: (any Error)?

    init(_ code: Code, _ message: String, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }
}

/// Calls a libStorage server for the command line of this host.
public struct LibStorageClient: Sendable {
    private let address: HTTPAddress
    private let service: String
    private let driver: (any VolumeDriver)?
    private let caller = HTTPCaller()

    /// - Parameter driver: tells who this host is and which devices it has; without it, calls that need that fail.
    public init(address: HTTPAddress, service: String, driver: (any VolumeDriver)?) {
        self.address = address
        self.service = service
        self.driver = driver
    }

    /// True when a server answers.
    public func isAlive() async -> Bool {
        (try? await caller.call(.GET, address, "/services", deadline: .seconds(5)))?.isSuccess ?? false
    }

    public func services() async throws(LibStorageError) -> [JSONValue] {
        Array((try await call(.GET, "/services").object ?? [:]).values)
    }

    /// The service with this host's id as the platform resolves it.
    public func instance() async throws(LibStorageError) -> JSONValue {
        try await call(.GET, "/services/\(service)?instance")
    }

    /// Volume objects, sorted by name.
    public func volumes(attachments mask: Int) async throws(LibStorageError) -> [JSONValue] {
        let answer = try await call(.GET, "/volumes/\(service)?attachments=\(mask)")
        return (answer.object ?? [:]).values.sorted { ($0["name"]?.string ?? "") < ($1["name"]?.string ?? "") }
    }

    public func create(_ request: JSONValue) async throws(LibStorageError) -> JSONValue {
        try await call(.POST, "/volumes/\(service)", request)
    }

    public func remove(_ id: String, force: Bool) async throws(LibStorageError) {
        _ = try await call(.DELETE, "/volumes/\(service)/\(percentEncoded(id))" + (force ? "?force=true" : ""))
    }

    public func attach(_ id: String, force: Bool) async throws(LibStorageError) -> JSONValue {
        try await call(.POST, "/volumes/\(service)/\(percentEncoded(id))?attach", ["force": .bool(force)])
    }

    public func detach(_ id: String, force: Bool) async throws(LibStorageError) -> JSONValue {
        try await call(.POST, "/volumes/\(service)/\(percentEncoded(id))?detach", ["force": .bool(force)])
    }

    /// Mounts on the server's host and answers the path.
    public func mount(
        name: String, holder: String, preempt: Bool?, filesystem: String?, overwrite: Bool
    ) async throws(LibStorageError) -> String {
        var body: JSONValue = ["holder": .string(holder), "overwriteFS": .bool(overwrite)]
        if let preempt { body["preempt"] = .bool(preempt) }
        if let filesystem { body["fsType"] = .string(filesystem) }
        let answer = try await call(.POST, "/volumes/\(service)/\(percentEncoded(name))?mount&byName", body)
        return answer["mountPoint"]?.string ?? ""
    }

    public func unmount(name: String, holder: String) async throws(LibStorageError) {
        _ = try await call(
            .POST, "/volumes/\(service)/\(percentEncoded(name))?unmount&byName", ["holder": .string(holder)])
    }

    /// Enlarges a volume to so many GB at least, with its filesystem if it is mounted; answers its object.
    public func resize(name: String, gibibytes: Int) async throws(LibStorageError) -> JSONValue {
        try await call(
            .POST, "/volumes/\(service)/\(percentEncoded(name))?resize&byName", ["size": .integer(Int64(gibibytes))])
    }

    private func call(
        _ method: HTTPMethod, _ path: String, _ body: JSONValue? = nil
    ) async throws(LibStorageError) -> JSONValue {
        var headers: HTTPHeaders = [:]
        if body != nil { headers.add(name: "content-type", value: "application/json") }
        if let driver {
            // A host without an SDC can still list and create.
            if let metadata = try? await driver.instanceMetadata() {
                let text = encodeBase64(JSONValue.string(metadata).bytes)
                headers.add(name: "Libstorage-Instanceid", value: "\(driver.name):\(service)=,,\(text)")
            }
            let devices = ((try? await driver.localDevices()) ?? [:]).sorted { $0.key < $1.key }
            let list = devices.map { "\($0.key)::\($0.value)" }.joined(separator: ",")
            headers.add(name: "Libstorage-Localdevices", value: "\(driver.name)=\(list)")
        }
        let reply: HTTPReply
        do {
            reply = try await caller.call(
                method, address, path, headers: headers, body: body?.bytes, deadline: .seconds(120))
        } catch {
            throw LibStorageError(.unreachable, "The libStorage server at \(address) gave no answer", cause: error)
        }
        let document = reply.body.isEmpty ? JSONValue.null : (try? reply.json()) ?? .null
        switch reply.status {
        case 200..<300: return document
        case 404: throw LibStorageError(.notFound, document["message"]?.string ?? "resource not found")
        case 408:
            let id = document["id"]?.integer.map(String.init) ?? "?"
            throw LibStorageError(.unfinished, "the call takes long and goes on as task \(id) of the server")
        default:
            throw LibStorageError(.refused, document["message"]?.string ?? "HTTP status \(reply.status)")
        }
    }
}
