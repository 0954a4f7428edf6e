import Glibc

/// One line of /proc/self/mountinfo.
public struct MountEntry: Hashable, Sendable {
    public var id: Int
    public var parent: Int
    /// `major:minor` of the device that the filesystem lies on.
    public var device: String
    /// The directory of the filesystem that is mounted ("/" unless it is a bind mount).
    public var root: String
    public var mountPoint: String
    public var options: [String]
    public var filesystem: String
    /// The device path or another name, as given to mount(2).
    public var source: String
    public var superOptions: [String]

    public var isReadOnly: Bool { options.contains("ro") || superOptions.contains("ro") }
}

/// The mounts of this process's mount namespace.
public struct MountTable: Hashable, Sendable {
    /// In the order in which they were mounted: the last entry of a mount point is the visible one.
    public var entries: [MountEntry]

    public static func current() throws(LinuxError) -> MountTable {
        try MountTable(parsing: String(decoding: readFile("/proc/self/mountinfo"), as: UTF8.self))
    }

    /// As another process sees it, which may live in a namespace of its own.
    public static func of(_ identity: ProcessIdentity) throws(LinuxError) -> MountTable {
        try MountTable(parsing: String(decoding: readFile("/proc/\(identity.pid)/mountinfo"), as: UTF8.self))
    }

    /// Parses the format of proc(5).
    public init(parsing text: String) throws(LinuxError) {
        entries = []
        for line in text.split(separator: "\n") { entries.append(try MountTable.entry(line)) }
    }

    /// The visible mount at exactly this path.
    public func mounted(at path: String) -> MountEntry? { entries.last { $0.mountPoint == path } }

    /// All mounts at or below a path, innermost and latest first: the order in which to unmount.
    public func mounts(under path: String) -> [MountEntry] {
        entries.filter { $0.mountPoint == path || $0.mountPoint.hasPrefix(path == "/" ? "/" : path + "/") }.reversed()
    }

    public func mounts(of source: String) -> [MountEntry] { entries.filter { $0.source == source } }

    private static func entry(_ line: Substring) throws(LinuxError) -> MountEntry {
        let fields = line.split(separator: " ", omittingEmptySubsequences: false)
        // Optional fields, any number, end with "-".
        guard fields.count >= 10, let id = Int(fields[0]), let parent = Int(fields[1]),
            let dash = fields[6...].firstIndex(of: "-"), fields.count > dash + 3
        else { throw LinuxError(.malformed, "\"\(line)\" is no line of mountinfo.") }
        return MountEntry(
            id: id, parent: parent, device: String(fields[2]), root: unescape(fields[3]),
            mountPoint: unescape(fields[4]), options: fields[5].split(separator: ",").map(String.init),
            filesystem: unescape(fields[dash + 1]), source: unescape(fields[dash + 2]),
            superOptions: fields[dash + 3].split(separator: ",").map(String.init))
    }

    /// Space, tab, newline and backslash are written as three octal digits behind a backslash.
    private static func unescape(_ field: Substring) -> String {
        var result: [UInt8] = []
        var rest = Array(field.utf8)[...]
        while let byte = rest.popFirst() {
            let digits = rest.prefix(3)
            if byte == UInt8(ascii: "\\"), digits.count == 3,
                let value = UInt8(String(decoding: digits, as: UTF8.self), radix: 8)
            {
                result.append(value)
                rest.removeFirst(3)
            } else {
                result.append(byte)
            }
        }
        return String(decoding: result, as: UTF8.self)
    }
}

/// What to do with a mount besides making it.
public struct MountFlags: OptionSet, Hashable, Sendable {
    public var rawValue: UInt
    public init(rawValue: UInt) { self.rawValue = rawValue }

    // The numbers of mount(2), which the kernel never changes.
    public static let readOnly = MountFlags(rawValue: 1)
    public static let noSuid = MountFlags(rawValue: 2)
    public static let noDevices = MountFlags(rawValue: 4)
    public static let noExecute = MountFlags(rawValue: 8)
    public static let remount = MountFlags(rawValue: 32)
    public static let noAccessTimes = MountFlags(rawValue: 1024)
    public static let bind = MountFlags(rawValue: 4096)
    public static let recursive = MountFlags(rawValue: 16384)
    public static let makePrivate = MountFlags(rawValue: 1 << 18)
    public static let makeShared = MountFlags(rawValue: 1 << 20)
}

/// mount(2) and umount2(2), on threads of their own since both may wait for a disk.
public enum Mount {
    public static func mount(
        _ source: String, at target: String, filesystem: String?, flags: MountFlags = [], options: String = ""
    ) async throws {
        try await offPool {
            try mountBlocking(source, at: target, filesystem: filesystem, flags: flags, options: options)
        }
    }

    /// Takes the visible mount at `target` away.
    ///
    /// - Parameter lazily: also when it is in use: it disappears at once and is released with its last user.
    public static func unmount(_ target: String, lazily: Bool = false) async throws {
        try await offPool { try unmountBlocking(target, lazily: lazily) }
    }

    /// As `mount`, for threads that may block.
    public static func mountBlocking(
        _ source: String, at target: String, filesystem: String?, flags: MountFlags = [], options: String = ""
    ) throws(LinuxError) {
        let result = options.withCString { Glibc.mount(source, target, filesystem, flags.rawValue, $0) }
        guard result == 0 else { throw LinuxError(errno: errno, "\(source) could not be mounted at \(target)") }
    }

    /// As `unmount`, for threads that may block.
    public static func unmountBlocking(_ target: String, lazily: Bool = false) throws(LinuxError) {
        let detach: Int32 = 2  // MNT_DETACH
        guard umount2(target, lazily ? detach : 0) == 0 else {
            throw LinuxError(errno: errno, "\(target) could not be unmounted")
        }
    }
}
