public import Base
public import VolumeDriver

/// The `libstorage.integration.volume.operations.*` and `linux.volume.*` keys: how volumes are mounted, created and
/// removed.
public struct VolumeSettings: Hashable, Sendable {
    /// `mount.path`: volumes are mounted in directories of their names here.
    public var mountDirectory = "/var/lib/rexray/volumes"
    /// `mount.rootPath`: the directory inside a volume that its users see; "" = the volume's root.
    public var rootPath = "/data"
    /// `linux.volume.filemode`: the mode of that directory when it is made.
    public var fileMode: UInt32 = 0o700
    /// `mount.preempt`: mounting takes a volume from the host that holds it.
    ///
    /// Unlike REX-Ray's, the default is true: the store refuses the old host's writes, so that taking over is safe.
    public var preempts = true
    /// `create.implicit`: mounting a volume that does not exist creates it.
    public var createsImplicitly = true
    /// `create.disable`, `remove.disable`: the call succeeds and does nothing.
    public var isCreateDisabled = false
    public var isRemoveDisabled = false
    /// `remove.force`: a volume that is attached is detached first.
    public var forcesRemoval = false
    /// `unmount.ignoreusedcount`: the first unmount unmounts, whoever else holds the volume.
    public var ignoresUsedCount = false
    public var defaultSize = ByteSize.gibibytes(16)
    public var defaultFilesystem = FilesystemKind.ext4
    public var defaultType: String?
    public var defaultAvailabilityZone: String?
    public var defaultIOPS: Int64?
    /// `libstorage.device.attachTimeout`.
    public var attachTimeout = Duration.seconds(30)
    /// How long unmounting waits for containers that still go down with the filesystem in their own mount namespaces.
    public var releaseTimeout = Duration.seconds(10)
    /// `holdfast.mount.options`, beside what the filesystem needs.
    public var mountOptions: [String] = []

    public init() {}
}
