import Base
import Foundation
import LinuxOS
import Testing

@testable import Coordination

@Suite struct CoordinationSimulationTests {
    /// Seeds that found something with the model of their day: a reply that a standing process takes late delays its
    /// noticing a silent server; a session of the model saw undone what it had seen, and a candidate waited for its own
    /// lost node; a candidate that had stood still led in the last moments of its session.
    private static let kept: [UInt64] = [1_795_479_492_607, 1_796_105_499_867, 2170]

    /// Two simulated minutes for each seed.
    @Test func oneLeadsAndNoCommitIsLostOrDoubled() async throws {
        // On a thread of its own: other tests wait for those that it would hold.
        let (elections, unknown) = try await offPool {
            var elections = 0
            var unknown = 0
            for seed in Self.kept + Array(1...12) {
                let tally = try Self.run(seed)
                elections += tally.elections
                unknown += tally.unknown
            }
            return (elections, unknown)
        }
        // Otherwise the faults have spared what they are meant for.
        #expect(elections > 60)
        #expect(unknown > 5)
    }

    /// The model shows the past, but no session sees undone what it has seen or done.
    @Test func sessionsDoNotGoBackInTime() {
        var random = SeededRandom(seed: 1)
        var ensemble = ModelEnsemble(timeout: 1000)
        let writer = ensemble.open(now: 0)
        let synced = ensemble.open(now: 0)
        var lateReads = 0
        for round in 0..<100 {
            let path = "/\(round)"
            #expect(ensemble.answer(.create(path), of: writer, random: &random) == .done)
            let stranger = ensemble.open(now: 0)
            let list = ensemble.answer(.children("/", watch: false, isFresh: true), of: synced, random: &random)
            guard case .children(let names) = list else {
                Issue.record("\(list)")
                return
            }
            #expect(names.count == round + 1)
            for session in [writer, synced, stranger] {
                let reply = ensemble.answer(.values([path]), of: session, random: &random)
                if reply == .values([nil]) {
                    #expect(session == stranger)
                    lateReads += 1
                }
            }
        }
        #expect(lateReads > 0)
    }

    /// New seeds for a sixth of the time that HOLDFAST_SIM_SECONDS says (default 5), beginning at HOLDFAST_SIM_SEED or
    /// at the clock.
    @Test func newSeeds() async throws {
        try await offPool {
            let environment = ProcessInfo.processInfo.environment
            let seconds = (environment["HOLDFAST_SIM_SECONDS"].flatMap(Double.init) ?? 5) / 6
            let start = Date()
            var seed =
                environment["HOLDFAST_SIM_SEED"].flatMap(UInt64.init) ?? UInt64(start.timeIntervalSince1970 * 1000)
            while Date().timeIntervalSince(start) < seconds {
                try Self.run(seed)
                seed += 1
            }
        }
    }

    @discardableResult
    private static func run(_ seed: UInt64) throws -> CoordinationSimulation.Tally {
        var simulation = CoordinationSimulation(seed: seed)
        do {
            return try simulation.run(milliseconds: 120_000)
        } catch {
            throw CoordinationSimulation.Failure(
                description: "seed \(seed): \(error) (replay with HOLDFAST_SIM_SEED=\(seed))")
        }
    }
}
