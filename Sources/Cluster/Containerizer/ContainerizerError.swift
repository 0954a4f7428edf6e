public import Base

/// Why a container could not be launched, looked at or ended. The message is what the scheduler gets to see.
public struct ContainerizerError: CodedError {
    public enum Code: Hashable, Sendable {
        /// The task asks for something that no container can be made of.
        case invalidRequest
        /// dockerd, the registry or the keeper of processes refused or failed.
        case launchFailed
        case notFound
        /// dockerd cannot be reached.
        case unavailable
        /// The system refused a file or process operation.
        case system
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
