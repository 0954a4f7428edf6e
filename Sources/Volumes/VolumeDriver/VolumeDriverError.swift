public import Base

/// Why a storage platform, or this host's side of it, did not do what was asked.
public struct VolumeDriverError: CodedError {
    public enum Code: Hashable, Sendable {
        /// There is no such volume; libStorage's "resource not found".
        case notFound
        /// A volume of that name exists already.
        case alreadyExists
        /// Another host holds the volume, and pre-emption was not asked for.
        case heldElsewhere
        /// The request itself is wrong: a bad name, a size out of range, an unknown pool.
        case invalid
        /// The platform refused the credentials.
        case unauthorized
        /// The platform could not be reached, or answered nonsense.
        case unreachable
        /// Something did not happen before its deadline.
        case timedOut
        case notImplemented
        /// A device holds data that is no filesystem we know, so it is neither mounted nor formatted.
        case foreignData
        /// A filesystem or its device is in use and cannot be released now.
        case busy
        /// Anything else that failed; the message says what.
        case failed
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
