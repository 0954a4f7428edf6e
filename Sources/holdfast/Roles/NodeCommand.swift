import ArgumentParser
import Logging
import ServiceLifecycle

struct NodeCommand: Role {
    static let configuration = CommandConfiguration(
        commandName: "node", abstract: "Runs the roles that a node file lists.")

    func services(logger: Logger) async throws -> [any Service] { throw ValidationError("not implemented") }
}
