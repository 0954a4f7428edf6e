import Base
import Glibc
import LinuxOS
import Synchronization

/// A volume in use: a load on it inside some machine, which moves to another when its machine dies. Judges everything
/// that the load says.
final class TortureLoad: Sendable {
    enum Kind: Sendable, Equatable {
        /// Blocks of the raw device.
        case registers(count: UInt64)
        /// Files, on ext4 or xfs.
        case files(filesystem: String)
        /// One block of each MiB of the raw device, to take the space; see `fill`.
        case filler(units: UInt64)
    }

    private struct State {
        /// The load's kind says which of the two counts. They are changed where they are: copying them for each line would take
        /// minutes.
        var registers = RegisterLedger()
        var files = FileLedger()
        /// How much of the log is judged.
        var position = 0
        var node: Int
        var moves = 0
    }

    let volume: String
    private let kind: Kind
    private let lab: Lab
    private let log: String
    private let seed: UInt64
    private let state: Mutex<State>

    init(_ kind: Kind, volume: String, in lab: Lab, on node: Int, seed: UInt64) {
        self.kind = kind
        self.volume = volume
        self.lab = lab
        self.seed = seed
        log = "\(lab.directory)/\(volume).log"
        state = Mutex(State(node: node))
    }

    var node: Int { state.withLock { $0.node } }
    var moves: Int { state.withLock { $0.moves } }

    /// What was done and verified, for the report.
    var summary: String {
        let (registers, files, moves) = state.withLock { ($0.registers, $0.files, $0.moves) }
        let work =
            switch kind {
            case .registers, .filler:
                "\(registers.acknowledged) writes acknowledged, \(registers.verified) reads verified, "
                    + "\(registers.failed) writes failed, \(registers.refused) refused without space"
            case .files: "\(files.operations) operations, \(files.verified) files verified after restarts"
            }
        return "\(volume): \(work), \(moves) moves"
    }

    // MARK: Running

    func create() async throws {
        try await execute(["rexray", "volume", "create", "--size=1", volume])
    }

    /// Keeps the load running, somewhere, until the task is cancelled. Throws when it said something that must not be.
    func run(among nodes: [Int]) async throws {
        while !Task.isCancelled {
            let place = try await take()
            let process = try await start(place, onlyLooks: false)
            defer { process.signalSession(SIGKILL) }
            while process.exitStatus == nil, !Task.isCancelled {
                try? await Task.sleep(for: .milliseconds(500))
                try judge()
            }
            try judge()
            if Task.isCancelled { break }
            move(among: nodes)
        }
    }

    func place(on node: Int) { state.withLock { $0.node = node } }

    /// The next machine in the row is to have the volume.
    func move(among nodes: [Int]) {
        state.withLock { state in
            let others = nodes.filter { $0 != state.node }
            state.node = others.first { $0 > state.node } ?? others.first ?? state.node
            state.moves += 1
        }
    }

    /// Takes space on `node` until there is none, for the given time, and gives it back. Answers how many writes were
    /// refused.
    func fill(on node: Int, for time: Duration) async throws -> Int {
        let before = refused
        place(on: node)
        let process = try await start(try await take(), onlyLooks: false, more: ["--hold", "\(time.inSeconds)"])
        defer { process.signalSession(SIGKILL) }
        let status = try await until(
            "\(volume) filled and emptied", deadline: .seconds(400), interval: .milliseconds(500)
        ) {
            process.exitStatus
        }
        try judge()
        guard status.isSuccess else { throw ScenarioFailure("\(volume): the filling ended with \(status)") }
        guard refused > before else { throw ScenarioFailure("\(volume): there was space for all") }
        return refused - before
    }

    private var refused: Int { state.withLock { $0.registers.refused } }

    /// Takes the volume to `node`, reads everything, and checks what lies on it. The load has ended.
    func verify(on node: Int) async throws {
        place(on: node)
        let place = try await take()
        let process = try await start(place, onlyLooks: true)
        let status = try await process.wait()
        guard status.isSuccess else { throw ScenarioFailure("\(volume): the last look ended with \(status)") }
        try judge()
        let unverified = state.withLock { $0.registers.unverified }
        guard unverified == 0 else { throw ScenarioFailure("\(volume): \(unverified) blocks were not read") }
        guard case .files(let filesystem) = kind else { return }
        let device = try await mount().device
        try await execute(["umount", device])
        let check = filesystem == "xfs" ? ["xfs_repair", "-n", device] : ["e2fsck", "-f", "-n", device]
        try await execute(check, deadline: .seconds(120))
        try await execute(["rexray", "volume", "unmount", volume])
    }

    // MARK: The volume's place

    /// Attaches or mounts the volume here, taking it from whoever has it; answers the device's or the directory's path.
    func take() async throws -> String {
        try await until("\(volume) on node\(node)", deadline: .seconds(180), interval: .milliseconds(500)) {
            guard try lab.state().isRunning(node) else { return nil }
            switch kind {
            case .registers, .filler:
                try await execute(["rexray", "volume", "attach", "--force", volume])
                let link = try await execute(["sh", "-c", "readlink -f /dev/disk/by-id/emc-vol-*-\(try await id())"])
                return link.hasPrefix("/dev/loop") ? link : nil
            case .files(let filesystem):
                try await execute(["rexray", "volume", "mount", "--fsType=\(filesystem)", volume])
                return try await mount().directory
            }
        }
    }

    private func id() async throws -> String {
        let text = try await execute(["rexray", "volume", "ls", "-f", "json", volume])
        guard let volumes = try? JSONValue(parsing: Array(text.utf8)), let id = volumes[0]?["id"]?.string else {
            throw ScenarioFailure("rexray volume ls says: \(text)")
        }
        return id
    }

    private func mount() async throws -> (device: String, directory: String) {
        let mounts = try await execute(["cat", "/proc/mounts"])
        guard
            let line = mounts.split(separator: "\n").last(where: {
                $0.contains("/\(volume) ") || $0.contains("/\(volume)/")
            })
        else { throw ScenarioFailure("\(volume) is not mounted on node\(node)") }
        let words = line.split(separator: " ")
        return (String(words[0]), String(words[1]))
    }

    private func start(_ place: String, onlyLooks: Bool, more: [String] = []) async throws -> ChildProcess {
        var arguments = ["holdfast", "lab-load", place, "--seed", "\(seed &+ UInt64(state.withLock { $0.moves }))"]
        switch kind {
        case .registers(let count): arguments += ["--blocks", "\(count)"]
        case .files: arguments[2] += "/load"
        case .filler(let units): arguments += ["--fill", "\(units)"]
        }
        arguments += more
        if onlyLooks { arguments.append("--only-look") }
        var request = ChildProcess.Request(try lab.enter("node\(node)", arguments))
        request.workingDirectory = "/"
        request.standardOutput = .append(log)
        request.standardError = .append("\(lab.directory)/\(volume).errors")
        return try ChildProcess.spawn(request)
    }

    @discardableResult
    private func execute(_ command: [String], deadline: Duration = .seconds(60)) async throws -> String {
        let result = try await lab.run("node\(node)", command, deadline: deadline)
        guard result.isSuccess else {
            throw ScenarioFailure(
                "node\(node): \(command.joined(separator: " ")) \(result.status): \(result.outputText)\(result.errorText)"
            )
        }
        return result.outputText.split(separator: "\n").joined(separator: "\n")
    }

    // MARK: Judging

    /// Judges what the log has got since last time.
    private func judge() throws {
        let file = try Descriptor.open(log, O_RDONLY | O_CREAT)
        try state.withLock { state in
            var chunk = [UInt8](repeating: 0, count: 1 << 20)
            while true {
                let count = pread(file.raw, &chunk, chunk.count, off_t(state.position))
                guard count > 0, let end = chunk[..<count].lastIndex(of: UInt8(ascii: "\n")) else { return }
                state.position += end + 1
                let text = String(decoding: chunk[...end], as: UTF8.self)
                for line in text.split(separator: "\n") { try take(line, &state) }
            }
        }
    }

    private func take(_ line: Substring, _ state: inout State) throws {
        do throws(ScenarioFailure) {
            switch kind {
            case .registers, .filler: try state.registers.take(line)
            case .files: try state.files.take(line)
            }
        } catch {
            throw ScenarioFailure("\(volume): \(error.description)")
        }
    }
}
