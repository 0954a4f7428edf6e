import Coordination
import Foundation

/// An engine under test. Every test of `StoreConformanceTests` and `ElectionConformanceTests` runs against each of
/// these; a new engine is added here and nowhere else.
enum Engine: String, CaseIterable, Sendable {
    case memory, file

    /// A fresh, empty backend, and what removes it.
    func open() throws -> (backend: CoordinationBackend, remove: @Sendable () -> Void) {
        switch self {
        case .memory: return (try CoordinationBackend.open("memory:"), {})
        case .file:
            let (directory, remove) = try temporaryDirectory()
            return (try CoordinationBackend.open("embedded:\(directory)/meta.db"), remove)
        }
    }
}

func temporaryDirectory() throws -> (path: String, remove: @Sendable () -> Void) {
    let directory = FileManager.default.temporaryDirectory.appendingPathComponent("hf-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
    return (directory.path, { try? FileManager.default.removeItem(at: directory) })
}

func writeFile(_ path: String, _ text: String) throws {
    try text.write(toFile: path, atomically: false, encoding: .utf8)
}
