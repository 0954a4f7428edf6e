/// Where a server listens or a client calls.
public enum HTTPAddress: Hashable, Sendable, CustomStringConvertible {
    case tcp(host: String, port: Int)
    /// A unix socket at `path`; a stale socket file there is replaced by a server that binds.
    case unix(path: String)

    /// Parses `unix:///path`, `/path`, `tcp://host:port`, `http://host:port`, `host:port` and `:port` (all addresses).
    public init?(_ text: String) {
        if text.hasPrefix("unix://") {
            self = .unix(path: String(text.dropFirst("unix://".count)))
            return
        }
        if text.hasPrefix("/") {
            self = .unix(path: text)
            return
        }
        var rest = Substring(text)
        for scheme in ["tcp://", "http://"] where rest.hasPrefix(scheme) { rest = rest.dropFirst(scheme.count) }
        guard let colon = rest.lastIndex(of: ":"), let port = Int(rest[rest.index(after: colon)...]),
            (0...65535).contains(port)
        else { return nil }
        let host = rest[..<colon]
        self = .tcp(host: host.isEmpty ? "0.0.0.0" : String(host), port: port)
    }

    public var description: String {
        switch self {
        case .tcp(let host, let port): "\(host):\(port)"
        case .unix(let path): "unix://\(path)"
        }
    }
}
