import CLinux
import FoundationEssentials
import Glibc
import LinuxOS
public import Logging

/// The first process of a simulated machine, as systemd is of a real one: mounts what is the machine's own, starts
/// Docker, ZooKeeper and `holdfast node`, starts them again when they end, and reaps orphans. Its death is the machine's.
public struct Machine: Sendable {
    /// What the machine is, as the lab writes it for the first process to read.
    struct Description: Codable, Sendable {
        var number: Int
        var name: String
        var directory: String
        var executable: String
        var runsDocker: Bool
        /// The storage server's device is in `disk/device`, served by a `VolatileDisk`.
        var hasVolatileDisk: Bool
        var zooKeeper: ZooKeeperServer?
        /// The address of Docker's own bridge.
        var dockerNetwork: String
        /// Under which Docker puts its containers' control groups.
        var cgroup: String

        func write(to path: String) async throws {
            try await replaceFile(path, String(decoding: JSONEncoder().encode(self), as: UTF8.self))
        }
    }

    let description: Description
    let logger: Logger

    /// - Parameter path: of the description.
    public init(descriptionAt path: String, logger: Logger) throws {
        description = try JSONDecoder().decode(Description.self, from: Data(readFile(path)))
        self.logger = logger
    }

    /// Never returns while the machine has power.
    public func run() async throws {
        guard getpid() == 1 else {
            throw LabError(.state, "lab-init is for the first process of a lab's machine only.")
        }
        _ = clinux_set_hostname(description.name)
        try await mountOwnDirectories()
        try await poll("the network cable", until: .now + .seconds(20)) {
            (try? readText("/sys/class/net/eth0/operstate")) != nil || hasInterface("eth0") ? true : nil
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            if description.runsDocker {
                group.addTask { try await supervise("dockerd", dockerCommand, log: "dockerd.log") }
            }
            if let zooKeeper = description.zooKeeper {
                try await zooKeeper.prepare()
                group.addTask { try await supervise("zookeeper", zooKeeper.command, log: "zookeeper.log") }
            }
            if description.hasVolatileDisk {
                let disk = "\(description.directory)/disk"
                let command = [description.executable, "lab-disk", "\(description.directory)/sds.device", disk]
                group.addTask { try await supervise("lab-disk", command, log: "disk.log") }
                try await poll("the disk", until: .now + .seconds(20)) {
                    access("\(disk)/device", F_OK) == 0 ? true : nil
                }
            }
            group.addTask {
                try await supervise(
                    "holdfast node",
                    [description.executable, "node", "--config", "\(description.directory)/node.yaml"], log: "node.log")
            }
            group.addTask { try await reapOrphans() }
        }
    }

    /// What would be on its own disk or in its own memory on a real machine. The namespace keeps all of it private.
    private func mountOwnDirectories() async throws {
        try await Mount.mount("tmpfs", at: "/run", filesystem: "tmpfs", flags: [.noSuid], options: "mode=755")
        for directory in ["/run/lock", "/run/docker/plugins", "/run/holdfast", "/dev/disk/by-id"] {
            try makeDirectories(directory)
        }
        try await Mount.mount("tmpfs", at: "/dev/disk/by-id", filesystem: "tmpfs", options: "mode=755")
        for (own, place) in [
            ("etc-docker", "/etc/docker"), ("etc-rexray", "/etc/rexray"), ("var-lib-rexray", "/var/lib/rexray"),
        ] {
            try makeDirectories("\(description.directory)/\(own)")
            try makeDirectories(place)
            try await Mount.mount("\(description.directory)/\(own)", at: place, filesystem: nil, flags: .bind)
        }
    }

    private var dockerCommand: [String] {
        [
            "dockerd", "--data-root", "\(description.directory)/docker", "--exec-root", "/run/docker",
            "--pidfile", "/run/docker.pid", "--host", "unix:///run/docker.sock", "--bip", description.dockerNetwork,
            "--cgroup-parent", description.cgroup,
        ]
    }

    /// Runs a program for ever, as a unit with Restart=always.
    private func supervise(_ name: String, _ command: [String], log: String) async throws {
        while true {
            var request = ChildProcess.Request(command)
            request.workingDirectory = description.directory
            request.standardOutput = .append("\(description.directory)/\(log)")
            request.standardError = .append("\(description.directory)/\(log)")
            do {
                let child = try ChildProcess.spawn(request)
                logger.notice("Started", metadata: ["program": "\(name)", "pid": "\(child.pid)"])
                let status = try await child.wait()
                logger.warning("Ended", metadata: ["program": "\(name)", "status": "\(status)"])
            } catch let error as LinuxError {
                logger.error("Could not be started", metadata: ["program": "\(name)", "error": "\(error)"])
            }
            try await Task.sleep(for: .milliseconds(500))
        }
    }

    /// Processes whose parents have ended become children of the first process and need somebody to take note of their
    /// end.
    private func reapOrphans() async throws {
        while true {
            try await Task.sleep(for: .seconds(1))
            for pid in runningProcesses() where pid != 1 {
                guard let status = ProcessStatus.of(pid), status.parent == 1, status.state == "Z" else { continue }
                // Our own children are reaped through their pidfds within moments; a second look spares them.
                try await Task.sleep(for: .milliseconds(100))
                if let later = ProcessStatus.of(pid), later.state == "Z", later.startTime == status.startTime {
                    waitpid(pid, nil, WNOHANG)
                }
            }
        }
    }
}

private func hasInterface(_ name: String) -> Bool { if_nametoindex(name) != 0 }

/// Whether a TCP connection to the address is accepted at once. Blocks for up to a second.
func canConnect(_ host: String, port: Int) -> Bool { connection(host, port: port) != nil }

/// Whether ZooKeeper's server is part of an ensemble that serves; one that waits for others lets connect already.
/// Blocks for up to two seconds.
func zooKeeperServes(_ host: String) -> Bool {
    guard let descriptor = connection(host, port: 2181) else { return false }
    return withExtendedLifetime(descriptor) {
        let command = Array("srvr".utf8)
        guard write(descriptor.raw, command, command.count) == command.count else { return false }
        var answer: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 4096)
        while answer.count < 1 << 16 {
            let count = read(descriptor.raw, &buffer, buffer.count)
            guard count > 0 else { break }
            answer += buffer[..<count]
        }
        return String(decoding: answer, as: UTF8.self).contains("Mode:")
    }
}

/// Nil when the connection is not accepted within a second.
private func connection(_ host: String, port: Int) -> Descriptor? {
    let raw = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    guard raw >= 0 else { return nil }
    let descriptor = Descriptor(owning: raw)
    var limit = timeval(tv_sec: 1, tv_usec: 0)
    for option in [SO_SNDTIMEO, SO_RCVTIMEO] {
        setsockopt(raw, SOL_SOCKET, option, &limit, socklen_t(MemoryLayout<timeval>.size))
    }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = UInt16(port).bigEndian
    guard inet_pton(AF_INET, host, &address.sin_addr) == 1 else { return nil }
    let isConnected = withUnsafePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            connect(raw, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
        }
    }
    return isConnected ? descriptor : nil
}
