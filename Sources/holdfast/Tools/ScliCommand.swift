import ArgumentParser

struct ScliCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "scli", abstract: "The ScaleIO command line.")

    func run() async throws { throw ValidationError("not implemented") }
}
