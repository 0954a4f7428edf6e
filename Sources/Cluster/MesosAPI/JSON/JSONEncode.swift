public import Base
internal import FoundationEssentials
import OrderedCollections
public import SwiftProtobuf

/// A message as Mesos prints it: members named and ordered as in the .proto file, fields with a default printed also
/// when they are unset, 64-bit integers as numbers, bytes as base64, enums by name.
public func jsonEncode(_ message: some Message) -> JSONValue {
    guard let bytes: [UInt8] = try? message.serializedBytes(partial: true) else {
        preconditionFailure("a message in memory could not be serialized")
    }
    return JSONEncoder(registry: .shared).object(bytes[...], type: type(of: message).protoMessageName)
}

private struct JSONEncoder {
    let registry: SchemaRegistry

    func object(_ bytes: ArraySlice<UInt8>, type: String) -> JSONValue {
        let schema = registry.message(type)
        var values: [[WireValue]] = Array(repeating: [], count: schema.fields.count)
        var reader = WireReader(bytes)
        while let (number, value) = reader.next() {
            // Unknown fields have no name in JSON, and a known one's number may stand before another type's bytes.
            guard let index = schema.indexByNumber[number], value.fits(schema.fields[index].kind) else { continue }
            values[index].append(value)
        }
        var members = JSONValue.Object()
        for (index, field) in schema.fields.enumerated() {
            if field.isRepeated {
                if !values[index].isEmpty { members[field.name] = list(values[index], field: field) }
            } else if let value = values[index].last {
                members[field.name] = scalar(value, kind: field.kind)
            } else if let text = field.printedDefault {
                members[field.name] = defaultValue(text, kind: field.kind)
            }
        }
        return .object(members)
    }

    private func list(_ values: [WireValue], field: MessageSchema.Field) -> JSONValue {
        if case .message(let name) = field.kind, registry.message(name).isMapEntry {
            return map(values, entry: registry.message(name))
        }
        return .array(values.map { scalar($0, kind: field.kind) })
    }

    /// Keys are sorted: the generated code keeps maps unordered.
    private func map(_ values: [WireValue], entry: MessageSchema) -> JSONValue {
        var members: [(String, JSONValue)] = []
        for case .delimited(let bytes) in values {
            var key = ""
            var value: JSONValue = .object([:])
            var reader = WireReader(bytes)
            while let (number, part) = reader.next() {
                if number == 1, case .delimited(let text) = part { key = String(decoding: text, as: UTF8.self) }
                if number == 2, let field = entry.field(named: "value"), part.fits(field.kind) {
                    value = scalar(part, kind: field.kind)
                }
            }
            members.append((key, value))
        }
        members.sort { $0.0 < $1.0 }
        return .object(JSONValue.Object(members) { _, last in last })
    }

    private func scalar(_ value: WireValue, kind: MessageSchema.Field.Kind) -> JSONValue {
        switch (kind, value) {
        case (.double, .fixed64(let bits)): return number(Double(bitPattern: bits))
        case (.int32, .varint(let bits)): return .integer(Int64(Int32(truncatingIfNeeded: bits)))
        case (.uint32, .varint(let bits)): return .integer(Int64(UInt32(truncatingIfNeeded: bits)))
        case (.int64, .varint(let bits)): return .integer(Int64(bitPattern: bits))
        case (.uint64, .varint(let bits)): return Int64(exactly: bits).map(JSONValue.integer) ?? .number(Double(bits))
        case (.bool, .varint(let bits)): return .bool(bits != 0)
        case (.string, .delimited(let bytes)): return .string(String(decoding: bytes, as: UTF8.self))
        case (.bytes, .delimited(let bytes)): return .string(Data(bytes).base64EncodedString())
        case (.message(let name), .delimited(let bytes)): return object(bytes, type: name)
        case (.enumeration(let name), .varint(let bits)):
            let number = Int32(truncatingIfNeeded: bits)
            return .string(registry.enumeration(name).nameByNumber[number] ?? String(number))
        case (.double, _), (.int32, _), (.uint32, _), (.int64, _), (.uint64, _), (.bool, _), (.string, _), (.bytes, _),
            (.message, _), (.enumeration, _):
            preconditionFailure("\(value) does not fit a \(kind)")
        }
    }

    /// JSON has no infinities; limits use them, so they travel as strings.
    private func number(_ value: Double) -> JSONValue {
        if value.isNaN { return .string("NaN") }
        if value.isInfinite { return .string(value < 0 ? "-Infinity" : "Infinity") }
        return .number(value)
    }

    private func defaultValue(_ text: String, kind: MessageSchema.Field.Kind) -> JSONValue {
        switch kind {
        case .double: .number(Double(text) ?? 0)
        case .int32, .uint32, .int64, .uint64: .integer(Int64(text) ?? 0)
        case .bool: .bool(text == "true")
        case .string, .bytes, .message, .enumeration: .string(text)
        }
    }
}

extension WireValue {
    fileprivate func fits(_ kind: MessageSchema.Field.Kind) -> Bool {
        switch (kind, self) {
        case (.double, .fixed64): true
        case (.int32, .varint), (.uint32, .varint), (.int64, .varint), (.uint64, .varint): true
        case (.bool, .varint), (.enumeration, .varint): true
        case (.string, .delimited), (.bytes, .delimited), (.message, .delimited): true
        case (_, .varint), (_, .fixed64), (_, .delimited): false
        }
    }
}
