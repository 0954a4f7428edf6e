import Base
import Glibc
import HTTPKit
import LinuxOS
import NIOHTTP1
import TestKit
import Testing

/// Python clients of PyPI that look for masters in ZooKeeper, against real masters and a real ensemble.
@Suite(.serialized) struct ZooKeeperClientTests {
    /// Two masters and an agent on ports of 127.0.0.1.
    private struct Cluster {
        let directory: TemporaryDirectory
        let ensemble: ZooKeeperEnsemble
        let place: String
        var masters: [Int: HoldfastProcess] = [:]
        let agent: HoldfastProcess

        init() async throws {
            directory = try TemporaryDirectory()
            ensemble = try await ZooKeeperEnsemble()
            place = "\(ensemble.servers)/mesos"
            for _ in 1...2 {
                let port = try freePort()
                masters[port] = try HoldfastProcess(
                    [
                        "master", "--ip=127.0.0.1", "--port=\(port)", "--zk=zk://\(place)", "--quorum=1",
                        "--zk_session_timeout=4secs", "--work_dir=\(directory.file("master\(port)"))",
                    ], log: directory.file("master\(port).log"))
            }
            agent = try HoldfastProcess(
                [
                    "agent", "--master=zk://\(place)", "--ip=127.0.0.1", "--port=\(try freePort())",
                    "--work_dir=\(directory.file("agent"))", "--runtime_dir=\(directory.file("run"))",
                ], log: directory.file("agent.log"))
        }

        /// The port of the master that leads and knows the agent.
        func leader() async throws -> Int {
            try await eventually("a master leads and knows the agent", within: .seconds(60)) {
                for port in masters.keys {
                    let address = HTTPAddress.tcp(host: "127.0.0.1", port: port)
                    // Others than the leader send us on.
                    let reply = try? await HTTPCaller().call(.GET, address, "/slaves", deadline: .seconds(2))
                    if let reply, reply.status == 200, try reply.json()["slaves"]?.array?.count == 1 { return port }
                }
                return nil
            }
        }

        mutating func killLeader() async throws {
            let port = try await leader()
            try await masters.removeValue(forKey: port)?.kill()
        }
    }

    @Test(.timeLimit(.minutes(5))) func kazooAndAvmesosFindTheLeaderBeforeAndAfterAFailover() async throws {
        // avmesos brings its kazoo.
        let environment = try await PythonEnvironment("python3", ["avmesos==0.4.2"])
        var cluster = try await Cluster()
        for _ in 1...2 {
            let leader = try await cluster.leader()
            let seen = try await environment.run("zookeeper_reader.py", [cluster.place])
            #expect(seen.isSuccess, "\(seen.outputText)\(seen.errorText)")
            #expect(seen.outputText == "127.0.0.1:\(leader)\n")
            let result = try await environment.run("avmesos_framework.py", ["zk://\(cluster.place)"])
            #expect(result.isSuccess, "\(result.outputText)\(result.errorText)\(cluster.agent.log)")
            if cluster.masters.count > 1 { try await cluster.killLeader() }
        }
    }

    @Test(.enabled(if: PythonEnvironment.oldPython != nil, "there is no Python 3.6 to 3.9"), .timeLimit(.minutes(5)))
    func aFrameworkOfPymesosOutlivesItsMaster() async throws {
        let python = try #require(PythonEnvironment.oldPython)
        let environment = try await PythonEnvironment(python, ["pymesos==0.3.15"])
        var cluster = try await Cluster()
        _ = try await cluster.leader()
        let output = cluster.directory.file("framework.txt")
        let input = try Descriptor.pipe()
        var request = ChildProcess.Request(
            environment.command("pymesos_failover.py", ["zk://\(cluster.place)"]))
        request.standardInput = .descriptor(input.reading)
        request.standardOutput = .append(output)
        request.standardError = .append(output)
        let framework = try ChildProcess.spawn(request)
        defer { framework.signalSession(SIGKILL) }
        try await eventually("the framework's task runs", within: .seconds(90)) {
            try readText(output).contains("running")
        }
        try await cluster.killLeader()
        #expect(write(input.writing.raw, "\n", 1) == 1)
        let status = try await eventually("the framework's end", within: .seconds(150)) { framework.exitStatus }
        #expect(status.isSuccess, "\((try? readText(output)) ?? "")\(cluster.agent.log)")
    }
}
