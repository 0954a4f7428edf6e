import Base
import Glibc
import HTTPKit
import LinuxOS
import NIOHTTP1
import TestKit
import Testing

/// The `marathon` client of PyPI, installed by the test itself, against a real master, agent and Marathon.
@Suite struct MarathonClientTests {
    @Test(.timeLimit(.minutes(5))) func createsScalesKillsAndDeletes() async throws {
        let directory = try TemporaryDirectory()
        let environment = directory.file("venv")
        _ = try await runChecked(["python3", "-m", "venv", environment], deadline: .seconds(60))
        _ = try await runChecked(
            ["\(environment)/bin/pip", "-q", "install", "marathon==0.13.0"], deadline: .seconds(120))

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
        let tests = #filePath.split(separator: "/").dropLast(2).reduce("") { "\($0)/\($1)" }
        let script = "\(tests)/Clients/marathon_client.py"
        let result = try await runCommand(
            ["\(environment)/bin/python", script, "http://127.0.0.1:\(marathon)"], deadline: .seconds(120))
        #expect(
            result.isSuccess, "\(result.outputText)\(result.errorText)\n\(processes.map(\.log).joined(separator: "\n"))"
        )
        for process in processes.reversed() { try await process.stop() }
    }

    /// A port that nobody has; another process may take it before it is used, which ends the test with an error.
    private func freePort() throws -> Int {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = in_addr_t(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let isBound = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
                bind(descriptor, pointer, length) == 0 && getsockname(descriptor, pointer, &length) == 0
            }
        }
        try #require(isBound)
        return Int(UInt16(bigEndian: address.sin_port))
    }
}
