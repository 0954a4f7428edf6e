import Base

/// Something bad that happens to a lab, and how long it lasts.
enum TortureFault: Sendable, Hashable, CustomStringConvertible {
    /// kill -9; the supervisor starts the process again.
    case crash(node: Int, role: String)
    /// SIGSTOP, then SIGCONT.
    case pause(node: Int, role: String, Duration)
    case powerLoss(node: Int, Duration)
    case cut(Int, Int, oneWay: Bool, Duration)
    case isolation(node: Int, Duration)
    /// Blocks of a device get other content; it lasts until they are mended. The seed chooses the blocks.
    case corruption(node: Int, blocks: Int, seed: UInt64)
    /// A volume takes all space, from the given machine.
    case fill(node: Int, Duration)
    /// A machine loses power, and comes back with an empty disk.
    case wipe(node: Int, Duration)
    /// No fault: snapshots of the volumes in use, which stay until the next ones.
    case snapshot

    var kind: String {
        switch self {
        case .crash(_, let role): "kill -9 of \(role)"
        case .pause(_, let role, _): "pause of \(role)"
        case .powerLoss: "power loss"
        case .cut(_, _, let oneWay, _): oneWay ? "one-way cut" : "cut"
        case .isolation: "isolation"
        case .corruption: "corruption of a device"
        case .fill: "fill of all devices"
        case .wipe: "wipe of a device"
        case .snapshot: "snapshot of all volumes"
        }
    }

    var description: String {
        switch self {
        case .crash(let node, let role): "kill -9 of \(role) on node\(node)"
        case .pause(let node, let role, let time): "\(role) on node\(node) stands still for \(time)"
        case .powerLoss(let node, let time): "node\(node) loses power for \(time)"
        case .cut(let one, let other, let oneWay, let time):
            "node\(one) \(oneWay ? "no longer reaches" : "is cut off from") node\(other) for \(time)"
        case .isolation(let node, let time): "node\(node) is cut off from all others for \(time)"
        case .corruption(let node, let blocks, _): "\(blocks) blocks on the device of node\(node) are spoiled"
        case .fill(let node, let time): "there is no space for \(time), which node\(node) has taken"
        case .wipe(let node, let time): "node\(node) loses power for \(time), and its disk for good"
        case .snapshot: "snapshots of all volumes are taken, and those of before removed"
        }
    }

    /// Whether it may strike only while there are two copies of all: a machine or part of what is stored goes, and with a
    /// second loss at the same time there would be data without any copy.
    var needsTwoCopies: Bool {
        switch self {
        case .powerLoss, .isolation, .cut, .corruption, .fill, .wipe: true
        case .crash, .pause, .snapshot: false
        }
    }
}

/// Chooses faults, the same for the same seed.
struct TorturePlan {
    private enum Kind { case crash, pause, powerLoss, cut, isolation, corruption, fill, wipe, snapshot }

    /// They come in an order of their own in each round, so that a short run has all of them, too.
    private static let round: [Kind] =
        Array(repeating: .crash, count: 7) + Array(repeating: .pause, count: 4) + Array(repeating: .powerLoss, count: 3)
        + Array(repeating: .cut, count: 3) + [.isolation, .corruption, .corruption, .fill, .wipe, .snapshot, .snapshot]

    static var roundCount: Int { round.count }

    private var random: SeededRandom
    private let nodes: [Int]
    /// Machines with masters, Marathons and managers.
    private let leaders: Set<Int>
    /// What is left of this round.
    private var kinds: [Kind] = []

    init(seed: UInt64, nodes: [Int], leaders: Set<Int>) {
        random = SeededRandom(seed: seed)
        self.nodes = nodes
        self.leaders = leaders
    }

    mutating func next() -> TortureFault {
        if kinds.isEmpty { kinds = Self.round.shuffled(using: &random) }
        let kind = kinds.removeLast()
        let node = choose(nodes)
        switch kind {
        case .crash:
            var roles = ["sds", "sds", "sdc", "sdc-keeper", "volumes", "agent"]
            if leaders.contains(node) { roles += ["mdm", "mdm", "master", "marathon"] }
            return .crash(node: node, role: choose(roles))
        case .pause:
            let roles = leaders.contains(node) ? ["sds", "sdc", "mdm"] : ["sds", "sdc"]
            return .pause(node: node, role: choose(roles), time(0.2, 6))
        case .powerLoss: return .powerLoss(node: node, time(1, 15))
        case .cut:
            let other = choose(nodes.filter { $0 != node })
            return .cut(node, other, oneWay: Bool.random(using: &random), time(0.5, 8))
        case .isolation: return .isolation(node: node, time(1, 8))
        case .corruption:
            // A server gives a device up of which it has found 256 damaged blocks.
            return .corruption(node: node, blocks: Int.random(in: 4...16, using: &random), seed: random.next())
        case .fill: return .fill(node: node, time(1, 8))
        case .wipe: return .wipe(node: node, time(1, 10))
        case .snapshot: return .snapshot
        }
    }

    /// How long it is quiet before the next fault.
    mutating func quiet() -> Duration { time(0.2, 4) }

    private mutating func choose<Value>(_ values: [Value]) -> Value {
        values[Int.random(in: values.indices, using: &random)]
    }

    private mutating func time(_ low: Double, _ high: Double) -> Duration {
        .milliseconds(Int64(Double.random(in: low...high, using: &random) * 1000))
    }
}
