import Base
import Synchronization

/// A Redis that flushes before it acknowledges, on a volume of its own, kept running by Marathon.
final class TortureRedis: Sendable {
    private static let app = "torture-redis"
    private static let keyCount = 8
    /// A write that found no space may leave an end of the log that is none: on ext4 the file grows, and what should be there
    /// does not come. Redis then asks for its tool to be run, which cuts the log off where it becomes senseless.
    private static let command = """
        manifest=/data/appendonlydir/appendonly.aof.manifest
        busybox ln -sf /usr/bin/redis-server /redis-check-aof
        if [ -e $manifest ]; then busybox yes | /redis-check-aof --fix $manifest; fi
        exec docker-entrypoint.sh redis-server --dir /data --appendonly yes --appendfsync always
        """

    private struct Key {
        var settled = 0
        /// Sent without an answer: they may have happened.
        var open: Set<Int> = []
    }

    private struct State {
        var keys: [String: Key] = [:]
        var acknowledged = 0
        var verified = 0
        var instances: Set<String> = []
    }

    private let cluster: ClusterView
    private let state = Mutex(State())

    init(cluster: ClusterView) { self.cluster = cluster }

    var summary: String {
        state.withLock {
            "redis: \($0.acknowledged) writes acknowledged, \($0.verified) reads verified, \($0.instances.count) instances"
        }
    }

    func deploy() async throws {
        let document: JSONValue = [
            "id": .string(Self.app),
            "container": [
                "docker": [
                    "image": "redis", "network": "BRIDGE",
                    "portMappings": [["containerPort": 6379, "hostPort": 0, "protocol": "tcp"]],
                    "parameters": [
                        ["key": "volume-driver", "value": "REX-Ray"],
                        ["key": "volume", "value": .string("\(Self.app):/data")],
                    ],
                ]
            ],
            "args": ["sh", "-c", .string(Self.command)],
            "cpus": .number(0.2), "mem": .number(32), "instances": 1,
        ]
        try await cluster.deploy(document.bytes)
        _ = try await answering()
    }

    /// Writes and reads until the task is cancelled.
    func run() async throws {
        var number = 0
        while !Task.isCancelled {
            let instance = try await answering()
            do {
                while !Task.isCancelled {
                    number += 1
                    try await use("key\(number % Self.keyCount)", number, instance)
                }
            } catch is RedisSilence {
                // It died, or moved: look for the next one.
            }
        }
    }

    /// Every key is as it was acknowledged.
    func verify() async throws {
        let instance = try await answering()
        for index in 0..<Self.keyCount {
            guard try await read("key\(index)", instance) else {
                throw ScenarioFailure("redis does not answer although nothing fails any more")
            }
        }
    }

    private func answering() async throws -> AppInstance {
        try await until("redis answers", deadline: .seconds(180), interval: .milliseconds(300)) {
            for instance in try await cluster.instances(of: Self.app) where instance.state == "TASK_RUNNING" {
                if try await RedisProbe(host: instance.host, port: instance.port).call("ping") == "PONG" {
                    state.withLock { _ = $0.instances.insert(instance.id) }
                    return instance
                }
            }
            return nil
        }
    }

    private struct RedisSilence: Error {}

    private func use(_ key: String, _ number: Int, _ instance: AppInstance) async throws {
        guard try await read(key, instance) else { throw RedisSilence() }
        state.withLock { _ = $0.keys[key, default: Key()].open.insert(number) }
        let probe = RedisProbe(host: instance.host, port: instance.port)
        guard let answer = try? await probe.call("set", key, "\(number)", deadline: .seconds(5)), answer == "OK" else {
            throw RedisSilence()
        }
        state.withLock { state in
            state.keys[key] = Key(settled: number)
            state.acknowledged += 1
        }
        try await Task.sleep(for: .milliseconds(20))
    }

    /// False when there is no answer.
    private func read(_ key: String, _ instance: AppInstance) async throws -> Bool {
        let probe = RedisProbe(host: instance.host, port: instance.port)
        guard let text = try? await probe.call("get", key, deadline: .seconds(5)) else { return false }
        let found = Int(text) ?? 0
        try state.withLock { state in
            let known = state.keys[key] ?? Key()
            guard found == known.settled || known.open.contains(found) else {
                throw ScenarioFailure(
                    "redis: \(key) is \(text); \(known.settled) was acknowledged, open are \(known.open)")
            }
            state.keys[key, default: Key()].settled = found
            state.verified += 1
        }
        return true
    }
}
