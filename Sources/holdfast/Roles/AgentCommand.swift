import ArgumentParser
import Logging
import ServiceLifecycle

struct AgentCommand: Role {
    static let configuration = CommandConfiguration(commandName: "agent", abstract: "Runs a Mesos agent.")

    func services(logger: Logger) async throws -> [any Service] { throw ValidationError("not implemented") }
}
