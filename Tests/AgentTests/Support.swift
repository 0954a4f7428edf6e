import Agent
import HTTPKit
import Logging
import MasterLocator
import ServiceLifecycle
import TestKit

/// An agent of `master`, on a port of its own, for the length of `body`.
func withAgent(
    of master: MasterLocation, _ body: @escaping @Sendable (HTTPAddress) async throws -> Void
) async throws {
    let directory = try TemporaryDirectory()
    let (ports, announce) = AsyncStream.makeStream(of: Int.self, bufferingPolicy: .bufferingOldest(1))
    let configuration = AgentConfiguration(
        master: master, workDirectory: directory.path, bindIP: "127.0.0.1", port: 0, advertisedIP: "127.0.0.1",
        hostname: "agent.test", resources: [], containerizers: [])
    let agent = AgentService(configuration, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }) {
        announce.yield($0)
    }
    try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { try await agent.run() }
        group.addTask {
            for await port in ports { return try await body(.tcp(host: "127.0.0.1", port: port)) }
        }
        defer { group.cancelAll() }
        try await group.next()
    }
}
