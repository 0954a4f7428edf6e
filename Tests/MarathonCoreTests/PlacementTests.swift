import Base
import MarathonCore
import OrderedCollections
import Testing

@Suite struct PlacementTests {
    private func place(_ text: String, on offers: [AgentOffer]) throws -> Cluster {
        var cluster = Cluster()
        try cluster.create(text)
        cluster.apply(.offers(offers))
        return cluster
    }

    private func rack(_ name: String) -> [AgentOffer.Attribute] { [.init(name: "rack", value: .text(name))] }

    @Test func uniqueHoldsWithinOneBatch() throws {
        let source = Cluster()
        let cluster = try place(
            #"{"id":"/web","cmd":"run","instances":4,"constraints":[["hostname","UNIQUE"]]}"#,
            on: [source.offer("agent-1"), source.offer("agent-2")])
        #expect(Set(cluster.tasks.values.map(\.launch.instance.agentID)).count == 2)
        #expect(cluster.tasks.count == 2)
    }

    @Test(arguments: [
        (#"["rack","CLUSTER","b"]"#, ["b": 4]), (#"["rack","LIKE","[ab]"]"#, ["a": 4]),
        (#"["rack","UNLIKE","a|c"]"#, ["b": 4]),
        (#"["rack","MAX_PER","1"]"#, ["a": 1, "b": 1, "c": 1]), (#"["rack","IS","c"]"#, ["c": 4]),
        (#"["rack","GROUP_BY","3"]"#, ["a": 1, "b": 1, "c": 2]),
    ])
    func constraints(_ constraint: String, _ expected: [String: Int]) throws {
        var cluster = Cluster()
        try cluster.create(
            #"{"id":"/web","cmd":"run","cpus":0.1,"mem":1,"instances":4,"constraints":[\#(constraint)]}"#)
        for _ in 0..<3 {
            cluster.apply(.offers(["a", "b", "c"].map { cluster.offer("agent-\($0)", attributes: rack($0)) }))
        }
        var counts: [String: Int] = [:]
        for task in cluster.tasks.values { counts[task.launch.instance.placement["rack"] ?? "", default: 0] += 1 }
        #expect(counts == expected)
    }

    @Test func reasonsAreTold() throws {
        var cluster = Cluster()
        try cluster.create(#"{"id":"/big","cmd":"run","cpus":100,"mem":100000}"#)
        cluster.apply(.offers([cluster.offer("agent-1"), cluster.offer("agent-2")]))
        let view = cluster.core.queueView(embedsOffers: true, time: cluster.core.timestamp(cluster.now))
        let item = try #require(view["queue"]?[0])
        #expect(item["lastUnusedOffers"]?[0]?["reason"] == ["InsufficientCpus", "InsufficientMemory"])
        #expect(item["processedOffersSummary"]?["unusedOffersCount"] == 2)
        let rows = item["processedOffersSummary"]?["rejectSummaryLastOffers"]?.array ?? []
        #expect(
            rows.first { $0["reason"] == "InsufficientCpus" } == [
                "reason": "InsufficientCpus", "declined": 2, "processed": 2,
            ])
        #expect(
            rows.first { $0["reason"] == "InsufficientMemory" } == [
                "reason": "InsufficientMemory", "declined": 0, "processed": 0,
            ])
        #expect(item["delay"]?["overdue"] == true)
    }

    @Test func fixedPortsAreTakenFromOffers() throws {
        let source = Cluster()
        let cluster = try place(
            #"{"id":"/web","cmd":"run","instances":2,"portDefinitions":[{"port":31500},{"port":0}],"requirePorts":true}"#,
            on: [source.offer("agent-1"), source.offer("agent-2")])
        #expect(cluster.tasks.count == 2)
        for task in cluster.tasks.values {
            let ports = task.launch.instance.ports
            #expect(ports[0] == 31500)
            #expect((31000...32000).contains(ports[1]) && ports[1] != 31500)
        }
        #expect(Set(cluster.tasks.values.map(\.launch.instance.agentID)).count == 2)
        let outside = try place(
            #"{"id":"/web","cmd":"run","portDefinitions":[{"port":80}],"requirePorts":true}"#,
            on: [source.offer("agent-1")])
        #expect(outside.tasks.isEmpty)
    }

    @Test func reservedResourcesComeFirst() throws {
        var configuration = CoreConfiguration()
        configuration.rules.role = "prod"
        var cluster = Cluster(configuration: configuration)
        try cluster.create(#"{"id":"/web","cmd":"run","cpus":2,"mem":10,"ports":[]}"#)
        var offer = cluster.offer("agent-1", cpus: 1.5)
        offer.resources.append(.init(name: "cpus", role: "prod", amount: .scalar(1)))
        offer.resources.append(.init(name: "cpus", role: "other", amount: .scalar(50)))
        cluster.apply(.offers([offer]))
        let shares = try #require(cluster.tasks.values.first?.launch.shares.filter { $0.name == "cpus" })
        #expect(
            shares == [
                ResourceShare(name: "cpus", role: "prod", amount: .scalar(1)),
                ResourceShare(name: "cpus", role: "*", amount: .scalar(1)),
            ])
    }

    @Test func newWorkAsksForOffersAtOnceAndIdlenessRefusesThem() throws {
        var cluster = Cluster()
        #expect(cluster.core.counters.suppresses == 1)
        let before = cluster.revives
        try cluster.create(#"{"id":"/web","cmd":"run"}"#)
        #expect(cluster.revives == before + 1)
        cluster.settle(rounds: 3)
        #expect(cluster.core.counters.suppresses == 2)
    }
}
