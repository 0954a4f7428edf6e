import ArgumentParser
import Base
import VolumeService

/// `holdfast volume`: what `rexray volume` can, and what it never could.
struct VolumeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "volume", abstract: "Lists, makes, attaches, mounts and enlarges volumes.",
        subcommands: RexrayVolumeCommand.configuration.subcommands + [Resize.self])

    struct Resize: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "resize",
            abstract: "Enlarges a volume and, on the host that has it mounted, its filesystem, while it is in use.")

        @Argument(help: "The volume's name.") var name: String
        @Argument(help: "The new size in GB.") var size: Int
        @OptionGroup var output: RexrayVolumeCommand.Output

        func validate() throws {
            guard (1...(1 << 20)).contains(size) else { throw ValidationError("A size is 1 GB to 1 PB") }
        }

        func run() async throws {
            try await output.global.withClient { [self] client, _ in
                let chosen = try await RexrayVolumeCommand.Output.select(
                    [name], client, mask: 1, allowsPrefixes: false)
                try await output.forEach(chosen) {
                    output.show($0)
                } _: { volume in
                    try await client.resize(name: volume["name"]?.string ?? "", gibibytes: size)
                }
            }
        }
    }
}
