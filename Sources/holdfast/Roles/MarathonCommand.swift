import ArgumentParser
import Logging
import ServiceLifecycle

struct MarathonCommand: Role {
    static let configuration = CommandConfiguration(
        commandName: "marathon", abstract: "Runs Marathon, the scheduler of long-running services.")

    func services(logger: Logger) async throws -> [any Service] { throw ValidationError("not implemented") }
}
