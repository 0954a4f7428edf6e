import ArgumentParser
import Lab

/// Everything fails, again and again, and nothing acknowledged may be lost.
struct LabTortureCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "torture",
        abstract: "Uses volumes in many ways while processes, machines and cables fail, and verifies all of it.")

    @OptionGroup var options: LabCommand.Options
    @Option(help: "How long.") var minutes = 30.0
    @Option(help: "The same seed chooses the same faults; otherwise a random one.") var seed: UInt64?

    func validate() throws {
        guard minutes > 0, minutes <= 10_000 else { throw ValidationError("--minutes is above 0, at most 10000.") }
    }

    func run() async throws {
        let torture = try Torture(
            Lab(directory: absolutePath(options.dir)), seed: seed ?? UInt64.random(in: 1...999_999_999))
        try await torture.run(for: .seconds(minutes * 60))
    }
}

/// A load of the torture; started by it inside a machine.
struct LabLoadCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lab-load", abstract: "A load of the torture.", shouldDisplay: false)

    @Argument(help: "A block device, or with --blocks absent a directory.") var place: String
    @Option var seed: UInt64 = 1
    @Option(help: "How many blocks of the device are used.") var blocks: UInt64?
    @Flag(help: "Read everything once and end.") var onlyLook = false

    func run() async throws {
        if let blocks {
            try LoadProcess.useRegisters(place, count: blocks, seed: seed, onlyLooks: onlyLook)
        } else {
            try LoadProcess.useFiles(place, seed: seed, onlyLooks: onlyLook)
        }
    }
}
