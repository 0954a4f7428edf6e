import Glibc
import LinuxOS

/// Files that are either there as a whole after a crash or not at all. All of this blocks: call it on a thread that
/// may.
enum DurableFile {
    /// Replaces the file at `path`, making its directory if needed.
    static func write(_ bytes: [UInt8], to path: String) throws(LinuxError) {
        let directory = parent(of: path)
        try makeDirectory(directory)
        let temporary = path + ".new"
        do {
            let file = try Descriptor.open(temporary, O_WRONLY | O_CREAT | O_TRUNC)
            try writeAll(bytes, to: file, path)
        }
        guard rename(temporary, path) == 0 else { throw LinuxError(errno: errno, "\(path) cannot be put in place") }
        try synchronize(directory)
    }

    /// Adds to the end of the file at `path`, making it and its directory if needed.
    static func append(_ bytes: [UInt8], to path: String) throws(LinuxError) {
        let directory = parent(of: path)
        let isNew = access(path, F_OK) != 0
        if isNew { try makeDirectory(directory) }
        let file = try Descriptor.open(path, O_WRONLY | O_CREAT | O_APPEND)
        try writeAll(bytes, to: file, path)
        if isNew { try synchronize(directory) }
    }

    private static func writeAll(_ bytes: [UInt8], to file: Descriptor, _ path: String) throws(LinuxError) {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.write(file.raw, $0.baseAddress, $0.count) }
            guard count > 0 else {
                if errno == EINTR { continue }
                throw LinuxError(errno: errno, "\(path) cannot be written")
            }
            rest.removeFirst(count)
        }
        guard fsync(file.raw) == 0 else { throw LinuxError(errno: errno, "\(path) cannot be made durable") }
    }

    /// Makes a directory and those above it; each new name is made durable.
    static func makeDirectory(_ path: String) throws(LinuxError) {
        if mkdir(path, 0o755) == 0 {
            try synchronize(parent(of: path))
            return
        }
        switch errno {
        case EEXIST: return
        case ENOENT where path != "/" && !path.isEmpty:
            try makeDirectory(parent(of: path))
            try makeDirectory(path)
        default: throw LinuxError(errno: errno, "\(path) cannot be made")
        }
    }

    /// Points the symbolic link at `path` to `target`, atomically.
    static func link(_ path: String, to target: String) throws(LinuxError) {
        let temporary = path + ".new"
        unlink(temporary)
        guard symlink(target, temporary) == 0, rename(temporary, path) == 0 else {
            throw LinuxError(errno: errno, "\(path) cannot be linked")
        }
        try synchronize(parent(of: path))
    }

    static func remove(_ path: String) throws(LinuxError) {
        guard unlink(path) == 0 || errno == ENOENT else { throw LinuxError(errno: errno, "\(path) cannot be removed") }
        try synchronize(parent(of: path))
    }

    static func synchronize(_ directory: String) throws(LinuxError) {
        let descriptor = try Descriptor.open(directory, O_RDONLY | O_DIRECTORY)
        guard fsync(descriptor.raw) == 0 else { throw LinuxError(errno: errno, "\(directory) cannot be made durable") }
    }

    static func parent(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    static func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

    /// Where the symbolic link at `path` leads; nil when there is none.
    static func linkTarget(_ path: String) -> String? {
        var buffer = [UInt8](repeating: 0, count: 4096)
        let count = buffer.withUnsafeMutableBytes { bytes -> Int in
            guard let base = bytes.baseAddress else { return -1 }
            return readlink(path, base.assumingMemoryBound(to: CChar.self), bytes.count)
        }
        return count > 0 ? String(decoding: buffer[..<count], as: UTF8.self) : nil
    }
}
