import ArgumentParser
import FoundationEssentials
import StorageTools

struct DrvCfgCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "drv_cfg", abstract: "The ScaleIO client's configuration tool.")

    /// The original's own syntax, all of it: parsed by the tool.
    @Argument(parsing: .captureForPassthrough) var arguments: [String] = []

    func run() async throws {
        let environment = ProcessInfo.processInfo.environment
        let socket = environment["HOLDFAST_SDC_CONTROL"] ?? DrvCfg.controlSocketDefault
        try finish(await DrvCfg(socket: socket).run(arguments))
    }
}
