import AsyncHTTPClient
import Base
import Containerizer
import Glibc
import HTTPKit
import LinuxOS
import MesosAPI
import NIOCore
import NIOHTTP1

/// Brings the files that a command names (`CommandInfo.uris`) into its sandbox before it starts, one after the other.
struct Fetcher {
    /// A download beyond this is refused.
    static let downloadMax = 4 << 30
    private static let archives: [(suffix: String, tool: [String])] = [
        (".tar", ["tar", "-xf"]), (".tar.gz", ["tar", "-xzf"]), (".tgz", ["tar", "-xzf"]),
        (".tar.bz2", ["tar", "-xjf"]), (".tbz2", ["tar", "-xjf"]), (".tar.xz", ["tar", "-xJf"]),
        (".txz", ["tar", "-xJf"]), (".zip", ["unzip", "-o", "-q"]), (".gz", ["gzip", "-d", "-k", "-f"]),
    ]

    let spec: ContainerSpec
    let switchesUser: Bool

    func fetch() async throws(ContainerizerError) {
        for uri in spec.command.uris {
            do {
                try await fetch(uri)
            } catch let error as ContainerizerError {
                throw error
            } catch {
                throw ContainerizerError(.launchFailed, "Failed to fetch '\(uri.value)'", cause: error)
            }
        }
    }

    private func fetch(_ uri: MesosCommandInfo.URI) async throws {
        let name = uri.hasOutputFile ? uri.outputFile : Fetcher.basename(uri.value)
        guard !name.isEmpty, !name.hasPrefix("/"), !name.split(separator: "/").contains("..") else {
            throw ContainerizerError(.invalidRequest, "The output file '\(name)' is not within the sandbox.")
        }
        let target = "\(spec.sandbox)/\(name)"
        let parent = DurableFile.parent(of: target)
        try await offPool { try DurableFile.makeDirectory(parent) }
        if uri.value.hasPrefix("http://") {
            try await withDeadline(.seconds(3600)) { try await download(uri.value, to: target) }
        } else if uri.value.hasPrefix("file://") || uri.value.hasPrefix("/") {
            let path = uri.value.hasPrefix("/") ? uri.value : String(uri.value.dropFirst("file://".count))
            try await runChecked(["cp", "-f", "--", path, target], deadline: .seconds(600))
        } else {
            throw ContainerizerError(.invalidRequest, "URIs like '\(uri.value)' are not supported by the fetcher.")
        }
        if uri.executable {
            try await runChecked(["chmod", "+x", target])
        } else if uri.extract, let archive = Fetcher.archives.last(where: { name.hasSuffix($0.suffix) }) {
            let isZip = archive.tool[0] == "unzip"
            let result = try await runCommand(
                archive.tool + [target], workingDirectory: spec.sandbox, deadline: .seconds(600))
            guard result.isSuccess || (isZip && result.status == .exited(1)) else {
                throw ContainerizerError(.launchFailed, "Failed to extract '\(name)': \(result.errorText)")
            }
        }
        let user = spec.command.hasUser ? spec.command.user : spec.user
        if switchesUser, getuid() == 0, let user, !user.isEmpty, user != "root" {
            try await runChecked(["chown", "-R", user, spec.sandbox])
        }
    }

    private func download(_ uri: String, to target: String) async throws {
        var rest = uri.dropFirst("http://".count)
        let authority = rest.prefix { $0 != "/" && $0 != "?" }
        rest = rest.dropFirst(authority.count)
        let path = rest.hasPrefix("/") ? String(rest) : "/" + rest
        let text = authority.contains(":") ? String(authority) : "\(authority):80"
        guard let address = HTTPAddress(text) else {
            throw ContainerizerError(.invalidRequest, "'\(uri)' is no valid address.")
        }
        let response = try await HTTPCaller(client: HTTPCaller.downloadClient).stream(.GET, address, path)
        guard response.status == .ok else {
            throw ContainerizerError(.launchFailed, "'\(uri)' answers \(response.status.code).")
        }
        let file = try Descriptor.open(target, O_WRONLY | O_CREAT | O_TRUNC)
        var total = 0
        for try await buffer in response.body {
            total += buffer.readableBytes
            guard total <= Fetcher.downloadMax else {
                throw ContainerizerError(.launchFailed, "'\(uri)' is longer than \(Fetcher.downloadMax) bytes.")
            }
            let bytes = Array(buffer: buffer)
            try await offPool {
                var rest = bytes[...]
                while !rest.isEmpty {
                    let count = rest.withUnsafeBytes { write(file.raw, $0.baseAddress, $0.count) }
                    guard count > 0 else { throw LinuxError(errno: errno, "\(target) cannot be written") }
                    rest.removeFirst(count)
                }
            }
        }
    }

    /// The last part of a URI's path.
    static func basename(_ uri: String) -> String {
        let path = uri.prefix { $0 != "?" && $0 != "#" }
        return path.split(separator: "/").last.map(String.init) ?? ""
    }
}
