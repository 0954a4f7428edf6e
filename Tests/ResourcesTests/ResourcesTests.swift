import Base
import MesosAPI
import Resources
import Testing

@Suite struct ResourcesTests {
    @Test func scalarsAddInThousandths() throws {
        let tenth = try Resources(parsing: "cpus:0.1")
        let sum = tenth + tenth + tenth
        #expect(sum == (try Resources(parsing: "cpus:0.3")))
        #expect((sum - tenth - tenth - tenth).isEmpty)
        #expect(Quantity(0.0004) == .zero)
        #expect(Quantity(.infinity) > Quantity(1e9))
        #expect(Quantity(thousandths: -1500).description == "-1.5")
    }

    @Test func textForm() throws {
        let resources = try Resources(
            parsing: "cpus:4;mem(ops):1024; ports:[31000-32000, 33000-33000];disk:10.5;zone:{b,a}")
        #expect(resources.cpus == 4)
        #expect(resources.reserved(to: "ops").mem == 1024)
        #expect(resources.unreserved.mem == 0)
        #expect(resources.ports.count == 1002)
        #expect(resources.items("zone") == ["a", "b"])
        #expect(
            resources.description
                == "cpus:4; mem(ops):1024; ports:[31000-32000, 33000-33000]; disk:10.5; zone:{a, b}")
        #expect(try Resources(parsing: "mem:10", defaultRole: "dev").reserved(to: "dev").mem == 10)
        #expect(
            try Resources(parsing: #"[{"name":"cpus","type":"SCALAR","scalar":{"value":2},"role":"*"}]"#).cpus == 2)
    }

    @Test(arguments: [
        "cpus", "cpus:", "cpus:x", "ports:[1-", "ports:[5-4]", "ports:[1]", "mem(a:1", "cpus:-1", "mem(a//b):1", "[1]",
        "{}", #"[{"name":"cpus","type":"RANGES","scalar":{"value":2}}]"#,
    ])
    func badTextIsRefused(text: String) {
        #expect(throws: ResourcesError.self) { try Resources(parsing: text) }
    }

    @Test func containmentMindsReservationsAndPorts() throws {
        let agent = try Resources(parsing: "cpus:2;cpus(a):2;ports:[10-20]")
        #expect(agent.contains(try Resources(parsing: "cpus:2;ports:[12-13,20-20]")))
        #expect(!agent.contains(try Resources(parsing: "cpus:3")))
        #expect(!agent.contains(try Resources(parsing: "ports:[20-21]")))
        #expect(agent.allocatable(to: "a/b").cpus == 4)
        #expect(agent.allocatable(to: "b").cpus == 2)
        let rest = agent - (try Resources(parsing: "ports:[12-18]"))
        #expect(rest.ports.description == "[10-11, 19-20]")
        #expect(agent.flattened.contains(try Resources(parsing: "cpus:4")))
    }

    @Test func persistentVolumesStayWhole() throws {
        var volume = MesosResource("disk", 10)
        volume.role = "a"
        volume.disk.persistence.id = "v1"
        volume.disk.volume.containerPath = "data"
        volume.disk.volume.mode = .rw
        var half = volume
        half.scalar.value = 5
        let resources = Resources([volume])
        #expect(resources.contains(Resources([volume])))
        #expect(!resources.contains(Resources([half])))
        #expect((resources + Resources([volume])).list.count == 2)
    }

    @Test func sharedResourcesCountCopies() {
        var shared = MesosResource("disk", 10)
        shared.role = "a"
        shared.disk.persistence.id = "v1"
        shared.shared = .init()
        let one = Resources([shared])
        let two = one + one
        #expect(two.list.count == 2)
        #expect(!one.contains(two))
        #expect(two - one == one)
        #expect(two.disk == 10)
    }

    @Test func oldAndNewFormAreOne() {
        var old = MesosResource("cpus", 1)
        old.role = "a"
        old.reservation.principal = "p"
        let normal = Resources.normalized(old)
        #expect(normal.reservations.map(\.role) == ["a"])
        #expect(normal.reservations[0].type == .dynamic)
        #expect(Resources.oldForm(normal) == old)
        #expect(Resources.oldForm(MesosResource("cpus", 1)).role == "*")
    }

    @Test func rangesFollowSetLogic() {
        var rng = SeededRandom(seed: 11)
        for _ in 0..<500 {
            let (left, leftRanges) = randomSet(&rng)
            let (right, rightRanges) = randomSet(&rng)
            #expect(members(leftRanges + rightRanges) == left.union(right))
            #expect(members(leftRanges - rightRanges) == left.subtracting(right))
            #expect(leftRanges.contains(rightRanges) == left.isSuperset(of: right))
            #expect(leftRanges.count == UInt64(left.count))
        }
    }

    private func randomSet(_ rng: inout SeededRandom) -> (Set<UInt64>, IntegerRanges) {
        var set: Set<UInt64> = []
        var list: [ClosedRange<UInt64>] = []
        for _ in 0..<Int.random(in: 0...4, using: &rng) {
            let begin = UInt64.random(in: 0...30, using: &rng)
            let range = begin...(begin + UInt64.random(in: 0...6, using: &rng))
            set.formUnion(range)
            list.append(range)
        }
        return (set, IntegerRanges(list))
    }

    private func members(_ ranges: IntegerRanges) -> Set<UInt64> { Set(ranges.ranges.flatMap { Array($0) }) }
}
