import Glibc

/// An open file descriptor that closes with its last reference. Always close-on-exec.
public final class Descriptor: Sendable {
    public let raw: Int32

    /// Takes over `raw`, which must be open.
    public init(owning raw: Int32) { self.raw = raw }

    deinit { Glibc.close(raw) }

    /// Opens a path; `flags` as for open(2), O_CLOEXEC is added.
    public static func open(_ path: String, _ flags: Int32, mode: UInt32 = 0o644) throws(LinuxError) -> Descriptor {
        let raw = Glibc.open(path, flags | O_CLOEXEC, mode)
        guard raw >= 0 else { throw LinuxError(errno: errno, "\(path) could not be opened") }
        return Descriptor(owning: raw)
    }

    /// A pipe: what is written to the second end is read from the first.
    public static func pipe() throws(LinuxError) -> (reading: Descriptor, writing: Descriptor) {
        var ends: [Int32] = [0, 0]
        guard Glibc.pipe(&ends) == 0 else { throw LinuxError(errno: errno, "A pipe could not be made") }
        // pipe2 is hidden from Swift (_GNU_SOURCE). The window before the flags is harmless: `ChildProcess` closes
        // everything in its children whatever the flags say.
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        return (Descriptor(owning: ends[0]), Descriptor(owning: ends[1]))
    }
}

/// The whole of a small file of /proc or /sys, whose size is not known beforehand.
///
/// - Parameter limit: a longer file is an error.
public func readFile(_ path: String, limit: Int = 16 << 20) throws(LinuxError) -> [UInt8] {
    let file = try Descriptor.open(path, O_RDONLY)
    var content: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 16384)
    while true {
        let count = read(file.raw, &chunk, chunk.count)
        if count < 0 {
            if errno == EINTR { continue }
            throw LinuxError(errno: errno, "\(path) could not be read")
        }
        guard count > 0 else { return content }
        content.append(contentsOf: chunk[..<count])
        guard content.count <= limit else { throw LinuxError(.invalid, "\(path) is longer than \(limit) bytes.") }
    }
}

/// As `readFile`, as text without the line end that such files have.
public func readText(_ path: String) throws(LinuxError) -> String {
    var bytes = try readFile(path)
    while bytes.last == UInt8(ascii: "\n") { bytes.removeLast() }
    return String(decoding: bytes, as: UTF8.self)
}
