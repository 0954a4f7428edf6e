import Base
public import MesosAPI
public import Resources

struct AllocatorAgent: Sendable {
    var info: MesosAgentInfo
    var total: Resources
    var isActive = true
    /// Offered to or used by each framework, with allocation_info.
    var allocated: [MesosFrameworkID: Resources] = [:]
    /// The sum of `allocated`, without allocation_info.
    var allocatedTotal = Resources()

    init(info: MesosAgentInfo, total: Resources) {
        self.info = info
        self.total = total
    }

    /// Shared volumes stay free while they are used.
    var free: Resources {
        let exclusive = allocatedTotal.filter { !$0.hasShared }
        return total - exclusive
    }
}

struct OfferFilter: Sendable {
    var role: String
    var resources: Resources
    var expiry: Instant
}

struct AllocatorFramework: Sendable {
    var info: MesosFrameworkInfo
    var isActive = false
    var suppressed: Set<String> = []
    var constraints = SchedulerOfferConstraints()
    var filters: [MesosAgentID: [OfferFilter]] = [:]
    /// By role and in sum.
    var usage = Usage()
    var usageByRole: [String: Usage] = [:]

    init(info: MesosFrameworkInfo) { self.info = info }

    /// A filter stops offers that bring nothing beyond what was refused.
    func refuses(_ share: Resources, of agent: MesosAgentID, role: String, now: Instant) -> Bool {
        (filters[agent] ?? []).contains { $0.role == role && $0.expiry > now && $0.resources.contains(share) }
    }
}

/// Scalars in use, and how often something was allocated.
struct Usage: Sendable {
    var quantities: [String: Quantity] = [:]
    var allocations = 0

    mutating func add(_ resources: Resources, sign: Int64) {
        for (name, quantity) in resources.scalarQuantities {
            let sum = (quantities[name] ?? .zero) + Quantity(thousandths: sign * quantity.thousandths)
            quantities[name] = sum == .zero ? nil : sum
        }
    }

    /// The largest fraction of the cluster's total in any resource.
    func dominantShare(of totals: [String: Quantity]) -> Double {
        quantities.reduce(0) { largest, use in
            guard let total = totals[use.key], total > .zero else { return largest }
            return max(largest, use.value.value / total.value)
        }
    }
}

extension Allocator {
    /// Roles and their frameworks in the order in which they are served: smallest weighted share first.
    func candidates() -> [(role: String, framework: AllocatorFramework)] {
        var byRole: [String: [AllocatorFramework]] = [:]
        for framework in frameworks.values where framework.isActive {
            for role in Set(framework.info.subscribedRoles) where !framework.suppressed.contains(role) {
                byRole[role, default: []].append(framework)
            }
        }
        let roleOrder = byRole.keys
            .map { name -> (String, Double, Int) in
                let usage = roles[name] ?? Usage()
                return (name, usage.dominantShare(of: totals) / weight(of: name), usage.allocations)
            }
            .sorted { ($0.1, $0.2, $0.0) < ($1.1, $1.2, $1.0) }
        return roleOrder.flatMap { role, _, _ in
            (byRole[role] ?? [])
                .map { framework -> (AllocatorFramework, Double, Int) in
                    let usage = framework.usageByRole[role] ?? Usage()
                    return (framework, usage.dominantShare(of: totals), usage.allocations)
                }
                .sorted { ($0.1, $0.2, $0.0.info.id) < ($1.1, $1.2, $1.0.info.id) }
                .map { (role, $0.0) }
        }
    }

    /// The part of an agent's free resources that the framework may be offered in the role.
    func offerable(
        _ free: Resources, of agent: AllocatorAgent, to framework: AllocatorFramework, role: String
    ) -> Resources {
        let info = framework.info
        if options.filterGPUs, agent.total.quantity("gpus") > .zero, !info.has(.gpuResources) { return Resources() }
        guard framework.constraints.admits(agent.info, role: role) else { return Resources() }
        var share = free.allocatable(to: role)
        if !info.has(.revocableResources) { share = share.nonRevocable }
        if !info.has(.sharedResources) { share = share.filter { !$0.hasShared } }
        if !info.has(.reservationRefinement) { share = share.filter { $0.reservations.count < 2 } }
        return share
    }

    /// Whether an offer is large enough to be of use.
    func isWorthwhile(_ share: Resources, to framework: AllocatorFramework, role: String) -> Bool {
        var minimum = options.minAllocatable
        if let filter = framework.info.offerFilters[role], filter.hasMinAllocatableResources {
            minimum = filter.minAllocatableResources.quantities.map { group in
                group.quantities.mapValues { Quantity($0.value) }
            }
        }
        if minimum.isEmpty { return true }
        return minimum.contains { group in group.allSatisfy { share.quantity($0.key) >= $0.value } }
    }

    /// Adds to or takes from the shares of a framework and of the roles in which the resources are allocated.
    mutating func account(_ framework: MesosFrameworkID, _ resources: Resources, sign: Int64) {
        var names: [String] = []
        for resource in resources.list where !names.contains(resource.allocationInfo.role) {
            names.append(resource.allocationInfo.role)
        }
        frameworks[framework]?.usage.add(resources, sign: sign)
        for role in names {
            let part = resources.filter { $0.allocationInfo.role == role }
            roles[role, default: Usage()].add(part, sign: sign)
            frameworks[framework]?.usageByRole[role, default: Usage()].add(part, sign: sign)
            if sign > 0 {
                roles[role]?.allocations += 1
                frameworks[framework]?.usageByRole[role]?.allocations += 1
            }
        }
    }

    mutating func discount(_ framework: MesosFrameworkID, _ resources: Resources) {
        account(framework, resources, sign: -1)
    }

    mutating func count(_ total: Resources, sign: Int64) {
        for (name, quantity) in total.scalarQuantities {
            totals[name] = (totals[name] ?? .zero) + Quantity(thousandths: sign * quantity.thousandths)
        }
    }
}

extension Allocator {
    /// What of the agent is offered or used, per framework and with allocation_info; for checks and views.
    public func allocated(on agent: MesosAgentID) -> [(framework: MesosFrameworkID, resources: Resources)] {
        (agents[agent]?.allocated ?? [:]).sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
    }

    /// The dominant share of a role, 0 to 1, before weights.
    public func dominantShare(ofRole role: String) -> Double {
        (roles[role] ?? Usage()).dominantShare(of: totals)
    }

    /// Filters in force, for the metric of the role.
    public func filterCount(ofRole role: String) -> Int {
        frameworks.values.reduce(0) { sum, framework in
            sum + framework.filters.values.reduce(0) { $0 + $1.count { $0.role == role } }
        }
    }
}
