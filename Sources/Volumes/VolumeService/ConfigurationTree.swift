import OrderedCollections
import Yams

/// The keys and values of a configuration file with the environment and flags laid over it. Keys are lower case, joined
/// by dots.
struct ConfigurationTree {
    enum Value: Hashable {
        case text(String)
        case list([String])

        var text: String {
            switch self {
            case .text(let text): text
            case .list(let list): list.joined(separator: " ")
            }
        }
    }

    private(set) var values: OrderedDictionary<String, Value> = [:]
    /// Everything that is wrong, for a person to read.
    var faults: [String] = []

    init(
        yaml: String, environment: [String: String], overrides: [(key: String, value: String)],
        defaults: [(key: String, value: String)] = []
    ) {
        do {
            if let root = try Yams.compose(yaml: yaml) { read(root, path: []) }
        } catch {
            faults.append("The file is no YAML: \(error)\n---BEGIN---\n\(yaml)\n---END---")
        }
        // An environment variable is a key's path in upper case with "_" for ".": only keys without names of their own
        // have one.
        for (pattern, kind) in ConfigurationKeys.all where !pattern.contains("*") && kind != .ignored {
            let variable = pattern.uppercased().replacing(".", with: "_")
            guard let value = environment[variable], !value.isEmpty else { continue }
            values[pattern.lowercased()] = kind == .list ? .list(ConfigurationTree.words(value)) : .text(value)
        }
        for (key, value) in overrides {
            let isList = ConfigurationKeys.kind(of: key.lowercased()) == .list
            values[key.lowercased()] = isList ? .list(ConfigurationTree.words(value)) : .text(value)
        }
        for (key, value) in defaults where values[key.lowercased()] == nil { values[key.lowercased()] = .text(value) }
        checkKeys()
    }

    private mutating func read(_ node: Node, path: [String]) {
        switch node {
        case .mapping(let mapping):
            for (key, value) in mapping {
                guard let name = key.string else {
                    faults.append("A key under '\(path.joined(separator: "."))' is no text")
                    continue
                }
                // A key may itself be written with dots: the same tree.
                read(value, path: path + name.lowercased().split(separator: ".").map(String.init))
            }
        case .sequence(let sequence):
            values[path.joined(separator: ".")] = .list(sequence.compactMap { $0.string })
        case .scalar(let scalar):
            guard !path.isEmpty else {
                faults.append("The file holds '\(scalar.string)' where keys are expected")
                return
            }
            if scalar.tag == Tag(.null) || scalar.string.isEmpty { return }
            values[path.joined(separator: ".")] = .text(scalar.string)
        case .alias:
            faults.append("The alias under '\(path.joined(separator: "."))' cannot be resolved")
        }
    }

    private mutating func checkKeys() {
        for (path, value) in values {
            let section = path.prefix { $0 != "." }
            if ConfigurationKeys.foreignSections.contains(String(section)) { continue }
            guard let kind = ConfigurationKeys.kind(of: path) else {
                let hint = ConfigurationKeys.nearest(to: path).map { "; did you mean '\($0)'?" } ?? ""
                faults.append("'\(path)' is no known key\(hint)")
                continue
            }
            switch (kind, value) {
            case (.flag, _) where ConfigurationTree.flag(value.text) == nil:
                faults.append("'\(path)' is '\(value.text)', but must be true or false")
            case (.number, _) where Int64(value.text).map({ $0 < 0 }) ?? true:
                faults.append("'\(path)' is '\(value.text)', but must be a number, 0 or more")
            case (.duration, _) where ConfigurationTree.duration(value.text) == nil:
                faults.append("'\(path)' is '\(value.text)', but must be a duration such as 30s or 1m30s")
            case (.text, .list):
                faults.append("'\(path)' is a list, but must be one value")
            default: continue
            }
        }
    }

    /// The first of `keys` that is set.
    func text(_ keys: String...) -> String? {
        keys.lazy.compactMap { values[$0.lowercased()]?.text }.first
    }

    func flag(_ keys: String...) -> Bool? {
        keys.lazy.compactMap { values[$0.lowercased()].flatMap { ConfigurationTree.flag($0.text) } }.first
    }

    func number(_ keys: String...) -> Int64? {
        keys.lazy.compactMap { values[$0.lowercased()].flatMap { Int64($0.text) } }.first
    }

    func duration(_ key: String) -> Duration? {
        values[key.lowercased()].flatMap { ConfigurationTree.duration($0.text) }
    }

    func list(_ key: String) -> [String]? {
        switch values[key.lowercased()] {
        case .list(let list)?: list
        case .text(let text)?: ConfigurationTree.words(text)
        case nil: nil
        }
    }

    /// The names that stand for `*` in keys `<prefix>.<name>.<rest>`.
    func names(under prefix: String) -> [String] {
        var names = OrderedSet<String>()
        for key in values.keys where key.hasPrefix(prefix.lowercased() + ".") {
            names.append(String(key.dropFirst(prefix.count + 1).prefix { $0 != "." }))
        }
        return Array(names)
    }

    private static func words(_ text: String) -> [String] {
        text.split { $0 == "," || $0 == " " }.map(String.init)
    }

    private static func flag(_ text: String) -> Bool? {
        switch text.lowercased() {
        case "true", "1", "yes", "on": true
        case "false", "0", "no", "off": false
        default: nil
        }
    }

    /// Go's way of writing durations (`1m30s`, `500ms`), and bare numbers of seconds.
    static func duration(_ text: String) -> Duration? {
        if let seconds = Double(text), seconds >= 0, seconds < 1e9 { return .milliseconds(Int64(seconds * 1000)) }
        let units: [String: Double] = ["ms": 0.001, "s": 1, "m": 60, "h": 3600]
        var rest = text[...]
        var total = 0.0
        while !rest.isEmpty {
            let digits = rest.prefix { $0.isNumber || $0 == "." }
            let unit = rest.dropFirst(digits.count).prefix { $0.isLetter }
            guard let value = Double(digits), let factor = units[String(unit)] else { return nil }
            total += value * factor
            rest = rest.dropFirst(digits.count + unit.count)
        }
        return text.isEmpty || total >= 1e9 ? nil : .milliseconds(Int64(total * 1000))
    }
}
