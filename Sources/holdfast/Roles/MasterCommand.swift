import ArgumentParser
import Logging
import ServiceLifecycle

struct MasterCommand: Role {
    static let configuration = CommandConfiguration(commandName: "master", abstract: "Runs a Mesos master.")

    func services(logger: Logger) async throws -> [any Service] { throw ValidationError("not implemented") }
}
