public import HTTPKit

/// What the driver has to know of a ScaleIO system: keys `scaleio.*` of REX-Ray's config.yml.
public struct ScaleIOConfiguration: Sendable {
    /// `scaleio.endpoint`, e.g. `http://gateway/api`, or several with commas: gateways of one system, at least one. One
    /// that does not answer is left for the next.
    public var endpoints: [ScaleIOEndpoint]
    /// `scaleio.insecure`: accept any certificate.
    public var isInsecure = false
    public var userName: String
    public var password: String
    /// `scaleio.systemID` or `scaleio.systemName`; without both there must be exactly one system.
    public var systemID: String?
    public var systemName: String?
    public var protectionDomainID: String?
    public var protectionDomainName: String?
    public var storagePoolID: String?
    public var storagePoolName: String?
    /// `scaleio.thinOrThick`: ThinProvisioned (default) or ThickProvisioned.
    public var isThin = true
    /// `scaleio.guid`: the SDC's GUID; nil asks the SDC.
    public var guid: String?
    /// The SDC's control socket.
    public var controlSocket = "/run/holdfast/sdc.sock"
    /// Where the SDC makes a link `emc-vol-<system>-<volume>` for each volume mapped to this host.
    public var deviceDirectory = "/dev/disk/by-id"
    /// The time one call of the Gateway may take, its retries included.
    public var callDeadline: Duration = .seconds(30)
    /// How long one gateway may take to answer a question when there are others, and how long for a change, which may
    /// wait for proofs.
    public var readPatience: Duration = .seconds(5)
    public var changePatience: Duration = .seconds(15)
    /// How long a gateway from which nothing came for as long may take to show that it lives, when there are others:
    /// the patience above is for gateways at work, not for machines that have died.
    public var silencePatience: Duration = .seconds(1)

    public init(endpoints: [ScaleIOEndpoint], userName: String, password: String) {
        precondition(!endpoints.isEmpty, "a gateway's address is required")
        self.endpoints = endpoints
        self.userName = userName
        self.password = password
    }
}

/// A Gateway's address: `http[s]://host[:port][/path]`, where the path is `/api` unless given.
public struct ScaleIOEndpoint: Hashable, Sendable, CustomStringConvertible {
    public var isSecure: Bool
    public var host: String
    public var port: Int
    public var path: String

    public init?(_ text: String) {
        var rest = Substring(text)
        if rest.hasPrefix("https://") {
            isSecure = true
            rest = rest.dropFirst("https://".count)
        } else if rest.hasPrefix("http://") {
            isSecure = false
            rest = rest.dropFirst("http://".count)
        } else {
            return nil
        }
        let authority = rest.prefix { $0 != "/" }
        var path = rest.dropFirst(authority.count)
        while path.hasSuffix("/") { path = path.dropLast() }
        self.path = path.isEmpty ? "/api" : String(path)
        if let colon = authority.lastIndex(of: ":") {
            guard let port = Int(authority[authority.index(after: colon)...]), (1...65535).contains(port) else {
                return nil
            }
            self.port = port
            host = String(authority[..<colon])
        } else {
            port = isSecure ? 443 : 80
            host = String(authority)
        }
        guard !host.isEmpty else { return nil }
    }

    public var address: HTTPAddress { .tcp(host: host, port: port) }

    public var description: String { "\(isSecure ? "https" : "http")://\(host):\(port)\(path)" }
}
