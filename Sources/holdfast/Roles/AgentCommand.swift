import Agent
import ArgumentParser
import LinuxOS
import Logging
import ServiceLifecycle

struct AgentCommand: Role {
    static let configuration = CommandConfiguration(
        commandName: "agent", abstract: "Runs a Mesos agent.",
        discussion: "Takes the flags of mesos-agent; --help lists them.")

    @Argument(parsing: .captureForPassthrough)
    var flags: [String] = []

    func services(logger: Logger) async throws -> [any Service] {
        let flags = try AgentFlags(arguments: flags, environment: currentEnvironment())
        if flags.wantsHelp { throw CleanExit.message(AgentFlags.help) }
        if flags.wantsVersion { throw CleanExit.message("mesos \(AgentConfiguration.version)") }
        return [AgentService(try flags.configuration(logger: logger), logger: logger)]
    }
}
