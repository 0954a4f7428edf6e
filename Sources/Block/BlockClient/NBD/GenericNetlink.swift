import BlockIO

/// A request to a family of generic netlink (linux/netlink.h, linux/genetlink.h), in the byte order of the host.
///
/// Built from its attributes; `bytes` is the whole message.
struct NetlinkRequest {
    static let headerLength = 16
    static let genericHeaderLength = 4
    private static let isRequest: UInt16 = 1
    private static let wantsAcknowledgement: UInt16 = 4
    /// NLA_F_NESTED.
    private static let nested: UInt16 = 0x8000

    private(set) var bytes: [UInt8] = []

    init(family: UInt16, command: UInt8, version: UInt8, sequence: UInt32) {
        append(UInt32(0))
        append(family)
        append(NetlinkRequest.isRequest | NetlinkRequest.wantsAcknowledgement)
        append(sequence)
        // The kernel's own number as the other end, and no port of ours: the socket fills it in.
        append(UInt32(0))
        bytes.append(contentsOf: [command, version, 0, 0])
        setLength(UInt32(bytes.count), at: 0)
    }

    mutating func add<T: FixedWidthInteger & BitwiseCopyable>(_ type: UInt16, _ value: T) {
        add(type, flags: 0) { $0.append(value) }
    }

    /// Adds text, with the byte 0 that ends it.
    mutating func add(_ type: UInt16, text: String) {
        add(type, flags: 0) { $0.bytes.append(contentsOf: text.utf8 + [0]) }
    }

    /// Adds an attribute that holds those which `body` adds.
    mutating func add(_ type: UInt16, nesting body: (inout NetlinkRequest) -> Void) {
        add(type, flags: NetlinkRequest.nested, body)
    }

    private mutating func add(_ type: UInt16, flags: UInt16, _ body: (inout NetlinkRequest) -> Void) {
        let start = bytes.count
        append(UInt16(0))
        append(type | flags)
        body(&self)
        setLength(UInt16(bytes.count - start), at: start)
        while bytes.count % 4 != 0 { bytes.append(0) }
        setLength(UInt32(bytes.count), at: 0)
    }

    private mutating func append<T: FixedWidthInteger & BitwiseCopyable>(_ value: T) {
        withUnsafeBytes(of: value) { bytes.append(contentsOf: $0) }
    }

    private mutating func setLength<T: FixedWidthInteger & BitwiseCopyable>(_ length: T, at position: Int) {
        bytes.withUnsafeMutableBytes { $0.storeBytes(of: length, toByteOffset: position, as: T.self) }
    }
}

/// An attribute of a message that arrived.
struct NetlinkAttribute: Equatable {
    /// Without its flags.
    var type: UInt16
    var payload: [UInt8]

    init(_ type: UInt16, _ payload: [UInt8]) {
        self.type = type
        self.payload = payload
    }

    /// The attributes that fill `bytes`.
    static func list(_ bytes: [UInt8]) throws(BlockIOError) -> [NetlinkAttribute] {
        var attributes: [NetlinkAttribute] = []
        var position = 0
        while position < bytes.count {
            guard bytes.count - position >= 4 else { throw .truncatedNetlink("an attribute") }
            let length = Int(bytes.native(position, as: UInt16.self))
            guard length >= 4, length <= bytes.count - position else { throw .truncatedNetlink("an attribute") }
            // The highest two bits are flags.
            let type = bytes.native(position + 2, as: UInt16.self) & 0x3fff
            attributes.append(NetlinkAttribute(type, Array(bytes[position + 4..<position + length])))
            position += (length + 3) / 4 * 4
        }
        return attributes
    }

    /// The payload as a number.
    func number<T: FixedWidthInteger & BitwiseCopyable>(_ type: T.Type = T.self) throws(BlockIOError) -> T {
        guard payload.count == MemoryLayout<T>.size else {
            throw BlockIOError(.malformed, "netlink attribute \(self.type) has \(payload.count) bytes")
        }
        return payload.native(0, as: T.self)
    }
}

/// What the kernel answers to a request.
enum NetlinkReply: Equatable {
    /// The request is over: 0 or an `errno`.
    case ended(error: Int32)
    case message(command: UInt8, [NetlinkAttribute])

    private static let typeError: UInt16 = 2

    /// The replies to request `sequence` in a datagram from the kernel; those to others are left out.
    static func list(_ datagram: [UInt8], sequence: UInt32) throws(BlockIOError) -> [NetlinkReply] {
        var replies: [NetlinkReply] = []
        var position = 0
        let header = NetlinkRequest.headerLength
        while position < datagram.count {
            guard datagram.count - position >= header else { throw .truncatedNetlink("a header") }
            let length = Int(datagram.native(position, as: UInt32.self))
            guard length >= header, length <= datagram.count - position else { throw .truncatedNetlink("a message") }
            let body = Array(datagram[position + header..<position + length])
            if datagram.native(position + 8, as: UInt32.self) == sequence {
                let type: UInt16 = datagram.native(position + 4)
                if let reply = try NetlinkReply(type: type, body) { replies.append(reply) }
            }
            position += (length + 3) / 4 * 4
        }
        return replies
    }

    /// Nil for messages that mean nothing to us.
    private init?(type: UInt16, _ body: [UInt8]) throws(BlockIOError) {
        if type == NetlinkReply.typeError {
            guard body.count >= 4 else { throw .truncatedNetlink("an error") }
            let number: Int32 = body.native(0)
            guard number <= 0, number > Int32.min else {
                throw BlockIOError(.malformed, "netlink error number \(number)")
            }
            self = .ended(error: -number)
            return
        }
        // Smaller numbers are netlink's own messages.
        guard type >= GenericNetlinkControl.family else { return nil }
        guard body.count >= NetlinkRequest.genericHeaderLength else { throw .truncatedNetlink("a generic header") }
        let attributes = try NetlinkAttribute.list(Array(body[NetlinkRequest.genericHeaderLength...]))
        self = .message(command: body[0], attributes)
    }
}

/// The family that knows the numbers of the others.
enum GenericNetlinkControl {
    static let family: UInt16 = 0x10
    private static let getFamily: UInt8 = 3
    private static let attributeFamilyID: UInt16 = 1
    private static let attributeFamilyName: UInt16 = 2

    /// Asks for the number of a family.
    static func resolve(_ name: String, sequence: UInt32) -> [UInt8] {
        var request = NetlinkRequest(family: family, command: getFamily, version: 1, sequence: sequence)
        request.add(attributeFamilyName, text: name)
        return request.bytes
    }

    static func familyNumber(in reply: [NetlinkAttribute]) throws(BlockIOError) -> UInt16 {
        guard let attribute = reply.first(where: { $0.type == attributeFamilyID }) else {
            throw BlockIOError(.malformed, "netlink names a family without its number")
        }
        return try attribute.number()
    }
}

extension BlockIOError {
    fileprivate static func truncatedNetlink(_ what: String) -> BlockIOError {
        BlockIOError(.malformed, "\(what) of netlink is cut short")
    }
}

extension Array where Element == UInt8 {
    /// An integer in the byte order of the host; callers check bounds first.
    func native<T: FixedWidthInteger & BitwiseCopyable>(_ offset: Int, as type: T.Type = T.self) -> T {
        withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: T.self) }
    }
}
