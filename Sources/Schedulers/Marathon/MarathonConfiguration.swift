public import Base
import Coordination
public import HTTPKit
public import MarathonCore
public import MasterLocator

/// How one Marathon runs.
public struct MarathonConfiguration: Sendable {
    /// Where the leading master is found.
    public var masters: MasterLocation
    /// The flag that says so, for `/v2/info`.
    public var masterFlag = ""
    public var httpAddress: HTTPAddress
    /// The name under which others reach this host: leader, framework's hostname and web UI.
    public var hostname = "localhost"
    public var frameworkName = "marathon"
    /// How long the master keeps our tasks while we are away.
    public var failoverTimeout = Duration.seconds(604_800)
    public var checkpoint = true
    /// The user of tasks that name none.
    public var user = "root"
    public var principal: String?
    public var secret: String?
    public var webUIURL: String?
    /// How often a silent master is asked for a sign of life.
    public var heartbeatInterval = Duration.seconds(15)
    /// After so many intervals without one, another Marathon shall try.
    public var heartbeatFailureThreshold = 5
    public var environmentPrefix = ""
    public var accessControlAllowOrigin: [String] = []
    public var eventStreamOutstandingMax = 1024
    public var healthChecksMax = 256
    /// Where our keys begin in the store.
    public var storePrefix = "/marathon/"
    /// How long a leader that was just elected may take to load, and requests wait for it.
    public var preparationTimeout = Duration.seconds(180)
    /// How long requests wait while nobody leads.
    public var leaderWait = Duration.milliseconds(2500)
    public var leaderProxyConnectionTimeout = Duration.seconds(5)
    /// How long a leader to which a request was handed on may be silent.
    public var leaderProxyReadTimeout = Duration.seconds(10)
    /// What `/v2/info` tells of ZooKeeper.
    public var zooKeeper = ZooKeeperFlags()
    public var core = CoreConfiguration()

    public init(masters: MasterLocation, httpAddress: HTTPAddress) {
        self.masters = masters
        self.httpAddress = httpAddress
    }

    /// The version that clients parse to learn what the API can do.
    public static let version = "1.10.26"
}

/// Flags that the store's engine obeys.
public struct ZooKeeperFlags: Sendable {
    /// `zk://user:password@host:port/path`; nil when the state is kept elsewhere.
    public var url: String?
    public var sessionTimeout = Duration.seconds(10)
    public var connectionTimeout = Duration.seconds(10)
    public var timeout = Duration.seconds(10)

    public init() {}

    /// A `zk://` URL without what is nobody's business.
    static func masked(_ url: String) -> String {
        guard url.hasPrefix("zk://"), let at = url.lastIndex(of: "@") else { return url }
        return "zk://xxxxxxxx:xxxxxxxx" + url[at...]
    }
}

/// Why Marathon stopped, or stopped leading.
public struct MarathonError: CodedError {
    public enum Code: Hashable, Sendable {
        /// The store does not answer.
        case store
        /// What is stored is not what this version writes.
        case unreadable
        case leadershipLost
        /// There are instances but no framework id: registering anew would start every task twice (Marathon's exit code
        /// 108).
        case frameworkIDMissing
        /// The master has removed the framework (exit code 110).
        case frameworkRemoved
        /// The master will not have such a framework (exit code 106).
        case refused
        /// An election names a leading master, and we cannot talk to it. Others may.
        case masterUnreachable
        /// More work came in than could be stored in time.
        case overloaded
    }
    public var code: Code
    public var message: String
    public var cause: (any Error)?

    public init(_ code: Code, _ message: String, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }

    init(storing message: String, _ error: StoreError) {
        let code: Code =
            switch error.code {
            case .fenced: .leadershipLost
            case .corrupt: .unreadable
            case .conflict, .invalid, .unavailable: .store
            }
        self.init(code, message, cause: error)
    }

    /// True when leading again would not help.
    public var endsProcess: Bool { exitCode != nil }

    /// What Marathon's process ends with, where it has to end.
    public var exitCode: Int32? {
        switch code {
        case .refused: 106
        case .frameworkIDMissing: 108
        case .frameworkRemoved: 110
        case .store, .unreadable, .leadershipLost, .masterUnreachable, .overloaded: nil
        }
    }
}
