import Coordination
import TestKit

/// An engine under test. Every test of `StoreConformanceTests` and `ElectionConformanceTests` runs against each of
/// these; a new engine is added here and nowhere else.
enum Engine: String, CaseIterable, Sendable {
    case memory, file, zooKeeper

    /// One for all tests; it ends with their process.
    static let ensemble = Task { try await ZooKeeperEnsemble() }

    /// A fresh, empty backend, and what must be held on to while it is used.
    func open() async throws -> (backend: CoordinationBackend, resources: [any Sendable]) {
        switch self {
        case .memory: return (try CoordinationBackend.open("memory:"), [])
        case .file:
            let directory = try TemporaryDirectory()
            return (try CoordinationBackend.open("embedded:\(directory.file("meta.db"))"), [directory])
        case .zooKeeper:
            let path = "/holdfast/\(UInt64.random(in: 0 ... .max))"
            let location = "zk://\(try await Engine.ensemble.value.servers)\(path)"
            return (try CoordinationBackend.open(location, sessionTimeout: .seconds(4)), [])
        }
    }
}
