import ArgumentParser
import Lab
import LinuxOS

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
    @Option(help: "Write one block in each of so many MiB until there is no space, and give all of it back.")
    var fill: UInt64?
    @Option(help: "Seconds for which it stays full.") var hold = 1.0

    func run() async throws {
        if let fill {
            try await LoadProcess.fill(place, units: fill, holding: .seconds(hold))
        } else if let blocks {
            try LoadProcess.useRegisters(place, count: blocks, seed: seed, onlyLooks: onlyLook)
        } else {
            try LoadProcess.useFiles(place, seed: seed, onlyLooks: onlyLook)
        }
    }
}

/// Damage to a device of the torture; started by it inside a machine.
struct LabSpoilCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lab-spoil", abstract: "Damage to a device of the torture.", shouldDisplay: false)

    @Argument(help: "A device of a storage server that runs.") var device: String
    @Option var seed: UInt64 = 1
    @Option(help: "How many blocks get other content.") var blocks = 1
    @Option(help: "Seconds until all of them must be mended.") var deadline = 60.0

    func run() async throws {
        let (device, blocks, seed, deadline) = (device, blocks, seed, deadline)
        let outcome = try await offPool {
            try DeviceSpoiler.spoil(device, count: blocks, seed: seed, deadline: .seconds(deadline))
        }
        print(outcome)
    }
}
