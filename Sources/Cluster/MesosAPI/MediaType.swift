import Base
public import SwiftProtobuf

/// The two encodings of every Mesos HTTP API.
public enum MediaType: String, Hashable, Sendable, CaseIterable {
    case json = "application/json"
    case protobuf = "application/x-protobuf"

    /// One message as body or RecordIO record. JSON is a single line.
    public func encode(_ message: some Message) -> [UInt8] {
        switch self {
        case .json: return jsonEncode(message).bytes
        case .protobuf:
            guard let bytes: [UInt8] = try? message.serializedBytes(partial: true) else {
                preconditionFailure("a message in memory could not be serialized")
            }
            return bytes
        }
    }

    /// Reads a message whose required fields are all there.
    public func decode<M: Message>(_ type: M.Type, from bytes: [UInt8]) throws(MesosJSONError) -> M {
        switch self {
        case .json: return try jsonDecode(type, from: bytes)
        case .protobuf:
            do {
                return try M(knownFieldsIn: bytes)
            } catch {
                throw MesosJSONError(.malformed, "Failed to parse body into protobuf", cause: error)
            }
        }
    }
}

extension Message {
    /// Reads bytes of a peer or a disk, dropping fields that this version does not know. The generated code would keep
    /// them (also known fields of another wire type) and hand them on wherever the message goes.
    public init(knownFieldsIn bytes: [UInt8]) throws {
        var options = BinaryDecodingOptions()
        options.discardUnknownFields = true
        try self.init(serializedBytes: bytes, options: options)
    }
}
