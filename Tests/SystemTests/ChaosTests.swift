import Base
import LinuxOS
import TestKit
import Testing

/// kill -9 of one process after the other while the app is written to.
@Suite(.serialized) struct ChaosTests {
    /// How many processes are killed, and in which order; otherwise with `HOLDFAST_CHAOS_ROUNDS` and `HOLDFAST_CHAOS_SEED`.
    static var rounds: Int { currentEnvironment()["HOLDFAST_CHAOS_ROUNDS"].flatMap { Int($0) } ?? 200 }
    static var seed: UInt64 { currentEnvironment()["HOLDFAST_CHAOS_SEED"].flatMap { UInt64($0) } ?? 20_161_101 }

    /// Every role is a process of its own here, and any of them may die at any moment: every write that was acknowledged is
    /// there afterwards, the container has never been stopped, and the cluster is whole again without hands.
    ///
    /// The master waits 15 s for a silent agent, so that a restart on a busy machine is not taken for the machine's death.
    @Test(.timeLimit(.minutes(15))) func anyProcessMayDieAtAnyTime() async throws {
        let options = ["--store", "embedded", "--separate-roles", "--set", "master.agent_ping_timeout=5secs"]
        try await withLab(options) { lab in
            try await lab.run(["lab", "demo", "--acts", "stop"], deadline: .seconds(200))
            let instance = try await lab.runningInstance()
            let container = try await lab.container(of: instance)
            #expect(!container.isEmpty)
            // Redis acknowledges only what it has flushed.
            #expect(try await lab.redis(instance, ["config", "set", "appendfsync", "always"]) == "OK")
            var random = SeededRandom(seed: Self.seed)
            var acknowledged: [String: Int] = [:]
            var killed: [String] = []
            for round in 0..<Self.rounds {
                killed.append(try await crashOne(lab, &random))
                for value in 0..<Int.random(in: 1...40, using: &random) {
                    let key = "key\(value % 7)"
                    let number = round * 40 + value
                    let answer = try await lab.redis(instance, ["set", key, "\(number)"])
                    guard answer == "OK" else {
                        throw LabFailure("the app answers \"\(answer)\" after the deaths of \(killed.suffix(5))")
                    }
                    acknowledged[key] = number
                }
            }
            #expect(acknowledged.count == 7)
            try await eventually("the cluster is whole", within: .seconds(120)) {
                guard try await lab.activeAgents() == 4 else { return false }
                return try await lab.isWhole(servers: 4)
            }
            #expect(try await lab.runningInstance() == instance)
            #expect(try await lab.container(of: instance) == container)
            for (key, number) in acknowledged {
                #expect(try await lab.redis(instance, ["get", key]) == "\(number)")
            }
            for (key, value) in [("data1", "ScaleIO"), ("data2", "REX-Ray"), ("data3", "Docker")] {
                #expect(try await lab.redis(instance, ["get", key]) == value)
            }
        }
    }

    /// Kills one process of one machine. One that is only just being started again is waited for.
    private func crashOne(_ lab: LabUnderTest, _ random: inout SeededRandom) async throws -> String {
        let node = Int.random(in: 1...4, using: &random)
        let everywhere = ["agent", "volumes", "sds", "sdc", "sdc-keeper", "node"]
        let roles = node == 1 ? everywhere + ["master", "marathon", "mdm"] : everywhere
        let role = roles[Int.random(in: roles.indices, using: &random)]
        try await eventually("the death of \(role) on node\(node)") {
            try await lab.run(["lab", "crash", "node\(node)", role], deadline: .seconds(20))
            return true
        }
        return "\(role) on node\(node)"
    }
}
