public import Base
public import Logging
public import VolumeDriver

/// The mount workflow of this host (REX-Ray's "linux" integration driver) with a memory that survives crashes.
///
/// Operations on one volume run one after the other; the ledger on the disk is ahead of every step that changes
/// something. After a crash at any point a repeated call converges, and what nobody repeats `sweep` releases.
public actor VolumeManager {
    public nonisolated let driver: any VolumeDriver
    public nonisolated let settings: VolumeSettings

    let host: any FilesystemHost
    let logger: Logger
    let locks = VolumeLocks()
    private let file: MountLedgerFile
    /// By volume name.
    private(set) var entries: [String: LedgerEntry] = [:]
    private var instance: String?
    /// The size of each mounted volume's device when its filesystem was last told to use all of it.
    private var grownTo: [String: ByteSize] = [:]
    private var isWritingLedger = false
    /// Who waits for the ledger's next write; resumed with true to do it, with false when it is done.
    private var nextWrite: [CheckedContinuation<Bool, any Error>] = []

    /// - Parameter ledgerPath: the ledger's file; its directory must exist.
    public init(
        driver: any VolumeDriver, host: any FilesystemHost, settings: VolumeSettings, ledgerPath: String, logger: Logger
    ) {
        self.driver = driver
        self.host = host
        self.settings = settings
        self.logger = logger
        file = MountLedgerFile(path: ledgerPath)
    }

    // MARK: Mounting

    /// Mounts the volume for the caller `holder` and answers the path that its user shall see. A volume that does not
    /// exist is created if the settings say so.
    ///
    /// - Parameter holder: Docker's mount id; repeating one changes nothing. Nil for callers that have none.
    /// - Parameter preempt: overrides the setting.
    public func mount(
        _ name: String, holder: String?, preempt: Bool? = nil, filesystem: FilesystemKind? = nil,
        overwriteFilesystem: Bool = false
    ) async throws -> String {
        try VolumeManager.checkName(name)
        return try await locks.withLock(name) {
            try await self.mountLocked(
                name, holder: holder, preempt: preempt ?? self.settings.preempts,
                filesystem: filesystem ?? self.settings.defaultFilesystem, overwrite: overwriteFilesystem)
        }
    }

    private func mountLocked(
        _ name: String, holder: String?, preempt: Bool, filesystem: FilesystemKind, overwrite: Bool
    ) async throws -> String {
        var volume = try await volumeToMount(name)
        let instance = try await instanceID()
        if let entry = entries[name] {
            if try await isUsable(entry, volume: volume, instance: instance) {
                return try await join(entry, holder: holder)
            }
            try await discardStaleMount(entry)
        }
        var entry =
            entries[name]
            ?? LedgerEntry(name: name, volumeID: volume.id, stage: .preparing, mountPoint: mountPoint(of: name))
        entry.volumeID = volume.id
        entry.stage = .preparing
        entry.addHolder(holder)
        try await record(entry)
        do {
            try await unmountAll(entry.mountPoint, lazily: true)
            if volume.attachments.count != 1 || !volume.isAttached(to: instance) {
                volume = try await driver.attach(id: volume.id, to: instance, preempt: preempt)
            }
            entry.generation = volume.attachmentGeneration(of: instance)
            let device = try await readableDevice(volume)
            entry.device = device
            entry.deviceNumber = try await host.deviceNumber(of: device)
            try await prepareFilesystem(&entry, device: device, wanted: filesystem, overwrite: overwrite)
            try await mountDevice(device, entry: entry)
        } catch {
            try await abandon(entry, holder: holder)
            throw error
        }
        entry.stage = .mounted
        try await record(entry)
        logger.notice(
            "volume mounted",
            metadata: ["volume.name": "\(name)", "volume.id": "\(volume.id)", "volume.device": "\(entry.device ?? "")"])
        return dataPath(of: name)
    }

    private func volumeToMount(_ name: String) async throws(VolumeDriverError) -> PlatformVolume {
        do {
            return try await driver.volume(named: name)
        } catch {
            guard error.code == .notFound, settings.createsImplicitly else { throw error }
        }
        return try await createMissing(request(name: name, options: [:]))
    }

    private func join(_ entry: LedgerEntry, holder: String?) async throws -> String {
        var entry = entry
        entry.addHolder(holder)
        entry.stage = .mounted
        try await record(entry)
        return dataPath(of: entry.name)
    }

    /// True when the filesystem that the ledger knows is still mounted, from this very attachment, and answers.
    private func isUsable(_ entry: LedgerEntry, volume: PlatformVolume, instance: String) async throws -> Bool {
        guard entry.volumeID == volume.id, let device = entry.device, let number = entry.deviceNumber,
            volume.isAttached(to: instance), volume.attachments.count == 1,
            volume.attachmentGeneration(of: instance) == entry.generation
        else { return false }
        guard
            let mount = try await host.mounts().last(where: { $0.mountPoint == entry.mountPoint }),
            isMount(mount, of: entry), !mount.isReadOnly
        else { return false }
        guard let local = try await driver.localDevices()[volume.id.lowercased()],
            try await host.deviceNumber(of: local) == number
        else { return false }
        return await host.isReadable(device)
    }

    func isMount(_ mount: MountedFilesystem, of entry: LedgerEntry) -> Bool {
        // The device number of btrfs is no block device's, hence the second way.
        mount.device == entry.deviceNumber || mount.source == entry.device
    }

    /// Takes away a mount whose device is not ours any more, whoever uses it: they get errors already.
    private func discardStaleMount(_ entry: LedgerEntry) async throws {
        logger.notice(
            "discarding a stale mount",
            metadata: ["volume.name": "\(entry.name)", "volume.device": "\(entry.device ?? "")"])
        try await unmountAll(entry.mountPoint, lazily: true)
    }

    /// The volume's device once it is there and answers. A device of an earlier attachment may still be there at first:
    /// it does not answer any more, and its successor takes its place.
    private func readableDevice(_ volume: PlatformVolume) async throws -> String {
        let clock = ContinuousClock()
        let end = clock.now + settings.attachTimeout
        while true {
            let device = try await driver.waitForDevice(id: volume.id, deadline: max(end - clock.now, .zero))
            if await host.isReadable(device) { return device }
            guard clock.now < end else {
                throw VolumeDriverError(
                    .timedOut, "The device \(device) of volume \(volume.name) does not answer reads")
            }
            try await clock.sleep(for: .milliseconds(50))
        }
    }

    private func prepareFilesystem(
        _ entry: inout LedgerEntry, device: String, wanted: FilesystemKind, overwrite: Bool
    ) async throws {
        let contents: DeviceContents = overwrite ? .blank : try await host.contents(of: device)
        switch contents {
        case .filesystem(let kind, let needsCheck):
            entry.filesystem = kind
            entry.isFormatting = false
            if needsCheck { try await host.check(kind, on: device) }
        case .foreign(let what) where !entry.isFormatting || !contents.mayBeUnfinished:
            throw VolumeDriverError(
                .foreignData,
                "The volume \(entry.name) holds \(what): it is not formatted, so that nothing is lost. "
                    + "'rexray volume mount --overwriteFS \(entry.name)' formats it all the same")
        case .blank, .foreign:
            guard wanted.canBeMade else {
                throw VolumeDriverError(.notImplemented, "Making the filesystem \(wanted.rawValue) is not supported")
            }
            entry.isFormatting = true
            entry.filesystem = wanted
            try await record(entry)
            try await host.makeFilesystem(wanted, on: device, overwrite: overwrite)
            entry.isFormatting = false
        }
    }

    private func mountDevice(_ device: String, entry: LedgerEntry) async throws {
        guard let kind = entry.filesystem else { return }
        var options = settings.mountOptions
        if kind == .xfs { options.append("nouuid") }
        try await host.makeDirectory(entry.mountPoint, mode: 0o700)
        do {
            try await host.mount(device, at: entry.mountPoint, kind: kind, options: options)
        } catch {
            logger.warning("mounting failed; checking the filesystem", metadata: ["volume.name": "\(entry.name)"])
            try await host.check(kind, on: device)
            try await host.mount(device, at: entry.mountPoint, kind: kind, options: options)
        }
        if !settings.rootPath.isEmpty {
            try await host.makeDirectory(entry.mountPoint + settings.rootPath, mode: settings.fileMode)
        }
    }

    /// After a failed mount: lets go what nobody else holds. What cannot be let go now `sweep` does later.
    private func abandon(_ entry: LedgerEntry, holder: String?) async throws {
        var entry = entry
        entry.removeHolder(holder)
        entry.stage = entry.isHeld ? .preparing : .releasing
        try await record(entry)
        guard !entry.isHeld else { return }
        do {
            try await release(entry)
        } catch {
            logger.warning(
                "a volume that could not be mounted could not be released either",
                metadata: ["volume.name": "\(entry.name)", "error": "\(errorChain(error))"])
        }
    }

    // MARK: Unmounting

    /// Ends the hold of `holder`. When nobody holds the volume any more it is unmounted and detached.
    public func unmount(_ name: String, holder: String?) async throws {
        try VolumeManager.checkName(name)
        try await locks.withLock(name) { try await self.unmountLocked(name, holder: holder) }
    }

    private func unmountLocked(_ name: String, holder: String?) async throws {
        guard var entry = entries[name] else { return }
        entry.removeHolder(holder)
        if entry.isHeld, !settings.ignoresUsedCount {
            try await record(entry)
            return
        }
        entry.holders = []
        entry.anonymousHolders = 0
        entry.stage = .releasing
        try await record(entry)
        try await release(entry)
        logger.notice("volume released", metadata: ["volume.name": "\(name)", "volume.id": "\(entry.volumeID)"])
    }

    /// Unmounts, waits until no container's own copy of the mount is left, detaches if the volume is still ours, and
    /// forgets.
    func release(_ entry: LedgerEntry) async throws {
        let device = try await ownDevice(entry)
        var isAlive = false
        if let device { isAlive = await host.isReadable(device) }
        try await unmountAll(entry.mountPoint, lazily: !isAlive)
        if isAlive, let device {
            let clock = ContinuousClock()
            let end = clock.now + settings.releaseTimeout
            while await host.isInUse(device) {
                guard clock.now < end else {
                    throw VolumeDriverError(
                        .busy, "The device \(device) of volume \(entry.name) is still used in another mount namespace")
                }
                try await clock.sleep(for: .milliseconds(50))
            }
        }
        try await detachIfOurs(entry)
        await host.removeEmptyDirectory(entry.mountPoint)
        try await forget(entry.name)
    }

    /// The entry's device as long as it is the volume's. Names and numbers of block devices go round: after a restart of
    /// the host they may be another volume's, whose state is no news of this one.
    private func ownDevice(_ entry: LedgerEntry) async throws -> String? {
        guard let device = entry.device, let number = entry.deviceNumber else { return nil }
        if try await host.mounts().contains(where: { $0.mountPoint == entry.mountPoint && isMount($0, of: entry) }) {
            return device
        }
        guard let local = try await driver.localDevices()[entry.volumeID.lowercased()],
            try await host.deviceNumber(of: local) == number
        else { return nil }
        return device
    }

    private func detachIfOurs(_ entry: LedgerEntry) async throws(VolumeDriverError) {
        do {
            let volume =
                entry.volumeID.isEmpty
                ? try await driver.volume(named: entry.name) : try await driver.volume(id: entry.volumeID)
            let instance = try await instanceID()
            guard volume.isAttached(to: instance) else { return }
            try await driver.detach(id: volume.id, from: instance)
        } catch  where error.code == .notFound {
            return
        }
    }

    /// Unmounts everything that is mounted at `path`, the uppermost first.
    func unmountAll(_ path: String, lazily: Bool) async throws(VolumeDriverError) {
        for _ in 0..<16 {
            guard try await host.mounts().contains(where: { $0.mountPoint == path }) else { return }
            do {
                try await host.unmount(path, lazily: lazily)
            } catch  where !lazily && error.code == .timedOut {
                // A device that hangs instead of failing: nothing is written to it any more that could be saved.
                try await host.unmount(path, lazily: true)
            }
        }
        throw VolumeDriverError(.busy, "There are too many mounts at \(path)")
    }

    // MARK: Growing

    /// Enlarges a volume, and its filesystem if that is mounted on this host. Where it is mounted on another, that
    /// host's `sweep` does so.
    ///
    /// - Returns: the volume with the size that the platform made of it.
    public func resize(_ name: String, to size: ByteSize) async throws -> PlatformVolume {
        try VolumeManager.checkName(name)
        return try await locks.withLock(name) {
            let volume = try await self.driver.resize(id: try await self.driver.volume(named: name).id, to: size)
            if let entry = await self.entry(name), entry.stage == .mounted, let device = entry.device {
                try await self.waitForSize(volume.size, of: device)
                await self.forgetSize(name)
                try await self.grow(entry)
            }
            return volume
        }
    }

    private func forgetSize(_ name: String) { grownTo[name] = nil }

    /// The platform tells the host of a new size by itself, but not before it answers.
    private func waitForSize(_ size: ByteSize, of device: String) async throws {
        let clock = ContinuousClock()
        let end = clock.now + settings.attachTimeout
        while try await host.size(of: device) ?? .zero < size {
            guard clock.now < end else {
                throw VolumeDriverError(.timedOut, "The device \(device) did not grow to \(size)")
            }
            try await clock.sleep(for: .milliseconds(50))
        }
    }

    /// Lets the filesystem of a mounted volume use a device that has grown, or may have grown while nobody looked.
    func grow(_ entry: LedgerEntry) async throws {
        guard let device = entry.device, let kind = entry.filesystem, let size = try await host.size(of: device),
            size != grownTo[entry.name]
        else { return }
        let before = grownTo[entry.name]
        // One that cannot grow is not asked again every few seconds, but when the size changes or somebody asks for it.
        grownTo[entry.name] = size
        try await host.grow(kind, mountedAt: entry.mountPoint, from: device)
        if let before {
            logger.notice(
                "filesystem grown",
                metadata: ["volume.name": "\(entry.name)", "size": "\(size)", "size.before": "\(before)"])
        }
    }

    // MARK: The ledger

    /// The entry of a volume that is mounted, or not yet released, on this host.
    public func entry(_ name: String) -> LedgerEntry? { entries[name] }

    /// The path that users of the volume see; nil when it is not mounted here.
    public func path(of name: String) -> String? {
        entries[name]?.stage == .mounted ? dataPath(of: name) : nil
    }

    public nonisolated func mountPoint(of name: String) -> String { settings.mountDirectory + "/" + name }

    nonisolated func dataPath(of name: String) -> String { mountPoint(of: name) + settings.rootPath }

    func record(_ entry: LedgerEntry) async throws {
        entries[entry.name] = entry
        try await persist()
    }

    func forget(_ name: String) async throws {
        entries[name] = nil
        grownTo[name] = nil
        try await persist()
    }

    private func persist() async throws {
        // One writer at a time, and each writes what is true when its turn comes: an older ledger never replaces a
        // newer one. Whoever comes during a write is served by the next, so no number of volumes makes a queue of
        // writes.
        if isWritingLedger {
            let isWriter = try await withCheckedThrowingContinuation { nextWrite.append($0) }
            guard isWriter else { return }
        }
        isWritingLedger = true
        let served = nextWrite
        nextWrite = []
        let result: Result<Bool, any Error>
        do {
            try await file.write(MountLedgerFormat.encode(Array(entries.values)))
            result = .success(false)
        } catch {
            result = .failure(error)
        }
        for waiter in served { waiter.resume(with: result) }
        if nextWrite.isEmpty {
            isWritingLedger = false
        } else {
            nextWrite.removeFirst().resume(returning: true)
        }
        _ = try result.get()
    }

    /// Reads the ledger at start. One that cannot be understood is set aside: the mounts themselves then tell what is
    /// there.
    func load() async throws {
        guard let bytes = try await file.read() else { return }
        do {
            for entry in try MountLedgerFormat.decode(bytes) { entries[entry.name] = entry }
        } catch {
            logger.error("the mount ledger is unreadable; it is set aside", metadata: ["error": "\(errorChain(error))"])
            try await file.setAside()
        }
    }

    /// The platform's id of this host.
    public func instanceID() async throws(VolumeDriverError) -> String {
        if let instance { return instance }
        let fresh = try await driver.resolveInstance(metadata: try await driver.instanceMetadata())
        instance = fresh
        return fresh
    }

    /// Volume names become directory names.
    static func checkName(_ name: String) throws(VolumeDriverError) {
        guard !name.isEmpty, name != ".", name != "..", name.utf8.count <= 255,
            !name.utf8.contains(where: { $0 == UInt8(ascii: "/") || $0 < 0x20 || $0 == 0x7F })
        else { throw VolumeDriverError(.invalid, "'\(name)' is no valid volume name") }
    }
}
