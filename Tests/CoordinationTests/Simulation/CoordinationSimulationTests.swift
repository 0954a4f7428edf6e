import Foundation
import Testing

@Suite struct CoordinationSimulationTests {
    /// Two simulated minutes of each; more new ones for as long as HOLDFAST_SIM_SECONDS says (default 5), a sixth of it.
    @Test func oneLeadsAndNoCommitIsLostOrDoubled() throws {
        var elections = 0
        var unknown = 0
        for seed in UInt64(1)...20 {
            let tally = try run(seed)
            elections += tally.elections
            unknown += tally.unknown
        }
        // Otherwise the faults have spared what they are meant for.
        #expect(elections > 100)
        #expect(unknown > 10)
        let environment = ProcessInfo.processInfo.environment
        let seconds = (environment["HOLDFAST_SIM_SECONDS"].flatMap(Double.init) ?? 5) / 6
        let start = Date()
        var seed = environment["HOLDFAST_SIM_SEED"].flatMap(UInt64.init) ?? UInt64(start.timeIntervalSince1970 * 1000)
        while Date().timeIntervalSince(start) < seconds {
            try run(seed)
            seed += 1
        }
    }

    @discardableResult
    private func run(_ seed: UInt64) throws -> CoordinationSimulation.Tally {
        var simulation = CoordinationSimulation(seed: seed)
        do {
            return try simulation.run(milliseconds: 120_000)
        } catch {
            Issue.record("seed \(seed): \(error) (replay with HOLDFAST_SIM_SEED=\(seed))")
            throw error
        }
    }
}
