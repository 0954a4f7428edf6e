import ArgumentParser
import Logging
import ServiceLifecycle

struct DevCommand: Role {
    static let configuration = CommandConfiguration(
        commandName: "dev", abstract: "Runs everything on this machine, for a first look.")

    func services(logger: Logger) async throws -> [any Service] { throw ValidationError("not implemented") }
}
