public import Base
internal import FoundationEssentials
import OrderedCollections
public import SwiftProtobuf

/// A message from JSON as leniently as Mesos reads it: unknown members and unknown enum names are ignored, null is
/// unset, numbers and booleans may be strings, a lone value stands for a list of one. Required fields must be there.
public func jsonDecode<M: Message>(_ type: M.Type, from json: JSONValue) throws(MesosJSONError) -> M {
    guard case .object(let members) = json else {
        throw MesosJSONError(.malformed, "Expecting a JSON object")
    }
    var decoder = JSONDecoder(registry: .shared)
    let bytes = try decoder.message(members, type: type.protoMessageName, path: "")
    guard decoder.missing.isEmpty else {
        throw MesosJSONError(.missingFields, "Missing required fields: \(decoder.missing.joined(separator: ", "))")
    }
    do {
        return try M(knownFieldsIn: bytes)
    } catch {
        throw MesosJSONError(.malformed, "The document is nested too deeply", cause: error)
    }
}

/// As above, from JSON text.
public func jsonDecode<M: Message>(_ type: M.Type, from bytes: [UInt8]) throws(MesosJSONError) -> M {
    let json: JSONValue
    do {
        json = try JSONValue(parsing: bytes)
    } catch {
        throw MesosJSONError(.malformed, "syntax error: \(error)", cause: nil)
    }
    return try jsonDecode(type, from: json)
}

private struct JSONDecoder {
    let registry: SchemaRegistry
    /// Paths of absent required fields, as in "subscribe.framework_info.user".
    var missing: [String] = []

    mutating func message(_ members: JSONValue.Object, type: String, path: String) throws(MesosJSONError) -> [UInt8] {
        let schema = registry.message(type)
        var writer = WireWriter()
        for field in schema.fields {
            let location = path.isEmpty ? field.name : "\(path).\(field.name)"
            guard let value = members[field.name], !value.isNull else {
                if field.isRequired { missing.append(location) }
                continue
            }
            if field.isRepeated {
                try list(value, field: field, path: location, into: &writer)
            } else if try !single(value, field: field, path: location, into: &writer), field.isRequired {
                missing.append(location)
            }
        }
        return writer.bytes
    }

    private mutating func list(
        _ value: JSONValue, field: MessageSchema.Field, path: String, into writer: inout WireWriter
    ) throws(MesosJSONError) {
        if case .message(let name) = field.kind, registry.message(name).isMapEntry {
            guard case .object(let members) = value, let content = registry.message(name).field(named: "value") else {
                throw MesosJSONError(.wrongType, "Expecting a JSON object for map field '\(field.name)'")
            }
            for (key, element) in members where !element.isNull {
                var entry = WireWriter()
                entry.field(1, delimited: key.utf8)
                _ = try single(element, field: content, path: "\(path)[\(key)]", into: &entry)
                writer.field(field.number, delimited: entry.bytes)
            }
            return
        }
        guard case .array(let elements) = value else {
            _ = try single(value, field: field, path: "\(path)[0]", into: &writer)
            return
        }
        for (index, element) in elements.enumerated() where !element.isNull {
            _ = try single(element, field: field, path: "\(path)[\(index)]", into: &writer)
        }
    }

    /// False when the value was ignored (an unknown enum name).
    private mutating func single(
        _ value: JSONValue, field: MessageSchema.Field, path: String, into writer: inout WireWriter
    ) throws(MesosJSONError) -> Bool {
        switch field.kind {
        case .message(let name):
            guard case .object(let members) = value else { throw unexpected(value, field) }
            writer.field(field.number, delimited: try message(members, type: name, path: path))
        case .enumeration(let name):
            guard case .string(let text) = value else { throw unexpected(value, field) }
            guard let number = registry.enumeration(name).numberByName[text] else { return false }
            writer.field(field.number, varint: UInt64(bitPattern: Int64(number)))
        case .string:
            guard case .string(let text) = value else { throw unexpected(value, field) }
            writer.field(field.number, delimited: text.utf8)
        case .bytes:
            guard case .string(let text) = value else { throw unexpected(value, field) }
            guard let data = Data(base64Encoded: text) else {
                throw MesosJSONError(
                    .wrongType, "Failed to base64 decode bytes field '\(field.name)' value: '\(text)'")
            }
            writer.field(field.number, delimited: data)
        case .bool: writer.field(field.number, varint: try boolean(value, field) ? 1 : 0)
        case .double: writer.field(field.number, double: try double(value, field))
        case .int32: writer.field(field.number, varint: UInt64(bitPattern: Int64(try integer(value, field) as Int32)))
        case .uint32: writer.field(field.number, varint: UInt64(try integer(value, field) as UInt32))
        case .int64: writer.field(field.number, varint: UInt64(bitPattern: try integer(value, field) as Int64))
        case .uint64: writer.field(field.number, varint: try integer(value, field) as UInt64)
        }
        return true
    }

    private func boolean(_ value: JSONValue, _ field: MessageSchema.Field) throws(MesosJSONError) -> Bool {
        switch value {
        case .bool(let flag): return flag
        case .string("true"): return true
        case .string("false"): return false
        case .null, .integer, .number, .string, .array, .object: throw unexpected(value, field)
        }
    }

    private func double(_ value: JSONValue, _ field: MessageSchema.Field) throws(MesosJSONError) -> Double {
        switch value {
        case .integer(let number): return Double(number)
        case .number(let number): return number
        case .string("Infinity"): return .infinity
        case .string("-Infinity"): return -.infinity
        case .string("NaN"): return .nan
        case .string(let text):
            guard let number = Double(text), number.isFinite else { throw unexpected(value, field) }
            return number
        case .null, .bool, .array, .object: throw unexpected(value, field)
        }
    }

    /// Integers may be written as strings and as numbers with a fraction, which is cut off.
    private func integer<I: FixedWidthInteger>(
        _ value: JSONValue, _ field: MessageSchema.Field
    ) throws(MesosJSONError) -> I {
        let result: I? =
            switch value {
            case .integer(let number): I(exactly: number)
            case .number(let number): number.isFinite ? I(exactly: number.rounded(.towardZero)) : nil
            case .string(let text): I(text) ?? Double(text).flatMap { I(exactly: $0) }
            case .null, .bool, .array, .object: nil
            }
        guard let result else { throw unexpected(value, field) }
        return result
    }

    private func unexpected(_ value: JSONValue, _ field: MessageSchema.Field) -> MesosJSONError {
        let kind =
            switch value {
            case .null: "null"
            case .bool: "boolean"
            case .integer, .number: "number"
            case .string: "string"
            case .array: "array"
            case .object: "object"
            }
        return MesosJSONError(.wrongType, "Not expecting a JSON \(kind) for field '\(field.name)'")
    }
}
