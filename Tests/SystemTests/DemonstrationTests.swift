import Base
import HTTPKit
import LinuxOS
import NIOHTTP1
import TestKit
import Testing

/// The demonstration on real parts: machines of a lab, each with its own dockerd, real Redis on real filesystems.
@Suite(.serialized) struct DemonstrationTests {
    /// All acts one after the other on one lab, and nothing left of it afterwards.
    @Test(.timeLimit(.minutes(12))) func everyActPasses() async throws {
        try await withLab { lab in
            try await lab.run(["lab", "demo", "--acts", "stop", "isolate", "zombie", "kill"], deadline: .seconds(400))
        }
    }

    /// kill -9 of the machines' processes, in random order while the app is written to: every write that was acknowledged is
    /// there afterwards, and the cluster converges without hands to one instance and all its agents. The instance may have
    /// moved: on a busy machine a restart can outlast the lab's three pings of one second, and then another agent takes over.
    @Test(.timeLimit(.minutes(12))) func anyProcessMayDieAtAnyTime() async throws {
        try await withLab { lab in
            try await lab.run(["lab", "demo", "--acts", "stop"], deadline: .seconds(200))
            var random = SeededRandom(seed: 20_161_101)
            // The last value whose `set` was answered with OK, by key.
            var acknowledged: [String: Int] = [:]
            for round in 0..<LabUnderTest.rounds {
                let instance = try await lab.runningInstance()
                // Redis acknowledges only what it has flushed, also in an instance that has just started.
                _ = try await lab.redis(instance, ["config", "set", "appendfsync", "always"])
                let node = Int.random(in: 1...4, using: &random)
                let role = ["node", "sdc"].randomElement(using: &random) ?? "node"
                _ = try? await lab.run(["lab", "crash", "node\(node)", role], deadline: .seconds(20))
                for value in 0..<20 {
                    let key = "key\(value % 5)"
                    let number = round * 20 + value
                    if try await lab.redis(instance, ["set", key, "\(number)"]) == "OK" { acknowledged[key] = number }
                }
            }
            #expect(acknowledged.count == 5)
            try await eventually("the cluster converges", within: .seconds(120)) {
                try await lab.activeAgents() == 4
            }
            let instance = try await lab.runningInstance()
            for (key, number) in acknowledged {
                #expect(try await lab.redis(instance, ["get", key]) == "\(number)")
            }
            for (key, value) in [("data1", "ScaleIO"), ("data2", "REX-Ray"), ("data3", "Docker")] {
                #expect(try await lab.redis(instance, ["get", key]) == value)
            }
        }
    }
}

/// A lab on a network of its own, driven by the executable as a person would.
struct LabUnderTest: Sendable {
    struct Instance: Equatable {
        var id: String
        var host: String
        var port: Int
    }

    /// How many processes `anyProcessMayDieAtAnyTime` kills; more with `HOLDFAST_CHAOS_ROUNDS`.
    static var rounds: Int { currentEnvironment()["HOLDFAST_CHAOS_ROUNDS"].flatMap { Int($0) } ?? 24 }
    /// The number of the lab's network, away from a lab that a person has up.
    static let index = 9
    static let control = HTTPAddress.tcp(host: "10.80.0.11", port: 8080)
    static let master = HTTPAddress.tcp(host: "10.80.0.11", port: 5050)

    let directory: String

    /// Runs `holdfast` with the lab's directory added; its output becomes the error's text when it fails.
    @discardableResult
    func run(_ arguments: [String], deadline: Duration) async throws -> String {
        let result = try await runCommand(
            [HoldfastProcess.executable] + arguments + ["--dir", directory], deadline: deadline)
        guard result.isSuccess else {
            throw LabFailure("holdfast \(arguments.joined(separator: " ")): \(result.outputText)\(result.errorText)")
        }
        return result.outputText
    }

    func runningInstance() async throws -> Instance {
        let end = ContinuousClock.now + .seconds(60)
        while ContinuousClock.now < end {
            if let reply = try? await HTTPCaller().call(
                .GET, Self.control, "/v2/apps/redis/tasks", deadline: .seconds(3)),
                let task = try reply.json()["tasks"]?.array?.first(where: { $0["state"]?.string == "TASK_RUNNING" }),
                let id = task["id"]?.string, let host = task["host"]?.string, let port = task["ports"]?[0]?.integer
            {
                return Instance(id: id, host: host, port: Int(port))
            }
            try await Task.sleep(for: .milliseconds(200))
        }
        throw LabFailure("the app does not run")
    }

    func activeAgents() async throws -> Int {
        let reply = try? await HTTPCaller().call(.GET, Self.master, "/slaves", deadline: .seconds(3))
        return try reply?.json()["slaves"]?.array?.count { $0["active"]?.bool == true } ?? 0
    }

    func redis(_ instance: Instance, _ arguments: [String]) async throws -> String {
        let result = try await runCommand(
            ["redis-cli", "-h", instance.host, "-p", "\(instance.port)"] + arguments, deadline: .seconds(30))
        return result.outputText.split(separator: "\n").joined(separator: "\n")
    }
}

struct LabFailure: Error, CustomStringConvertible {
    var description: String
    init(_ description: String) { self.description = description }
}

/// Builds a lab of four machines, runs `body`, ends the lab also when `body` fails, and checks that nothing is left.
func withLab(_ body: (LabUnderTest) async throws -> Void) async throws {
    let temporary = try TemporaryDirectory()
    defer { withExtendedLifetime(temporary) {} }
    let image = temporary.file("redis.tar")
    try await runChecked(["scripts/make-redis-image", image])
    let lab = LabUnderTest(directory: temporary.file("lab"))
    var failure: (any Error)?
    do {
        try await lab.run(
            ["lab", "up", "--nodes", "4", "--image", "redis=\(image)", "--index", "\(LabUnderTest.index)"],
            deadline: .seconds(240))
        try await body(lab)
    } catch {
        failure = error
    }
    try await lab.run(["lab", "down"], deadline: .seconds(120))
    if let failure { throw failure }
    #expect(!(try readText("/proc/self/mountinfo")).contains(lab.directory))
    #expect(LoopDevice.attached().allSatisfy { !$0.status.backingFile.contains(lab.directory) })
}
