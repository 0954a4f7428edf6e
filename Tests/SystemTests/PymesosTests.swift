import Base
import HTTPKit
import LinuxOS
import NIOHTTP1
import TestKit
import Testing

/// The genuine Python client against a master and an agent as processes.
@Suite(.serialized) struct PymesosTests {
    /// `Tests/Clients`, seen from this file.
    private static let clients = #filePath.split(separator: "/").dropLast(2).reduce("") { "\($0)/\($1)" } + "/Clients"

    /// An interpreter with pymesos, installed on the first use; nil where there is none to be had (no old Python, no network).
    private static func python() async throws -> String? {
        let environment = "/tmp/holdfast-pymesos-venv"
        let interpreter = environment + "/bin/python"
        if let probe = try? await runCommand([interpreter, "-c", "import pymesos"]), probe.isSuccess {
            return interpreter
        }
        let find = "ls -d $HOME/.pyenv/versions/3.[6789].*/bin/python /usr/bin/python3.[6789] 2>/dev/null | tail -1"
        let found = try await runCommand(["/bin/sh", "-c", find]).outputText.split(separator: "\n").first
        guard let found else { return nil }
        guard try await runCommand([String(found), "-m", "venv", environment]).isSuccess else { return nil }
        let install = try await runCommand(
            [interpreter, "-m", "pip", "install", "--quiet", "pymesos==0.3.15"], deadline: .seconds(180))
        return install.isSuccess ? interpreter : nil
    }

    @Test func aCommandTaskRunsAndAnotherIsKilled() async throws {
        guard let python = try await Self.python() else { return }
        let directory = try TemporaryDirectory()
        let master = try HoldfastProcess(
            ["master", "--ip=127.0.0.1", "--port=25050", "--work_dir=\(directory.file("master"))"],
            log: directory.file("master.log"))
        let address = HTTPAddress.tcp(host: "127.0.0.1", port: 25050)
        try await eventually("the master leads") {
            try await HTTPCaller().call(.GET, address, "/state").status == 200
        }
        let agent = try HoldfastProcess(
            [
                "agent", "--master=127.0.0.1:25050", "--ip=127.0.0.1", "--port=25051",
                "--work_dir=\(directory.file("agent"))", "--runtime_dir=\(directory.file("run"))",
            ], log: directory.file("agent.log"))
        try await eventually("the agent is registered") {
            try await HTTPCaller().call(.GET, address, "/slaves").json()["slaves"]?.array?.count == 1
        }
        let result = try await runCommand(
            [python, Self.clients + "/pymesos_framework.py", "127.0.0.1:25050"], deadline: .seconds(120))
        #expect(result.isSuccess, "\(result.outputText) \(result.errorText) \(agent.log)")
        let slaves = try await HTTPCaller().call(.GET, address, "/slaves").json()
        #expect(slaves["slaves"]?[0]?["used_resources"]?["cpus"] == 0.0)
        _ = try await agent.stop()
        _ = try await master.stop()
    }
}
