import Base
public import HTTPKit
import HTTPTypes
public import Hummingbird
public import Logging
import OrderedCollections
import VolumeDriver

/// The libStorage REST API for one service (a named storage driver), with what REX-Ray 0.10 and 0.11 clients use of it.
///
/// Two routes are additions: `POST /volumes/{service}/{id}?mount` and `?unmount` mount on the host of this process, for
/// its own command line.
public struct LibStorageServer: Sendable {
    let manager: VolumeManager
    let serviceName: String
    let tasks: TaskBoard
    let taskTimeout: Duration
    let logger: Logger

    public init(
        manager: VolumeManager, serviceName: String, tasks: TaskBoard, taskTimeout: Duration,
        logger: Logger
    ) {
        self.manager = manager
        self.serviceName = serviceName
        self.tasks = tasks
        self.taskTimeout = taskTimeout
        self.logger = logger
    }

    private var driver: any VolumeDriver { manager.driver }

    public func addRoutes(to router: HTTPRouter) {
        add(.get, "/") { _ in
            .array(["/services", "/snapshots", "/tasks", "/volumes", "/help"].map { .string($0) })
        }
        add(.get, "/services") { call in [serviceName: try await serviceInfo(call)] }
        add(.get, "/services/:service") { call in try await serviceInfo(call) }
        add(.get, "/volumes") { call in [serviceName: try await volumes(call)] }
        add(.get, "/volumes/:service") { call in try await volumes(call) }
        add(.get, "/volumes/:service/:id") { call in try await inspect(call) }
        add(.post, "/volumes/:service", status: .created) { call in try await create(call) }
        add(.post, "/volumes") { call in [serviceName: try await detachAll(call)] }
        add(.post, "/volumes/:service/:id") { call in try await act(call) }
        add(.delete, "/volumes/:service/:id", status: .noContent) { call in try await remove(call) }
        add(.get, "/snapshots") { _ in [serviceName: [:]] }
        add(.get, "/snapshots/:service") { _ in [:] }
        add(.get, "/snapshots/:service/:id") { call in throw LibStorageServer.notFound(call.id) }
        add(.get, "/tasks") { _ in
            var members: JSONValue.Object = [:]
            for entry in await tasks.all { members[String(entry.id)] = LibStorageServer.object(entry) }
            return .object(members)
        }
        add(.get, "/tasks/:id") { call in
            guard let id = Int64(call.id), let entry = await tasks.entry(id) else {
                throw LibStorageServer.notFound(call.id)
            }
            return LibStorageServer.object(entry)
        }
        add(.get, "/help/version") { _ in ["semver": .string(rexraySemanticVersion), "name": "holdfast"] }

        func add(
            _ method: HTTPRequest.Method, _ path: RouterPath, status: HTTPResponse.Status = .ok,
            _ body: @escaping @Sendable (LibStorageCall) async throws -> JSONValue
        ) {
            router.on(path, method: method) { request, context in
                await answer(request, context, status: status, body)
            }
        }
    }

    // MARK: Services

    private func serviceInfo(_ call: LibStorageCall) async throws -> JSONValue {
        var info: JSONValue = [
            "name": .string(serviceName),
            "driver": [
                "name": .string(driver.name), "type": "block",
                "nextDevice": ["ignore": true, "prefix": "", "pattern": ""],
            ],
        ]
        if call.query["instance"] != nil {
            guard let id = try await instance(call.caller) else {
                throw VolumeDriverError(.invalid, "missing instance ID")
            }
            info["instance"] = [
                "instanceID": ["id": .string(id), "driver": .string(driver.name), "service": .string(serviceName)],
                "name": "", "providerName": .string(driver.name), "region": "",
            ]
        }
        return info
    }

    private func instance(_ caller: LibStorageCaller) async throws -> String? {
        if let id = caller.instanceID { return id }
        guard let metadata = caller.metadata else { return nil }
        return try await driver.resolveInstance(metadata: metadata)
    }

    // MARK: Volumes

    private func view(_ call: LibStorageCall) async throws -> LibStorageView {
        let mask = AttachmentMask(query: call.query["attachments"])
        let id = mask.isEmpty ? nil : try await instance(call.caller)
        if !mask.isDisjoint(with: [.mine, .devices]), id == nil {
            throw VolumeDriverError(.invalid, "missing instance ID")
        }
        if mask.contains(.devices), call.caller.devices == nil {
            throw VolumeDriverError(.invalid, "missing local devices")
        }
        return LibStorageView(
            mask: mask, instanceID: id, devices: call.caller.devices ?? [:], driver: driver.name, service: serviceName)
    }

    private func object(_ volume: PlatformVolume, _ view: LibStorageView) async -> JSONValue? {
        // Only this host's own mounts are known here.
        let isHere = try? await manager.instanceID() == view.instanceID
        let path = isHere == true ? await manager.path(of: volume.name) : nil
        return view.object(volume, mountPoint: path)
    }

    private func volumes(_ call: LibStorageCall) async throws -> JSONValue {
        let view = try await view(call)
        var members: JSONValue.Object = [:]
        for volume in try await driver.volumes().sorted(by: { $0.name < $1.name }) {
            if let wanted = LibStorageServer.nameInFilter(call.query["filter"]), wanted != volume.name { continue }
            if let object = await object(volume, view) { members[volume.id] = object }
        }
        return .object(members)
    }

    private func inspect(_ call: LibStorageCall) async throws -> JSONValue {
        let view = try await view(call)
        let volume = try await find(call)
        guard let object = await object(volume, view) else { throw LibStorageServer.notFound(call.id) }
        return object
    }

    private func find(_ call: LibStorageCall) async throws -> PlatformVolume {
        call.query["byName"] == nil
            ? try await driver.volume(id: call.id) : try await driver.volume(named: call.id)
    }

    private func create(_ call: LibStorageCall) async throws -> JSONValue {
        if call.query["detach"] != nil { return try await detachAll(call) }
        let body = try call.body(allowing: [
            "name": .string, "size": .number, "iops": .number, "type": .string, "availabilityZone": .string,
            "encrypted": .boolean, "encryptionKey": .string, "opts": .object,
        ])
        guard let name = body["name"]?.string, !name.isEmpty else {
            throw VolumeDriverError(.invalid, "validate req schema: name is required")
        }
        if body["encrypted"]?.bool == true { throw VolumeDriverError(.notImplemented, "not implemented") }
        var request = VolumeRequest(name: name, size: manager.settings.defaultSize)
        if let size = body["size"]?.integer, size > 0 { request.size = .gibibytes(UInt64(min(size, 1 << 20))) }
        request.type = body["type"]?.string.flatMap { $0.isEmpty ? nil : $0 }
        request.availabilityZone = body["availabilityZone"]?.string.flatMap { $0.isEmpty ? nil : $0 }
        request.iops = body["iops"]?.integer
        try VolumeManager.checkName(name)
        let final = request
        return try await task("create", call) {
            let volume = try await driver.create(final)
            return LibStorageView.plain(driver: driver.name, service: serviceName).object(volume, mountPoint: nil)
                ?? [:]
        }
    }

    private func act(_ call: LibStorageCall) async throws -> JSONValue {
        for (verb, action) in [
            "attach": attach, "detach": detach, "mount": mount, "unmount": unmount, "resize": resize,
        ] where call.query[verb] != nil { return try await action(call) }
        throw VolumeDriverError(.notImplemented, "not implemented")
    }

    @Sendable private func attach(_ call: LibStorageCall) async throws -> JSONValue {
        let body = try call.body(allowing: ["force": .boolean, "nextDeviceName": .string, "opts": .object])
        guard let id = try await instance(call.caller) else { throw VolumeDriverError(.invalid, "missing instance ID") }
        let force = body["force"]?.bool ?? false
        let view = LibStorageView.attached(call.caller, instanceID: id, driver: driver.name, service: serviceName)
        return try await task("attach", call) {
            let volume = try await driver.volume(id: call.id)
            if volume.isAttached(to: id), volume.attachments.count == 1 {
                throw VolumeDriverError(.heldElsewhere, "volume is already attached to this instance")
            }
            let attached = try await manager.exclusively(volume) {
                try await driver.attach(id: volume.id, to: id, preempt: force)
            }
            return ["volume": view.object(attached, mountPoint: nil) ?? [:], "attachToken": .string(volume.id)]
        }
    }

    @Sendable private func detach(_ call: LibStorageCall) async throws -> JSONValue {
        let body = try call.body(allowing: ["force": .boolean, "opts": .object])
        let id = try await instance(call.caller)
        let force = body["force"]?.bool ?? false
        guard force || id != nil else { throw VolumeDriverError(.invalid, "missing instance ID") }
        return try await task("detach", call) {
            let volume = try await driver.volume(id: call.id)
            try await manager.exclusively(volume) {
                if let entry = await manager.entry(volume.name), entry.stage == .mounted, !force {
                    throw VolumeDriverError(.busy, "The volume \(volume.name) is mounted on this host")
                }
                try await driver.detach(id: volume.id, from: force ? nil : id)
            }
            let fresh = try await driver.volume(id: volume.id)
            return LibStorageView.plain(driver: driver.name, service: serviceName).object(fresh, mountPoint: nil) ?? [:]
        }
    }

    /// Detaches all volumes that are attached to the caller.
    private func detachAll(_ call: LibStorageCall) async throws -> JSONValue {
        guard call.query["detach"] != nil else { throw VolumeDriverError(.notImplemented, "not implemented") }
        guard let id = try await instance(call.caller) else { throw VolumeDriverError(.invalid, "missing instance ID") }
        return try await task("detachAll", call) {
            var members: JSONValue.Object = [:]
            for volume in try await driver.volumes() where volume.isAttached(to: id) {
                try await driver.detach(id: volume.id, from: id)
                let plain = LibStorageView.plain(driver: driver.name, service: serviceName)
                members[volume.id] = plain.object(volume, mountPoint: nil)
            }
            return .object(members)
        }
    }

    private func remove(_ call: LibStorageCall) async throws -> JSONValue {
        let force = call.query["force"].map { $0 != "false" && $0 != "0" } ?? false
        return try await task("remove", call) {
            try await manager.remove(try await driver.volume(id: call.id).name, force: force)
            return .null
        }
    }

    @Sendable private func mount(_ call: LibStorageCall) async throws -> JSONValue {
        let body = try call.body(allowing: [
            "holder": .string, "preempt": .boolean, "fsType": .string, "overwriteFS": .boolean,
        ])
        let volume = try await find(call)
        let kind = try body["fsType"]?.string.map { name throws(VolumeDriverError) -> FilesystemKind in
            guard let kind = FilesystemKind(rawValue: name) else {
                throw VolumeDriverError(.invalid, "'\(name)' is no filesystem that volumes may have")
            }
            return kind
        }
        return try await task("mount", call) {
            let path = try await manager.mount(
                volume.name, holder: body["holder"]?.string, preempt: body["preempt"]?.bool, filesystem: kind,
                overwriteFilesystem: body["overwriteFS"]?.bool ?? false)
            return ["mountPoint": .string(path)]
        }
    }

    @Sendable private func unmount(_ call: LibStorageCall) async throws -> JSONValue {
        let body = try call.body(allowing: ["holder": .string])
        let volume = try await find(call)
        return try await task("unmount", call) {
            try await manager.unmount(volume.name, holder: body["holder"]?.string)
            return [:]
        }
    }

    /// Ours: enlarges a volume to `size` GB at least.
    @Sendable private func resize(_ call: LibStorageCall) async throws -> JSONValue {
        let body = try call.body(allowing: ["size": .number])
        guard let size = body["size"]?.integer, (1...(1 << 20)).contains(size) else {
            throw VolumeDriverError(.invalid, "validate req schema: size must be a number of GB, 1 or more")
        }
        let volume = try await find(call)
        return try await task("resize", call) {
            let resized = try await manager.resize(volume.name, to: .gibibytes(UInt64(size)))
            return LibStorageView.plain(driver: driver.name, service: serviceName).object(resized, mountPoint: nil)
                ?? [:]
        }
    }
}
