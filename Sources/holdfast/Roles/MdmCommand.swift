import ArgumentParser
import Logging
import ServiceLifecycle

struct MdmCommand: Role {
    static let configuration = CommandConfiguration(
        commandName: "mdm", abstract: "Runs the block store's manager and its REST gateway.")

    func services(logger: Logger) async throws -> [any Service] { throw ValidationError("not implemented") }
}
