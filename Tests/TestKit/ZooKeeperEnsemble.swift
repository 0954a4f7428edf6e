import Glibc
import HTTPKit
import Lab
import LinuxOS

/// Real ZooKeeper servers as children of a test, on ports of 127.0.0.1, gone when the last reference goes, and when the
/// test's process ends in whatever way.
public actor ZooKeeperEnsemble {
    /// `host:port,host:port`.
    public nonisolated let servers: String
    private let directory: TemporaryDirectory
    private let members: [ZooKeeperServer.Member]
    private var processes: [Int: ChildProcess] = [:]
    /// The servers' shells end when the other end of their input goes.
    private let lifeline: (reading: Descriptor, writing: Descriptor)

    /// Starts `count` servers and waits until they serve.
    public init(_ count: Int = 1) async throws {
        directory = try TemporaryDirectory()
        lifeline = try Descriptor.pipe()
        members = try (1...count).map { id in
            ZooKeeperServer.Member(
                id: id, address: "127.0.0.1", clientPort: try freePort(), quorumPort: try freePort(),
                electionPort: try freePort())
        }
        servers = members.map { "\($0.address):\($0.clientPort)" }.joined(separator: ",")
        for number in 1...count { try await launch(number) }
        for number in 1...count { try await waitUntilServing(number) }
    }

    // The shells, whose input ends with this object, kill the servers and remove the directory; stopped ones go on.
    deinit { for process in processes.values { process.signalSession(SIGCONT) } }

    /// Numbers count from 1.
    public func start(_ number: Int) async throws {
        try await launch(number)
        try await waitUntilServing(number)
    }

    /// Without waiting until it serves.
    public func launch(_ number: Int) async throws {
        let own = directory.file("zk\(number)")
        let server = ZooKeeperServer(members[number - 1], of: members, directory: own)
        try await server.prepare()
        let script = "dir=$1; shift; \"$@\" & server=$!; read line; kill -9 $server; rm -rf \"$dir\""
        var request = ChildProcess.Request(["sh", "-c", script, "zookeeper", directory.path] + server.command)
        request.standardInput = .descriptor(lifeline.reading)
        request.standardOutput = .append("\(own)/console.log")
        request.standardError = .append("\(own)/console.log")
        processes[number] = try ChildProcess.spawn(request)
    }

    public func kill(_ number: Int) async throws {
        guard let process = processes.removeValue(forKey: number) else { return }
        process.signalSession(SIGKILL)
        _ = try await process.wait()
    }

    public func pause(_ number: Int) { processes[number]?.signalSession(SIGSTOP) }
    public func resume(_ number: Int) { processes[number]?.signalSession(SIGCONT) }

    /// What the server answers to one of its four-letter commands.
    public nonisolated func query(_ number: Int, _ command: String) async throws -> String {
        let connection = try RawConnection(.tcp(host: "127.0.0.1", port: members[number - 1].clientPort))
        try await connection.send(command)
        return String(decoding: try await connection.receiveAll(), as: UTF8.self)
    }

    public func waitUntilServing(_ number: Int) async throws {
        try await eventually("ZooKeeper \(number) serves", within: .seconds(60), every: .milliseconds(100)) {
            try await query(number, "srvr").contains("Mode:")
        }
    }
}
