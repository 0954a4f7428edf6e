import ArgumentParser

struct RexrayCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "rexray", abstract: "The REX-Ray command line.")

    func run() async throws { throw ValidationError("not implemented") }
}
