public import Base
import OrderedCollections

/// One path of a document and what is wrong there, as in Marathon's `details`.
public struct Violation: Hashable, Sendable {
    public var path: String
    public var errors: [String]

    public init(path: String, errors: [String]) {
        self.path = path
        self.errors = errors
    }
}

/// Why a document is no app, group or update.
public struct SpecError: Error, Hashable, Sendable {
    public enum Kind: Hashable, Sendable {
        /// Wrong types or missing members: 400 "Invalid JSON".
        case malformed
        /// Well-formed but against the rules: 422 "Object is not valid".
        case invalid
    }
    public var kind: Kind
    public var violations: [Violation]

    public init(_ kind: Kind, _ violations: [Violation]) {
        self.kind = kind
        self.violations = violations
    }

    public static func invalid(_ path: String, _ error: String) -> SpecError {
        SpecError(.invalid, [Violation(path: path, errors: [error])])
    }

    /// The body of the answer.
    public var json: JSONValue {
        .object([
            "message": kind == .malformed ? "Invalid JSON" : "Object is not valid",
            "details": .array(
                violations.map { violation in
                    ["path": .string(violation.path), "errors": .array(violation.errors.map(JSONValue.string))]
                }),
        ])
    }
}

/// Collects what is wrong with a document while it is read, one entry per path.
final class ViolationLog {
    private(set) var malformed: [Violation] = []
    private(set) var invalid: [Violation] = []

    func malformed(_ path: String, _ error: String) { ViolationLog.add(error, at: path, to: &malformed) }
    func invalid(_ path: String, _ error: String) {
        ViolationLog.add(error, at: path.isEmpty ? "/" : path, to: &invalid)
    }

    private static func add(_ error: String, at path: String, to list: inout [Violation]) {
        if let index = list.firstIndex(where: { $0.path == path }) {
            if !list[index].errors.contains(error) { list[index].errors.append(error) }
        } else {
            list.append(Violation(path: path, errors: [error]))
        }
    }

    /// Type errors win over rule errors, as they come from an earlier stage in Marathon.
    func check() throws(SpecError) {
        if !malformed.isEmpty { throw SpecError(.malformed, malformed) }
        if !invalid.isEmpty { throw SpecError(.invalid, invalid) }
    }
}

/// Reads members of one JSON object by type; wrong types go to the log and read as absent. Null is absent.
struct ObjectReader {
    let object: JSONValue.Object
    let path: String
    let log: ViolationLog

    func value(_ key: String) -> JSONValue? {
        guard let value = object[key], !value.isNull else { return nil }
        return value
    }

    func path(_ key: String) -> String { path + "/" + key }

    private func read<Value>(_ key: String, _ error: String, _ convert: (JSONValue) -> Value?) -> Value? {
        guard let value = value(key) else { return nil }
        guard let converted = convert(value) else {
            log.malformed(path(key), error)
            return nil
        }
        return converted
    }

    func string(_ key: String) -> String? { read(key, "error.expected.jsstring", \.string) }
    func bool(_ key: String) -> Bool? { read(key, "error.expected.jsboolean", \.bool) }
    func array(_ key: String) -> [JSONValue]? { read(key, "error.expected.jsarray", \.array) }

    /// A number in `range`; one outside is a rule error and reads as absent.
    func double(_ key: String, in range: ClosedRange<Double>) -> Double? {
        guard let value = read(key, "error.expected.jsnumber", \.double) else { return nil }
        guard range.contains(value) else {
            let limit = value < range.lowerBound ? "\(range.lowerBound) or more" : "\(range.upperBound) or less"
            log.invalid(path(key), "got \(value), expected \(limit)")
            return nil
        }
        return value
    }

    private func numeric(_ value: JSONValue) -> JSONValue? { value.double == nil ? .none : .some(value) }

    /// An integer in `range`, also when written as `3.0`.
    func integer(_ key: String, in range: ClosedRange<Int> = 0...Int(Int32.max)) -> Int? {
        guard let wide: JSONValue = read(key, "error.expected.jsnumber", numeric) else { return nil }
        guard let value = wide.integer.flatMap({ Int(exactly: $0) }) else {
            log.malformed(path(key), "error.expected.int")
            return nil
        }
        guard range.contains(value) else {
            let limit = value < range.lowerBound ? "\(range.lowerBound) or more" : "\(range.upperBound) or less"
            log.invalid(path(key), "got \(value), expected \(limit)")
            return nil
        }
        return value
    }

    func strings(_ key: String) -> [String]? {
        guard let elements = array(key) else { return nil }
        var result: [String] = []
        for (index, element) in elements.enumerated() {
            guard let text = element.string else {
                log.malformed("\(path(key))(\(index))", "error.expected.jsstring")
                continue
            }
            result.append(text)
        }
        return result
    }

    /// A map of text to text; numbers and booleans are taken as their text, which old clients rely on.
    func stringMap(_ key: String) -> [String: String]? {
        guard let members = read(key, "error.expected.jsobject", \.object) else { return nil }
        var result: [String: String] = [:]
        for (name, value) in members {
            switch value {
            case .string(let text): result[name] = text
            case .integer(let number): result[name] = String(number)
            case .number(let number): result[name] = number.description
            case .bool(let flag): result[name] = flag ? "true" : "false"
            case .null: continue
            case .array, .object: log.malformed(path(key) + "/" + name, "error.expected.jsstring")
            }
        }
        return result
    }

    /// One of the names in `choices`, compared as written or in upper case.
    func choice<Choice: RawRepresentable<String>>(_ key: String, _ type: Choice.Type, ignoringCase: Bool = false)
        -> Choice?
    {
        guard let text = string(key) else { return nil }
        guard let choice = Choice(rawValue: text) ?? (ignoringCase ? Choice(rawValue: text.uppercased()) : nil) else {
            log.malformed(path(key), "error.unknown.enum.literal")
            return nil
        }
        return choice
    }

    func member(_ key: String) -> ObjectReader? {
        guard let members = read(key, "error.expected.jsobject", \.object) else { return nil }
        return ObjectReader(object: members, path: path(key), log: log)
    }

    /// The elements of a list of objects, each with its path `key(index)`.
    func members(_ key: String) -> [ObjectReader]? {
        guard let elements = array(key) else { return nil }
        var result: [ObjectReader] = []
        for (index, element) in elements.enumerated() {
            guard let object = element.object else {
                log.malformed("\(path(key))(\(index))", "error.expected.jsobject")
                continue
            }
            result.append(ObjectReader(object: object, path: "\(path(key))(\(index))", log: log))
        }
        return result
    }

    func required(_ key: String) -> Bool {
        if value(key) != nil { return true }
        log.malformed(path(key), "error.path.missing")
        return false
    }
}
