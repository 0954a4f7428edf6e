import Allocator
import Base
import MesosAPI
import Resources
import Testing

@Suite struct AllocatorTests {
    var allocator = Allocator()
    var rng = SeededRandom(seed: 3)

    init() throws {
        for name in ["a1", "a2"] {
            var info = MesosAgentInfo()
            info.id = MesosAgentID(name)
            info.hostname = name
            allocator.addAgent(info, total: try Resources(parsing: "cpus:4;mem:4096;ports:[31000-31009]"), used: [])
        }
    }

    private func framework(_ id: String, roles: [String] = ["*"]) -> MesosFrameworkInfo {
        var info = MesosFrameworkInfo()
        info.id = MesosFrameworkID(id)
        info.roles = roles
        var capability = MesosFrameworkInfo.Capability()
        capability.type = .multiRole
        info.capabilities = [capability]
        return info
    }

    private mutating func allocate(at seconds: Int = 0) -> [Allocator.Allocation] {
        allocator.allocate(now: .zero + .seconds(seconds), rng: &rng)
    }

    @Test mutating func oneFrameworkGetsAllThenNothing() {
        allocator.addFramework(framework("f1"), isActive: true)
        #expect(allocator.needsAllocation)
        let first = allocate()
        #expect(Set(first.map(\.agent.value)) == ["a1", "a2"])
        #expect(first.allSatisfy { $0.resources.cpus == 4 && $0.resources.ports.count == 10 })
        #expect(!allocator.needsAllocation)
        #expect(allocate().isEmpty)
        #expect(allocator.dominantShare(ofRole: "*") == 1)
    }

    @Test mutating func agentsAreSharedFairly() {
        allocator.addFramework(framework("f1", roles: ["a"]), isActive: true)
        allocator.addFramework(framework("f2", roles: ["b"]), isActive: true)
        let allocations = allocate()
        #expect(Set(allocations.map(\.framework.value)) == ["f1", "f2"])
    }

    @Test mutating func weightsBendFairness() throws {
        allocator.setWeights(["heavy": 100])
        allocator.addFramework(framework("f1", roles: ["heavy"]), isActive: true)
        allocator.addFramework(framework("f2", roles: ["light"]), isActive: true)
        allocator.charge(
            MesosFrameworkID("f1"), agent: MesosAgentID("a1"), try Resources(parsing: "cpus:1").allocated(to: "heavy"))
        allocator.charge(
            MesosFrameworkID("f2"), agent: MesosAgentID("a1"), try Resources(parsing: "cpus:0.1").allocated(to: "light")
        )
        #expect(allocate().map(\.framework.value).first == "f1")
    }

    @Test mutating func refusedResourcesComeBackAfterTheTime() {
        allocator.addFramework(framework("f1"), isActive: true)
        for allocation in allocate() {
            allocator.recover(
                allocation.framework, agent: allocation.agent, allocation.resources.allocated(to: "*"),
                refusal: .until(.zero + .seconds(5)))
        }
        #expect(allocate(at: 1).isEmpty)
        #expect(allocator.filterCount(ofRole: "*") == 2)
        allocator.tick(now: .zero + .seconds(5))
        #expect(allocator.needsAllocation)
        #expect(allocate(at: 5).count == 2)
    }

    @Test mutating func moreThanRefusedGetsThrough() throws {
        allocator.addFramework(framework("f1"), isActive: true)
        let part = try Resources(parsing: "cpus:1;mem:512").allocated(to: "*")
        for allocation in allocate() where allocation.agent.value == "a1" {
            let all = allocation.resources.allocated(to: "*")
            allocator.recover(
                allocation.framework, agent: allocation.agent, all - part, refusal: .until(.zero + .seconds(60)))
        }
        #expect(allocate(at: 1).isEmpty)
        allocator.recover(MesosFrameworkID("f1"), agent: MesosAgentID("a1"), part)
        #expect(allocate(at: 2).map(\.resources.cpus) == [4])
    }

    @Test mutating func suppressAndRevive() {
        allocator.addFramework(framework("f1", roles: ["a", "b"]), isActive: true)
        allocator.suppress(MesosFrameworkID("f1"), roles: ["a"])
        #expect(Set(allocate().map(\.role)) == ["b"])
        allocator.suppress(MesosFrameworkID("f1"), roles: [])
        allocator.recover(
            MesosFrameworkID("f1"), agent: MesosAgentID("a1"),
            allocator.allocated(on: MesosAgentID("a1"))[0].resources, refusal: .until(.zero + .seconds(600)))
        #expect(allocate().isEmpty)
        allocator.revive(MesosFrameworkID("f1"), roles: [])
        #expect(allocate().count == 1)
    }

    @Test mutating func inactiveFrameworksAndAgentsAreLeftOut() {
        allocator.addFramework(framework("f1"), isActive: false)
        #expect(allocate().isEmpty)
        allocator.setFrameworkActive(MesosFrameworkID("f1"), true)
        allocator.setAgentActive(MesosAgentID("a1"), false)
        #expect(allocate().map(\.agent.value) == ["a2"])
        allocator.setAgentActive(MesosAgentID("a1"), true)
        #expect(allocate().map(\.agent.value) == ["a1"])
    }

    @Test mutating func crumbsAreNotOffered() throws {
        allocator.addFramework(framework("f1"), isActive: true)
        for allocation in allocate() {
            let crumb = try Resources(parsing: "mem:16;ports:[31000-31001]").allocated(to: "*")
            allocator.recover(allocation.framework, agent: allocation.agent, crumb)
        }
        #expect(allocate().isEmpty)
    }

    @Test mutating func constraintsChooseAgents() {
        var constraint = SchedulerAttributeConstraint()
        constraint.selector.pseudoattributeType = .hostname
        constraint.predicate.textNotEquals.value = "a1"
        var group = SchedulerOfferConstraints.RoleConstraints.Group()
        group.attributeConstraints = [constraint]
        var constraints = SchedulerOfferConstraints()
        constraints.roleConstraints["*"] = .init()
        constraints.roleConstraints["*"]?.groups = [group]
        #expect(constraints.fault(roles: ["*"]) == nil)
        #expect(constraints.fault(roles: ["x"]) != nil)
        allocator.addFramework(framework("f1"), constraints: constraints, isActive: true)
        #expect(allocate().map(\.agent.value) == ["a2"])
    }

    /// Whatever happens, nothing is allocated twice and shares return to zero.
    @Test(arguments: 1...20) mutating func nothingIsAllocatedTwice(seed: UInt64) throws {
        rng = SeededRandom(seed: seed)
        let total = try Resources(parsing: "cpus:4;mem:4096;ports:[31000-31009]")
        let ids = ["f1", "f2", "f3"]
        for id in ids { allocator.addFramework(framework(id, roles: ["r-\(id)"]), isActive: true) }
        var held: [Allocator.Allocation] = []
        for step in 0..<200 {
            if Bool.random(using: &rng) {
                held += allocate(at: step)
            } else if let index = held.indices.randomElement(using: &rng) {
                let allocation = held.remove(at: index)
                let refusal: Allocator.Refusal = Bool.random(using: &rng) ? .none : .until(.zero + .seconds(step + 3))
                allocator.recover(
                    allocation.framework, agent: allocation.agent,
                    allocation.resources.allocated(to: allocation.role), refusal: refusal)
            }
            for agent in ["a1", "a2"] {
                let used = allocator.allocated(on: MesosAgentID(agent)).reduce(into: Resources()) {
                    $0 += $1.resources.unallocated
                }
                #expect(total.contains(used))
            }
        }
        for allocation in held {
            allocator.recover(
                allocation.framework, agent: allocation.agent, allocation.resources.allocated(to: allocation.role))
        }
        for id in ids { #expect(allocator.dominantShare(ofRole: "r-\(id)") == 0) }
    }
}
