import ArgumentParser
import Logging
import ServiceLifecycle

struct VolumesCommand: Role {
    static let configuration = CommandConfiguration(
        commandName: "volumes", abstract: "Runs the volume service: Docker's volume plugin and libStorage.")

    func services(logger: Logger) async throws -> [any Service] { throw ValidationError("not implemented") }
}
