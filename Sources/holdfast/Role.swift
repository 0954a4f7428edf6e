import ArgumentParser
import Logging
import ServiceLifecycle
import UnixSignals

/// A long-running part of a machine. `holdfast <role>` runs it alone; `holdfast node` runs several in one process,
/// giving each the flags that its section of the node file lists.
protocol Role: AsyncParsableCommand {
    /// The services of this role in the order in which they start; they stop in reverse.
    func services(logger: Logger) async throws -> [any Service]
}

extension Role {
    func run() async throws { try await serve() }

    /// Runs the services until a signal asks them to end, or one of them fails.
    func serve() async throws {
        let logger = Logger(label: Self.configuration.commandName ?? "holdfast")
        let group = ServiceGroup(
            configuration: .init(
                services: try await services(logger: logger).map { .init(service: $0) },
                gracefulShutdownSignals: [.sigterm, .sigint],
                logger: logger))
        try await group.run()
    }
}
