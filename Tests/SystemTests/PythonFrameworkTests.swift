import Base
import HTTPKit
import LinuxOS
import NIOHTTP1
import TestKit
import Testing

/// Genuine Python clients of PyPI, installed by the tests themselves, against a master and an agent as processes.
@Suite(.serialized) struct PythonFrameworkTests {
    @Test(.enabled(if: PythonEnvironment.oldPython != nil, "there is no Python 3.6 to 3.9"), .timeLimit(.minutes(5)))
    func pymesosRunsTasks() async throws {
        try await run(
            "pymesos_framework.py", python: try #require(PythonEnvironment.oldPython), package: "pymesos==0.3.15")
    }

    @Test(.timeLimit(.minutes(5))) func avmesosRunsTasks() async throws {
        try await run("avmesos_framework.py", python: "python3", package: "avmesos==0.4.2")
    }

    /// One task that ends by itself and one that is killed, as the script sees them.
    private func run(_ script: String, python: String, package: String) async throws {
        let directory = try TemporaryDirectory()
        let environment = try await PythonEnvironment(python, [package])
        let (masterPort, agentPort) = (try freePort(), try freePort())
        let master = try HoldfastProcess(
            ["master", "--ip=127.0.0.1", "--port=\(masterPort)", "--work_dir=\(directory.file("master"))"],
            log: directory.file("master.log"))
        let address = HTTPAddress.tcp(host: "127.0.0.1", port: masterPort)
        try await eventually("the master leads") {
            try await HTTPCaller().call(.GET, address, "/state").status == 200
        }
        let agent = try HoldfastProcess(
            [
                "agent", "--master=127.0.0.1:\(masterPort)", "--ip=127.0.0.1", "--port=\(agentPort)",
                "--work_dir=\(directory.file("agent"))", "--runtime_dir=\(directory.file("run"))",
            ], log: directory.file("agent.log"))
        try await eventually("the agent is registered") {
            try await HTTPCaller().call(.GET, address, "/slaves").json()["slaves"]?.array?.count == 1
        }
        let result = try await environment.run(script, ["127.0.0.1:\(masterPort)"])
        #expect(result.isSuccess, "\(result.outputText) \(result.errorText) \(agent.log)")
        try await eventually("the tasks' resources are free") {
            let slaves = try await HTTPCaller().call(.GET, address, "/slaves").json()
            return slaves["slaves"]?[0]?["used_resources"]?["cpus"] == 0.0
        }
        _ = try await agent.stop()
        _ = try await master.stop()
    }
}
