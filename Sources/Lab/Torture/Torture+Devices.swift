import Base
import LinuxOS

/// What is done to devices: blocks of one get other content, all are filled, one is lost.
extension Torture {
    /// MiB of the filling volume that are used: all 8 GiB of it.
    static let fillerUnits: UInt64 = 8192
    /// Of every device, while there must be no space: what is left of four of 10 GiB is less than the filling volume.
    private static let spareWhenFull = 70
    private static let spare = 10
    /// The scanner has met all damage within this time: it passes over what is being written, and the loads rest each minute.
    private static let mendingMax = 240

    /// No server may die before all is mended: of a unit that is being written when its server dies the checksums are
    /// unknown (docs/design/checksums.md), and the damage would count as right.
    func corrupt(_ node: Int, _ blocks: Int, _ seed: UInt64) async throws -> DeviceSpoiler.Outcome {
        let place = try lab.state().hasVolatileDisks ? "disk/device" : "sds.device"
        let command = [
            "holdfast", "lab-spoil", "\(lab.nodeDirectory(node))/\(place)", "--blocks", "\(blocks)", "--seed",
            "\(seed)",
            "--deadline", "\(Self.mendingMax)",
        ]
        let result = try await lab.run("node\(node)", command, deadline: .seconds(Self.mendingMax + 60))
        guard result.isSuccess, let outcome = DeviceSpoiler.Outcome(parsing: result.outputText) else {
            throw ScenarioFailure("node\(node): lab-spoil \(result.status): \(result.outputText)\(result.errorText)")
        }
        report.say("(\(outcome))")
        return outcome
    }

    /// The spare is raised meanwhile, so that it takes less than a minute until clients find no space.
    func fill(from node: Int, for time: Duration) async throws {
        try await keepSpare(Self.spareWhenFull)
        let refused = try await filler.fill(on: node, for: time)
        try await keepSpare(Self.spare)
        report.say("(\(refused) writes refused)")
    }

    private func keepSpare(_ percent: Int) async throws {
        _ = try await until("\(percent) % spare", deadline: .seconds(60), interval: .milliseconds(500)) {
            try await cluster.keepSpare(percent: percent)
            return true
        }
    }

    /// The server on the empty disk is a new one; what the old one had is copied from the others.
    func wipe(_ node: Int, for time: Duration) async throws {
        try await lab.kill("node\(node)")
        try await lab.replaceDisk(of: "node\(node)")
        try await Task.sleep(for: time)
        try await lab.start("node\(node)")
        _ = try await until("the new server of node\(node)", deadline: Self.recoveryMax, interval: .milliseconds(500)) {
            try await cluster.replaceServer(named: "node\(node)") ? true : nil
        }
        try await recover()
    }

    /// Nothing that was spoiled is left, nor anything else.
    func awaitCleanDevices() async throws -> (now: Int64, differing: Int64) {
        try await until("no damaged blocks", deadline: .seconds(Self.mendingMax), interval: .seconds(1)) {
            let damage = try await cluster.damage()
            return damage.now == 0 ? damage : nil
        }
    }
}
