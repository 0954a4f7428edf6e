import Glibc
import LinuxOS
import TestKit

/// Genuine Python clients of PyPI, in a directory of their own.
struct PythonEnvironment: Sendable {
    /// `Tests/Clients`, seen from this file.
    private static let scripts = #filePath.split(separator: "/").dropLast(2).reduce("") { "\($0)/\($1)" } + "/Clients"

    /// pymesos does not run on Python 3.10 and later.
    static let oldPython: String? = {
        let home = currentEnvironment()["HOME"] ?? "/root"
        let versions = directoryEntries("\(home)/.pyenv/versions").sorted()
        let candidates = (6...9).reversed().flatMap { minor in
            versions.filter { $0.hasPrefix("3.\(minor).") }.map { "\(home)/.pyenv/versions/\($0)/bin/python" }
                + ["/usr/bin/python3.\(minor)"]
        }
        return candidates.first { access($0, X_OK) == 0 }
    }()

    private let directory: TemporaryDirectory

    /// - Parameter packages: as pip takes them.
    init(_ python: String, _ packages: [String]) async throws {
        directory = try TemporaryDirectory()
        try await runChecked([python, "-m", "venv", directory.path], deadline: .seconds(60))
        try await runChecked(
            [directory.file("bin/python"), "-m", "pip", "install", "--quiet"] + packages, deadline: .seconds(180))
    }

    /// The command that runs one of `Tests/Clients`.
    func command(_ script: String, _ arguments: [String]) -> [String] {
        [directory.file("bin/python"), "\(Self.scripts)/\(script)"] + arguments
    }

    func run(_ script: String, _ arguments: [String]) async throws -> CommandResult {
        try await runCommand(command(script, arguments), deadline: .seconds(120))
    }
}
