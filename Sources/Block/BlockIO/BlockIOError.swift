public import Base
import Glibc

/// What went wrong with a socket, a file or a device of the block store.
public struct BlockIOError: CodedError {
    /// By what the caller may decide.
    public enum Code: Hashable, Sendable {
        /// A system call failed with this `errno`.
        case system(Int32)
        /// An address, a size or a path that cannot be used.
        case invalid
        /// The other side broke the protocol.
        case malformed
    }

    public var code: Code
    public var message: String
    public var cause: (any Error)?

    public init(_ code: Code, _ message: String, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }

    /// The error that `errno` names, for the operation described by `doing`.
    public static func system(_ number: Int32, _ doing: String) -> BlockIOError {
        BlockIOError(.system(number), "\(doing): \(String(cString: strerror(number)))")
    }
}
