public import Base
public import MesosAPI
public import Resources

/// Decides which framework is offered which agent's free resources, by dominant resource fairness (Ghodsi et al., NSDI
/// '11).
///
/// A state machine without clock: the master reports what is added, used and refused, and calls `allocate` when
/// `needsAllocation` says that something changed. The whole free part of an agent goes to the first framework in order
/// that may have it; then the order is computed anew.
///
/// Invariant: on each agent, what is allocated (offered or used) is contained in the total, and the shares of roles and
/// frameworks are the sums of what is allocated to them.
public struct Allocator: Sendable {
    public struct Options: Sendable {
        /// An offer must contain all quantities of at least one of these (`--min_allocatable_resources`). Empty: any
        /// offer.
        public var minAllocatable: [[String: Quantity]] = [["cpus": Quantity(0.01)], ["mem": Quantity(32)]]
        /// Agents with GPUs are offered only to frameworks that can use them (`--filter_gpu_resources`).
        public var filterGPUs = true

        public init() {}
    }

    /// One agent's resources offered to one framework in one role.
    public struct Allocation: Sendable, Equatable {
        public var framework: MesosFrameworkID
        public var role: String
        public var agent: MesosAgentID
        /// Without allocation_info.
        public var resources: Resources
    }

    /// How long a framework does not want again what it gave back.
    public enum Refusal: Sendable, Equatable {
        case none
        case until(Instant)
    }

    public let options: Options
    /// True when an allocation could bring new offers.
    public private(set) var needsAllocation = false

    var agents: [MesosAgentID: AllocatorAgent] = [:]
    var frameworks: [MesosFrameworkID: AllocatorFramework] = [:]
    /// The sum of all agents' scalars, for shares.
    var totals: [String: Quantity] = [:]
    var roles: [String: Usage] = [:]
    var weights: [String: Double] = [:]
    /// No filter expires before this.
    var earliestExpiry = Instant.distantFuture

    public init(options: Options = Options()) { self.options = options }

    // MARK: Agents

    /// - Parameters:
    ///   - total: without allocation_info.
    ///   - used: what frameworks use there already, with allocation_info.
    public mutating func addAgent(
        _ info: MesosAgentInfo, total: Resources, used: [(framework: MesosFrameworkID, resources: Resources)]
    ) {
        let id = info.id
        removeAgent(id)
        agents[id] = AllocatorAgent(info: info, total: total)
        count(total, sign: 1)
        for use in used { charge(use.framework, agent: id, use.resources) }
        needsAllocation = true
    }

    public mutating func removeAgent(_ id: MesosAgentID) {
        guard let agent = agents.removeValue(forKey: id) else { return }
        count(agent.total, sign: -1)
        for framework in frameworks.keys.sorted() {
            frameworks[framework]?.filters[id] = nil
            if let used = agent.allocated[framework] { discount(framework, used) }
        }
    }

    /// An inactive agent's resources are not offered.
    public mutating func setAgentActive(_ id: MesosAgentID, _ isActive: Bool) {
        guard agents[id] != nil else { return }
        agents[id]?.isActive = isActive
        if isActive { needsAllocation = true }
    }

    // MARK: Frameworks

    public mutating func addFramework(
        _ info: MesosFrameworkInfo, suppressed: Set<String> = [], constraints: SchedulerOfferConstraints = .init(),
        isActive: Bool
    ) {
        let id = info.id
        var framework = frameworks[id] ?? AllocatorFramework(info: info)
        framework.info = info
        framework.suppressed = suppressed
        framework.constraints = constraints
        framework.isActive = isActive
        if frameworks[id] == nil {
            for (_, agent) in agents {
                if let used = agent.allocated[id] { framework.usage.add(used, sign: 1) }
            }
        }
        frameworks[id] = framework
        needsAllocation = true
    }

    /// An inactive framework gets no offers; its filters end.
    public mutating func setFrameworkActive(_ id: MesosFrameworkID, _ isActive: Bool) {
        frameworks[id]?.isActive = isActive
        if isActive { needsAllocation = true } else { frameworks[id]?.filters = [:] }
    }

    /// What the framework uses must be recovered before.
    public mutating func removeFramework(_ id: MesosFrameworkID) { frameworks[id] = nil }

    /// Stops offers for `names` (all roles if empty).
    public mutating func suppress(_ id: MesosFrameworkID, roles names: [String]) {
        guard let framework = frameworks[id] else { return }
        frameworks[id]?.suppressed.formUnion(names.isEmpty ? framework.info.subscribedRoles : names)
    }

    /// Resumes offers for `names` (all roles if empty) and forgets what was refused.
    public mutating func revive(_ id: MesosFrameworkID, roles names: [String]) {
        guard var framework = frameworks[id] else { return }
        if names.isEmpty {
            framework.suppressed = []
            framework.filters = [:]
        } else {
            framework.suppressed.subtract(names)
            framework.filters = framework.filters.mapValues { list in list.filter { !names.contains($0.role) } }
        }
        frameworks[id] = framework
        needsAllocation = true
    }

    // MARK: Roles

    /// Roles not mentioned weigh 1.
    public mutating func setWeights(_ weights: [String: Double]) {
        self.weights.merge(weights) { _, new in new }
        needsAllocation = true
    }

    public func weight(of role: String) -> Double { weights[role] ?? 1 }

    // MARK: Use

    /// Resources (with allocation_info) that a framework uses without having been offered them by `allocate`: tasks an
    /// agent reports.
    public mutating func charge(_ framework: MesosFrameworkID, agent: MesosAgentID, _ resources: Resources) {
        guard agents[agent] != nil, !resources.isEmpty else { return }
        agents[agent]?.allocated[framework, default: Resources()] += resources
        agents[agent]?.allocatedTotal += resources.unallocated
        account(framework, resources, sign: 1)
    }

    /// Resources (with allocation_info) that a framework no longer uses or did not take from an offer.
    public mutating func recover(
        _ framework: MesosFrameworkID, agent: MesosAgentID, _ resources: Resources, refusal: Refusal = .none
    ) {
        guard !resources.isEmpty else { return }
        if agents[agent] != nil {
            agents[agent]?.allocated[framework, default: Resources()] -= resources
            if agents[agent]?.allocated[framework]?.isEmpty == true { agents[agent]?.allocated[framework] = nil }
            agents[agent]?.allocatedTotal -= resources.unallocated
            account(framework, resources, sign: -1)
            needsAllocation = true
        }
        if case .until(let expiry) = refusal, let role = resources.list.first?.allocationInfo.role,
            frameworks[framework] != nil
        {
            let filter = OfferFilter(role: role, resources: resources.unallocated, expiry: expiry)
            frameworks[framework]?.filters[agent, default: []].append(filter)
            earliestExpiry = min(earliestExpiry, expiry)
        }
    }

    /// Ends filters whose time has come.
    public mutating func tick(now: Instant) {
        guard now >= earliestExpiry else { return }
        earliestExpiry = .distantFuture
        for id in frameworks.keys {
            guard let filters = frameworks[id]?.filters, !filters.isEmpty else { continue }
            var kept: [MesosAgentID: [OfferFilter]] = [:]
            for (agent, list) in filters {
                let alive = list.filter { $0.expiry > now }
                for filter in alive { earliestExpiry = min(earliestExpiry, filter.expiry) }
                if !alive.isEmpty { kept[agent] = alive }
                if alive.count < list.count { needsAllocation = true }
            }
            frameworks[id]?.filters = kept
        }
    }

    // MARK: Allocation

    /// Hands out what is free. The caller makes offers of it and later recovers or uses it.
    public mutating func allocate(now: Instant, rng: inout some RandomNumberGenerator) -> [Allocation] {
        tick(now: now)
        needsAllocation = false
        var allocations: [Allocation] = []
        for id in agents.keys.sorted().shuffled(using: &rng) {
            guard let agent = agents[id], agent.isActive else { continue }
            var free = agent.free
            if free.isEmpty { continue }
            for (role, framework) in candidates() {
                let share = offerable(free, of: agent, to: framework, role: role)
                if share.isEmpty || !isWorthwhile(share, to: framework, role: role) { continue }
                if framework.refuses(share, of: id, role: role, now: now) { continue }
                let resources = share.allocated(to: role)
                agents[id]?.allocated[framework.info.id, default: Resources()] += resources
                agents[id]?.allocatedTotal += share
                account(framework.info.id, resources, sign: 1)
                allocations.append(
                    Allocation(framework: framework.info.id, role: role, agent: id, resources: share))
                free -= share.filter { !$0.hasShared }
                if free.isEmpty { break }
            }
        }
        return allocations
    }
}
