public import Base

/// Why an agent cannot start or go on.
public struct AgentError: CodedError {
    public enum Code: Hashable, Sendable {
        /// A flag's value cannot be right.
        case invalidFlag
        /// The work directory cannot be read or written.
        case storage
        /// What the work directory holds does not fit this agent.
        case incompatible
        /// The master cannot be reached or answers nonsense.
        case master
        /// The master does not lead, and knows nobody who does.
        case undecided
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
