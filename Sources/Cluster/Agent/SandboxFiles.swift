import Base
import Glibc
import HTTPKit
import HTTPTypes
import Hummingbird
import LinuxOS
import NIOCore

/// What `/files/*` shows: sandboxes and what lies in them, and nothing else, wherever links lead.
struct SandboxFiles: Sendable {
    /// As much as one `read` answers.
    static let pageMax = 16 * 4096 * 16
    private static let chunkLength = 1 << 20

    let workDirectory: String

    /// Where `path` leads, if that is within the sandboxes.
    private func resolve(_ path: String) async throws -> String {
        try await offPool {
            guard let root = SandboxFiles.real("\(workDirectory)/slaves"), let target = SandboxFiles.real(path),
                target.hasPrefix(root + "/")
            else { throw HTTPFailure(.notFound, text: "Failed to find '\(path)'.\n") }
            return target
        }
    }

    private static func real(_ path: String) -> String? {
        guard !path.utf8.contains(0), let resolved = realpath(path, nil) else { return nil }
        defer { free(resolved) }
        return String(cString: resolved)
    }

    func browse(_ path: String) async throws -> [JSONValue] {
        let target = try await resolve(path)
        return try await offPool {
            var status = stat()
            guard stat(target, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else {
                throw HTTPFailure(.notFound, text: "'\(path)' is not a directory.\n")
            }
            return directoryEntries(target).sorted().compactMap { name in
                var entry = stat()
                guard lstat("\(target)/\(name)", &entry) == 0 else { return nil }
                return SandboxFiles.describe("\(path)/\(name)", entry)
            }
        }
    }

    private static func describe(_ path: String, _ status: stat) -> JSONValue {
        let kind =
            switch status.st_mode & S_IFMT {
            case S_IFDIR: "d"
            case S_IFLNK: "l"
            case S_IFIFO: "p"
            case S_IFSOCK: "s"
            case S_IFCHR: "c"
            case S_IFBLK: "b"
            default: "-"
            }
        var mode = kind
        for (index, letter) in "rwxrwxrwx".enumerated() {
            mode += status.st_mode >> UInt32(8 - index) & 1 == 1 ? String(letter) : "-"
        }
        let owner = { (id: UInt32) in JSONValue.string(id == 0 ? "root" : String(id)) }
        return [
            "gid": owner(status.st_gid), "mode": .string(mode), "mtime": .number(Double(status.st_mtim.tv_sec)),
            "nlink": .integer(Int64(status.st_nlink)), "path": .string(path), "size": .integer(Int64(status.st_size)),
            "uid": owner(status.st_uid),
        ]
    }

    /// `{"data": ..., "offset": ...}`; offset -1 asks for the size. Bytes that are no UTF-8 become U+FFFD.
    func read(_ path: String, offset: String?, length: String?) async throws -> JSONValue {
        let target = try await resolve(path)
        let offset = try SandboxFiles.number("offset", offset) ?? -1
        let length = try SandboxFiles.number("length", length) ?? -1
        guard offset >= -1 else { throw HTTPFailure(.badRequest, text: "Negative offset provided: \(offset).\n") }
        guard length >= -1 else { throw HTTPFailure(.badRequest, text: "Negative length provided: \(length).\n") }
        return try await offPool {
            let (file, size) = try SandboxFiles.open(target, path)
            if offset == -1 { return ["data": "", "offset": .integer(Int64(size))] }
            let wanted = length == -1 ? SandboxFiles.pageMax : min(length, SandboxFiles.pageMax)
            let bytes = try SandboxFiles.piece(file, offset, wanted)
            return ["data": .string(String(decoding: bytes, as: UTF8.self)), "offset": .integer(Int64(offset))]
        }
    }

    /// Part of a file as bytes, and the whole file's size.
    func bytes(_ path: String, offset: Int, length: Int) async throws -> (size: Int, bytes: [UInt8]) {
        let target = try await resolve(path)
        return try await offPool {
            let (file, size) = try SandboxFiles.open(target, path)
            return (size, try SandboxFiles.piece(file, offset, min(length, SandboxFiles.pageMax)))
        }
    }

    func download(_ path: String) async throws -> Response {
        let target = try await resolve(path)
        let (file, size) = try await offPool { try SandboxFiles.open(target, path) }
        let name = path.split(separator: "/").last.map(String.init) ?? "file"
        let quoted = name.filter { $0 != "\"" && $0 != "\\" && !$0.isNewline }
        var headers: HTTPFields = [.contentType: "application/octet-stream"]
        headers[.contentDisposition] = "attachment; filename=\"\(quoted)\""
        return Response(
            status: .ok, headers: headers,
            body: ResponseBody(contentLength: size) { writer in
                var position = 0
                while position < size {
                    let start = position
                    let bytes = try await offPool {
                        try SandboxFiles.piece(file, start, min(SandboxFiles.chunkLength, size - start))
                    }
                    // A file that shrinks meanwhile leaves the answer short; the reader sees the connection end.
                    if bytes.isEmpty { throw HTTPFailure(.gone, text: "The file was cut") }
                    position += bytes.count
                    try await writer.write(ByteBuffer(bytes: bytes))
                }
                try await writer.finish(nil)
            })
    }

    private static func number(_ name: String, _ text: String?) throws -> Int? {
        guard let text, !text.isEmpty else { return nil }
        guard let number = Int(text) else {
            throw HTTPFailure(.badRequest, text: "Failed to parse \(name): \(text).\n")
        }
        return number
    }

    private static func open(_ target: String, _ path: String) throws -> (Descriptor, Int) {
        // A pipe in a sandbox must not hold the thread.
        let file = try Descriptor.open(target, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
        var status = stat()
        guard fstat(file.raw, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            throw HTTPFailure(.badRequest, text: "'\(path)' is not a regular file.\n")
        }
        return (file, Int(status.st_size))
    }

    private static func piece(_ file: Descriptor, _ offset: Int, _ length: Int) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: max(0, length))
        let count = bytes.withUnsafeMutableBytes { pread(file.raw, $0.baseAddress, $0.count, offset) }
        guard count >= 0 else { throw LinuxError(errno: errno, "The file cannot be read") }
        return Array(bytes[..<count])
    }
}
