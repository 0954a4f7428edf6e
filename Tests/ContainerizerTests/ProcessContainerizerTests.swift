import AgentCore
import Base
import Containerizer
import Glibc
import LinuxOS
import MesosAPI
import TestKit
import Testing

@Suite struct ProcessContainerizerTests {
    private let directory: TemporaryDirectory
    private let containerizer = ProcessContainerizer(launcherDirectory: nil)

    init() throws { directory = try TemporaryDirectory() }

    private func spec(_ id: String, _ command: String) throws -> ContainerSpec {
        var info = MesosCommandInfo()
        info.value = command
        return ContainerSpec(
            id: id, command: info, environment: [("GREETING", "hello")], sandbox: try directory.directory("\(id)-box"),
            stateDirectory: try directory.directory("\(id)-state"))
    }

    @Test func outputAndStatusAreKept() async throws {
        let spec = try spec("c", "echo $GREETING; echo oops >&2; exit 3")
        let report = try await containerizer.launch(spec)
        #expect(report.pid != nil)
        #expect(try await containerizer.wait(spec) == .exited(status: 3))
        #expect(try readText("\(spec.sandbox)/stdout") == "hello")
        #expect(try readText("\(spec.sandbox)/stderr") == "oops")
        // Another process of the agent finds the same.
        guard case .exited(.exited(3)) = try await containerizer.recover(spec) else {
            Issue.record("the exit status was lost")
            return
        }
    }

    @Test func gentleEndReachesTheWholeSession() async throws {
        let spec = try spec("c", "trap 'echo bye; exit 0' TERM; setsid sleep 1000 & while true; do sleep 0.1; done")
        _ = try await containerizer.launch(spec)
        try await containerizer.stop(spec, grace: .seconds(10))
        #expect(try await containerizer.wait(spec) == .exited(status: 0))
        #expect(try readText("\(spec.sandbox)/stdout") == "bye")
        let left = runningProcesses().filter { pid in
            (try? readText("/proc/\(pid)/environ"))?.contains(spec.sandbox) == true
        }
        #expect(left.isEmpty)
    }

    @Test func stubbornTaskIsKilledAfterItsGrace() async throws {
        let spec = try spec("c", "trap '' TERM; while true; do sleep 0.1; done")
        _ = try await containerizer.launch(spec)
        try await containerizer.stop(spec, grace: .milliseconds(200))
        #expect(try await containerizer.wait(spec) == .signaled(SIGKILL))
    }

    @Test func runningTaskIsFoundAgain() async throws {
        let spec = try spec("c", "exec sleep 1000")
        let report = try await containerizer.launch(spec)
        guard case .running(let found) = try await containerizer.recover(spec) else {
            Issue.record("not found")
            return
        }
        #expect(found.pid == report.pid)
        try await containerizer.stop(spec, grace: .zero)
        #expect(try await containerizer.wait(spec) == .signaled(SIGKILL))
    }

    /// At whatever moment a launch is cancelled, nothing of it runs on.
    @Test func cancelledLaunchesLeaveNothing() async throws {
        let containerizer = containerizer
        try await withThrowingTaskGroup(of: Void.self) { group in
            for number in 0..<40 {
                let spec = try spec("c\(number)", "exec sleep 1000")
                group.addTask {
                    let launch = Task { try await containerizer.launch(spec) }
                    try await Task.sleep(for: .microseconds(250 * number))
                    launch.cancel()
                    if (try? await launch.value) != nil { try await containerizer.stop(spec, grace: .zero) }
                }
            }
            try await group.waitForAll()
        }
        let path = directory.path
        try await eventually("nothing runs on") {
            !runningProcesses().contains { pid in
                let environment = (try? readText("/proc/\(pid)/environ")) ?? ""
                let words = (try? readText("/proc/\(pid)/cmdline")) ?? ""
                return environment.contains(path) || words.contains(path)
            }
        }
    }

    @Test func programThatIsNotThereFails() async throws {
        var spec = try spec("c", "")
        spec.command.shell = false
        spec.command.value = "/nonexistent/program"
        _ = try await containerizer.launch(spec)
        #expect(try await containerizer.wait(spec) == .exited(status: 127))
        #expect(try readText("\(spec.sandbox)/stderr").contains("Failed to execute"))
    }

    @Test func whatNeverStartedIsKnownAsSuch() async throws {
        let spec = try spec("c", "true")
        guard case .neverStarted = try await containerizer.recover(spec) else {
            Issue.record("found something")
            return
        }
    }

    @Test func healthCommandsAnswerTheirStatus() async throws {
        let spec = try spec("c", "exec sleep 1000")
        _ = try await containerizer.launch(spec)
        var check = MesosCommandInfo()
        check.value = "test \"$GREETING\" = hello && exit 4"
        #expect(try await containerizer.execute(spec, check, deadline: .seconds(10)) == 4)
        check.value = "sleep 1000"
        #expect(try await containerizer.execute(spec, check, deadline: .milliseconds(100)) == nil)
        try await containerizer.stop(spec, grace: .zero)
    }
}
