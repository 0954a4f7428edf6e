internal import FoundationEssentials
import SwiftProtobuf

/// What JSON needs to know of a message beyond its wire bytes: names, labels and defaults of its fields.
struct MessageSchema: Sendable {
    struct Field: Sendable {
        enum Kind: Sendable {
            case double, int32, uint32, int64, uint64, bool, string, bytes
            case message(String)
            case enumeration(String)
        }

        var name: String
        var number: Int
        var kind: Kind
        var isRequired: Bool
        var isRepeated: Bool
        /// The value printed when the field is unset; nil also for deprecated fields, which stay silent.
        var printedDefault: String?
    }

    /// In the order of the .proto file, which is the order of JSON members.
    var fields: [Field] = []
    var indexByName: [String: Int] = [:]
    var indexByNumber: [Int: Int] = [:]
    /// The entry type behind a map field.
    var isMapEntry = false

    func field(named name: String) -> Field? { indexByName[name].map { fields[$0] } }
}

struct EnumSchema: Sendable {
    var numberByName: [String: Int32] = [:]
    var nameByNumber: [Int32: String] = [:]
}

/// All messages and enums of the room, by full name ("mesos.v1.TaskInfo").
struct SchemaRegistry: Sendable {
    private(set) var messages: [String: MessageSchema] = [:]
    private(set) var enums: [String: EnumSchema] = [:]

    static let shared = SchemaRegistry()

    private init() {
        guard let data = Data(base64Encoded: descriptorSetBase64),
            let set = try? Google_Protobuf_FileDescriptorSet(serializedBytes: data)
        else { preconditionFailure("the embedded descriptors are broken") }
        for file in set.file {
            for message in file.messageType { add(message, prefix: file.package) }
            for enumeration in file.enumType { add(enumeration, prefix: file.package) }
        }
    }

    /// The schema of a message type; every type of this room has one.
    func message(_ name: String) -> MessageSchema {
        guard let schema = messages[name] else { preconditionFailure("no schema of \(name)") }
        return schema
    }

    func enumeration(_ name: String) -> EnumSchema {
        guard let schema = enums[name] else { preconditionFailure("no schema of \(name)") }
        return schema
    }

    private mutating func add(_ enumeration: Google_Protobuf_EnumDescriptorProto, prefix: String) {
        var schema = EnumSchema()
        for value in enumeration.value {
            schema.numberByName[value.name] = value.number
            schema.nameByNumber[value.number] = value.name
        }
        enums["\(prefix).\(enumeration.name)"] = schema
    }

    private mutating func add(_ message: Google_Protobuf_DescriptorProto, prefix: String) {
        let name = "\(prefix).\(message.name)"
        for nested in message.nestedType { add(nested, prefix: name) }
        for nested in message.enumType { add(nested, prefix: name) }
        var schema = MessageSchema()
        schema.isMapEntry = message.options.mapEntry
        for field in message.field {
            schema.indexByName[field.name] = schema.fields.count
            schema.indexByNumber[Int(field.number)] = schema.fields.count
            schema.fields.append(
                MessageSchema.Field(
                    name: field.name, number: Int(field.number), kind: SchemaRegistry.kind(of: field),
                    isRequired: field.label == .required, isRepeated: field.label == .repeated,
                    printedDefault: field.hasDefaultValue && !field.options.deprecated ? field.defaultValue : nil))
        }
        messages[name] = schema
    }

    private static func kind(of field: Google_Protobuf_FieldDescriptorProto) -> MessageSchema.Field.Kind {
        let typeName = String(field.typeName.dropFirst())
        switch field.type {
        case .double: return .double
        case .int32: return .int32
        case .uint32: return .uint32
        case .int64: return .int64
        case .uint64: return .uint64
        case .bool: return .bool
        case .string: return .string
        case .bytes: return .bytes
        case .message: return .message(typeName)
        case .enum: return .enumeration(typeName)
        case .float, .fixed32, .fixed64, .sfixed32, .sfixed64, .sint32, .sint64, .group:
            preconditionFailure("\(field.name) has a type that no Mesos message uses")
        }
    }
}
