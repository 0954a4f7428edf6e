import Glibc
import TestKit
import Testing

@testable import LinuxOS

@Suite(.timeLimit(.minutes(1))) struct ChildProcessTests {
    let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    private func spawn(_ script: String, _ change: (inout ChildProcess.Request) -> Void = { _ in }) throws
        -> ChildProcess
    {
        var request = ChildProcess.Request(["/bin/sh", "-c", script])
        request.standardOutput = .append(directory.file("out"))
        request.standardError = .append(directory.file("err"))
        change(&request)
        return try ChildProcess.spawn(request)
    }

    @Test func tellsHowItEnded() async throws {
        #expect(try await spawn("exit 7").wait() == .exited(7))
        #expect(try await spawn("kill -TERM $$").wait() == .signaled(SIGTERM))
        let ended = try spawn("exit 0")
        _ = try await ended.wait()
        #expect(ended.exitStatus == .exited(0))
        #expect(!ended.signal(SIGKILL))
    }

    @Test func givesTheRequestedSurroundings() async throws {
        let child = try spawn("pwd; echo $NAME; cat /proc/$$/stat; echo oops >&2; ls /proc/$$/fd") {
            $0.workingDirectory = directory.path
            $0.environment = ["NAME": "a b", "PATH": "/usr/bin:/bin"]
        }
        #expect(try await child.wait() == .exited(0))
        let lines = try readText(directory.file("out")).split(separator: "\n").map(String.init)
        #expect(lines[0] == directory.path)
        #expect(lines[1] == "a b")
        // Fields 5 and 6: process group and session are its own.
        #expect(lines[2].split(separator: " ")[4...5] == ["\(child.pid)", "\(child.pid)"])
        #expect(lines[3...] == ["0", "1", "2"])
        #expect(try readText(directory.file("err")) == "oops")
    }

    @Test func leaksNoDescriptorsEvenThoseWithoutCloseOnExec() async throws {
        let leaky = dup(2)
        defer { close(leaky) }
        let child = try spawn("ls /proc/self/fd | wc -l")
        _ = try await child.wait()
        // ls has 0, 1, 2 and the directory it lists.
        #expect(try readText(directory.file("out")) == "4")
    }

    @Test func runsAsAnotherUser() async throws {
        let child = try spawn("id -u; id -g; id -G") {
            $0.user = (65534, 65534)
            $0.standardOutput = .append(directory.file("id"))
        }
        #expect(try await child.wait() == .exited(0))
        #expect(try readText(directory.file("id")) == "65534\n65534\n65534")
        #expect(getuid() == 0)
    }

    @Test func saysWhyAProgramDoesNotStart() throws {
        for arguments in [["/no/such/program"], ["no-such-program"], ["/etc"], [], [""]] {
            #expect(throws: LinuxError.self) { try ChildProcess.spawn(.init(arguments)) }
        }
    }

    @Test func waitingCanBeCancelled() async throws {
        let child = try spawn("exec sleep 1000")
        defer { child.signalSession(SIGKILL) }
        await #expect(throws: CancellationError.self) {
            try await withThrowingTaskGroup(of: ExitStatus.self) { group in
                group.addTask { try await child.wait() }
                group.cancelAll()
                return try await group.next()
            }
        }
        #expect(child.exitStatus == nil)
    }

    @Test func killsTheWholeSessionAlsoAfterItsLeaderIsGone() async throws {
        // The grandchild has its own process group, so that only the session connects it to the leader.
        let child = try spawn("setsid -w true; set -m; sleep 1000 & echo $! > \(directory.file("pid"))")
        #expect(try await child.wait() == .exited(0))
        let grandchild = try #require(Int32(readText(directory.file("pid"))))
        let identity = try #require(ProcessIdentity.of(grandchild))
        #expect(identity.isAlive)
        child.signalSession(SIGKILL)
        try await eventually("the grandchild's death") { !identity.isAlive }
    }

    @Test func manyChildrenAtOnceLeaveNoZombies() async throws {
        let children = try (0..<50).map { index in try spawn("exit \(index)") }
        for (index, child) in children.enumerated() {
            #expect(try await child.wait() == .exited(Int32(index)))
            #expect(ProcessStatus.of(child.pid).map { $0.parent == getpid() } != true)
        }
    }
}

@Suite(.timeLimit(.minutes(1))) struct ProcessIdentityTests {
    @Test func neverSignalsAnotherProcessWithTheSameNumber() async throws {
        let child = try ChildProcess.spawn(.init(["sleep", "1000"]))
        defer { child.signalSession(SIGKILL) }
        var stranger = child.identity
        stranger.startTime -= 1
        #expect(!stranger.isAlive)
        #expect(!stranger.signal(SIGKILL))
        stranger.signalSession(SIGKILL)
        #expect(child.identity.isAlive)
        #expect(child.identity.signal(SIGTERM))
        #expect(try await child.wait() == .signaled(SIGTERM))
        #expect(!child.identity.isAlive)
    }

    @Test func waitsForProcessesThatAreNotChildren() async throws {
        let directory = try TemporaryDirectory()
        let parent = try ChildProcess.spawn(
            .init(["/bin/sh", "-c", "sleep 1000 & echo $! > \(directory.file("pid"))"]))
        _ = try await parent.wait()
        let pid = try #require(Int32(readText(directory.file("pid"))))
        let orphan = try #require(ProcessIdentity.of(pid))
        async let ended: Void = orphan.waitForExit()
        orphan.signal(SIGKILL)
        try await ended
        #expect(!orphan.isAlive)
        try await orphan.waitForExit()
    }

    @Test func readsStatusLinesWithAnyCommandName() throws {
        let line = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 0 0"
        let status = try #require(ProcessStatus(parsing: line))
        #expect(status.command == "a) b (c)")
        #expect(status.state == "S")
        #expect(status.startTime == 987654)
        #expect(ProcessStatus(parsing: "garbage") == nil)
        #expect(ProcessStatus(parsing: "1 (x) S 1") == nil)
    }
}

@Suite(.timeLimit(.minutes(1))) struct RunCommandTests {
    @Test func feedsInputAndCollectsOutput() async throws {
        let big = [UInt8](repeating: 65, count: 1 << 20)
        let result = try await runCommand(["cat"], input: big)
        #expect(result.isSuccess)
        #expect(result.output == big)
        let failed = try await runCommand(["sh", "-c", "echo out; echo err >&2; exit 3"])
        #expect(failed.status == .exited(3))
        #expect(failed.outputText == "out\n")
        #expect(failed.errorText == "err\n")
        await #expect(throws: LinuxError.self) { try await runChecked(["false"]) }
    }

    @Test func killsWhatDoesNotEndInTime() async throws {
        let directory = try TemporaryDirectory()
        let pidFile = directory.file("pid")
        await #expect(throws: LinuxError.self) {
            try await runCommand(
                ["sh", "-c", "sleep 1000 & echo $! > \(pidFile); sleep 1000"], deadline: .milliseconds(500))
        }
        if let pid = (try? readText(pidFile)).flatMap({ Int32($0) }), let left = ProcessIdentity.of(pid) {
            try await eventually("the death of the offspring") { !left.isAlive }
        }
    }

    @Test func limitsOutputAndDoesNotWaitForOffspring() async throws {
        await #expect(throws: LinuxError.self) { try await runCommand(["yes"], outputLimit: 100_000) }
        let directory = try TemporaryDirectory()
        let result = try await runCommand(["sh", "-c", "sleep 1000 & echo $! > \(directory.file("pid")); echo done"])
        #expect(result.outputText == "done\n")
        ProcessIdentity.of(try #require(Int32(readText(directory.file("pid")))))?.signal(SIGKILL)
    }
}
