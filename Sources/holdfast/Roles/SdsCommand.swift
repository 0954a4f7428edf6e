import ArgumentParser
import Logging
import ServiceLifecycle

struct SdsCommand: Role {
    static let configuration = CommandConfiguration(commandName: "sds", abstract: "Runs a block store server.")

    func services(logger: Logger) async throws -> [any Service] { throw ValidationError("not implemented") }
}
