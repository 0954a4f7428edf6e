public import Base

/// One line of the mount table that concerns volumes.
public struct MountedFilesystem: Hashable, Sendable {
    public var mountPoint: String
    /// The mounted device, links resolved.
    public var source: String
    public var kind: String
    public var device: DeviceNumber
    public var isReadOnly: Bool

    public init(mountPoint: String, source: String, kind: String, device: DeviceNumber, isReadOnly: Bool = false) {
        self.mountPoint = mountPoint
        self.source = source
        self.kind = kind
        self.device = device
        self.isReadOnly = isReadOnly
    }
}

/// A block device's major and minor number.
public struct DeviceNumber: Hashable, Sendable, CustomStringConvertible {
    public var major: UInt32
    public var minor: UInt32

    public init(major: UInt32, minor: UInt32) {
        self.major = major
        self.minor = minor
    }

    /// Parses `major:minor`.
    public init?(_ text: String) {
        let parts = text.split(separator: ":")
        guard parts.count == 2, let major = UInt32(parts[0]), let minor = UInt32(parts[1]) else { return nil }
        self.init(major: major, minor: minor)
    }

    public var description: String { "\(major):\(minor)" }
}

/// What the mount workflow needs of the host it runs on. `LinuxFilesystemHost` is the real one; tests have another.
///
/// All calls have deadlines; a call that missed its deadline may still take effect later, so callers look again before
/// they act.
public protocol FilesystemHost: Sendable {
    /// All mounts of our own mount namespace, in the kernel's order.
    func mounts() async throws(VolumeDriverError) -> [MountedFilesystem]
    /// The number of the block device at `path`, links followed; nil when there is none.
    func deviceNumber(of path: String) async throws(VolumeDriverError) -> DeviceNumber?
    /// - Throws: `failed` when the device's start cannot be read.
    func contents(of device: String) async throws(VolumeDriverError) -> DeviceContents
    /// True when the device answers a read from the medium, not from a cache, in good time.
    func isReadable(_ device: String) async -> Bool
    /// True when a filesystem on the device is mounted in any mount namespace, or someone else has the device
    /// exclusively.
    func isInUse(_ device: String) async -> Bool
    /// Makes a filesystem on a device that is `blank`, or whose making was interrupted before. Never anything else.
    func makeFilesystem(_ kind: FilesystemKind, on device: String, overwrite: Bool) async throws(VolumeDriverError)
    /// The device's size; nil when there is no such device.
    func size(of device: String) async throws(VolumeDriverError) -> ByteSize?
    /// Lets a mounted filesystem use all of its device. One that does so already stays as it is.
    func grow(_ kind: FilesystemKind, mountedAt path: String, from device: String) async throws(VolumeDriverError)
    /// Repairs what can be repaired without losing anything.
    func check(_ kind: FilesystemKind, on device: String) async throws(VolumeDriverError)
    func mount(_ device: String, at path: String, kind: FilesystemKind, options: [String])
        async throws(VolumeDriverError)
    /// - Parameter lazily: detaches the mount at once, whoever uses it.
    func unmount(_ path: String, lazily: Bool) async throws(VolumeDriverError)
    /// Makes a directory and its parents; `mode` is for a directory that was not there before.
    func makeDirectory(_ path: String, mode: UInt32) async throws(VolumeDriverError)
    /// Removes a directory if it is empty and nothing is mounted on it; anything else stays as it is.
    func removeEmptyDirectory(_ path: String) async
}
