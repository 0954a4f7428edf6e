import ArgumentParser
import FoundationEssentials
import Glibc
import StorageTools

struct ScliCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "scli", abstract: "The ScaleIO command line.")

    /// The original's own syntax, all of it: parsed by the tool.
    @Argument(parsing: .captureForPassthrough) var arguments: [String] = []

    func run() async throws {
        try finish(await Scli(environment: ProcessInfo.processInfo.environment).run(arguments))
    }
}

/// Prints what a tool had to say and ends the process as it says.
func finish(_ result: ToolResult) throws {
    print(to: 1, result.output)
    print(to: 2, result.errors)
    if result.exitCode != 0 { throw ExitCode(result.exitCode) }
}

private func print(to descriptor: Int32, _ text: String) {
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
        let written = rest.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
        // A reader that went away (`scli | head`) is no error of ours.
        guard written > 0 else { return }
        rest = rest.dropFirst(written)
    }
}
