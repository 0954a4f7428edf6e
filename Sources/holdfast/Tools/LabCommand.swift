import ArgumentParser

struct LabCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "lab", abstract: "Simulated machines on this one.")

    func run() async throws { throw ValidationError("not implemented") }
}
