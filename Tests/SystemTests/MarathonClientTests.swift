import Base
import HTTPKit
import LinuxOS
import NIOHTTP1
import TestKit
import Testing

/// The `marathon` client of PyPI, installed by the test itself, against a real master, agent and Marathon.
@Suite struct MarathonClientTests {
    @Test(.timeLimit(.minutes(5))) func createsScalesKillsAndDeletes() async throws {
        let directory = try TemporaryDirectory()
        let environment = try await PythonEnvironment("python3", ["marathon==0.13.0"])

        let (master, agent, marathon) = (try freePort(), try freePort(), try freePort())
        let processes = try [
            HoldfastProcess(
                ["master", "--ip=127.0.0.1", "--port=\(master)", "--work_dir=\(directory.file("master"))"],
                log: directory.file("master.log")),
            HoldfastProcess(
                [
                    "agent", "--master=127.0.0.1:\(master)", "--ip=127.0.0.1", "--port=\(agent)",
                    "--work_dir=\(directory.file("agent"))",
                    "--resources=cpus:4;mem:1024;disk:1024;ports:[31000-31100]",
                ], log: directory.file("agent.log")),
            HoldfastProcess(
                [
                    "marathon", "--master", "127.0.0.1:\(master)", "--http_port", "\(marathon)", "--http_address",
                    "127.0.0.1", "--hostname", "127.0.0.1", "--store", "embedded:\(directory.file("marathon.db"))",
                ], log: directory.file("marathon.log")),
        ]
        let caller = HTTPCaller()
        try await eventually("Marathon's answer") {
            try await caller.call(.GET, .tcp(host: "127.0.0.1", port: marathon), "/ping").isSuccess
        }
        let result = try await environment.run("marathon_client.py", ["http://127.0.0.1:\(marathon)"])
        #expect(
            result.isSuccess, "\(result.outputText)\(result.errorText)\n\(processes.map(\.log).joined(separator: "\n"))"
        )
        for process in processes.reversed() { try await process.stop() }
    }
}
