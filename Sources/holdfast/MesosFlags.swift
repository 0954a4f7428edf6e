import ArgumentParser
import FoundationEssentials

/// Options by their Mesos names. `MESOS_<NAME>` in the environment stands in for what the command line leaves out, and
/// a value `file:///path` is the content of that file.
struct MesosFlags {
    private(set) var values: [String: String] = [:]

    init(
        _ options: [(name: String, value: String?)], environment: [String: String] = ProcessInfo.processInfo.environment
    ) {
        for (name, value) in options {
            if let value = value ?? environment["MESOS_" + name.uppercased()] {
                values[name] = MesosFlags.content(value)
            }
        }
    }

    private static func content(_ value: String) -> String {
        guard value.hasPrefix("file://"),
            let data = FileManager.default.contents(atPath: String(value.dropFirst("file://".count)))
        else { return value }
        let text = String(decoding: data, as: UTF8.self)
        guard let last = text.lastIndex(where: { !$0.isWhitespace }) else { return "" }
        return String(text[...last].drop(while: \.isWhitespace))
    }

    subscript(name: String) -> String? { values[name] }

    /// All in force, sorted by name.
    var sorted: [(name: String, value: String)] { values.sorted { $0.key < $1.key }.map { ($0.key, $0.value) } }

    func bool(_ name: String, default fallback: Bool) throws -> Bool {
        switch values[name] {
        case nil: fallback
        case "true"?, "1"?: true
        case "false"?, "0"?: false
        case let other?: throw ValidationError("Failed to load flag '\(name)': '\(other)' is no boolean")
        }
    }

    func integer(_ name: String, default fallback: Int, atLeast minimum: Int? = nil) throws -> Int {
        guard let text = values[name] else { return fallback }
        guard let value = Int(text) else {
            throw ValidationError("Failed to load flag '\(name)': '\(text)' is no integer")
        }
        if let minimum, value < minimum {
            throw ValidationError("Invalid value '\(text)' for --\(name). Must be at least \(minimum)")
        }
        return value
    }

    /// A duration such as "15secs" or "1.5mins".
    func duration(_ name: String, default fallback: Duration, isPositive: Bool = false) throws -> Duration {
        guard let text = values[name] else { return fallback }
        guard let value = MesosFlags.duration(text) else {
            throw ValidationError("Failed to load flag '\(name)': '\(text)' is no duration")
        }
        if isPositive, value <= .zero {
            throw ValidationError("Invalid value '\(text)' for --\(name). Must be more than 0secs")
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
}
