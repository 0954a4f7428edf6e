public import Base

/// A volume as its storage platform knows it (libStorage's Volume object, without the caller's view of it).
public struct PlatformVolume: Hashable, Sendable {
    public var id: String
    public var name: String
    public var size: ByteSize
    /// The platform's kind of storage, for ScaleIO the storage pool's name.
    public var type: String
    /// For ScaleIO the protection domain's name.
    public var availabilityZone: String
    public var iops: Int64
    public var isEncrypted: Bool
    public var status: String
    public var attachments: [PlatformAttachment]
    public var fields: [String: String]

    public init(
        id: String, name: String, size: ByteSize, type: String = "", availabilityZone: String = "", iops: Int64 = 0,
        isEncrypted: Bool = false, status: String = "", attachments: [PlatformAttachment] = [],
        fields: [String: String] = [:]
    ) {
        self.id = id
        self.name = name
        self.size = size
        self.type = type
        self.availabilityZone = availabilityZone
        self.iops = iops
        self.isEncrypted = isEncrypted
        self.status = status
        self.attachments = attachments
        self.fields = fields
    }

    public func isAttached(to instanceID: String) -> Bool {
        attachments.contains { $0.instanceID.lowercased() == instanceID.lowercased() }
    }

    /// The platform's name for this attachment to `instanceID`, different after every re-attach; nil when the platform
    /// has none.
    public func attachmentGeneration(of instanceID: String) -> String? {
        attachments.first { $0.instanceID.lowercased() == instanceID.lowercased() }?.generation
    }
}

/// One host that a volume is attached to.
public struct PlatformAttachment: Hashable, Sendable {
    public var instanceID: String
    public var status: String
    /// Changes whenever the volume is attached anew (for our block store the attach epoch). A mount that was made under
    /// another generation is stale even when its device looks the same.
    public var generation: String?

    public init(instanceID: String, status: String = "", generation: String? = nil) {
        self.instanceID = instanceID
        self.status = status
        self.generation = generation
    }
}

/// What a new volume should be. What is nil is the driver's choice.
public struct VolumeRequest: Hashable, Sendable {
    public var name: String
    public var size: ByteSize?
    public var type: String?
    public var availabilityZone: String?
    public var iops: Int64?

    public init(
        name: String, size: ByteSize? = nil, type: String? = nil, availabilityZone: String? = nil, iops: Int64? = nil
    ) {
        self.name = name
        self.size = size
        self.type = type
        self.availabilityZone = availabilityZone
        self.iops = iops
    }
}

/// The port to a storage platform: what a driver must do. The first group of calls talks to the platform and needs its
/// credentials; the second looks at this host only.
///
/// Every call has a deadline of its own and is safe to repeat: attaching what is attached here and detaching what is
/// not are no errors.
public protocol VolumeDriver: Sendable {
    /// libStorage's name of the driver, lower case.
    var name: String { get }

    func volumes() async throws(VolumeDriverError) -> [PlatformVolume]
    /// - Throws: `notFound`.
    func volume(id: String) async throws(VolumeDriverError) -> PlatformVolume
    /// - Throws: `notFound`.
    func volume(named name: String) async throws(VolumeDriverError) -> PlatformVolume
    /// - Throws: `alreadyExists`.
    func create(_ request: VolumeRequest) async throws(VolumeDriverError) -> PlatformVolume
    /// Enlarges a volume, also while it is attached; the platform may round the size up. One that is at least so large
    /// already stays as it is.
    func resize(id: String, to size: ByteSize) async throws(VolumeDriverError) -> PlatformVolume
    /// - Throws: `heldElsewhere` while the volume is attached to any host.
    func remove(id: String) async throws(VolumeDriverError)
    /// Attaches the volume to `instanceID` and to nobody else.
    ///
    /// - Parameter preempt: takes the volume from the host that holds it. When the call returns, that host's writes are
    /// refused.
    /// - Throws: `heldElsewhere` when another host holds it and `preempt` is false.
    func attach(id: String, to instanceID: String, preempt: Bool) async throws(VolumeDriverError) -> PlatformVolume
    /// Detaches the volume from `instanceID`; nil: from every host.
    func detach(id: String, from instanceID: String?) async throws(VolumeDriverError)
    /// The platform's id of the host that `metadata` (see `instanceMetadata`) describes.
    func resolveInstance(metadata: String) async throws(VolumeDriverError) -> String

    /// What this host can tell of its identity; the platform resolves it (ScaleIO: the SDC's GUID).
    func instanceMetadata() async throws(VolumeDriverError) -> String
    /// The block devices of attached volumes on this host, by volume id.
    func localDevices() async throws(VolumeDriverError) -> [String: String]
    /// What a caller should name the next device; nil when the platform chooses.
    func nextDevice() async throws(VolumeDriverError) -> String?
}

extension VolumeDriver {
    public func nextDevice() async throws(VolumeDriverError) -> String? { nil }

    /// Waits until the volume's device is there.
    ///
    /// - Throws: `timedOut`.
    public func waitForDevice(id: String, deadline: Duration) async throws(VolumeDriverError) -> String {
        let clock = ContinuousClock()
        let end = clock.now + deadline
        var pause = Duration.milliseconds(5)
        while true {
            if let device = try await localDevices()[id.lowercased()] { return device }
            guard clock.now < end else {
                throw VolumeDriverError(
                    .timedOut, "The device of volume \(id) did not appear within \(deadline.inSeconds) s")
            }
            do {
                try await clock.sleep(for: pause)
            } catch {
                throw VolumeDriverError(.timedOut, "Waiting for the device of volume \(id) was cancelled", cause: error)
            }
            pause = min(pause * 2, .milliseconds(100))
        }
    }
}
