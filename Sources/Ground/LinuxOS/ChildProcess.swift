import CLinux
import Glibc

/// Where a standard stream of a new process leads.
public enum ProcessStream: Sendable {
    case null
    /// The stream of this process.
    case inherited
    /// A file that is appended to, made if it does not exist.
    case append(String)
    case descriptor(Descriptor)
}

/// A process that this one started. It is reaped when it ends, whether or not anybody waits, and outlives this process.
public final class ChildProcess: Sendable {
    public struct Request: Sendable {
        /// The program and its arguments. A program without "/" is looked up in the PATH of `environment`.
        public var arguments: [String]
        public var environment: [String: String]
        /// Nil: this process's working directory.
        public var workingDirectory: String?
        public var standardInput: ProcessStream = .null
        public var standardOutput: ProcessStream = .inherited
        public var standardError: ProcessStream = .inherited
        /// A session of its own (and so a process group): signals to ours do not reach it, and all its offspring can be
        /// found and killed by it.
        public var ownSession = true
        /// Nil: unchanged. A user with no supplementary groups otherwise.
        public var user: (uid: UInt32, gid: UInt32)?

        /// - Parameter environment: nil for this process's own.
        public init(_ arguments: [String], environment: [String: String]? = nil, workingDirectory: String? = nil) {
            self.arguments = arguments
            self.environment = environment ?? currentEnvironment()
            self.workingDirectory = workingDirectory
        }
    }

    /// The process; still valid after it ended.
    public let identity: ProcessIdentity
    public var pid: Int32 { identity.pid }
    let pidfd: Descriptor
    private let exit = ExitFuture()

    private init(identity: ProcessIdentity, pidfd: Descriptor) {
        self.identity = identity
        self.pidfd = pidfd
    }

    /// Starts a process. Returns when its program runs; the error says why it does not. No descriptor but the standard
    /// streams passes to it. Takes about a millisecond.
    public static func spawn(_ request: Request) throws(LinuxError) -> ChildProcess {
        guard let program = request.arguments.first, !program.isEmpty else {
            throw LinuxError(.invalid, "No program is given.")
        }
        let path = try resolve(program, searchPath: request.environment["PATH"])
        let input = try open(request.standardInput, inherited: 0)
        let output = try open(request.standardOutput, inherited: 1)
        let error = try open(request.standardError, inherited: 2)

        var pid: Int32 = 0
        var pidfd: Int32 = -1
        let result = withCStrings(request.arguments) { arguments in
            withCStrings(request.environment.map { "\($0.key)=\($0.value)" }.sorted()) { environment in
                path.withCString { path in
                    withOptionalCString(request.workingDirectory) { directory in
                        var raw = clinux_spawn_request()
                        raw.path = path
                        raw.argv = arguments
                        raw.envp = environment
                        raw.cwd = directory
                        raw.stdin_fd = input.raw
                        raw.stdout_fd = output.raw
                        raw.stderr_fd = error.raw
                        raw.new_session = request.ownSession ? 1 : 0
                        if let user = request.user {
                            raw.change_user = 1
                            raw.uid = user.uid
                            raw.gid = user.gid
                        }
                        return clinux_spawn(&raw, &pid, &pidfd)
                    }
                }
            }
        }
        withExtendedLifetime((input, output, error)) {}
        _ = try checked(result, "\(program) could not be started")
        let descriptor = Descriptor(owning: pidfd)
        // Not yet reaped, so /proc knows it even if it has ended already.
        let identity = ProcessIdentity.of(pid) ?? ProcessIdentity(pid: pid, startTime: 0)
        let child = ChildProcess(identity: identity, pidfd: descriptor)
        do {
            try ExitWatcher.shared.watch(descriptor, child.exit)
        } catch {
            // Nobody would ever hear of it again: neither who asked for it, nor the watcher that reaps.
            if request.ownSession { child.signalSession(SIGKILL) }
            child.signal(SIGKILL)
            while waitpid(pid, nil, 0) < 0, errno == EINTR {}
            throw error
        }
        return child
    }

    /// How it ended; nil while it runs.
    public var exitStatus: ExitStatus? { exit.status }

    /// Suspends until it has ended. Throws only `CancellationError`.
    public func wait() async throws -> ExitStatus { try await exit.wait() }

    /// Signals the process itself. False when it has ended.
    @discardableResult
    public func signal(_ number: Int32) -> Bool { clinux_pidfd_send_signal(pidfd.raw, number) == 0 }

    /// Signals everything in the session of the process, also what outlived it. Only for a process with its own
    /// session.
    public func signalSession(_ number: Int32) { identity.signalSession(number) }
}

extension ChildProcess {
    private static func resolve(_ program: String, searchPath: String?) throws(LinuxError) -> String {
        if program.contains("/") { return program }
        for directory in (searchPath ?? "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").split(
            separator: ":")
        {
            let path = "\(directory)/\(program)"
            if access(path, X_OK) == 0 { return path }
        }
        throw LinuxError(errno: ENOENT, "\(program) could not be found")
    }

    private static func open(_ stream: ProcessStream, inherited: Int32) throws(LinuxError) -> Descriptor {
        switch stream {
        case .null: return try Descriptor.open("/dev/null", O_RDWR)
        case .inherited:
            let copy = fcntl(inherited, F_DUPFD_CLOEXEC, 3)
            return copy >= 0 ? Descriptor(owning: copy) : try Descriptor.open("/dev/null", O_RDWR)
        case .append(let path): return try Descriptor.open(path, O_WRONLY | O_CREAT | O_APPEND)
        case .descriptor(let descriptor): return descriptor
        }
    }
}

/// The environment of this process.
public func currentEnvironment() -> [String: String] {
    var result: [String: String] = [:]
    var entry = environ
    while let text = entry.pointee.map({ String(cString: $0) }) {
        if let separator = text.firstIndex(of: "=") {
            result[String(text[..<separator])] = String(text[text.index(after: separator)...])
        }
        entry += 1
    }
    return result
}

/// Calls `body` with a null-terminated array of C strings that are valid during the call.
private func withCStrings<Result>(
    _ strings: [String], _ body: (UnsafePointer<UnsafeMutablePointer<CChar>?>) -> Result
) -> Result {
    var pointers: [UnsafeMutablePointer<CChar>?] = strings.map { strdup($0) }
    pointers.append(nil)
    defer { for pointer in pointers { free(pointer) } }
    return pointers.withUnsafeBufferPointer { buffer in
        // Never nil: the array holds at least its terminator.
        body(buffer.baseAddress!)
    }
}

private func withOptionalCString<Result>(_ string: String?, _ body: (UnsafePointer<CChar>?) -> Result) -> Result {
    guard let string else { return body(nil) }
    return string.withCString { body($0) }
}
