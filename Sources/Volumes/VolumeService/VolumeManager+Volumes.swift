import Base
import VolumeDriver

/// Docker's and libStorage's calls that do not mount: creating, removing, looking.
extension VolumeManager {
    /// Creates a volume. One that exists already counts as created, unless another size was asked for.
    ///
    /// - Parameter options: Docker's `--opt`s; the keys' case does not matter, unknown keys are ignored as REX-Ray
    /// does.
    public func create(_ name: String, options: [String: String]) async throws {
        try VolumeManager.checkName(name)
        if settings.isCreateDisabled { return }
        let request = try request(name: name, options: options)
        try await locks.withLock(name) { _ = try await self.createMissing(request) }
    }

    func createMissing(_ request: VolumeRequest) async throws(VolumeDriverError) -> PlatformVolume {
        do {
            return try await driver.create(request)
        } catch  where error.code == .alreadyExists {
            // Another host was faster, or our own earlier request went through although its answer was lost.
            let existing = try await driver.volume(named: request.name)
            if let size = request.size, size > existing.size { throw error }
            return existing
        }
    }

    func request(name: String, options: [String: String]) throws(VolumeDriverError) -> VolumeRequest {
        var request = VolumeRequest(
            name: name, size: settings.defaultSize, type: settings.defaultType,
            availabilityZone: settings.defaultAvailabilityZone, iops: settings.defaultIOPS)
        for (key, value) in options.sorted(by: { $0.key < $1.key }) where !value.isEmpty {
            switch key.lowercased() {
            case "size":
                guard let gibibytes = UInt64(value), (1...(1 << 20)).contains(gibibytes) else {
                    throw VolumeDriverError(
                        .invalid, "The option size is '\(value)', but must be a number of GB, 1 or more")
                }
                request.size = .gibibytes(gibibytes)
            case "type", "volumetype": request.type = value
            case "availabilityzone": request.availabilityZone = value
            case "iops":
                guard let iops = Int64(value), iops >= 0 else {
                    throw VolumeDriverError(.invalid, "The option iops is '\(value)', but must be a number")
                }
                request.iops = iops
            case "encrypted":
                guard ["false", "0"].contains(value.lowercased()) else {
                    throw VolumeDriverError(.notImplemented, "The driver \(driver.name) makes no encrypted volumes")
                }
            default: continue
            }
        }
        return request
    }

    /// Removes a volume and its data.
    public func remove(_ name: String, force: Bool = false) async throws {
        try VolumeManager.checkName(name)
        if settings.isRemoveDisabled { return }
        try await locks.withLock(name) {
            if let entry = await self.entry(name) {
                guard entry.stage != .mounted, !entry.isHeld else {
                    throw VolumeDriverError(.busy, "The volume \(name) is mounted on this host")
                }
                try await self.release(entry)
            }
            let volume = try await self.driver.volume(named: name)
            if force || self.settings.forcesRemoval, !volume.attachments.isEmpty {
                try await self.driver.detach(id: volume.id, from: nil)
            }
            try await self.driver.remove(id: volume.id)
        }
    }

    /// Runs `body` with the volume's operations held off; for the REST API's attach and detach.
    func exclusively<Value: Sendable>(
        _ volume: PlatformVolume, _ body: @Sendable () async throws -> Value
    ) async throws -> Value {
        try await locks.withLock(volume.name, body)
    }
}
