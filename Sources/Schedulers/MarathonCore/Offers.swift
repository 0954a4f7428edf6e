import Base
import OrderedCollections

/// What one agent offers, reduced to what placement looks at.
public struct AgentOffer: Hashable, Sendable {
    public enum Amount: Hashable, Sendable {
        case scalar(Double)
        case ranges([ClosedRange<Int>])
        case set([String])
    }
    public struct Resource: Hashable, Sendable {
        public var name: String
        /// "*" or the role that it is statically reserved for.
        public var role: String
        public var amount: Amount

        public init(name: String, role: String = "*", amount: Amount) {
            self.name = name
            self.role = role
            self.amount = amount
        }
    }
    public struct Attribute: Hashable, Sendable {
        public enum Kind: Hashable, Sendable {
            case text(String), scalar(Double), ranges([ClosedRange<Int>]), set([String])
        }
        public var name: String
        public var value: Kind

        public init(name: String, value: Kind) {
            self.name = name
            self.value = value
        }

        /// As constraints compare it.
        public var text: String {
            switch value {
            case .text(let text): text
            case .scalar(let number): scalarText(number)
            case .ranges(let ranges):
                "[" + ranges.map { "\($0.lowerBound)-\($0.upperBound)" }.joined(separator: ",") + "]"
            case .set(let elements): "{" + elements.sorted().joined(separator: ",") + "}"
            }
        }
    }
    public var id: String
    public var agentID: String
    public var hostname: String
    /// The role to which the master allocated the resources.
    public var allocationRole: String
    public var resources: [Resource]
    public var attributes: [Attribute]
    public var region: String?
    public var zone: String?
    /// True while the agent is inside a maintenance window.
    public var isUnavailable = false

    public init(
        id: String, agentID: String, hostname: String, allocationRole: String = "*", resources: [Resource],
        attributes: [Attribute] = []
    ) {
        self.id = id
        self.agentID = agentID
        self.hostname = hostname
        self.allocationRole = allocationRole
        self.resources = resources
        self.attributes = attributes
    }

    /// The fields that constraints may name.
    var placement: [String: String] {
        var fields: [String: String] = [:]
        for attribute in attributes { fields[attribute.name] = attribute.text }
        fields["hostname"] = hostname
        fields["@hostname"] = hostname
        fields["@region"] = region
        fields["@zone"] = zone
        return fields
    }

    var json: JSONValue {
        [
            "id": .string(id), "hostname": .string(hostname), "agentId": .string(agentID),
            "resources": .array(
                resources.map { resource in
                    var object: JSONValue.Object = ["name": .string(resource.name), "role": .string(resource.role)]
                    switch resource.amount {
                    case .scalar(let value): object["scalar"] = .number(value)
                    case .ranges(let ranges): object["ranges"] = AgentOffer.json(ranges)
                    case .set(let elements): object["set"] = .array(elements.map(JSONValue.string))
                    }
                    return .object(object)
                }),
            "attributes": .array(
                attributes.map { attribute in
                    var object: JSONValue.Object = ["name": .string(attribute.name)]
                    switch attribute.value {
                    case .text(let value): object["text"] = .string(value)
                    case .scalar(let value): object["scalar"] = .number(value)
                    case .ranges(let ranges): object["ranges"] = AgentOffer.json(ranges)
                    case .set(let elements): object["set"] = .array(elements.map(JSONValue.string))
                    }
                    return .object(object)
                }),
        ]
    }

    private static func json(_ ranges: [ClosedRange<Int>]) -> JSONValue {
        .array(ranges.map { ["begin": .integer(Int64($0.lowerBound)), "end": .integer(Int64($0.upperBound))] })
    }
}

/// Up to three decimals, none when whole.
func scalarText(_ number: Double) -> String {
    let thousandths = (number * 1000).rounded()
    guard thousandths.magnitude < 9e15 else { return number.description }
    let whole = Int64(thousandths)
    guard whole % 1000 != 0 else { return String(whole / 1000) }
    var digits = String((whole % 1000).magnitude)
    digits = String(repeating: "0", count: 3 - digits.count) + digits
    while digits.hasSuffix("0") { digits.removeLast() }
    return (whole < 0 ? "-" : "") + "\((whole / 1000).magnitude)." + digits
}

/// A part of an offer that a task takes.
public struct ResourceShare: Hashable, Sendable {
    public var name: String
    public var role: String
    public var amount: AgentOffer.Amount

    public init(name: String, role: String, amount: AgentOffer.Amount) {
        self.name = name
        self.role = role
        self.amount = amount
    }
}

/// Why an offer does not suit an app, in the order of `/v2/queue`'s funnel.
public enum RejectReason: String, Hashable, Sendable, CaseIterable {
    case role = "UnfulfilledRole"
    case constraint = "UnfulfilledConstraint"
    case reservation = "NoCorrespondingReservationFound"
    case maintenance = "AgentMaintenance"
    case cpus = "InsufficientCpus"
    case memory = "InsufficientMemory"
    case disk = "InsufficientDisk"
    case gpus = "InsufficientGpus"
    case ports = "InsufficientPorts"
    case scarce = "DeclinedScarceResources"
}

/// What is left of an offer while tasks are placed on it.
struct OfferRemainder {
    let offer: AgentOffer
    private var resources: [AgentOffer.Resource]
    let placement: [String: String]

    init(_ offer: AgentOffer) {
        self.offer = offer
        resources = offer.resources
        placement = offer.placement
    }

    enum Outcome {
        case taken(shares: [ResourceShare], hostPorts: [Int?])
        case refused([RejectReason])
    }

    /// Takes what one instance of `app` needs, or says everything that is missing and takes nothing.
    mutating func take(
        for app: AppSpec, beside instances: [Instance], rng: inout some RandomNumberGenerator
    ) -> Outcome {
        var reasons: [RejectReason] = []
        let roles = acceptedRoles(app)
        if roles.isEmpty { reasons.append(.role) }
        let peers = instances.map(\.placement)
        if !app.constraints.allSatisfy({ $0.accepts(placement, beside: peers) }) { reasons.append(.constraint) }
        if offer.isUnavailable { reasons.append(.maintenance) }
        var left = resources
        var shares: [ResourceShare] = []
        let scalars: [(String, Double, RejectReason)] = [
            ("cpus", app.cpus, .cpus), ("mem", app.mem, .memory), ("disk", app.disk, .disk),
            ("gpus", Double(app.gpus), .gpus),
        ]
        for (name, amount, reason) in scalars where amount > 0 {
            if !OfferRemainder.take(name, amount, roles: roles, from: &left, into: &shares) { reasons.append(reason) }
        }
        let ports = takePorts(app, roles: roles, from: &left, into: &shares, rng: &rng)
        if ports == nil { reasons.append(.ports) }
        if app.gpus == 0, OfferRemainder.total("gpus", in: resources) > 0 { reasons.append(.scarce) }
        guard reasons.isEmpty, let ports else { return .refused(reasons) }
        resources = left
        return .taken(shares: shares, hostPorts: ports)
    }

    /// The roles whose resources the app may use, the reserved one first.
    private func acceptedRoles(_ app: AppSpec) -> [String] {
        let own = app.role == "*" ? ["*"] : [app.role, "*"]
        guard let accepted = app.acceptedResourceRoles else { return own }
        return own.filter { accepted.contains($0) }
    }

    private static func total(_ name: String, in resources: [AgentOffer.Resource]) -> Double {
        resources.reduce(0) { sum, resource in
            guard resource.name == name, case .scalar(let value) = resource.amount else { return sum }
            return sum + value
        }
    }

    /// Scalars are compared in thousandths, as Mesos does.
    private static func take(
        _ name: String, _ amount: Double, roles: [String], from resources: inout [AgentOffer.Resource],
        into shares: inout [ResourceShare]
    ) -> Bool {
        var missing = (amount * 1000).rounded()
        for role in roles {
            for index in resources.indices where resources[index].name == name && resources[index].role == role {
                guard missing > 0, case .scalar(let value) = resources[index].amount else { continue }
                let available = (value * 1000).rounded()
                let taken = min(missing, available)
                guard taken > 0 else { continue }
                missing -= taken
                resources[index].amount = .scalar((available - taken) / 1000)
                shares.append(ResourceShare(name: name, role: role, amount: .scalar(taken / 1000)))
            }
        }
        return missing <= 0
    }

    /// Host ports in the order of the app's definitions or mappings; nil when the offer lacks some.
    private func takePorts(
        _ app: AppSpec, roles: [String], from resources: inout [AgentOffer.Resource],
        into shares: inout [ResourceShare], rng: inout some RandomNumberGenerator
    ) -> [Int?]? {
        let wanted = app.wantedHostPorts
        guard wanted.contains(where: { $0 != nil }) else { return wanted.map { _ in nil } }
        var pool = PortPool(resources.filter { $0.name == "ports" && roles.contains($0.role) })
        // Fixed ports first, so that random ones do not take them.
        var ports: [Int?] = wanted.map { _ in nil }
        for (index, port) in wanted.enumerated() {
            guard let port, port != 0 else { continue }
            guard pool.take(port) else { return nil }
            ports[index] = port
        }
        let missing = wanted.indices.filter { wanted[$0] == 0 }
        guard let random = pool.takeRandom(missing.count, rng: &rng) else { return nil }
        for (index, port) in zip(missing, random) { ports[index] = port }
        resources.removeAll { $0.name == "ports" && roles.contains($0.role) }
        resources.append(contentsOf: pool.remainder)
        shares.append(contentsOf: pool.shares)
        return ports
    }
}

extension AppSpec {
    /// Per port definition or mapping: the host port, 0 for any, nil for none.
    var wantedHostPorts: [Int?] {
        switch networkMode {
        case .host: portDefinitions.map { requirePorts ? $0.port : 0 }
        case .bridge, .container: (container?.portMappings ?? []).map(\.hostPort)
        }
    }
}

/// The ports of an offer, by role.
private struct PortPool {
    private var free: [(role: String, ranges: [ClosedRange<Int>])] = []
    private var taken: [(role: String, port: Int)] = []

    init(_ resources: [AgentOffer.Resource]) {
        for resource in resources {
            guard case .ranges(let ranges) = resource.amount else { continue }
            free.append((resource.role, ranges))
        }
    }

    mutating func take(_ port: Int) -> Bool {
        for index in free.indices {
            guard let position = free[index].ranges.firstIndex(where: { $0.contains(port) }) else { continue }
            let range = free[index].ranges.remove(at: position)
            if port < range.upperBound { free[index].ranges.insert(port + 1...range.upperBound, at: position) }
            if range.lowerBound < port { free[index].ranges.insert(range.lowerBound...port - 1, at: position) }
            taken.append((free[index].role, port))
            return true
        }
        return false
    }

    /// `count` ports from a random position on, wrapping at the end: freshly freed ports are not reused at once.
    mutating func takeRandom(_ count: Int, rng: inout some RandomNumberGenerator) -> [Int]? {
        guard count > 0 else { return [] }
        let total = free.reduce(0) { $0 + $1.ranges.reduce(0) { $0 + $1.count } }
        guard total >= count else { return nil }
        let start = Int.random(in: 0..<total, using: &rng)
        let ports = (0..<count).map { port(at: (start + $0) % total) }
        for port in ports { _ = take(port) }
        return ports
    }

    private func port(at position: Int) -> Int {
        var rest = position
        for (_, ranges) in free {
            for range in ranges {
                if rest < range.count { return range.lowerBound + rest }
                rest -= range.count
            }
        }
        preconditionFailure("position \(position) is beyond the pool")
    }

    var remainder: [AgentOffer.Resource] {
        free.filter { !$0.ranges.isEmpty }.map {
            AgentOffer.Resource(name: "ports", role: $0.role, amount: .ranges($0.ranges))
        }
    }

    var shares: [ResourceShare] {
        var roles: [String] = []
        for (role, _) in taken where !roles.contains(role) { roles.append(role) }
        return roles.map { role in
            let ports = taken.filter { $0.role == role }.map(\.port).sorted()
            return ResourceShare(name: "ports", role: role, amount: .ranges(ports.map { $0...$0 }))
        }
    }
}

extension Constraint {
    /// True when an instance may be placed where `fields` are, given where the app's other instances are.
    func accepts(_ fields: [String: String], beside peers: [[String: String]]) -> Bool {
        guard let here = fields[field] else { return relation == .unlike }
        let used = peers.compactMap { $0[field] }
        switch relation {
        case .unique: return !used.contains(here)
        case .cluster:
            if let value, !value.isEmpty { return here == value }
            return used.first.map { $0 == here } ?? true
        case .maxPer: return used.filter { $0 == here }.count < (value.flatMap { Int($0) } ?? 0)
        case .like: return matches(here)
        case .unlike: return !matches(here)
        case .exactly: return here == value
        case .groupBy:
            var counts: [String: Int] = [:]
            for value in used { counts[value, default: 0] += 1 }
            guard let mine = counts[here] else { return true }
            if let value, let expected = Int(value), counts.count < expected { return false }
            return mine <= (counts.values.min() ?? 0)
        }
    }

    private func matches(_ text: String) -> Bool {
        guard let value, let regex = try? Regex(value) else { return false }
        return text.wholeMatch(of: regex) != nil
    }
}
