public import Base
public import HTTPKit
public import MarathonCore

/// How one Marathon runs.
public struct MarathonConfiguration: Sendable {
    /// The masters to register with.
    public var masters: [HTTPAddress]
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
    public var environmentPrefix = ""
    public var accessControlAllowOrigin: [String] = []
    public var eventStreamOutstandingMax = 1024
    public var healthChecksMax = 256
    /// Where our keys begin in the store.
    public var storePrefix = "/marathon/"
    public var core = CoreConfiguration()

    public init(masters: [HTTPAddress], httpAddress: HTTPAddress) {
        self.masters = masters
        self.httpAddress = httpAddress
    }

    /// The version that clients parse to learn what the API can do.
    public static let version = "1.10.26"
}

/// Why Marathon stopped or could not start.
public struct MarathonError: CodedError {
    public enum Code: Hashable, Sendable {
        case store
        case leadershipLost
        /// There are instances but no framework id: registering anew would start every task twice (Marathon's exit code
        /// 108).
        case frameworkIDMissing
        /// The master has removed the framework (exit code 110).
        case frameworkRemoved
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
}
