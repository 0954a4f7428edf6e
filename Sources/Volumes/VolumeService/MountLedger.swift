import Base
import Glibc
import LinuxOS
import OrderedCollections
public import VolumeDriver

/// What this host knows about one volume that it mounted, or began to mount, or has not yet released.
public struct LedgerEntry: Hashable, Sendable {
    public enum Stage: String, Hashable, Sendable {
        /// Attaching and mounting has begun; what of it happened is unknown after a crash.
        case preparing
        case mounted
        /// Nobody holds it any more; unmounting or detaching has begun.
        case releasing
    }

    public var name: String
    public var volumeID: String
    public var stage: Stage
    public var mountPoint: String
    /// The device's path when it was mounted.
    public var device: String?
    public var deviceNumber: DeviceNumber?
    public var filesystem: FilesystemKind?
    /// The platform's name for the attachment under which it was mounted.
    public var generation: String?
    /// The mount ids that callers gave, each once.
    public var holders: [String]
    /// How many callers without an id hold it; also mounts that were found without an entry count here.
    public var anonymousHolders: Int
    /// True when mkfs may have been interrupted.
    public var isFormatting: Bool

    public init(name: String, volumeID: String, stage: Stage, mountPoint: String) {
        self.name = name
        self.volumeID = volumeID
        self.stage = stage
        self.mountPoint = mountPoint
        holders = []
        anonymousHolders = 0
        isFormatting = false
    }

    public var isHeld: Bool { !holders.isEmpty || anonymousHolders > 0 }

    /// Notes that a caller holds the volume; an id that is there already changes nothing.
    public mutating func addHolder(_ id: String?) {
        if let id {
            if !holders.contains(id) { holders.append(id) }
        } else {
            anonymousHolders += 1
        }
    }

    /// Notes that a caller let go. Callers whose id is unknown count as anonymous, if there are such.
    public mutating func removeHolder(_ id: String?) {
        if let id, let index = holders.firstIndex(of: id) {
            holders.remove(at: index)
        } else if anonymousHolders > 0 {
            anonymousHolders -= 1
        }
    }
}

/// The ledger's text: one JSON document `{"version": 1, "volumes": [...]}`, sorted by name
/// (docs/formats/mount-ledger.md).
enum MountLedgerFormat {
    static let version: Int64 = 1

    static func encode(_ entries: [LedgerEntry]) -> [UInt8] {
        let volumes = entries.sorted { $0.name < $1.name }.map { entry -> JSONValue in
            [
                "name": .string(entry.name), "volumeID": .string(entry.volumeID),
                "stage": .string(entry.stage.rawValue),
                "mountPoint": .string(entry.mountPoint), "device": .optional(entry.device),
                "deviceNumber": .optional(entry.deviceNumber?.description),
                "filesystem": .optional(entry.filesystem?.rawValue), "generation": .optional(entry.generation),
                "holders": .array(entry.holders.map(JSONValue.string)),
                "anonymousHolders": .integer(Int64(entry.anonymousHolders)), "isFormatting": .bool(entry.isFormatting),
            ]
        }
        let document: JSONValue = ["version": .integer(version), "volumes": .array(volumes)]
        return Array((document.prettyText + "\n").utf8)
    }

    static func decode(_ bytes: [UInt8]) throws -> [LedgerEntry] {
        let document = try JSONValue(parsing: bytes)
        guard document["version"]?.integer == version, let volumes = document["volumes"]?.array else {
            throw VolumeDriverError(.failed, "The mount ledger has an unknown version or no list of volumes")
        }
        return try volumes.map { object in
            guard let name = object["name"]?.string, let volumeID = object["volumeID"]?.string,
                let stage = object["stage"]?.string.flatMap(LedgerEntry.Stage.init(rawValue:)),
                let mountPoint = object["mountPoint"]?.string
            else { throw VolumeDriverError(.failed, "An entry of the mount ledger lacks members: \(object.text)") }
            var entry = LedgerEntry(name: name, volumeID: volumeID, stage: stage, mountPoint: mountPoint)
            entry.device = object["device"]?.string
            entry.deviceNumber = object["deviceNumber"]?.string.flatMap(DeviceNumber.init)
            entry.filesystem = object["filesystem"]?.string.flatMap(FilesystemKind.init(rawValue:))
            entry.generation = object["generation"]?.string
            entry.holders = (object["holders"]?.array ?? []).compactMap(\.string)
            entry.anonymousHolders = max(0, Int(clamping: object["anonymousHolders"]?.integer ?? 0))
            entry.isFormatting = object["isFormatting"]?.bool ?? false
            return entry
        }
    }
}

/// The ledger's file. Each write replaces it as a whole and is on the disk when the call returns.
struct MountLedgerFile: Sendable {
    let path: String

    /// The file's bytes; nil when there is no file.
    func read() async throws -> [UInt8]? {
        try await offPool { [path] in
            do throws(LinuxError) {
                return try readFile(path)
            } catch {
                if error.code == .system(ENOENT) { return nil }
                throw error
            }
        }
    }

    func write(_ bytes: [UInt8]) async throws {
        try await offPool { [path] in
            let temporary = path + ".new"
            let file = try Descriptor.open(temporary, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o600)
            var written = 0
            while written < bytes.count {
                let count = bytes[written...].withUnsafeBytes { Glibc.write(file.raw, $0.baseAddress, $0.count) }
                if count < 0, errno == EINTR { continue }
                guard count > 0 else { throw LinuxError(errno: errno, "\(temporary) could not be written") }
                written += count
            }
            guard fsync(file.raw) == 0 else { throw LinuxError(errno: errno, "\(temporary) could not be flushed") }
            guard rename(temporary, path) == 0 else { throw LinuxError(errno: errno, "\(path) could not be replaced") }
            let directory = try Descriptor.open(
                String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)]), O_RDONLY)
            guard fsync(directory.raw) == 0 else {
                throw LinuxError(errno: errno, "The directory of \(path) could not be flushed")
            }
        }
    }

    /// Moves a file that cannot be understood out of the way, where somebody may look at it.
    func setAside() async throws {
        try await offPool { [path] in
            guard rename(path, path + ".unreadable") == 0 else {
                throw LinuxError(errno: errno, "\(path) could not be set aside")
            }
        }
    }
}
