public import Base

/// Why a master cannot lead.
public struct MasterError: CodedError {
    public enum Code: Hashable, Sendable {
        /// Another master leads now.
        case leadershipLost
        /// The registry could not be read or written.
        case registry
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
