/// A `zk://[user:password@]host:port,host:port/path` as operators write it for Mesos.
public struct ZooKeeperLocation: Hashable, Sendable, CustomStringConvertible {
    public var user: String?
    public var password: String?
    /// `host:port` each, at least one.
    public var servers: [String]
    /// Begins with a slash and has no other at its end; "" is the root.
    public var path: String

    /// - Throws: `invalid`.
    public init(_ text: String) throws(StoreError) {
        func invalid(_ why: String) -> StoreError {
            // Errors end in logs, where no password belongs.
            let shown = text.lastIndex(of: "@").map { "zk://...\(text[$0...])" } ?? text
            return StoreError(
                .invalid,
                "\"\(shown)\" is no location of a ZooKeeper: \(why); it is zk://[user:password@]host:port,.../path.")
        }
        guard text.hasPrefix("zk://") else { throw invalid("it does not begin with zk://") }
        var rest = text.dropFirst("zk://".count)
        if let at = rest.lastIndex(of: "@") {
            let credentials = rest[..<at].split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            guard credentials.count == 2, !credentials[0].isEmpty else {
                throw invalid("the credentials are no user:password")
            }
            user = String(credentials[0])
            password = String(credentials[1])
            rest = rest[rest.index(after: at)...]
        }
        let slash = rest.firstIndex(of: "/") ?? rest.endIndex
        servers = try rest[..<slash].split(separator: ",", omittingEmptySubsequences: false).map {
            server throws(StoreError) in
            let parts = server.split(separator: ":", omittingEmptySubsequences: false)
            guard parts.count <= 2, let host = parts.first, !host.isEmpty else {
                throw invalid("\"\(server)\" is no server")
            }
            guard parts.count == 2 else { return "\(host):2181" }
            guard let port = UInt16(parts[1]), port > 0 else { throw invalid("\"\(parts[1])\" is no port") }
            return "\(host):\(port)"
        }
        var path = String(rest[slash...])
        while path.hasSuffix("/") { path.removeLast() }
        guard !path.contains("//"), !path.utf8.contains(where: { $0 < 0x20 || $0 == 0x7F }) else {
            throw invalid("the path has empty parts or control characters")
        }
        self.path = path
    }

    /// The text that means this place, with its password.
    public var description: String {
        let credentials = user.map { "\($0):\(password ?? "")@" } ?? ""
        return "zk://\(credentials)\(connectString)\(path.isEmpty ? "/" : path)"
    }

    /// How the client library wants the servers.
    var connectString: String { servers.joined(separator: ",") }
}
