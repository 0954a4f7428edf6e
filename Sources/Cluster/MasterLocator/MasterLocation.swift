public import Base
import Coordination
public import HTTPKit
import LinuxOS

/// Where agents and schedulers look for the leading master: what `--master` says.
public enum MasterLocation: Sendable {
    /// Masters to try in turn; those that do not lead redirect to the one that does.
    case addresses([HTTPAddress])
    /// What the leader advertises (MasterInfo), now and after every change; nil while there is none.
    case elected(@Sendable () -> AsyncStream<JSONValue?>)

    /// Takes `host:port`, several of them separated by commas, `zk://[user:password@]host:port,host:port/path`, and
    /// `file:///path` of a file that holds one of these. Reads that file, so it is meant for the start of a role.
    ///
    /// - Parameter sessionTimeout: nothing depends on the session, so it may be short: two thirds of it is how long a
    ///   dead ZooKeeper server goes unnoticed.
    public init(parsing text: String, sessionTimeout: Duration = .seconds(4)) throws(MasterLocationError) {
        var text = text
        if text.hasPrefix("file://") {
            do {
                text = try readText(String(text.dropFirst("file://".count)))
            } catch {
                throw MasterLocationError(.unreadable, "The file with the master's place cannot be read", cause: error)
            }
            while text.first?.isWhitespace == true { text.removeFirst() }
            while text.last?.isWhitespace == true { text.removeLast() }
        }
        if text.hasPrefix("zk://") {
            do {
                let detector = try LeaderDetector.open(text, sessionTimeout: sessionTimeout)
                self = .elected { detector.leaders() }
            } catch {
                throw MasterLocationError(.invalid, "The masters cannot be found in ZooKeeper", cause: error)
            }
            return
        }
        var addresses: [HTTPAddress] = []
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            // A lone host is a master at its usual port. Masters do not listen on unix sockets.
            guard let address = HTTPAddress(part.contains(":") ? String(part) : "\(part):\(MasterLocation.port)"),
                case .tcp(let host, let port) = address, !part.isEmpty, !part.hasPrefix(":"), !host.contains("/"),
                port > 0
            else { throw MasterLocationError(.invalid, "'\(part)' is no master's address") }
            addresses.append(address)
        }
        self = .addresses(addresses)
    }

    static let port = 5050
}

/// Why text names no master.
public struct MasterLocationError: CodedError {
    public enum Code: Hashable, Sendable {
        case invalid
        /// The file that should hold it cannot be read.
        case unreadable
    }

    public var code: Code
    public var message: String
    public var cause: (any Error)?

    public init(_ code: Code, _ message: String, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }
}

/// One master to talk to.
public struct MasterPlace: Hashable, Sendable {
    public var address: HTTPAddress
    /// New for each start of a master; nil when only an address is known.
    public var masterID: String?

    public init(address: HTTPAddress, masterID: String? = nil) {
        self.address = address
        self.masterID = masterID
    }

    /// What a master's MasterInfo says, as others find it in the election; nil if it names no address.
    public init?(info: JSONValue) {
        var port = info["address"]?["port"]?.integer ?? info["port"]?.integer
        var host = info["address"]?["ip"]?.string
        if host == nil, let pid = info["pid"]?.string, let at = pid.lastIndex(of: "@"),
            case .tcp(let named, let its)? = HTTPAddress(String(pid[pid.index(after: at)...]))
        {
            host = named
            port = port ?? Int64(its)
        }
        guard let host = host ?? info["address"]?["hostname"]?.string ?? info["hostname"]?.string, !host.isEmpty else {
            return nil
        }
        guard let number = Int(exactly: port ?? Int64(MasterLocation.port)), (1...65535).contains(number) else {
            return nil
        }
        self.init(address: .tcp(host: host, port: number), masterID: info["id"]?.string)
    }
}
