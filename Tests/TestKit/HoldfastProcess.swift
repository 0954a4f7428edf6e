import Glibc
public import LinuxOS

/// The built `holdfast` executable as a child of a test, gone with everything it started when the last reference goes.
public final class HoldfastProcess: Sendable {
    public let child: ChildProcess
    /// What it writes to standard output and standard error together.
    public let logPath: String

    /// - Parameters:
    ///   - arguments: without the program.
    ///   - log: a file that is appended to.
    public init(_ arguments: [String], log: String, environment: [String: String] = [:]) throws(LinuxError) {
        var request = ChildProcess.Request([HoldfastProcess.executable] + arguments)
        request.environment.merge(environment) { _, own in own }
        request.standardOutput = .append(log)
        request.standardError = .append(log)
        logPath = log
        child = try ChildProcess.spawn(request)
    }

    deinit { child.signalSession(SIGKILL) }

    /// As a power cut for this process: no handler runs. Returns when it is gone.
    public func kill() async throws {
        child.signal(SIGKILL)
        _ = try await child.wait()
    }

    /// Asks it to end, and kills it when it has not after `grace`.
    @discardableResult
    public func stop(grace: Duration = .seconds(10)) async throws -> ExitStatus {
        child.signal(SIGTERM)
        _ = try? await eventually("the end of process \(child.pid)", within: grace) { child.exitStatus }
        child.signal(SIGKILL)
        return try await child.wait()
    }

    public var log: String { (try? readText(logPath)) ?? "" }

    /// The executable that was built together with the running tests.
    public static var executable: String {
        var chars = [CChar](repeating: 0, count: 4096)
        let count = readlink("/proc/self/exe", &chars, chars.count)
        let tests = String(decoding: chars.prefix(max(0, count)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return tests.split(separator: "/").dropLast().reduce("") { "\($0)/\($1)" } + "/holdfast"
    }
}
