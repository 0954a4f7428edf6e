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

    var kind: String {
        switch self {
        case .crash(_, let role): "kill -9 of \(role)"
        case .pause(_, let role, _): "pause of \(role)"
        case .powerLoss: "power loss"
        case .cut(_, _, let oneWay, _): oneWay ? "one-way cut" : "cut"
        case .isolation: "isolation"
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
        }
    }

    /// Whether a whole machine is away: no second one may be, or data would be too.
    var takesMachine: Bool {
        switch self {
        case .powerLoss, .isolation, .cut: true
        case .crash, .pause: false
        }
    }
}

/// Chooses faults, the same for the same seed.
struct TorturePlan {
    private var random: SeededRandom
    private let nodes: [Int]
    /// Machines with masters, Marathons and managers.
    private let leaders: Set<Int>

    init(seed: UInt64, nodes: [Int], leaders: Set<Int>) {
        random = SeededRandom(seed: seed)
        self.nodes = nodes
        self.leaders = leaders
    }

    mutating func next() -> TortureFault {
        let node = choose(nodes)
        switch Int.random(in: 0..<20, using: &random) {
        case 0..<8:
            var roles = ["sds", "sds", "sdc", "sdc-keeper", "volumes", "agent"]
            if leaders.contains(node) { roles += ["mdm", "mdm", "master", "marathon"] }
            return .crash(node: node, role: choose(roles))
        case 8..<13:
            let roles = leaders.contains(node) ? ["sds", "sdc", "mdm"] : ["sds", "sdc"]
            return .pause(node: node, role: choose(roles), time(0.2, 6))
        case 13..<16: return .powerLoss(node: node, time(1, 15))
        case 16..<19:
            let other = choose(nodes.filter { $0 != node })
            return .cut(node, other, oneWay: Bool.random(using: &random), time(0.5, 8))
        default: return .isolation(node: node, time(1, 8))
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
