import Base
import Glibc
import LinuxOS
import Synchronization

/// fio on a raw volume: it writes every block, with the number of the round and its own place in it, and reads all of them.
/// Where it dies the volume moves, and what a whole round wrote is looked for there.
final class TortureFio: Sendable {
    /// What fio says of a block that is not what it wrote.
    private static let complaints = ["verify failed", "bad pattern block"]
    private static let bytes = 48 << 20
    /// Of one run; no volume stands still for so long.
    private static let runMax = Duration.seconds(600)

    private struct State {
        var round: UInt64
        /// The round of which all is written, until the next one begins.
        var written: UInt64?
        var rounds = 0
        var verified = 0
    }

    private let volume: TortureLoad
    private let lab: Lab
    private let log: String
    private let state: Mutex<State>

    init(in lab: Lab, on node: Int, seed: UInt64) {
        self.lab = lab
        volume = TortureLoad(.registers(count: 0), volume: "fio", in: lab, on: node, seed: seed)
        log = "\(lab.directory)/fio.log"
        state = Mutex(State(round: seed % 1_000_000))
    }

    var summary: String {
        let moves = volume.moves
        return state.withLock { "fio: \($0.rounds) rounds written, \($0.verified) verified, \(moves) moves" }
    }

    func create() async throws { try await volume.create() }

    /// Writes and verifies, somewhere, until the task is cancelled.
    func run(among nodes: [Int]) async throws {
        while !Task.isCancelled {
            let device = try await volume.take()
            // What the last round wrote is there after a move, too.
            while !Task.isCancelled {
                if let written = state.withLock({ $0.written }) {
                    guard try await isVerified(written, on: device) else { break }
                }
                guard try await isWritten(on: device) else { break }
            }
            if !Task.isCancelled { volume.move(among: nodes) }
        }
    }

    /// What the last whole round wrote is there, if no later one has begun; else a round is written and verified now.
    func verify(on node: Int) async throws {
        volume.place(on: node)
        let device = try await volume.take()
        if state.withLock({ $0.written }) == nil {
            guard try await isWritten(on: device) else { throw ScenarioFailure("fio cannot write, see \(log)") }
        }
        guard let written = state.withLock({ $0.written }), try await isVerified(written, on: device) else {
            throw ScenarioFailure("fio cannot verify, see \(log)")
        }
    }

    private func isWritten(on device: String) async throws -> Bool {
        let round = state.withLock { state in
            state.written = nil
            state.round += 1
            return state.round
        }
        guard try await run(device, round, ["--do_verify=0"]) else { return false }
        state.withLock { state in
            state.written = round
            state.rounds += 1
        }
        return true
    }

    private func isVerified(_ round: UInt64, on device: String) async throws -> Bool {
        guard try await run(device, round, ["--verify_only"]) else { return false }
        state.withLock { $0.verified += 1 }
        return true
    }

    /// False when it ended for another reason than that it found something wrong, such as that its machine died.
    private func run(_ device: String, _ round: UInt64, _ more: [String]) async throws -> Bool {
        let start = try Descriptor.open(log, O_RDONLY | O_CREAT)
        let position = lseek(start.raw, 0, SEEK_END)
        guard let command = try? lab.enter("node\(volume.node)", Self.command(device, round) + more) else {
            return false
        }
        var request = ChildProcess.Request(command)
        request.workingDirectory = "/"
        request.standardOutput = .append(log)
        request.standardError = .append(log)
        let process = try ChildProcess.spawn(request)
        defer { process.signalSession(SIGKILL) }
        let end = ContinuousClock.now + Self.runMax
        while process.exitStatus == nil, !Task.isCancelled {
            guard .now < end else {
                throw ScenarioFailure("fio, round \(round): not within \(Self.runMax), see \(log)")
            }
            try? await Task.sleep(for: .milliseconds(300))
        }
        let text = try readText(log).utf8.dropFirst(Int(position))
        if let complaint = Self.complaint(in: String(decoding: text, as: UTF8.self)) {
            throw ScenarioFailure("fio, round \(round): \(complaint)")
        }
        return process.exitStatus?.isSuccess == true
    }

    private static func command(_ device: String, _ round: UInt64) -> [String] {
        [
            "fio", "--name=round", "--filename=\(device)", "--rw=randwrite", "--bs=16k", "--size=\(bytes)",
            "--direct=1",
            "--ioengine=libaio", "--iodepth=8", "--randseed=\(round)", "--allrandrepeat=1", "--verify=pattern",
            "--verify_pattern=0x\(hexadecimal(round))%o", "--verify_fatal=1", "--verify_state_save=0", "--eta=never",
            "--output-format=terse", "--output=/dev/null",
        ]
    }

    /// Eight digits.
    private static func hexadecimal(_ round: UInt64) -> String {
        let digits = String(round % (1 << 32), radix: 16)
        return String(repeating: "0", count: 8 - digits.count) + digits
    }

    /// The line in which fio tells of a block that is not what it wrote.
    static func complaint(in text: String) -> String? {
        text.split(separator: "\n").first { line in complaints.contains { line.contains($0) } }.map(String.init)
    }
}
