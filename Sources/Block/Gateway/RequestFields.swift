import Base
import OrderedCollections

/// The body of a request as clients of all ages write it: numbers and truth values come as JSON or as text, and fields
/// that a command does not know are ignored.
struct RequestFields {
    private let members: JSONValue.Object

    private init(members: JSONValue.Object) { self.members = members }

    /// An empty body is an empty object.
    init(_ body: [UInt8]) throws(GatewayError) {
        if body.allSatisfy({ $0 == 0x20 || $0 == 0x0A || $0 == 0x0D || $0 == 0x09 }) {
            members = [:]
            return
        }
        let document: JSONValue
        do {
            document = try JSONValue(parsing: body)
        } catch {
            throw .badRequest("\(error)")
        }
        guard let object = document.object else { throw .badRequest("The request body must be a JSON object.") }
        members = object
    }

    /// The field as text; nil when it is missing or null.
    func text(_ name: String) throws(GatewayError) -> String? {
        switch members[name] {
        case nil, .null?: return nil
        case .string(let value)?: return value
        case .integer(let value)?: return String(value)
        case .bool(let value)?: return value ? "true" : "false"
        case .number?, .array?, .object?: throw .badRequest("\(name) must be a string.")
        }
    }

    func requiredText(_ name: String) throws(GatewayError) -> String {
        guard let value = try text(name) else { throw .missing(name) }
        return value
    }

    /// The field as a number that is not negative.
    func number(_ name: String) throws(GatewayError) -> UInt64? {
        guard let value = try text(name) else { return nil }
        guard let number = UInt64(value) else { throw .badRequest("\(name) must be a number.") }
        return number
    }

    /// The field as a truth value. Present but empty means true: that is how clients write `allSdcs` and `allIds`.
    func flag(_ name: String) throws(GatewayError) -> Bool? {
        guard let value = try text(name) else { return nil }
        switch value.lowercased() {
        case "", "true", "1", "yes": return true
        case "false", "0", "no": return false
        default: throw .badRequest("\(name) must be TRUE or FALSE.")
        }
    }

    /// The field as a list of objects; nil when it is missing or null.
    func objects(_ name: String) throws(GatewayError) -> [RequestFields]? {
        switch members[name] {
        case nil, .null?: return nil
        case .array(let elements)?:
            var result: [RequestFields] = []
            for element in elements {
                guard let object = element.object else { throw .badRequest("\(name) must be a list of objects.") }
                result.append(RequestFields(members: object))
            }
            return result
        case .string?, .object?, .integer?, .bool?, .number?: throw .badRequest("\(name) must be a list of objects.")
        }
    }

    /// The field as a list of texts; a single text counts as a list of one.
    func texts(_ name: String) throws(GatewayError) -> [String]? {
        switch members[name] {
        case nil, .null?: return nil
        case .string(let value)?: return [value]
        case .array(let elements)?:
            var result: [String] = []
            for element in elements {
                guard let text = element.string else { throw .badRequest("\(name) must be a list of strings.") }
                result.append(text)
            }
            return result
        case .integer?, .bool?, .number?, .object?: throw .badRequest("\(name) must be a list of strings.")
        }
    }
}
