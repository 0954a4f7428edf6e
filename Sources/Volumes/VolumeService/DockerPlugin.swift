import Base
public import HTTPKit
import HTTPTypes
public import Hummingbird
public import Logging
import OrderedCollections
import VolumeDriver

/// Docker's volume plugin protocol, version 1: POST of JSON to `/VolumeDriver.*` on a socket whose name is the driver's
/// name.
public struct DockerPlugin: Sendable {
    private let manager: VolumeManager
    private let serviceName: String
    /// True for the name under which all volumes are listed. Docker asks every plugin it finds: if each of our names
    /// listed all volumes, `docker volume ls` would show them several times.
    private let listsAll: Bool
    private let logger: Logger

    private static let contentType = "application/vnd.docker.plugins.v1.2+json"

    public init(manager: VolumeManager, serviceName: String, listsAll: Bool, logger: Logger) {
        self.manager = manager
        self.serviceName = serviceName
        self.listsAll = listsAll
        self.logger = logger
    }

    /// What a request may carry; all members are optional on the wire.
    private struct Call {
        var name: String
        var id: String?
        var options: [String: String]
    }

    public func addRoutes(to router: HTTPRouter) {
        router.post("/Plugin.Activate") { _, _ in DockerPlugin.answer(["Implements": ["VolumeDriver"]]) }
        router.post("/VolumeDriver.Capabilities") { _, _ in
            DockerPlugin.answer(["Capabilities": ["Scope": "global"]])
        }
        add("Create", to: router) { call in
            try await manager.create(call.name, options: call.options)
            return [:]
        }
        add("Remove", to: router) { call in
            try await manager.remove(call.name)
            return [:]
        }
        add("Mount", to: router) { call in
            ["Mountpoint": .string(try await manager.mount(call.name, holder: call.id))]
        }
        add("Unmount", to: router) { call in
            try await manager.unmount(call.name, holder: call.id)
            return [:]
        }
        add("Path", to: router) { call in
            ["Mountpoint": .string(await manager.path(of: call.name) ?? "")]
        }
        add("Get", to: router) { call in
            let volume = try await manager.driver.volume(named: call.name)
            return ["Volume": await describe(volume, name: call.name)]
        }
        add("List", to: router, needsName: false) { _ in
            var list: [JSONValue] = []
            for volume in try await manager.driver.volumes().sorted(by: { $0.name < $1.name }) where listsAll {
                list.append(await describe(volume, name: volume.name))
            }
            return ["Volumes": .array(list)]
        }
    }

    private func describe(_ volume: PlatformVolume, name: String) async -> JSONValue {
        [
            "Name": .string(name), "Mountpoint": .string(await manager.path(of: name) ?? ""),
            "Status": [
                "name": .string(volume.name), "size": .integer(Int64(volume.size.wholeGibibytes)),
                "iops": .integer(volume.iops), "type": .string(volume.type),
                "availabilityZone": .string(volume.availabilityZone), "fields": .null,
                "service": .string(serviceName), "server": .string(manager.driver.name),
            ],
        ]
    }

    private func add(
        _ method: String, to router: HTTPRouter, needsName: Bool = true,
        _ body: @escaping @Sendable (Call) async throws -> JSONValue
    ) {
        router.post(RouterPath("/VolumeDriver.\(method)")) { request, _ in
            var name = ""
            do {
                let call = try DockerPlugin.parse(try await request.bytes(limit: 1 << 20))
                name = call.name
                guard !needsName || !name.isEmpty else {
                    throw VolumeDriverError(.invalid, "The request names no volume")
                }
                var answer = try await body(call)
                answer["Err"] = ""
                return DockerPlugin.answer(answer)
            } catch {
                // Docker asks Get before Create: "not found" is an everyday answer there.
                let isExpected = method == "Get" && (error as? VolumeDriverError)?.code == .notFound
                logger.log(
                    level: isExpected ? .debug : .error, "a call of Docker failed",
                    metadata: ["docker.call": "\(method)", "volume.name": "\(name)", "error": "\(errorChain(error))"])
                let text = "docker-legacy: \(method): \(name): failed: \(errorChain(error))"
                return DockerPlugin.answer(["Err": .string(text)], status: .internalServerError)
            }
        }
    }

    private static func parse(_ bytes: [UInt8]) throws -> Call {
        let object: JSONValue
        do {
            object = bytes.isEmpty ? [:] : try JSONValue(parsing: bytes)
        } catch {
            throw VolumeDriverError(.invalid, "The request's body is no JSON", cause: error)
        }
        guard object.object != nil else { throw VolumeDriverError(.invalid, "The request's body is no JSON object") }
        var options: [String: String] = [:]
        if let given = object["Opts"], !given.isNull {
            guard let members = given.object else { throw VolumeDriverError(.invalid, "\"Opts\" is no JSON object") }
            for (key, value) in members { options[key] = value.string ?? (value.isNull ? "" : value.text) }
        }
        let id = try text("ID", of: object)
        return Call(name: try text("Name", of: object), id: id.isEmpty ? nil : id, options: options)
    }

    /// A member that is a string or, as good as the empty one, missing.
    private static func text(_ name: String, of object: JSONValue) throws(VolumeDriverError) -> String {
        guard let value = object[name], !value.isNull else { return "" }
        guard let text = value.string else { throw VolumeDriverError(.invalid, "\"\(name)\" is no string") }
        return text
    }

    private static func answer(_ value: JSONValue, status: HTTPResponse.Status = .ok) -> Response {
        .json(value, status: status, headers: [.contentType: contentType])
    }
}
