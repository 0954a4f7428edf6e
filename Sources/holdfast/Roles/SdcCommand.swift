import ArgumentParser
import Logging
import ServiceLifecycle

struct SdcCommand: Role {
    static let configuration = CommandConfiguration(
        commandName: "sdc", abstract: "Runs the block store client of this machine.")

    func services(logger: Logger) async throws -> [any Service] { throw ValidationError("not implemented") }
}
