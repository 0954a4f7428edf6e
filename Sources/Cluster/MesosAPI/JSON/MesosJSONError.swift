public import Base

/// Why a body is not the message it should be.
public struct MesosJSONError: CodedError {
    public enum Code: Hashable, Sendable {
        /// The text is no JSON document, or its top level is no object.
        case malformed
        /// A member has a value that its field cannot hold.
        case wrongType
        /// Required fields are absent.
        case missingFields
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
