public import Base
public import MesosAPI

/// Why a resources or attributes text is refused.
public struct ResourcesError: CodedError {
    public enum Code: Hashable, Sendable { case invalid }

    public var code: Code { .invalid }
    public var message: String
    public var cause: (any Error)?

    public init(_ message: String, cause: (any Error)? = nil) {
        self.message = message
        self.cause = cause
    }
}

extension Resources {
    /// Parses what `--resources` takes: `cpus:4;mem(role):1024;ports:[31000-32000];set:{a,b}` or a JSON list of
    /// resources.
    ///
    /// - Parameter defaultRole: the role that resources without one are statically reserved to; "*" for none.
    public init(parsing text: String, defaultRole: String = "*") throws(ResourcesError) {
        let text = trimmed(text)
        let list = text.hasPrefix("[") || text.hasPrefix("{") ? try Resources.json(text) : try Resources.simple(text)
        let withRoles = list.map { resource in
            var resource = resource
            if defaultRole != "*", resource.reservations.isEmpty, !resource.hasRole { resource.role = defaultRole }
            return resource
        }
        if let fault = Resources.fault(in: withRoles) { throw ResourcesError(fault) }
        self.init(withRoles)
    }

    private static func json(_ text: String) throws(ResourcesError) -> [MesosResource] {
        do {
            let value = try JSONValue(parsing: text)
            return try (value.array ?? [value]).map { try jsonDecode(MesosResource.self, from: $0) }
        } catch {
            throw ResourcesError("The resources are no list of Resource objects", cause: error)
        }
    }

    private static func simple(_ text: String) throws(ResourcesError) -> [MesosResource] {
        var list: [MesosResource] = []
        for part in text.split(whereSeparator: { $0 == ";" || $0 == "\n" }) {
            let token = trimmed(String(part))
            if token.isEmpty { continue }
            guard let colon = token.firstIndex(of: ":") else {
                throw ResourcesError("Bad value for resources, missing or extra ':' in \(token)")
            }
            var name = trimmed(String(token[..<colon]))
            var role: String?
            if let open = name.firstIndex(of: "(") {
                guard name.hasSuffix(")") else {
                    throw ResourcesError("Bad value for resources, mismatched parentheses in \(token)")
                }
                role = trimmed(String(name[name.index(after: open)...].dropLast()))
                name = trimmed(String(name[..<open]))
            }
            var resource = MesosResource()
            resource.name = name
            if let role { resource.role = role }
            try resource.set(parsing: trimmed(String(token[token.index(after: colon)...])))
            list.append(resource)
        }
        return list
    }
}

extension MesosResource {
    fileprivate mutating func set(parsing text: String) throws(ResourcesError) {
        let value = try MesosValue(parsing: text)
        type = value.type
        switch value.type {
        case .scalar: scalar = value.scalar
        case .ranges: ranges = value.ranges
        case .set: set = value.set
        case .text: throw ResourcesError("Bad type for resource \(name) value \(text) type TEXT")
        }
    }

    /// A scalar resource, unreserved.
    public init(_ name: String, _ value: Double) {
        self.init()
        self.name = name
        type = .scalar
        scalar.value = value
    }

    /// A ranges resource, unreserved.
    public init(_ name: String, _ ranges: IntegerRanges) {
        self.init()
        self.name = name
        type = .ranges
        self.ranges = ranges.message
    }
}

extension MesosValue {
    /// A value of the text form of resources and attributes: `[1-2,4-5]` ranges, `{a,b}` set, a number scalar, else
    /// text.
    public init(parsing text: String) throws(ResourcesError) {
        self.init()
        if text.hasPrefix("[") {
            guard text.hasSuffix("]") else { throw ResourcesError("Expecting ']' at the end of \(text)") }
            type = .ranges
            var list: [ClosedRange<UInt64>] = []
            for part in text.dropFirst().dropLast().split(separator: ",") {
                let bounds = part.split(separator: "-", omittingEmptySubsequences: false).map {
                    UInt64(trimmed(String($0)))
                }
                guard bounds.count == 2, let begin = bounds[0], let end = bounds[1], begin <= end else {
                    throw ResourcesError("Expecting one or more \"ranges\" in \(text)")
                }
                list.append(begin...end)
            }
            ranges = IntegerRanges(list).message
        } else if text.hasPrefix("{") {
            guard text.hasSuffix("}") else { throw ResourcesError("Expecting '}' at the end of \(text)") }
            type = .set
            set.item = text.dropFirst().dropLast().split(separator: ",").map { trimmed(String($0)) }
        } else if let number = Double(text), number.isFinite {
            type = .scalar
            scalar.value = number
        } else {
            guard !text.isEmpty else { throw ResourcesError("Expecting non-empty string") }
            type = .text
            self.text.value = text
        }
    }
}

extension MesosAttribute {
    /// Parses what `--attributes` takes: `rack:r1;level:10;pool:[1-5]`.
    public static func list(parsing text: String) throws(ResourcesError) -> [MesosAttribute] {
        var result: [MesosAttribute] = []
        for part in text.split(whereSeparator: { $0 == ";" || $0 == "\n" }) where !trimmed(String(part)).isEmpty {
            guard let colon = part.firstIndex(of: ":") else {
                throw ResourcesError("Invalid attribute key:value pair '\(part)'")
            }
            let value = try MesosValue(parsing: trimmed(String(part[part.index(after: colon)...])))
            var attribute = MesosAttribute()
            attribute.name = trimmed(String(part[..<colon]))
            attribute.type = value.type
            switch value.type {
            case .scalar: attribute.scalar = value.scalar
            case .ranges: attribute.ranges = value.ranges
            case .set: attribute.set = value.set
            case .text: attribute.text = value.text
            }
            result.append(attribute)
        }
        return result
    }
}

/// `text` without white space at its ends.
private func trimmed(_ text: String) -> String {
    var slice = text[...]
    while slice.first?.isWhitespace == true { slice.removeFirst() }
    while slice.last?.isWhitespace == true { slice.removeLast() }
    return String(slice)
}
