/// Appends little-endian numbers and length-prefixed strings.
struct ByteWriter {
    var bytes: [UInt8] = []

    mutating func put<Number: FixedWidthInteger>(_ value: Number) {
        withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
    }
    mutating func put(_ id: some BlockStoreID) { put(id.rawValue) }
    mutating func put(_ flag: Bool) { bytes.append(flag ? 1 : 0) }

    /// At most 65535 bytes of UTF-8; longer text is cut.
    mutating func put(_ text: String) {
        let utf8 = Array(text.utf8.prefix(Int(UInt16.max)))
        put(UInt16(utf8.count))
        bytes.append(contentsOf: utf8)
    }
    mutating func put<Element>(list: [Element], _ body: (inout ByteWriter, Element) -> Void) {
        put(UInt32(list.count))
        for element in list { body(&self, element) }
    }
}

/// What arrived cannot be decoded: cut short, of an unknown kind or version, or with a wrong checksum.
public struct WireError: Error, Equatable, Sendable, CustomStringConvertible {
    public var description: String
}

/// Takes apart what `ByteWriter` wrote; every step checks bounds, because the bytes come from a peer or a disk.
struct ByteReader {
    let bytes: [UInt8]
    private(set) var position = 0

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    var remaining: Int { bytes.count - position }

    mutating func number<Number: FixedWidthInteger>(_ type: Number.Type) throws(WireError) -> Number {
        let size = MemoryLayout<Number>.size
        guard remaining >= size else { throw WireError(description: "cut short at byte \(position)") }
        let value = bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: position, as: Number.self) }
        position += size
        return Number(littleEndian: value)
    }
    mutating func id<ID: BlockStoreID>(_ type: ID.Type) throws(WireError) -> ID {
        ID(rawValue: try number(UInt64.self))
    }
    mutating func flag() throws(WireError) -> Bool { try number(UInt8.self) != 0 }
    mutating func text() throws(WireError) -> String {
        let length = Int(try number(UInt16.self))
        guard remaining >= length else { throw WireError(description: "cut short at byte \(position)") }
        defer { position += length }
        guard let text = String(validating: bytes[position..<position + length], as: UTF8.self) else {
            throw WireError(description: "text at byte \(position) is not UTF-8")
        }
        return text
    }
    /// `minimumSize` is the least one element takes: a count that cannot fit is refused before memory is reserved.
    mutating func list<Element>(
        minimumSize: Int, _ body: (inout ByteReader) throws(WireError) -> Element
    ) throws(WireError) -> [Element] {
        let count = Int(try number(UInt32.self))
        guard count <= remaining / max(minimumSize, 1) else {
            throw WireError(description: "a list of \(count) does not fit at byte \(position)")
        }
        var elements: [Element] = []
        elements.reserveCapacity(count)
        for _ in 0..<count { elements.append(try body(&self)) }
        return elements
    }
    mutating func finish() throws(WireError) {
        guard remaining == 0 else { throw WireError(description: "\(remaining) bytes too many") }
    }
}
