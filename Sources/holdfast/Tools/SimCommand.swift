import ArgumentParser
import Base
import BlockCore
import Glibc
import SimKit

/// The whole block store in virtual time, under faults that follow from a seed: for everybody who wants to see it hold.
struct SimCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sim",
        abstract: "Runs the block store's simulator: seed after seed, until the time is over or one fails.")

    @Option(help: "The first seed; by default one of the clock's.") var seed: UInt64?

    @Option(help: "Real minutes. 0: only the one seed.") var minutes: Double = 1

    @Option(help: "How many seeds run at once: each takes one core.") var jobs = 1

    private static let profiles = SimulationProfile.allCases.map(\.rawValue).joined(separator: ", ")

    @Option(help: "Which kind of run: \(profiles). By default the seed decides, never for lasting.")
    var profile: String?

    @Option(
        name: .customLong("without-rule"),
        help: "Leaves a safety rule out, to see that this is noticed; may be repeated. 'list' lists them.")
    var withoutRules: [String] = []

    @Flag(help: "Prints everything that happened in a run that fails.") var trace = false

    func validate() throws {
        guard minutes >= 0, minutes <= 1_000_000 else { throw ValidationError("--minutes must not be negative") }
        guard jobs >= 1, jobs <= 1024 else { throw ValidationError("--jobs is 1 to 1024") }
        if let profile, SimulationProfile(rawValue: profile) == nil {
            throw ValidationError("There is no profile '\(profile)'")
        }
        for name in withoutRules where name != "list" {
            guard ProtocolRules.named.contains(where: { $0.name == name }) else {
                throw ValidationError("There is no rule '\(name)': try --without-rule list")
            }
        }
    }

    func run() async throws {
        if withoutRules.contains("list") {
            for (name, _) in ProtocolRules.named { print(name) }
            return
        }
        let rules = ProtocolRules.named.reduce(ProtocolRules.all) {
            withoutRules.contains($1.name) ? $0.subtracting($1.rule) : $0
        }
        let kind = profile.flatMap(SimulationProfile.init(rawValue:))
        let start = ContinuousClock.now
        let campaign = await simulate(rules, kind)
        for line in campaign.summary(elapsed: .now - start) { print(line) }
        guard let failure = campaign.failure else { return print("no violation") }
        print("VIOLATION by seed \(failure.seed): \(failure.failure ?? "")")
        let options =
            withoutRules.map { " --without-rule \($0)" }.joined() + (profile.map { " --profile \($0)" } ?? "")
        print("replay it with        holdfast sim --seed \(failure.seed) --minutes 0\(options) --trace")
        if trace {
            let again = Simulation(
                SimulationOptions(seed: failure.seed, rules: rules, profile: kind, keepsTrace: true))
            _ = again.run()
            for line in again.trace { print(line) }
        }
        throw ExitCode.failure
    }

    /// Until the time is over or a run fails; those that are under way then are counted as well.
    private func simulate(_ rules: ProtocolRules, _ kind: SimulationProfile?) async -> Campaign {
        let start = ContinuousClock.now
        let end = start + .seconds(minutes * 60)
        var random = SystemRandomNumberGenerator()
        var seed = self.seed ?? UInt64.random(in: 1...UInt64(UInt32.max), using: &random)
        var campaign = Campaign()
        var told = start
        tell("first seed            \(seed)")
        await withTaskGroup(of: SimulationReport.self) { group in
            func begin() {
                let options = SimulationOptions(seed: seed, rules: rules, profile: kind)
                group.addTask { Simulation(options).run() }
                seed &+= 1
            }
            for _ in 0..<(minutes == 0 ? 1 : jobs) { begin() }
            for await report in group {
                campaign.add(report)
                if campaign.failure == nil, ContinuousClock.now < end { begin() }
                guard .now - told >= .seconds(30) else { continue }
                told = .now
                tell("  \(campaign.runs) runs, \(campaign.simulated.inSeconds / 3600) simulated hours")
            }
        }
        return campaign
    }

    /// At once, also into a file.
    private func tell(_ line: String) {
        print(line)
        fflush(nil)
    }
}
