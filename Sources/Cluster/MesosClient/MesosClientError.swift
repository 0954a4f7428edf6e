public import Base

/// Why a scheduler's call or subscription failed.
public struct MesosClientError: CodedError {
    public enum Code: Hashable, Sendable {
        /// No master answered, or none leads.
        case unreachable
        /// There is no subscription at present; it is being renewed.
        case notSubscribed
        /// The master refused the call; `status` says how.
        case refused
        /// The master ended the subscription for good (ERROR event): wrong role, framework removed, failed over.
        case unsubscribed
        /// The master's answer is no valid stream.
        case malformed
    }

    public var code: Code
    public var message: String
    public var cause: (any Error)?
    /// The HTTP status of a refusal.
    public var status: Int?

    public init(_ code: Code, _ message: String, status: Int? = nil, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.status = status
        self.cause = cause
    }
}
