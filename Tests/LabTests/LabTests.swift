import Glibc
import Lab
import LinuxOS
import TestKit
import Testing

/// Machines without roles and without Docker: what the lab itself promises.
@Suite(.serialized, .enabled(if: getuid() == 0), .timeLimit(.minutes(3))) struct LabTests {
    /// Far from the networks that people use by hand.
    static let index = 61

    @Test func machinesAreSeparateReachableAndMortal() async throws {
        let directory = try TemporaryDirectory()
        let lab = Lab(directory: directory.file("lab"))
        var plan = Lab.Plan(nodes: 2, executable: HoldfastProcess.executable)
        plan.index = Self.index
        plan.nodeTemplate = "roles: {}\n"
        plan.runsDocker = false
        // As a lab leaves it whose machines were all killed from outside.
        try await runChecked(["ip", "link", "add", "hf\(Self.index)", "type", "bridge"])
        try await lab.up(plan)
        do {
            try await check(lab, plan)
        } catch {
            try? await lab.down()
            throw error
        }
        try await lab.down()
        #expect(try await !runCommand(["ip", "link", "show", "hf\(Self.index)"]).isSuccess)
        #expect(throws: LabError.self) { try lab.state() }
        #expect(directoryEntries(lab.directory) == ["lab.lock"])
    }

    private func check(_ lab: Lab, _ plan: Lab.Plan) async throws {
        #expect(try await lab.run("node1", ["hostname"]).outputText == "node1\n")
        let second = try lab.state().address(of: 2)
        let ping = ["busybox", "ping", "-c", "1", "-W", "1", second]
        #expect(try await lab.run("node1", ping).isSuccess)
        #expect(try await runCommand(ping).isSuccess)
        await #expect(throws: LabError.self) { try await lab.up(plan) }
        let other = Lab(directory: lab.directory + "-other")
        await #expect(throws: LabError.self) { try await other.up(plan) }

        try await lab.partition("node1", from: "node2", oneWay: true)
        #expect(try await !lab.run("node1", ping).isSuccess)
        #expect(try await runCommand(ping).isSuccess)
        try await lab.heal()
        #expect(try await lab.run("node1", ping).isSuccess)

        // A supervised process comes back after a crash; everything dies with the machine.
        let first = try await nodeProcess(lab)
        try await lab.crash("node2", role: "sds")
        let second2 = try await eventually("the node process starts again") {
            let process = try await nodeProcess(lab)
            return process == first ? nil : process
        }
        #expect(second2 != first)
        let machine = try #require(try lab.state().nodes[1].initProcess)
        try await lab.kill("node2")
        #expect(!machine.isAlive)
        #expect(try await !runCommand(ping).isSuccess)
        await #expect(throws: LabError.self) { try await lab.kill("node2") }
        try await lab.start("node2")
        try await eventually("node2 answers again") { try await runCommand(ping).isSuccess }
    }

    /// The number of the `holdfast node` process inside node2.
    private func nodeProcess(_ lab: Lab) async throws -> String {
        try await eventually("a node process runs") {
            let found = try await lab.run("node2", ["pgrep", "-f", "holdfast node --config"]).outputText
            return found.isEmpty ? nil : found
        }
    }
}
