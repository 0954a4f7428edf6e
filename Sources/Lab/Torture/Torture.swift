import Base
import HTTPKit
import LinuxOS
import Synchronization

/// A lab under load while everything in it fails, and a judgement of all that was acknowledged.
///
/// Volumes are used raw, by fio, with ext4 and with xfs, and by a Redis that Marathon keeps running; one fault follows another,
/// the same ones for the same seed. Processes, machines, cables and devices fail, devices are filled, and what is on them
/// is damaged or lost. At the end all is healed, every load looks at its volume from another machine, and the
/// filesystems are checked.
public struct Torture: Sendable {
    let lab: Lab
    let report: StepReport
    let cluster: ClusterView
    /// The volume that takes all space when it is its turn.
    let filler: TortureLoad
    private let nodes: [Int]
    private let leaders: [Int]
    private let seed: UInt64
    private let ended = EndedProcesses()

    /// Two copies are back within this time when nothing fails any more.
    static let recoveryMax = Duration.seconds(180)
    /// The volumes of which there are snapshots. Of all of them the pool would promise too much.
    private static let snapshotted: Set = ["raw-one", "raw-two", "ext4-one", "xfs-one"]
    /// Quick enough to look at everything in less than a minute.
    private static let scannedKibibytesPerSecond = 1 << 20

    /// - Parameter lab: one that is up, of at least four machines, with every role a process of its own.
    public init(_ lab: Lab, seed: UInt64, report: StepReport = StepReport()) throws(LabError) {
        let state = try lab.state()
        guard state.nodes.count >= 4, state.separatesRoles else {
            throw LabError(.state, "The torture needs four machines and --separate-roles.")
        }
        self.lab = lab
        self.seed = seed
        self.report = report
        nodes = state.nodes.map(\.number)
        leaders = state.leaders
        cluster = ClusterView(
            controls: state.leaders.map(state.address), password: NodeTemplate.gatewayPassword)
        filler = TortureLoad(
            .filler(units: Self.fillerUnits), volume: "filler", in: lab, on: nodes[0], seed: seed &+ 4000)
    }

    /// - Throws: `ScenarioFailure` when anything acknowledged is lost, or the lab does not become whole again.
    public func run(for duration: Duration) async throws {
        report.title("Torture for \(duration), seed \(seed)")
        let loads = [
            TortureLoad(.registers(count: 512), volume: "raw-one", in: lab, on: nodes[1], seed: seed),
            TortureLoad(.registers(count: 8192), volume: "raw-two", in: lab, on: nodes[2], seed: seed &+ 1000),
            TortureLoad(.files(filesystem: "ext4"), volume: "ext4-one", in: lab, on: nodes[0], seed: seed &+ 2000),
            TortureLoad(.files(filesystem: "xfs"), volume: "xfs-one", in: lab, on: nodes[3], seed: seed &+ 3000),
        ]
        let fio = TortureFio(in: lab, on: nodes[1], seed: seed)
        let redis = TortureRedis(cluster: cluster)
        try await report.step("volumes made, Redis deployed") {
            for load in loads + [filler] { try await load.create() }
            try await cluster.scan(kibibytesPerSecond: Self.scannedKibibytesPerSecond)
            try await fio.create()
            try await redis.deploy()
        }
        let faults = TortureTally()
        try await underLoad(loads, fio, redis, faults, until: .now + duration)
        try await report.step("everything healed, two copies of all") {
            try await removeSnapshots()
            try await recover()
        }
        for load in loads {
            let place = nodes.first { $0 != load.node } ?? nodes[0]
            try await report.step("\(load.volume) verified on node\(place)") { try await load.verify(on: place) }
        }
        try await report.step("fio finds what it wrote") { try await fio.verify(on: nodes[2]) }
        try await report.step("Redis has every acknowledged key") { try await redis.verify() }
        try noProcessEndedByItself()
        let damage = try await report.step("No damage is left on any device") { try await awaitCleanDevices() }
        report.title("Survived")
        for (kind, count) in faults.counts { report.say("\(count) x \(kind)") }
        for load in loads + [filler] { report.say(load.summary) }
        report.say(fio.summary)
        report.say(redis.summary)
        report.say("devices: \(faults.damage)")
        report.say("blocks that both copies held well and not alike, since the servers started: \(damage.differing)")
    }

    private func underLoad(
        _ loads: [TortureLoad], _ fio: TortureFio, _ redis: TortureRedis, _ faults: TortureTally,
        until end: ContinuousClock.Instant
    ) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            for load in loads { group.addTask { try await load.run(among: nodes) } }
            group.addTask { try await fio.run(among: nodes) }
            group.addTask { try await redis.run() }
            group.addTask {
                var plan = TorturePlan(seed: seed, nodes: nodes, leaders: Set(leaders))
                while ContinuousClock.now < end {
                    let fault = plan.next()
                    try await suffer(fault, faults)
                    try await Task.sleep(for: plan.quiet())
                }
            }
            // The faults end the work; anything else that ends is a failure, and has thrown.
            try await group.next()
            group.cancelAll()
            while let result = await group.nextResult() {
                if case .failure(let error) = result, !(error is CancellationError) { throw error }
            }
        }
    }

    private func suffer(_ fault: TortureFault, _ faults: TortureTally) async throws {
        if fault.needsTwoCopies { try await recover() }
        try await report.step("\(fault)") {
            do {
                try await cause(fault, faults)
                faults.count(fault.kind)
            } catch let error as LabError where error.code == .state {
                // A process that is just being started again cannot be killed.
                report.say("(\(error.message))")
            }
        }
        try noProcessEndedByItself()
    }

    private func noProcessEndedByItself() throws {
        for node in nodes {
            let found = try ended.found(in: "\(lab.nodeDirectory(node))/node.log")
            if !found.isEmpty { throw ScenarioFailure("node\(node): \(found.joined(separator: ", "))") }
        }
    }

    private func cause(_ fault: TortureFault, _ faults: TortureTally) async throws {
        switch fault {
        case .crash(let node, let role): try await lab.crash("node\(node)", role: role)
        case .pause(let node, let role, let time):
            try await lab.pause("node\(node)", role: role)
            try await Task.sleep(for: time)
            try await lab.resume("node\(node)", role: role)
        case .powerLoss(let node, let time):
            try await lab.kill("node\(node)")
            try await Task.sleep(for: time)
            try await lab.start("node\(node)")
        case .cut(let one, let other, let oneWay, let time):
            try await lab.partition("node\(one)", from: "node\(other)", oneWay: oneWay)
            try await Task.sleep(for: time)
            try await lab.heal()
        case .isolation(let node, let time):
            try await lab.partition("node\(node)", from: "all")
            try await Task.sleep(for: time)
            try await lab.heal()
        case .corruption(let node, let blocks, let seed): faults.count(try await corrupt(node, blocks, seed))
        case .fill(let node, let time): try await fill(from: node, for: time)
        case .wipe(let node, let time): try await wipe(node, for: time)
        case .snapshot:
            try await removeSnapshots()
            _ = try await until("snapshots", deadline: .seconds(120), interval: .milliseconds(500)) {
                try await cluster.takeSnapshots(of: Self.snapshotted)
                return true
            }
        }
    }

    private func removeSnapshots() async throws {
        _ = try await until("no snapshots", deadline: .seconds(120), interval: .milliseconds(500)) {
            try await cluster.removeSnapshots()
            return true
        }
    }

    func recover() async throws {
        _ = try await until("two copies", deadline: Self.recoveryMax, interval: .milliseconds(500)) { () -> Bool? in
            guard try await cluster.connectedServers().count == nodes.count else { return nil }
            return try await cluster.hasTwoCopies() ? true : nil
        }
    }
}

/// How often each kind of fault struck.
private final class TortureTally: Sendable {
    private let tally = Mutex<(kinds: [String: Int], damage: DeviceSpoiler.Outcome)>(([:], .init()))
    func count(_ kind: String) { tally.withLock { $0.kinds[kind, default: 0] += 1 } }
    func count(_ damage: DeviceSpoiler.Outcome) { tally.withLock { $0.damage += damage } }
    var counts: [(String, Int)] { tally.withLock { $0.kinds.sorted { $0.key < $1.key } } }
    var damage: DeviceSpoiler.Outcome { tally.withLock { $0.damage } }
}
