import Base
import LinuxOS

// What shows that an old writer stays out: the writer itself, and a look into the volume without its application.
extension Demo {
    /// The key that a container counts in: its own, because the volume remembers earlier counters.
    static func counterKey(of container: String) -> String { "counter-" + container.prefix(12) }

    /// Starts a loop inside the old container that sets its counter to 1, 2, 3... until the container dies.
    func startWriter(_ instance: AppInstance, _ container: String) async throws {
        let key = Self.counterKey(of: container)
        let loop = "i=0; while i=$((i+1)); do redis-cli set \(key) $i >/dev/null || exit; done"
        _ = try await checked(instance, ["docker", "exec", "-d", container, "sh", "-c", loop])
    }

    /// The container's counter as the instance holds it now.
    func counter(_ instance: AppInstance, of container: String) async throws -> Int {
        let key = Self.counterKey(of: container)
        return Int(try await RedisProbe(host: instance.host, port: instance.port).call("get", key)) ?? 0
    }

    /// Tells how far the old writer came in its own memory, or that it hangs in a write that nobody takes.
    func showOldWriter(_ container: String, on node: Int, counter taken: Int) async throws {
        let get = ["docker", "exec", container, "redis-cli", "get", Self.counterKey(of: container)]
        do {
            let text = try await checked(node: node, get, deadline: .seconds(3)).filter(\.isNumber)
            report.say("the old writer has counted to \(text), the new instance took over \(taken)")
        } catch let error as LinuxError where error.code == .timedOut {
            report.say("the old writer hangs in a write that nobody takes; the new instance took over \(taken)")
        }
    }

    func containerGone(_ container: String, _ node: Int) async throws {
        _ = try await until("the old container is gone", deadline: .seconds(90), interval: .milliseconds(500)) {
            let output = try await checked(
                node: node, ["docker", "ps", "-q", "--no-trunc", "--filter", "id=\(container)"])
            return output.split(separator: "\n").isEmpty ? true : nil
        }
    }

    /// The restarted node holds no mount of the volume, and the volume's only mapping is the new host's.
    func stillFenced(_ node: Int, _ old: AppInstance) async throws {
        try await report.step("node\(node) stays fenced: the volume is mapped to the new host alone") {
            let mapped = try await cluster.epochs(of: Self.volume)["mappedSdcInfo"]?.array ?? []
            let address = machines.address(of: node)
            guard mapped.count == 1, mapped[0]["sdcIp"]?.string != address else {
                throw ScenarioFailure("the volume is mapped to \(mapped.map(\.text))")
            }
            let mounts = try await checked(node: node, ["cat", "/proc/mounts"])
            guard !mounts.contains("/\(Self.volume)") else {
                throw ScenarioFailure("node\(node) still has the volume mounted")
            }
        }
    }

    /// Stops the app, mounts its volume where no Redis runs, checks the filesystem and reads the log that Redis kept:
    /// no counter beyond what the new instance took over may be in it.
    func inspectVolume(of container: String, counter taken: Int) async throws {
        try await cluster.scale(Self.app, to: 0)
        _ = try await until("the app has stopped", deadline: .seconds(60)) {
            try await cluster.instances(of: Self.app).isEmpty ? true : nil
        }
        let node = machines.nodes.first { $0 != 1 } ?? 1
        _ = try await until("the volume is free", deadline: .seconds(30), interval: .milliseconds(500)) {
            try await cluster.epochs(of: Self.volume)["mappedSdcInfo"]?.array?.isEmpty ?? true ? true : nil
        }
        let attached = try await checked(
            node: node, ["rexray", "volume", "mount", Self.volume], deadline: .seconds(60))
        guard !attached.isEmpty else { throw ScenarioFailure("rexray volume mount printed nothing") }
        let mounts = try await checked(node: node, ["cat", "/proc/mounts"])
        guard
            let line = mounts.split(separator: "\n").first(where: {
                $0.contains("/\(Self.volume) ") || $0.contains("/\(Self.volume)/")
            })
        else { throw ScenarioFailure("the volume is not mounted on node\(node)") }
        let fields = line.split(separator: " ")
        let device = String(fields[0])
        let path = String(fields[1])
        let highest = try await highestCounter(of: container, node, path)
        guard highest <= taken else {
            throw ScenarioFailure("the volume holds counter \(highest), beyond \(taken): a fenced writer has written")
        }
        _ = try await checked(node: node, ["umount", path])
        let check = try await machines.execute(on: node, ["e2fsck", "-f", "-n", device], deadline: .seconds(120))
        let text = check.outputText + check.errorText
        _ = try await machines.execute(
            on: node, ["rexray", "volume", "unmount", Self.volume], deadline: .seconds(60))
        guard check.isSuccess else { throw ScenarioFailure("e2fsck \(check.status): \(text)") }
        try await cluster.scale(Self.app, to: 1)
        _ = try await answering()
    }

    /// The highest value ever set for the container's counter in the append-only files below `path`. Redis writes commands as
    /// `SET`, the key and the value on lines of their own.
    private func highestCounter(of container: String, _ node: Int, _ path: String) async throws -> Int {
        let script =
            "grep -a -h -A2 '^\(Self.counterKey(of: container))' $(find \(path) -name '*.aof') | tr -d '\\r' | grep -a -E '^[0-9]+$' | sort -n | tail -n 1"
        let output = try await checked(node: node, ["sh", "-c", script], deadline: .seconds(60))
        return Int(output.split(separator: "\n").first ?? "0") ?? 0
    }
}
