import ArgumentParser

struct DrvCfgCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "drv_cfg", abstract: "The ScaleIO client's configuration tool.")

    func run() async throws { throw ValidationError("not implemented") }
}
