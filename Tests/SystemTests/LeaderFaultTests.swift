import TestKit
import Testing

/// Leaders and ZooKeepers that die, stand still or are cut off in the middle of their work.
@Suite(.serialized) struct LeaderFaultTests {
    private enum Fault: CaseIterable {
        /// kill -9.
        case killed
        /// SIGSTOP beyond the end of its session; it goes on when another leads.
        case paused
        /// From every ZooKeeper, not from agents, servers and clients.
        case cutFromZooKeeper
        /// From agents, servers and clients for a moment, not from ZooKeeper: it goes on leading.
        case cutFromOthers
    }

    private enum Blow {
        case leader(Office, Fault)
        /// These servers are killed at once; they start again by themselves.
        case zooKeepers([Int])
    }

    private static let blows =
        Office.allCases.flatMap { office in Fault.allCases.map { Blow.leader(office, $0) } }
        + [.zooKeepers([2]), .zooKeepers([1, 2, 3])]

    /// After each blow everything that was acknowledged is there and nothing was done twice; tasks keep their processes,
    /// and the file on the volume grows through all of it.
    @Test(.timeLimit(.minutes(12))) func nothingIsLostOrDoneTwice() async throws {
        try await withLab(ElectedCluster.options) { lab in
            let cluster = ElectedCluster(lab: lab)
            try await cluster.deploy("steady", ElectedCluster.steady)
            try await eventually("the steady app runs", within: .seconds(60)) {
                try await cluster.runs("steady", ElectedCluster.steady)
            }
            let tasks = try await cluster.taskIDs("steady")
            let processes = try await cluster.processes(ElectedCluster.steady)
            try await cluster.startWriting()

            for (number, blow) in Self.blows.enumerated() {
                let before = try await cluster.written()
                let command = "sleep \(2_000_000 + number)"
                try await cluster.deploy("rolling", command)
                async let volumes: Void = cluster.comeAndGo(number)
                try await strike(blow, cluster)
                try await volumes
                try await eventually("\(command) runs after: \(blow)", within: .seconds(90)) {
                    try await cluster.runs("rolling", command)
                }
                try #require(try await cluster.processes("sleep 20000[0-9][0-9]").count == 3, "after: \(blow)")
                try #require(try await cluster.taskIDs("steady") == tasks, "after: \(blow)")
                try #require(try await cluster.processes(ElectedCluster.steady) == processes, "after: \(blow)")
                let told = try await eventually("the volumes are told after: \(blow)", within: .seconds(30)) {
                    try await cluster.volumes()
                }
                try #require(told == cluster.expectedVolumes(number), "after: \(blow)")
                try await eventually("a write after: \(blow)") { try await cluster.written() > before }
            }

            for office in Office.allCases { _ = try await cluster.nextLeader(office, after: 0) }
            try await cluster.finishWriting()
            try await eventually("every comb has two copies", within: .seconds(90)) {
                try await lab.isWhole(servers: 4)
            }
        }
    }

    private func strike(_ blow: Blow, _ cluster: ElectedCluster) async throws {
        switch blow {
        case .leader(let office, let fault): try await strike(office, fault, cluster)
        case .zooKeepers(let nodes):
            for node in nodes {
                try await cluster.lab.run(["lab", "crash", "node\(node)", "zookeeper"], deadline: .seconds(30))
            }
        }
    }

    private func strike(_ office: Office, _ fault: Fault, _ cluster: ElectedCluster) async throws {
        let lab = cluster.lab
        let old = try await cluster.nextLeader(office, after: 0)
        let node = "node\(old.node)"
        // A storage server that died gives the manager something to rebuild.
        if office == .mdm, fault != .cutFromOthers {
            try await lab.run(["lab", "crash", "node4", "sds"], deadline: .seconds(30))
        }
        switch fault {
        case .killed:
            try await lab.run(["lab", "crash", node, office.rawValue], deadline: .seconds(30))
            _ = try await cluster.nextLeader(office, after: old.epoch)
        case .paused:
            let losses = try cluster.losses(of: office, on: old.node)
            try await lab.run(["lab", "pause", node, office.rawValue], deadline: .seconds(30))
            let new = try await cluster.nextLeader(office, after: old.epoch)
            try await lab.run(["lab", "resume", node, office.rawValue], deadline: .seconds(30))
            try await eventually("\(office) of \(node) steps down", within: .seconds(30)) {
                try cluster.losses(of: office, on: old.node) > losses
            }
            // Whoever wakes up takes nothing back.
            #expect(try await cluster.leader(office) == new)
        case .cutFromZooKeeper:
            try await lab.run(["lab", "partition", node, "all", "--port", "2181"], deadline: .seconds(30))
            let new = try await cluster.nextLeader(office, after: old.epoch)
            #expect(new.node != old.node)
            try await lab.run(["lab", "heal"], deadline: .seconds(30))
        case .cutFromOthers:
            let ports = office.ports.flatMap { ["--port", "\($0)"] }
            try await lab.run(["lab", "partition", node, "all"] + ports, deadline: .seconds(30))
            try await Task.sleep(for: .seconds(2))
            try await lab.run(["lab", "heal"], deadline: .seconds(30))
            #expect(try await cluster.leader(office)?.epoch == old.epoch)
        }
    }
}
