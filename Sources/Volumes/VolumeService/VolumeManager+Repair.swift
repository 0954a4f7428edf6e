import Base
import Logging
import VolumeDriver

extension VolumeManager {
    /// Reads the ledger and brings it in line with what is mounted. Looks at this host only: call it before serving.
    public func repair() async throws {
        try await load()
        let mounts = try await host.mounts()
        for var entry in entries.values.sorted(by: { $0.name < $1.name }) {
            let mount = mounts.last { $0.mountPoint == entry.mountPoint }
            switch entry.stage {
            case .mounted:
                if let mount, isMount(mount, of: entry) { continue }
                // The host was restarted, or somebody unmounted it: its holders are gone with the mount.
                entry.holders = []
                entry.anonymousHolders = 0
            case .preparing:
                if let mount, isMount(mount, of: entry), entry.isHeld, !entry.isFormatting {
                    entry.stage = .mounted
                    try await record(entry)
                    continue
                }
                entry.holders = []
                entry.anonymousHolders = 0
            case .releasing: break
            }
            entry.stage = .releasing
            logger.notice(
                "a volume of the ledger is not mounted; releasing it", metadata: ["volume.name": "\(entry.name)"])
            try await record(entry)
        }
        try await adoptUnknownMounts(mounts)
    }

    private func adoptUnknownMounts(_ mounts: [MountedFilesystem]) async throws {
        let devices = try await driver.localDevices()
        let prefix = settings.mountDirectory + "/"
        for mount in mounts where mount.mountPoint.hasPrefix(prefix) {
            let name = String(mount.mountPoint.dropFirst(prefix.count))
            guard !name.isEmpty, !name.contains("/"), entries[name] == nil,
                let kind = FilesystemKind(rawValue: mount.kind)
            else { continue }
            var entry = LedgerEntry(name: name, volumeID: "", stage: .mounted, mountPoint: mount.mountPoint)
            entry.device = mount.source
            entry.deviceNumber = mount.device
            entry.filesystem = kind
            entry.anonymousHolders = 1
            for (id, device) in devices.sorted(by: { $0.key < $1.key })
            where try await host.deviceNumber(of: device) == mount.device {
                entry.volumeID = id
            }
            logger.notice("adopting a mount that the ledger does not know", metadata: ["volume.name": "\(name)"])
            try await record(entry)
        }
    }

    /// Looks after what no call will look after: releases what was left half done, grows filesystems whose volume was
    /// enlarged, and takes down mounts whose volume
    /// another host has taken over, so that this host can mount it again later. Volumes that are being worked on are
    /// left alone.
    public func sweep() async {
        guard !entries.isEmpty else { return }
        let platform: [String: PlatformVolume]
        let instance: String
        do {
            instance = try await instanceID()
            platform = Dictionary(
                try await driver.volumes().map { ($0.id, $0) }, uniquingKeysWith: { first, _ in first })
        } catch {
            // Without the platform's word nothing is known to be lost.
            logger.debug("the storage platform cannot be asked", metadata: ["error": "\(errorChain(error))"])
            return
        }
        for name in entries.keys.sorted() {
            do {
                _ = try await locks.ifFree(name) {
                    try await self.sweepLocked(name, platform: platform, instance: instance)
                }
            } catch {
                logger.warning(
                    "a volume could not be looked after",
                    metadata: ["volume.name": "\(name)", "error": "\(errorChain(error))"])
            }
        }
    }

    private func sweepLocked(_ name: String, platform: [String: PlatformVolume], instance: String) async throws {
        guard let entry = entries[name] else { return }
        switch entry.stage {
        case .preparing where !entry.isHeld, .releasing:
            try await release(entry)
        case .preparing:
            return
        case .mounted:
            var volume = platform[entry.volumeID]
            if entry.volumeID.isEmpty { volume = platform.values.first { $0.name == name } }
            // The list is older than the lock: only what a fresh look confirms counts as lost.
            guard try await isLost(entry, volume: volume, instance: instance) else { return try await grow(entry) }
            logger.warning(
                "another host has taken the volume; unmounting it here",
                metadata: ["volume.name": "\(name)", "volume.id": "\(entry.volumeID)"])
            try await unmountAll(entry.mountPoint, lazily: true)
            await host.removeEmptyDirectory(entry.mountPoint)
            try await forget(name)
        }
    }

    private func isLost(_ entry: LedgerEntry, volume: PlatformVolume?, instance: String) async throws(VolumeDriverError)
        -> Bool
    {
        func isOurs(_ volume: PlatformVolume) -> Bool {
            volume.isAttached(to: instance)
                && (entry.generation == nil || volume.attachmentGeneration(of: instance) == entry.generation)
        }
        if let volume, isOurs(volume) { return false }
        do {
            let fresh =
                entry.volumeID.isEmpty
                ? try await driver.volume(named: entry.name) : try await driver.volume(id: entry.volumeID)
            return !isOurs(fresh)
        } catch  where error.code == .notFound {
            return true
        }
    }
}
