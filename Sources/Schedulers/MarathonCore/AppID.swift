/// The path that names an app or a group: absolute, segments joined by "/". The root group is "/".
public struct AppID: Hashable, Comparable, Sendable, CustomStringConvertible {
    public let segments: [String]

    public init(segments: [String]) { self.segments = segments }

    /// Resolves `text` against `parent`: relative paths get its prefix, ".." and "." are followed, doubled and trailing
    /// slashes are ignored. Nothing is validated.
    public init(_ text: String, parent: AppID = .root) {
        var segments = text.hasPrefix("/") ? [] : parent.segments
        for segment in text.split(separator: "/") {
            switch segment {
            case ".": continue
            case "..": _ = segments.popLast()
            default: segments.append(String(segment))
            }
        }
        self.segments = segments
    }

    public static let root = AppID(segments: [])

    public var description: String { "/" + segments.joined(separator: "/") }
    public var isRoot: Bool { segments.isEmpty }
    public var parent: AppID { AppID(segments: Array(segments.dropLast())) }

    public static func < (left: AppID, right: AppID) -> Bool {
        left.segments.lexicographicallyPrecedes(right.segments)
    }

    /// True for the group itself and everything below it.
    public func isWithin(_ group: AppID) -> Bool { segments.starts(with: group.segments) }

    /// The form used in task ids: `/a/b` is `a_b`.
    public var safe: String { segments.joined(separator: "_") }

    /// The name of the app's tasks: `/a/b/c` is `c.b.a`.
    public var taskName: String { segments.reversed().joined(separator: ".") }

    /// The last segments that an app must not have because the REST paths use them.
    static let reserved = ["restart", "tasks", "versions"]

    static let pattern =
        "^(([a-z0-9]|[a-z0-9][a-z0-9-]*[a-z0-9])\\.)*([a-z0-9]|[a-z0-9][a-z0-9-]*[a-z0-9])|(\\.|\\.\\.)$"

    /// What is wrong with this as the id of an app; empty when nothing is.
    public var violations: [String] {
        if isRoot { return ["Path with only '/' is not allowed as an id"] }
        var errors: [String] = []
        if !segments.allSatisfy(AppID.isValid(segment:)) {
            errors.append("must fully match regular expression '\(AppID.pattern)'")
        }
        if let last = segments.last, AppID.reserved.contains(last) {
            errors.append("must not end with any of the following reserved keywords: restart, tasks, versions")
        }
        return errors
    }

    /// Dot-separated labels of lower-case letters, digits and inner hyphens.
    static func isValid(segment: String) -> Bool {
        segment.split(separator: ".", omittingEmptySubsequences: false).allSatisfy { isLabel(String($0)) }
    }
}

/// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`
func isLabel(_ text: String) -> Bool {
    let bytes = Array(text.utf8)
    guard let first = bytes.first, let last = bytes.last, first != UInt8(ascii: "-"), last != UInt8(ascii: "-") else {
        return false
    }
    return bytes.allSatisfy { byte in
        (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte) || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
            || byte == UInt8(ascii: "-")
    }
}
