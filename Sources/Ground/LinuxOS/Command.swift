import Base
import Glibc
import Synchronization

/// What a helper program did.
public struct CommandResult: Hashable, Sendable {
    public var status: ExitStatus
    public var output: [UInt8]
    public var errors: [UInt8]

    public var isSuccess: Bool { status.isSuccess }
    public var outputText: String { String(decoding: output, as: UTF8.self) }
    public var errorText: String { String(decoding: errors, as: UTF8.self) }
}

/// Runs a helper program (mkfs, ip, iptables) in a session of its own and collects what it prints.
///
/// - Parameters:
///   - deadline: from now; then the program and its offspring are killed and `timedOut` is thrown.
///   - outputLimit: of both streams together; a program that prints more is killed and `invalid` is thrown.
/// - Returns: also for a failing status; see `runChecked`.
public func runCommand(
    _ arguments: [String], input: [UInt8] = [], environment: [String: String]? = nil, workingDirectory: String? = nil,
    deadline: Duration = .seconds(30), outputLimit: Int = 4 << 20
) async throws -> CommandResult {
    let end = ContinuousClock.now + deadline
    let started = Mutex<ChildProcess?>(nil)
    return try await withTaskCancellationHandler {
        let request = ChildProcess.Request(
            arguments, environment: environment, workingDirectory: workingDirectory)
        let (process, output, errors) = try await offPool {
            var exchange = try CommandExchange(request, input: input, outputLimit: outputLimit, end: end)
            started.withLock { $0 = exchange.process }
            do {
                try exchange.run()
            } catch {
                exchange.process.signalSession(SIGKILL)
                throw error
            }
            return (exchange.process, exchange.output, exchange.errors)
        }
        return CommandResult(status: try await process.wait(), output: output, errors: errors)
    } onCancel: {
        started.withLock { $0 }?.signalSession(SIGKILL)
    }
}

/// As `runCommand`, but a status other than 0 is an error that quotes what the program wrote to its standard error.
@discardableResult
public func runChecked(
    _ arguments: [String], input: [UInt8] = [], deadline: Duration = .seconds(30)
) async throws -> CommandResult {
    let result = try await runCommand(arguments, input: input, deadline: deadline)
    guard result.isSuccess else {
        let said = result.errors.isEmpty ? result.outputText : result.errorText
        throw LinuxError(
            .invalid, "\(arguments.joined(separator: " ")) \(result.status): \(said.prefix(2000))")
    }
    return result
}

/// The conversation with one helper program, on a thread that may block.
private struct CommandExchange {
    let process: ChildProcess
    private(set) var output: [UInt8] = []
    private(set) var errors: [UInt8] = []
    private var input: ArraySlice<UInt8>
    private var toChild: Descriptor?
    private var fromOutput: Descriptor?
    private var fromErrors: Descriptor?
    private let outputLimit: Int
    private let end: ContinuousClock.Instant

    init(
        _ request: ChildProcess.Request, input: [UInt8], outputLimit: Int, end: ContinuousClock.Instant
    ) throws(LinuxError) {
        let (inputEnd, toChild) = try Descriptor.pipe()
        let (fromOutput, outputEnd) = try Descriptor.pipe()
        let (fromErrors, errorsEnd) = try Descriptor.pipe()
        for descriptor in [toChild, fromOutput, fromErrors] { _ = fcntl(descriptor.raw, F_SETFL, O_NONBLOCK) }
        var request = request
        request.standardInput = .descriptor(inputEnd)
        request.standardOutput = .descriptor(outputEnd)
        request.standardError = .descriptor(errorsEnd)
        process = try ChildProcess.spawn(request)
        self.input = input[...]
        self.toChild = input.isEmpty ? nil : toChild
        self.fromOutput = fromOutput
        self.fromErrors = fromErrors
        self.outputLimit = outputLimit
        self.end = end
    }

    /// Feeds and reads until the program ends. Does not wait for offspring that keeps its streams open.
    mutating func run() throws(LinuxError) {
        while true {
            var polls = [pollfd(fd: process.pidfd.raw, events: Int16(POLLIN), revents: 0)]
            if let fromOutput { polls.append(pollfd(fd: fromOutput.raw, events: Int16(POLLIN), revents: 0)) }
            if let fromErrors { polls.append(pollfd(fd: fromErrors.raw, events: Int16(POLLIN), revents: 0)) }
            if let toChild { polls.append(pollfd(fd: toChild.raw, events: Int16(POLLOUT), revents: 0)) }
            let rest = (end - .now).wholeNanoseconds / 1_000_000
            guard rest > 0 else {
                throw LinuxError(.timedOut, "The program of process \(process.pid) did not end in time.")
            }
            guard poll(&polls, nfds_t(polls.count), Int32(clamping: rest)) >= 0 else {
                if errno == EINTR { continue }
                throw LinuxError(errno: errno, "The program of process \(process.pid) could not be watched")
            }
            let ended = polls[0].revents != 0
            feed()
            if let source = fromOutput, drain(source, into: \.output) { fromOutput = nil }
            if let source = fromErrors, drain(source, into: \.errors) { fromErrors = nil }
            guard output.count + errors.count <= outputLimit else {
                throw LinuxError(.invalid, "The program printed more than \(outputLimit) bytes.")
            }
            if ended { return }
        }
    }

    private mutating func feed() {
        guard let toChild else { return }
        let count = input.withUnsafeBytes { write(toChild.raw, $0.baseAddress, $0.count) }
        if count > 0 { input.removeFirst(count) }
        let broken = count < 0 && errno != EAGAIN && errno != EINTR
        if broken || input.isEmpty { self.toChild = nil }
    }

    /// Reads what is there. True at the end of the stream.
    private mutating func drain(_ source: Descriptor, into target: WritableKeyPath<CommandExchange, [UInt8]>) -> Bool {
        var chunk = [UInt8](repeating: 0, count: 65536)
        while output.count + errors.count <= outputLimit {
            let count = read(source.raw, &chunk, chunk.count)
            if count > 0 {
                self[keyPath: target].append(contentsOf: chunk[..<count])
            } else if count < 0 && errno == EINTR {
                continue
            } else {
                return count == 0 || errno != EAGAIN
            }
        }
        return false
    }
}
