import Base
import Synchronization
import VolumeDriver

@testable import VolumeService

/// A storage platform in memory, shared by several hosts, each of which sees it through its own `FakeDriver`.
final class FakePlatform: Sendable {
    struct State {
        var volumes: [String: PlatformVolume] = [:]
        var devices: [String: FakeDevice] = [:]
        var lastID = 0
        var lastGeneration = 0
        /// Counts attaches that took a volume from another host.
        var preemptions = 0
        var isReachable = true
    }

    let state = Mutex(State())

    func driver(instance: String) -> FakeDriver { FakeDriver(platform: self, instance: instance) }

    func holder(_ name: String) -> String? {
        state.withLock { $0.volumes.values.first { $0.name == name }?.attachments.first?.instanceID }
    }
}

/// The contents of a volume: what survives when it moves from host to host.
struct FakeDevice: Hashable, Sendable {
    var contents = DeviceContents.blank
    var formats = 0
    /// What the filesystem uses.
    var used = ByteSize.zero
    var files: Set<String> = []
}

struct FakeDriver: VolumeDriver {
    let platform: FakePlatform
    let instance: String
    var name: String { "scaleio" }

    private func check(_ state: FakePlatform.State) throws(VolumeDriverError) {
        guard state.isReachable else { throw VolumeDriverError(.unreachable, "the platform is away") }
    }

    private func with<Value>(
        _ body: (inout FakePlatform.State) throws(VolumeDriverError) -> sending Value
    ) throws(VolumeDriverError) -> Value {
        try platform.state.withLock { state throws(VolumeDriverError) in
            try check(state)
            return try body(&state)
        }
    }

    func volumes() async throws(VolumeDriverError) -> [PlatformVolume] { try with { Array($0.volumes.values) } }

    func volume(id: String) async throws(VolumeDriverError) -> PlatformVolume {
        try with { state throws(VolumeDriverError) in
            guard let volume = state.volumes[id] else { throw VolumeDriverError(.notFound, "no volume \(id)") }
            return volume
        }
    }

    func volume(named name: String) async throws(VolumeDriverError) -> PlatformVolume {
        try with { state throws(VolumeDriverError) in
            guard let volume = state.volumes.values.first(where: { $0.name == name }) else {
                throw VolumeDriverError(.notFound, "no volume \(name)")
            }
            return volume
        }
    }

    func create(_ request: VolumeRequest) async throws(VolumeDriverError) -> PlatformVolume {
        try with { state throws(VolumeDriverError) in
            guard !state.volumes.values.contains(where: { $0.name == request.name }) else {
                throw VolumeDriverError(.alreadyExists, "Volume name already in use")
            }
            state.lastID += 1
            let id = (0xABCD_0000_0000_0000 + UInt64(state.lastID)).hex
            let volume = PlatformVolume(
                id: id, name: request.name, size: request.size ?? .gibibytes(16), type: "pool1", availabilityZone: "pd1"
            )
            state.volumes[id] = volume
            state.devices[id] = FakeDevice()
            return volume
        }
    }

    func resize(id: String, to size: ByteSize) async throws(VolumeDriverError) -> PlatformVolume {
        try with { state throws(VolumeDriverError) in
            guard let volume = state.volumes[id] else { throw VolumeDriverError(.notFound, "no volume \(id)") }
            state.volumes[id]?.size = max(volume.size, size)
            return state.volumes[id] ?? volume
        }
    }

    func remove(id: String) async throws(VolumeDriverError) {
        try with { state throws(VolumeDriverError) in
            guard let volume = state.volumes[id] else { throw VolumeDriverError(.notFound, "no volume \(id)") }
            guard volume.attachments.isEmpty else { throw VolumeDriverError(.heldElsewhere, "Volume is mapped") }
            state.volumes[id] = nil
            state.devices[id] = nil
        }
    }

    func attach(id: String, to instanceID: String, preempt: Bool) async throws(VolumeDriverError) -> PlatformVolume {
        try with { state throws(VolumeDriverError) in
            guard var volume = state.volumes[id] else { throw VolumeDriverError(.notFound, "no volume \(id)") }
            if volume.attachments.map(\.instanceID) == [instanceID] { return volume }
            if !volume.attachments.isEmpty {
                guard preempt else { throw VolumeDriverError(.heldElsewhere, "attached elsewhere") }
                state.preemptions += 1
            }
            state.lastGeneration += 1
            volume.attachments = [
                PlatformAttachment(instanceID: instanceID, generation: String(state.lastGeneration))
            ]
            state.volumes[id] = volume
            return volume
        }
    }

    func detach(id: String, from instanceID: String?) async throws(VolumeDriverError) {
        try with { state throws(VolumeDriverError) in
            state.volumes[id]?.attachments.removeAll { instanceID == nil || $0.instanceID == instanceID }
        }
    }

    func resolveInstance(metadata: String) async throws(VolumeDriverError) -> String {
        _ = try with { $0.lastID }
        return metadata
    }

    func instanceMetadata() async throws(VolumeDriverError) -> String { instance }

    /// A device's name tells its attachment's generation, so that no two attachments have the same device.
    func localDevices() async throws(VolumeDriverError) -> [String: String] {
        platform.state.withLock { state in
            var devices: [String: String] = [:]
            for volume in state.volumes.values where volume.isAttached(to: instance) {
                devices[volume.id] = "/dev/fake/\(volume.id)/\(volume.attachments[0].generation ?? "")"
            }
            return devices
        }
    }
}

/// One host's kernel: its mounts, and devices that die with their attachment. Survives the restart of a
/// `VolumeManager`.
final class FakeHost: FilesystemHost {
    struct State {
        var mounts: [MountedFilesystem] = []
        var directories: Set<String> = []
        /// Devices that are mounted in a container's namespace too.
        var usedElsewhere: Set<String> = []
        /// Device names that have passed to volumes of others.
        var foreignDevices: Set<String> = []
        /// Fails at the n-th call from now on, as if the process had been killed there.
        var callsUntilCrash: Int?
    }

    let platform: FakePlatform
    let instance: String
    let state = Mutex(State())

    init(platform: FakePlatform, instance: String) {
        self.platform = platform
        self.instance = instance
    }

    struct Crash: Error {}

    private func step() throws(VolumeDriverError) {
        try state.withLock { state throws(VolumeDriverError) in
            guard let left = state.callsUntilCrash else { return }
            if left == 0 { throw VolumeDriverError(.failed, "crash", cause: Crash()) }
            state.callsUntilCrash = left - 1
        }
    }

    /// The volume behind a device path, if its attachment is still the current one.
    private func volumeID(_ device: String) -> String? {
        let parts = device.split(separator: "/")
        guard parts.count == 4 else { return nil }
        return platform.state.withLock { state in
            guard let volume = state.volumes[String(parts[2])],
                volume.attachments.first?.instanceID == instance,
                volume.attachments.first?.generation == String(parts[3])
            else { return nil }
            return volume.id
        }
    }

    func mounts() async throws(VolumeDriverError) -> [MountedFilesystem] {
        try step()
        return state.withLock { $0.mounts }
    }

    func deviceNumber(of path: String) async throws(VolumeDriverError) -> DeviceNumber? {
        let parts = path.split(separator: "/")
        guard parts.count == 4, let generation = UInt32(parts[3]) else { return nil }
        return DeviceNumber(major: 7, minor: generation)
    }

    func contents(of device: String) async throws(VolumeDriverError) -> DeviceContents {
        try step()
        guard let id = volumeID(device) else { throw VolumeDriverError(.failed, "EIO") }
        return platform.state.withLock { $0.devices[id]?.contents ?? .blank }
    }

    func isReadable(_ device: String) async -> Bool {
        state.withLock { $0.foreignDevices.contains(device) } || volumeID(device) != nil
    }

    func isInUse(_ device: String) async -> Bool {
        state.withLock { $0.usedElsewhere.contains(device) || $0.mounts.contains { $0.source == device } }
    }

    func makeFilesystem(
        _ kind: FilesystemKind, on device: String, overwrite: Bool
    ) async throws(VolumeDriverError) {
        try step()
        guard let id = volumeID(device) else { throw VolumeDriverError(.failed, "EIO") }
        platform.state.withLock {
            $0.devices[id]?.contents = .filesystem(kind, needsCheck: false)
            $0.devices[id]?.formats += 1
        }
    }

    func size(of device: String) async throws(VolumeDriverError) -> ByteSize? {
        guard let id = volumeID(device) else { return nil }
        return platform.state.withLock { $0.volumes[id]?.size }
    }

    func grow(
        _ kind: FilesystemKind, mountedAt path: String, from device: String
    ) async throws(VolumeDriverError) {
        try step()
        guard let id = volumeID(device), mountPoints().contains(path) else {
            throw VolumeDriverError(.failed, "not mounted")
        }
        platform.state.withLock { $0.devices[id]?.used = $0.volumes[id]?.size ?? .zero }
    }

    func check(_ kind: FilesystemKind, on device: String) async throws(VolumeDriverError) { try step() }

    func mount(
        _ device: String, at path: String, kind: FilesystemKind, options: [String]
    ) async throws(VolumeDriverError) {
        try step()
        guard volumeID(device) != nil, let number = try await deviceNumber(of: device) else {
            throw VolumeDriverError(.failed, "EIO")
        }
        state.withLock {
            $0.mounts.append(
                MountedFilesystem(mountPoint: path, source: device, kind: kind.rawValue, device: number))
        }
    }

    func unmount(_ path: String, lazily: Bool) async throws(VolumeDriverError) {
        try step()
        state.withLock { state in
            if let index = state.mounts.lastIndex(where: { $0.mountPoint == path }) { state.mounts.remove(at: index) }
        }
    }

    func makeDirectory(_ path: String, mode: UInt32) async throws(VolumeDriverError) {
        try step()
        _ = state.withLock { $0.directories.insert(path) }
    }

    func removeEmptyDirectory(_ path: String) async {
        _ = state.withLock { $0.directories.remove(path) }
    }

    func mountPoints() -> [String] { state.withLock { $0.mounts.map(\.mountPoint) } }
}
