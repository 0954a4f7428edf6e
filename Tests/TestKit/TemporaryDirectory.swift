import Glibc
public import LinuxOS

/// A directory of a test, removed with everything in it when the last reference goes. Short enough for unix sockets.
public final class TemporaryDirectory: Sendable {
    public let path: String

    public init() throws(LinuxError) {
        var template = Array("/tmp/hf-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw LinuxError(errno: errno, "No temporary directory could be made") }
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit { removeTree(path) }

    /// A path below the directory; nothing is made there. For a file, a socket, a subdirectory.
    public func file(_ name: String) -> String { "\(path)/\(name)" }

    /// Makes a subdirectory and answers its path.
    public func directory(_ name: String) throws(LinuxError) -> String {
        guard mkdir(file(name), 0o755) == 0 else { throw LinuxError(errno: errno, "\(name) could not be made") }
        return file(name)
    }
}

/// Removes what is at `path` and below, without following links; what cannot be removed stays.
public func removeTree(_ path: String) {
    // Of all that may be there, only a directory is refused as one.
    guard unlink(path) != 0, errno == EISDIR else { return }
    for name in directoryEntries(path) { removeTree("\(path)/\(name)") }
    rmdir(path)
}

/// Writes a whole file.
public func writeFile(_ path: String, _ text: String) throws(LinuxError) {
    let file = try Descriptor.open(path, O_WRONLY | O_CREAT | O_TRUNC)
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
        let count = rest.withUnsafeBytes { write(file.raw, $0.baseAddress, $0.count) }
        guard count > 0 else { throw LinuxError(errno: errno, "\(path) could not be written") }
        rest.removeFirst(count)
    }
}
