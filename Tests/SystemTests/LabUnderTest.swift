import Base
import Foundation
import HTTPKit
import LinuxOS
import NIOHTTP1
import TestKit
import Testing

/// A lab on a network of its own, driven by the executable as a person would.
struct LabUnderTest: Sendable {
    struct Instance: Equatable {
        var id: String
        var host: String
        var port: Int
    }

    /// The number of the lab's network, away from a lab that a person has up.
    static let index = 9
    static let control = HTTPAddress.tcp(host: "10.80.0.11", port: 8080)
    static let master = HTTPAddress.tcp(host: "10.80.0.11", port: 5050)
    static let gateway = HTTPAddress.tcp(host: "10.80.0.11", port: 8081)

    let directory: String

    /// Runs `holdfast` with the lab's directory added; its output becomes the error's text when it fails.
    @discardableResult
    func run(_ arguments: [String], deadline: Duration) async throws -> String {
        // The directory before "--", behind which a command for a machine begins.
        let own = arguments.prefix { $0 != "--" } + ["--dir", directory]
        let result = try await runCommand(
            [HoldfastProcess.executable] + own + arguments.dropFirst(own.count - 2), deadline: deadline)
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

    /// Runs a command inside a machine.
    @discardableResult
    func execute(on node: Int, _ command: [String], deadline: Duration = .seconds(30)) async throws -> String {
        try await run(["lab", "exec", "node\(node)", "--"] + command, deadline: deadline)
    }

    /// The Docker container of an instance.
    func container(of instance: Instance) async throws -> String {
        let node = Int(instance.host.split(separator: ".").last ?? "") ?? 10
        return try await execute(
            on: node - 10, ["docker", "ps", "-q", "--no-trunc", "--filter", "label=MESOS_TASK_ID=\(instance.id)"])
    }

    /// What the gateway of the first machine answers.
    func storage(_ path: String) async throws -> JSONValue {
        let caller = HTTPCaller()
        let login = try await caller.call(
            .GET, Self.gateway, "/api/login",
            headers: ["authorization": basicAuthorization(user: "admin", password: "holdfast-lab")],
            deadline: .seconds(5))
        let token = try login.json().string ?? ""
        let reply = try await caller.call(
            .GET, Self.gateway, path, headers: ["authorization": basicAuthorization(user: "", password: token)],
            deadline: .seconds(5))
        return try reply.json()
    }

    /// True when `servers` storage servers are connected and every comb that holds data has two copies.
    func isWhole(servers: Int) async throws -> Bool {
        let connected = try await storage("/api/types/Sds/instances").array?
            .count { $0["mdmConnectionState"]?.string == "Connected" }
        let pools = try await storage("/holdfast/v1/pools").array ?? []
        return connected == servers && !pools.isEmpty
            && pools.allSatisfy { pool in
                ["degraded", "rebuilding", "unavailable"].allSatisfy { pool["combs"]?[$0]?.integer == 0 }
            }
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

extension LabUnderTest {
    /// Copies the machines' logs to where somebody can read them after a failure.
    fileprivate func keepLogs() async throws {
        let place = ".build/failed-lab"
        try await runChecked(["rm", "-rf", place])
        try await runChecked(["mkdir", "-p", place])
        // Each machine has only the logs of what runs there.
        let copy = "cd \(directory) && for log in node*/*.log; do cp $log \"$0/$(echo $log | tr / .)\"; done"
        try await runChecked(["sh", "-c", copy, "\(FileManager.default.currentDirectoryPath)/\(place)"])
    }
}

struct LabFailure: Error, CustomStringConvertible {
    var description: String
    init(_ description: String) { self.description = description }
}

/// Builds a lab of four machines, runs `body`, ends the lab also when `body` fails, and checks that nothing is left.
///
/// - Parameter options: more of `lab up`.
func withLab(_ options: [String] = [], _ body: (LabUnderTest) async throws -> Void) async throws {
    let temporary = try TemporaryDirectory()
    defer { withExtendedLifetime(temporary) {} }
    let image = temporary.file("redis.tar")
    try await runChecked(["scripts/make-redis-image", image])
    let lab = LabUnderTest(directory: temporary.file("lab"))
    var failure: (any Error)?
    do {
        try await lab.run(
            ["lab", "up", "--nodes", "4", "--image", "redis=\(image)", "--index", "\(LabUnderTest.index)"] + options,
            deadline: .seconds(240))
        try await body(lab)
    } catch {
        failure = error
        try? await lab.keepLogs()
    }
    try await lab.run(["lab", "down"], deadline: .seconds(120))
    if let failure { throw failure }
    #expect(!(try readText("/proc/self/mountinfo")).contains(lab.directory))
    #expect(LoopDevice.attached().allSatisfy { !$0.status.backingFile.contains(lab.directory) })
}
