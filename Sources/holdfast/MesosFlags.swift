import ArgumentParser
import FoundationEssentials

/// Flags as the Mesos tools take them: `--name=value`, `--name` and `--no-name` for booleans, `name` with underscores or dashes,
/// `MESOS_NAME` in the environment (the command line wins), and `file:///path` for a value kept in a file.
struct MesosFlags {
    struct Flag {
        var name: String
        var help: String
        var isBoolean = false
        /// Older or other names of the same flag.
        var aliases: [String] = []
    }

    /// Flags in force, by name.
    private(set) var values: [String: String] = [:]

    /// - Parameter known: every flag the tool accepts.
    init(_ arguments: [String], known: [Flag], environment: [String: String] = ProcessInfo.processInfo.environment)
        throws
    {
        var byName: [String: Flag] = [:]
        for flag in known {
            for name in [flag.name] + flag.aliases { byName[name] = flag }
        }
        for (key, value) in environment where key.hasPrefix("MESOS_") {
            guard let flag = byName[key.dropFirst("MESOS_".count).lowercased()] else { continue }
            values[flag.name] = try MesosFlags.content(value)
        }
        var rest = arguments[...]
        while let argument = rest.popFirst() {
            guard argument.hasPrefix("--") else { throw ValidationError("Unexpected argument '\(argument)'") }
            let parts = argument.dropFirst(2).split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            let name = String(parts.first ?? "").replacing("-", with: "_")
            if let flag = byName[name] {
                if parts.count == 2 {
                    values[flag.name] = try MesosFlags.content(String(parts[1]))
                } else if flag.isBoolean {
                    values[flag.name] = "true"
                } else if let value = rest.popFirst(), !value.hasPrefix("--") {
                    values[flag.name] = try MesosFlags.content(value)
                } else {
                    throw ValidationError("Failed to load non-boolean flag '\(flag.name)': Missing value")
                }
            } else if name.hasPrefix("no_"), let flag = byName[String(name.dropFirst(3))], flag.isBoolean {
                values[flag.name] = "false"
            } else {
                throw ValidationError("Failed to load unknown flag '\(name)'")
            }
        }
    }

    private static func content(_ value: String) throws -> String {
        guard value.hasPrefix("file://") else { return value }
        let path = String(value.dropFirst("file://".count))
        guard let data = FileManager.default.contents(atPath: path) else {
            throw ValidationError("Failed to read the file '\(path)' of a flag")
        }
        return String(decoding: data, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
    }

    subscript(name: String) -> String? { values[name] }

    /// All flags in force, sorted by name.
    var sorted: [(name: String, value: String)] { values.sorted { $0.key < $1.key }.map { ($0.key, $0.value) } }

    func bool(_ name: String, default fallback: Bool) throws -> Bool {
        switch values[name] {
        case nil: fallback
        case "true"?, "1"?: true
        case "false"?, "0"?: false
        case let other?: throw ValidationError("Failed to load flag '\(name)': '\(other)' is no boolean")
        }
    }

    func integer(_ name: String, default fallback: Int) throws -> Int {
        guard let text = values[name] else { return fallback }
        guard let value = Int(text) else {
            throw ValidationError("Failed to load flag '\(name)': '\(text)' is no integer")
        }
        return value
    }

    /// A duration such as "15secs" or "1.5mins".
    func duration(_ name: String, default fallback: Duration) throws -> Duration {
        guard let text = values[name] else { return fallback }
        guard let value = MesosFlags.duration(text) else {
            throw ValidationError("Failed to load flag '\(name)': '\(text)' is no duration")
        }
        return value
    }

    static func duration(_ text: String) -> Duration? {
        let units: [(String, Double)] = [
            ("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("secs", 1), ("mins", 60), ("hrs", 3600), ("days", 86400),
            ("weeks", 604_800),
        ]
        for (unit, seconds) in units where text.hasSuffix(unit) {
            guard let number = Double(text.dropLast(unit.count)), number.isFinite, number.magnitude * seconds < 9e9
            else { return nil }
            return .nanoseconds(Int64((number * seconds * 1e9).rounded()))
        }
        return nil
    }

    static func usage(_ tool: String, _ known: [Flag]) -> String {
        let lines = known.sorted { $0.name < $1.name }.map { flag in
            "  --\(flag.isBoolean ? "[no-]" : "")\(flag.name)\(flag.isBoolean ? "" : "=VALUE")\n      \(flag.help)"
        }
        return "Usage: \(tool) [options]\n\n" + lines.joined(separator: "\n")
    }
}
