import ArgumentParser
import Glibc
import Telemetry

/// `holdfast <role>` runs a role, `holdfast <noun> <verb>` is the operator's command line. Called through a symlink it
/// speaks the command line of the tool whose name the symlink has (`MultiCall`).
@main
struct Holdfast: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "holdfast",
        abstract: "Keeps stateful containers running, with their data, when machines die.",
        subcommands: [
            MasterCommand.self, AgentCommand.self, MarathonCommand.self, VolumesCommand.self,
            MdmCommand.self, SdsCommand.self, SdcCommand.self, NodeCommand.self,
            DevCommand.self, LabCommand.self, StoreCommand.self, LabInitCommand.self, LabDiskCommand.self,
            LabLoadCommand.self, LabSpoilCommand.self, SimCommand.self,
            VolumeCommand.self, RexrayCommand.self, ScliCommand.self, DrvCfgCommand.self,
        ])

    static func main() async {
        // A peer that hangs up is an error of one write, not the end of the process.
        signal(SIGPIPE, SIG_IGN)
        ProcessTelemetry.bootstrap()
        let (command, arguments) = MultiCall.resolve(CommandLine.arguments)
        await command.main(arguments)
    }
}
