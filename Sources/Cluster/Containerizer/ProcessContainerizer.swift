public import AgentCore
import Base
import Glibc
import LinuxOS
public import MesosAPI

/// Runs commands as plain processes, each in a session of its own under a keeper (`holdfast-task`) that outlives the
/// agent.
///
/// Isolates nothing, as Mesos' default `posix/cpu,posix/mem` does not. Containers with an image are not supported.
public struct ProcessContainerizer: Containerizer {
    public let name = "mesos"
    private let keeper: String

    /// - Parameter launcherDirectory: where `holdfast-task` is; nil for the directory of this process's own program.
    public init(launcherDirectory: String?) {
        let directory = launcherDirectory ?? ProcessContainerizer.ownDirectory()
        keeper = "\(directory)/holdfast-task"
    }

    private static func ownDirectory() -> String {
        guard let path = realpath("/proc/self/exe", nil) else { return "/usr/bin" }
        defer { free(path) }
        let text = String(cString: path)
        return text.lastIndex(of: "/").map { String(text[..<$0]) } ?? "/usr/bin"
    }

    public func supports(_ container: MesosContainerInfo?) -> Bool {
        guard let container else { return true }
        return container.type == .mesos && !(container.hasMesos && container.mesos.hasImage)
            && container.volumes.isEmpty
    }

    // MARK: Life

    public func launch(_ spec: ContainerSpec) async throws(ContainerizerError) -> ContainerReport {
        guard !spec.words[0].isEmpty else {
            throw ContainerizerError(.invalidRequest, "The command has neither a value nor arguments.")
        }
        var arguments = [
            keeper, "--state", spec.stateDirectory, "--directory", spec.sandbox, "--stdout", "\(spec.sandbox)/stdout",
            "--stderr", "\(spec.sandbox)/stderr",
        ]
        let user = spec.command.hasUser ? spec.command.user : spec.user
        if let user, !user.isEmpty { arguments += ["--user", user] }
        if !spec.command.shell, !spec.command.value.isEmpty { arguments += ["--program", spec.command.value] }
        arguments.append("--")
        arguments += spec.words
        var environment = Dictionary(
            spec.environment.map { ($0.name, $0.value) }, uniquingKeysWith: { _, last in last })
        if environment["PATH"] == nil {
            environment["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        }
        let result: CommandResult
        do {
            result = try await runCommand(
                arguments, environment: environment, workingDirectory: spec.sandbox, deadline: .seconds(30))
        } catch {
            await endKeeper(spec, patience: .milliseconds(500))
            throw ContainerizerError(.launchFailed, "Failed to launch the command's keeper", cause: error)
        }
        guard result.isSuccess, let process = KeptProcess(stateDirectory: spec.stateDirectory) else {
            // One that exited has said what its keeper did; one that was killed has left that open.
            let patience: Duration = if case .exited = result.status { .zero } else { .milliseconds(500) }
            await endKeeper(spec, patience: patience)
            throw ContainerizerError(.launchFailed, "Failed to launch the command: \(result.errorText)")
        }
        if Task.isCancelled {
            process.keeper.signal(SIGUSR1)
            throw ContainerizerError(.launchFailed, "The command was ended while it was launched.")
        }
        return process.report
    }

    /// Ends a command whose launch failed. Its keeper is in a session of its own, which the launcher's end does not
    /// reach, and may not have written down its number yet. Runs to its end also in a cancelled task.
    private func endKeeper(_ spec: ContainerSpec, patience: Duration) async {
        let end = ContinuousClock.now + patience
        do {
            try await offPool {
                while true {
                    if let process = KeptProcess(stateDirectory: spec.stateDirectory) {
                        process.keeper.signal(SIGUSR1)
                        return
                    }
                    guard ContinuousClock.now < end else { return }
                    usleep(20_000)
                }
            }
        } catch {
            KeptProcess(stateDirectory: spec.stateDirectory)?.keeper.signal(SIGUSR1)
        }
    }

    public func recover(_ spec: ContainerSpec) async throws(ContainerizerError) -> RecoveredState.Container {
        var process = KeptProcess(stateDirectory: spec.stateDirectory)
        // The agent may have been ended between starting the keeper and the keeper's writing down of its number.
        for _ in 0..<10 where process == nil {
            try? await Task.sleep(for: .milliseconds(50))
            process = KeptProcess(stateDirectory: spec.stateDirectory)
        }
        guard let process else { return .neverStarted }
        if process.keeper.isAlive { return .running(process.report) }
        return .exited(process.exit())
    }

    public func followOutput(_ spec: ContainerSpec) async {}

    public func wait(_ spec: ContainerSpec) async throws(ContainerizerError) -> ContainerExit {
        guard let process = KeptProcess(stateDirectory: spec.stateDirectory) else {
            return .unknown(message: "The command's process is not known")
        }
        do {
            try await process.keeper.waitForExit()
        } catch {
            throw ContainerizerError(.system, "The command's keeper cannot be watched", cause: error)
        }
        return process.exit()
    }

    public func stop(_ spec: ContainerSpec, grace: Duration) async throws(ContainerizerError) {
        guard let process = KeptProcess(stateDirectory: spec.stateDirectory) else { return }
        if grace > .zero, process.keeper.signal(SIGTERM) {
            let ended = await withTaskGroup(of: Bool.self) { group in
                group.addTask { (try? await process.keeper.waitForExit()) != nil }
                group.addTask {
                    try? await Task.sleep(for: grace)
                    return false
                }
                let first = await group.next() ?? false
                group.cancelAll()
                return first
            }
            if ended || Task.isCancelled { return }
        }
        process.keeper.signal(SIGUSR1)
    }

    public func remove(_ spec: ContainerSpec) async throws(ContainerizerError) {}

    public func execute(_ spec: ContainerSpec, _ command: MesosCommandInfo, deadline: Duration) async throws -> Int? {
        var environment = Dictionary(
            spec.environment.map { ($0.name, $0.value) }, uniquingKeysWith: { _, last in last })
        for variable in command.environment.variables { environment[variable.name] = variable.value }
        let words =
            command.shell
            ? ["/bin/sh", "-c", command.value]
            : (command.arguments.isEmpty ? [command.value] : command.arguments)
        do {
            let result = try await runCommand(
                words, environment: environment, workingDirectory: spec.sandbox, deadline: deadline)
            switch result.status {
            case .exited(let status): return Int(status)
            case .signaled(let number): return 128 + Int(number)
            case .unknown: return -1
            }
        } catch let error as LinuxError where error.code == .timedOut {
            return nil
        }
    }

    // MARK: Statistics

    public func statistics(_ spec: ContainerSpec) async -> MesosResourceStatistics? {
        guard let process = KeptProcess(stateDirectory: spec.stateDirectory) else { return nil }
        return try? await offPool { process.statistics(spec) }
    }
}

/// A command and its keeper, as the keeper has written them down.
struct KeptProcess: Sendable {
    let keeper: ProcessIdentity
    let task: ProcessIdentity
    private let stateDirectory: String

    init?(stateDirectory: String) {
        guard let text = try? readText("\(stateDirectory)/pid") else { return nil }
        let fields = text.split(separator: " ").map(String.init)
        guard fields.count == 4, let keeper = Int32(fields[0]), let keeperStart = UInt64(fields[1]),
            let task = Int32(fields[2]), let taskStart = UInt64(fields[3])
        else { return nil }
        self.keeper = ProcessIdentity(pid: keeper, startTime: keeperStart)
        self.task = ProcessIdentity(pid: task, startTime: taskStart)
        self.stateDirectory = stateDirectory
    }

    var report: ContainerReport { ContainerReport(pid: UInt32(task.pid)) }

    /// How the command ended, its keeper being gone.
    func exit() -> ContainerExit {
        guard let text = try? readText("\(stateDirectory)/exit") else {
            // The keeper was killed: nobody watches what is left of the task any more.
            task.signalSession(SIGKILL)
            return .unknown(message: "The command's process was gone, and its keeper could not tell how it ended")
        }
        let fields = text.split(separator: " ", maxSplits: 1).map(String.init)
        switch (fields.first, fields.dropFirst().first) {
        case ("exited"?, let status?): return .exited(status: Int32(status) ?? -1)
        case ("signaled"?, let number?): return .signaled(Int32(number) ?? SIGKILL)
        case ("failed"?, _): return .exited(status: 127)
        default: return .unknown(message: "The exit status of the command is unreadable")
        }
    }

    func statistics(_ spec: ContainerSpec) -> MesosResourceStatistics {
        var statistics = MesosResourceStatistics()
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        statistics.timestamp = Double(now.tv_sec) + Double(now.tv_nsec) / 1e9
        if let cpus = spec.scalar("cpus") { statistics.cpusLimit = cpus }
        if let memory = spec.scalar("mem") { statistics.memLimitBytes = UInt64(max(0, memory) * 1_048_576) }
        let ticks = Double(sysconf(Int32(_SC_CLK_TCK)))
        let pageSize = UInt64(sysconf(Int32(_SC_PAGESIZE)))
        var user = 0.0
        var system = 0.0
        var resident: UInt64 = 0
        let members = task.sessionMembers()
        for member in members {
            guard let text = try? readText("/proc/\(member.pid)/stat"), let close = text.lastIndex(of: ")") else {
                continue
            }
            let fields = text[text.index(after: close)...].split(separator: " ")
            guard fields.count > 21 else { continue }
            user += (Double(fields[11]) ?? 0) / ticks
            system += (Double(fields[12]) ?? 0) / ticks
            resident += (UInt64(fields[21]) ?? 0) * pageSize
        }
        statistics.cpusUserTimeSecs = user
        statistics.cpusSystemTimeSecs = system
        statistics.memRssBytes = resident
        statistics.processes = UInt32(members.count)
        return statistics
    }
}
