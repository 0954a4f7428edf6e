public import Base
import Glibc

/// Why the operating system did not do what it was asked.
public struct LinuxError: CodedError {
    public enum Code: Hashable, Sendable {
        /// A system call failed with this `errno`.
        case system(Int32)
        /// A request that cannot be right, found before any system call.
        case invalid
        /// Not done by its deadline, and given up.
        case timedOut
        /// Too many such requests are under way (see `offPool`).
        case overloaded
        /// A file of /proc or /sys does not read as documented.
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

    /// A failed system call: `message` says what was tried, the text of `number` follows it.
    public init(errno number: Int32, _ message: String) {
        self.init(.system(number), "\(message): \(LinuxError.text(number))")
    }

    private static func text(_ number: Int32) -> String {
        // glibc's strerror keeps its text per thread.
        strerror(number).map { String(cString: $0) } ?? "error \(number)"
    }
}

/// The answer of a CLinux function: a value, or a negated errno.
func checked(_ result: Int32, _ message: @autoclosure () -> String) throws(LinuxError) -> Int32 {
    guard result >= 0 else { throw LinuxError(errno: -result, message()) }
    return result
}
