import Base
import HTTPKit
import Hummingbird
import Logging
import NIOHTTP1
import TestKit

@testable import VolumeService

/// One host's volume service behind its two HTTP interfaces, each on a unix socket.
struct ServedVolumes: Sendable {
    let platform: FakePlatform
    let node: TestHost
    let manager: VolumeManager
    /// Docker's plugin under the name that lists the volumes, and under one that does not.
    let plugin: HTTPAddress
    let alias: HTTPAddress
    let libStorage: HTTPAddress

    static func run(
        taskTimeout: Duration = .seconds(30), _ body: @escaping @Sendable (ServedVolumes) async throws -> Void
    ) async throws {
        let directory = try TemporaryDirectory()
        let platform = FakePlatform()
        let node = try TestHost(platform, "sdc1")
        defer { node.remove() }
        let manager = try await node.start()
        let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        let tasks = TaskBoard()
        let listing = DockerPlugin(manager: manager, serviceName: "scaleio", listsAll: true, logger: logger)
        let silent = DockerPlugin(manager: manager, serviceName: "scaleio", listsAll: false, logger: logger)
        let api = LibStorageServer(
            manager: manager, serviceName: "scaleio", tasks: tasks, taskTimeout: taskTimeout, logger: logger)
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await tasks.run() }
            group.addTask {
                try await serve(listing.addRoutes, directory.file("REX-Ray.sock")) { plugin in
                    try await serve(silent.addRoutes, directory.file("rexray.sock")) { alias in
                        try await serve(api.addRoutes, directory.file("ls.sock")) { libStorage in
                            try await body(
                                ServedVolumes(
                                    platform: platform, node: node, manager: manager, plugin: plugin, alias: alias,
                                    libStorage: libStorage))
                        }
                    }
                }
            }
            defer { group.cancelAll() }
            // The body is the only one that ends by itself.
            try await group.next()
        }
    }

    private static func serve(
        _ addRoutes: (HTTPRouter) -> Void, _ path: String,
        _ body: @escaping @Sendable (HTTPAddress) async throws -> Void
    ) async throws {
        let router = HTTPRouter(context: HTTPContext.self)
        addRoutes(router)
        try await withServer(router, at: .unix(path: path), body)
    }

    /// A call as dockerd makes it.
    func docker(_ method: String, _ body: JSONValue?, at address: HTTPAddress? = nil) async throws -> HTTPReply {
        try await HTTPCaller().call(
            .POST, address ?? plugin, "/\(method.contains(".") ? method : "VolumeDriver." + method)",
            headers: ["accept": "application/vnd.docker.plugins.v1.2+json"], body: body?.bytes)
    }

    /// A call as a libStorage client of the host `caller` makes it.
    func call(
        _ method: HTTPMethod, _ path: String, _ body: JSONValue? = nil, as caller: String? = nil,
        devices: String? = nil
    ) async throws -> HTTPReply {
        try await send(method, path, body?.bytes, as: caller, devices: devices)
    }

    func send(
        _ method: HTTPMethod, _ path: String, _ body: [UInt8]?, as caller: String? = nil, devices: String? = nil
    ) async throws -> HTTPReply {
        var headers: HTTPHeaders = [:]
        if let caller { headers.add(name: "libstorage-instanceid", value: "scaleio=\(caller)") }
        if let devices { headers.add(name: "libstorage-localdevices", value: "scaleio=\(devices)") }
        return try await HTTPCaller(headers: headers).call(method, libStorage, path, body: body)
    }

    func create(_ name: String, size: Int64 = 8) async throws -> String {
        let reply = try await call(.POST, "/volumes/scaleio", ["name": .string(name), "size": .integer(size)])
        return try reply.json()["id"]?.string ?? "no id: \(reply.text)"
    }
}
