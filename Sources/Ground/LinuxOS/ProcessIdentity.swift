import CLinux
import Glibc

/// A process beyond doubt: its number and when it started. Numbers are used again, so whoever writes one down and comes
/// back later (a restarted agent) must compare the start as well before it kills anything.
public struct ProcessIdentity: Hashable, Sendable, Codable {
    public var pid: Int32
    /// In clock ticks since the machine's boot, as field 22 of /proc/PID/stat has it.
    public var startTime: UInt64

    public init(pid: Int32, startTime: UInt64) {
        self.pid = pid
        self.startTime = startTime
    }

    /// The process that has `pid` now, also when it has ended but is not reaped. Nil when there is none.
    public static func of(_ pid: Int32) -> ProcessIdentity? {
        ProcessStatus.of(pid).map { ProcessIdentity(pid: pid, startTime: $0.startTime) }
    }

    public static var current: ProcessIdentity? { of(getpid()) }

    /// Runs or sleeps: neither gone nor a zombie.
    public var isAlive: Bool {
        guard let status = ProcessStatus.of(pid), status.startTime == startTime else { return false }
        return status.state != "Z" && status.state != "X"
    }

    /// Signals exactly this process. False when it has ended, even if another has its number now.
    @discardableResult
    public func signal(_ number: Int32) -> Bool {
        let raw = clinux_pidfd_open(pid)
        guard raw >= 0 else { return false }
        let pidfd = Descriptor(owning: raw)
        // The pidfd pins whoever has the number; only now does the comparison hold.
        guard isAlive else { return false }
        return clinux_pidfd_send_signal(pidfd.raw, number) == 0
    }

    /// Signals every process of the session that this process leads, also when the leader itself has ended.
    ///
    /// The kernel gives the number of a session to no new process while the session has members, so members of a
    /// session with our number are ours unless a process with that number and another start exists.
    public func signalSession(_ number: Int32) {
        for member in sessionMembers() { member.signal(number) }
    }

    /// The living processes of the session that this process leads or led.
    public func sessionMembers() -> [ProcessIdentity] {
        if let leader = ProcessStatus.of(pid), leader.startTime != startTime { return [] }
        return runningProcesses().compactMap { other in
            guard let status = ProcessStatus.of(other), status.session == pid, status.state != "Z" else { return nil }
            return ProcessIdentity(pid: other, startTime: status.startTime)
        }
    }

    /// Suspends until the process has ended, which it may have long ago. For processes that are not children, such as
    /// those a restarted agent finds again; their status is not known.
    public func waitForExit() async throws {
        let raw = clinux_pidfd_open(pid)
        if raw == -ESRCH { return }
        let pidfd = Descriptor(owning: try checked(raw, "Process \(pid) could not be watched"))
        guard isAlive else { return }
        let exit = ExitFuture()
        try ExitWatcher.shared.watch(pidfd, exit)
        _ = try await exit.wait()
    }
}

/// What /proc/PID/stat says of a process.
public struct ProcessStatus: Hashable, Sendable {
    public var command: String
    /// One letter: R, S, D, Z (ended, not reaped), T, X, I.
    public var state: Character
    public var parent: Int32
    public var processGroup: Int32
    public var session: Int32
    /// Clock ticks since boot.
    public var startTime: UInt64

    /// Nil when no process has `pid`.
    public static func of(_ pid: Int32) -> ProcessStatus? {
        guard let text = try? readText("/proc/\(pid)/stat") else { return nil }
        return ProcessStatus(parsing: text)
    }

    init?(parsing text: String) {
        // The command is in parentheses and may itself contain parentheses and spaces; only the last ")" counts.
        guard let open = text.firstIndex(of: "("), let close = text.lastIndex(of: ")"), open < close else { return nil }
        let fields = text[text.index(after: close)...].split(separator: " ")
        guard fields.count >= 20, let state = fields[0].first, let parent = Int32(fields[1]),
            let group = Int32(fields[2]), let session = Int32(fields[3]), let startTime = UInt64(fields[19])
        else { return nil }
        command = String(text[text.index(after: open)..<close])
        self.state = state
        self.parent = parent
        processGroup = group
        self.session = session
        self.startTime = startTime
    }
}

/// The numbers of all processes that this one can see, ascending.
public func runningProcesses() -> [Int32] {
    directoryEntries("/proc").compactMap { Int32($0) }.sorted()
}

/// The names in a directory without "." and "..", in no order; empty when it cannot be read.
public func directoryEntries(_ path: String) -> [String] {
    guard let directory = opendir(path) else { return [] }
    defer { closedir(directory) }
    var names: [String] = []
    while let entry = readdir(directory) {
        let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
            pointer.withMemoryRebound(to: CChar.self, capacity: MemoryLayout.size(ofValue: pointer.pointee)) {
                String(cString: $0)
            }
        }
        if name != "." && name != ".." { names.append(name) }
    }
    return names
}
