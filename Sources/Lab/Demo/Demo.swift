import Base
import HTTPKit
import LinuxOS

/// The white paper's demonstration on the machines of a lab, and what the paper did not dare.
///
/// Each act leaves the app running with its keys, so that acts follow one another in any order.
public struct Demo: Sendable {
    static let app = "redis"
    static let volume = "redis-data"
    static let keys = [("data1", "ScaleIO"), ("data2", "REX-Ray"), ("data3", "Docker")]

    let machines: any Machines
    let report: StepReport
    let cluster: ClusterView
    /// The nodes that lead or stand for it.
    let controlNodes: [Int]

    public init(machines: any Machines, report: StepReport, controlNodes: [Int] = [1], password: String) {
        self.machines = machines
        self.report = report
        self.controlNodes = controlNodes
        cluster = ClusterView(controls: controlNodes.map(machines.address), password: password)
    }

    // MARK: The acts

    /// Deploys the app document, writes the paper's keys, and stops the container: it comes back with its keys.
    public func deployAndStop(document: [UInt8]) async throws {
        report.title("The white paper's demonstration")
        try await report.step("deploy examples/redis.json through Marathon") { try await cluster.deploy(document) }
        let first = try await report.step("the app runs and answers", { try await answering() }) {
            "on \($0.host):\($0.port)"
        }
        try await showContainer(on: first)
        try await showVolumes()
        try await report.step("write data1..3 and save") {
            let redis = RedisProbe(host: first.host, port: first.port)
            for (key, value) in Self.keys { _ = try await redis.call("set", key, value) }
            _ = try await redis.call("save", deadline: .seconds(20))
        }
        let container = try await container(on: first)
        try await report.step("docker stop \(container.prefix(12))") {
            _ = try await checked(first, ["docker", "stop", container], deadline: .seconds(40))
        }
        try await report.step("running again, keys there", { try await keysAnswered(after: first) }) {
            "on \($0.host):\($0.port)"
        }
    }

    /// Power loss of the machine that runs the app.
    /// - Returns: seconds from the kill to the keys answered from another machine.
    @discardableResult
    public func killMachine() async throws -> Duration {
        try await dieAndReturn(title: "The death of the whole machine")
    }

    @discardableResult
    func dieAndReturn(title: String?) async throws -> Duration {
        if let title { report.title(title) }
        let old = try await answering()
        let dead = try node(of: old)
        let began = ContinuousClock.now
        try await report.step("lab kill node\(dead) (it runs the app)") { try await machines.kill(dead) }
        try await report.step(
            "keys answered from another machine", { try await keysAnswered(elsewhereThan: old) }
        ) {
            "on \($0.host):\($0.port)"
        }
        let failover = ContinuousClock.now - began
        report.say("node killed -> keys answered elsewhere: \(report.seconds(failover))")
        try await showProof()
        try await twoCopies("the volume has two copies again on the machines that remain")
        try await report.step("lab start node\(dead)") { try await machines.start(dead) }
        try await rejoined(dead)
        try await stillFenced(dead, old)
        return failover
    }

    /// The machine is not dead but cut off from `others`, while its Redis goes on writing.
    /// - Parameter others: nodes to cut it off from; nil for all others.
    @discardableResult
    public func cutOff(from others: [Int]?, title: String) async throws -> Duration {
        report.title(title)
        let old = try await answering()
        let zombie = try node(of: old)
        let cut = others ?? machines.nodes.filter { $0 != zombie }
        let container = try await container(on: old)
        try await startWriter(old, container)
        try await report.step("the app writes a counter without pause") {
            _ = try await until("the counter grows", interval: .milliseconds(200)) {
                try await counter(old, of: container) > 3 ? true : nil
            }
        }
        let began = ContinuousClock.now
        try await report.step("cut node\(zombie) off from node \(cut.map(String.init).joined(separator: ", "))") {
            for other in cut { try await machines.partition(zombie, other) }
        }
        let new = try await report.step(
            "keys answered from another machine", { try await keysAnswered(elsewhereThan: old) }
        ) {
            "on \($0.host):\($0.port)"
        }
        let failover = ContinuousClock.now - began
        report.say("cut off -> keys answered elsewhere: \(report.seconds(failover))")
        let taken = try await counter(new, of: container)
        try await showProof()
        try await report.step("the old writer goes on for 3 s behind the cut") {
            try await Task.sleep(for: .seconds(3))
        }
        try await showOldWriter(container, on: zombie, counter: taken)
        try await report.step("heal") { try await machines.heal() }
        try await report.step("the old container is gone") { try await containerGone(container, zombie) }
        try await rejoined(zombie)
        try await twoCopies("the volume has two copies again")
        try await report.step("the volume holds no write of the old one after the take-over, and checks clean") {
            try await inspectVolume(of: container, counter: taken)
        }
        return failover
    }
}

// MARK: - Looking at the cluster

extension Demo {
    func node(of instance: AppInstance) throws -> Int {
        guard
            let node = machines.nodes.first(where: {
                machines.address(of: $0) == instance.host || "node\($0)" == instance.host
            })
        else { throw ScenarioFailure("no machine has the address \(instance.host)") }
        return node
    }

    /// The running instance that answers a ping.
    func answering() async throws -> AppInstance {
        try await until("the app answers", deadline: .seconds(120)) {
            for instance in try await cluster.instances(of: Self.app) where instance.state == "TASK_RUNNING" {
                if try await RedisProbe(host: instance.host, port: instance.port).call("ping") == "PONG" {
                    return instance
                }
            }
            return nil
        }
    }

    private func keysAnswered(where isNew: @escaping (AppInstance) -> Bool) async throws -> AppInstance {
        try await until("the keys are answered", deadline: .seconds(120), interval: .milliseconds(50)) {
            for instance in try await cluster.instances(of: Self.app)
            where instance.state == "TASK_RUNNING" && isNew(instance) {
                let redis = RedisProbe(host: instance.host, port: instance.port)
                for (key, value) in Self.keys {
                    let answer = try await redis.call("get", key)
                    guard answer == value else {
                        throw ScenarioFailure("\(key) is '\(answer)' instead of '\(value)': data was lost")
                    }
                }
                return instance
            }
            return nil
        }
    }

    func keysAnswered(after old: AppInstance) async throws -> AppInstance {
        try await keysAnswered { $0.id != old.id }
    }

    func keysAnswered(elsewhereThan old: AppInstance) async throws -> AppInstance {
        try await keysAnswered { $0.id != old.id && $0.host != old.host }
    }

    func checked(_ instance: AppInstance, _ arguments: [String], deadline: Duration = .seconds(15)) async throws
        -> String
    {
        try await checked(node: try node(of: instance), arguments, deadline: deadline)
    }

    func checked(node: Int, _ arguments: [String], deadline: Duration = .seconds(15)) async throws -> String {
        let result = try await machines.execute(on: node, arguments, deadline: deadline)
        guard result.isSuccess else {
            throw ScenarioFailure("\(arguments.joined(separator: " ")) \(result.status): \(result.errorText)")
        }
        return result.outputText
    }

    /// The id of the app's container on the instance's node.
    func container(on instance: AppInstance) async throws -> String {
        let output = try await checked(
            instance, ["docker", "ps", "-q", "--no-trunc", "--filter", "label=MESOS_TASK_ID=\(instance.id)"])
        guard let id = output.split(separator: "\n").first else {
            throw ScenarioFailure("no container of \(instance.id) on \(instance.host)")
        }
        return String(id)
    }

    func showContainer(on instance: AppInstance) async throws {
        let node = try node(of: instance)
        report.show("lab exec node\(node) -- docker ps", try await checked(instance, ["docker", "ps"]))
        report.show(
            "lab exec node\(node) -- docker volume ls", try await checked(instance, ["docker", "volume", "ls"]))
    }

    func showVolumes() async throws {
        report.show(
            "lab exec node1 -- scli --query_all_volumes",
            try await checked(node: 1, ["scli", "--query_all_volumes"]))
    }

    func twoCopies(_ text: String) async throws {
        try await report.step(text) {
            try await until("two copies", deadline: .seconds(180), interval: .milliseconds(250)) {
                try await cluster.hasTwoCopies() ? true : nil
            }
        }
    }

    func rejoined(_ node: Int) async throws {
        try await report.step("node\(node) has rejoined: its agent is active, its storage server connected") {
            let address = machines.address(of: node)
            _ = try await until("node\(node) rejoins", deadline: .seconds(90)) {
                let agents = try await cluster.activeAgents()
                let servers = try await cluster.connectedServers()
                return agents.contains(where: { $0 == address || $0 == "node\(node)" })
                    && servers.contains("node\(node)") ? true : nil
            }
        }
    }

    /// The fencing proof: which servers refuse the old writer, since when.
    func showProof() async throws {
        let epochs = try await cluster.epochs(of: Self.volume)
        // Of a take-over. Docker's own unmounting and mounting afterwards changes rights too, but fences nobody else.
        guard let last = epochs["history"]?.array?.last(where: { $0["change"]?.string == "preempt" }) else {
            throw ScenarioFailure("there is no fencing proof")
        }
        report.say(
            "fencing proof: attach epoch \(last["attachEpoch"]?.integer ?? 0) of \(Self.volume), complete after "
                + "\(Int((last["elapsedSeconds"]?.double ?? 0) * 1000)) ms")
        for server in last["servers"]?.array ?? [] {
            let evidence =
                switch server["evidence"]?.string {
                case "acknowledged": "refuses every older epoch (acknowledged)"
                case "removed": "is out of every comb of the volume (committed)"
                default: "holds no copy of the volume"
                }
            report.say("  \(server["sdsName"]?.string ?? server["sdsId"]?.string ?? "?") \(evidence)")
        }
    }
}
