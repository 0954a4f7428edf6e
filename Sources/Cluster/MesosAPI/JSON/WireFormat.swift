/// The protocol buffer wire format, as far as JSON conversion goes through it: JSON becomes wire bytes which the
/// generated code reads, and the generated code's bytes become JSON. So the conversion needs no reflection.
struct WireWriter {
    private(set) var bytes: [UInt8] = []

    mutating func varint(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(rest))
    }

    mutating func field(_ number: Int, varint value: UInt64) {
        varint(UInt64(number) << 3)
        varint(value)
    }

    mutating func field(_ number: Int, double value: Double) {
        varint(UInt64(number) << 3 | 1)
        withUnsafeBytes(of: value.bitPattern.littleEndian) { bytes.append(contentsOf: $0) }
    }

    mutating func field(_ number: Int, delimited value: some Collection<UInt8>) {
        varint(UInt64(number) << 3 | 2)
        varint(UInt64(value.count))
        bytes.append(contentsOf: value)
    }
}

enum WireValue {
    case varint(UInt64)
    case fixed64(UInt64)
    case delimited(ArraySlice<UInt8>)
}

/// Reads bytes that the generated code wrote; anything malformed is our own mistake.
struct WireReader {
    private var rest: ArraySlice<UInt8>

    init(_ bytes: ArraySlice<UInt8>) { rest = bytes }

    /// The next field, nil at the end.
    mutating func next() -> (number: Int, value: WireValue)? {
        guard !rest.isEmpty else { return nil }
        let key = varint()
        let number = Int(key >> 3)
        switch key & 7 {
        case 0: return (number, .varint(varint()))
        case 1: return (number, .fixed64(fixed(8)))
        case 2:
            let length = Int(varint())
            let value = rest.prefix(length)
            precondition(value.count == length, "a field is cut short")
            rest = rest.dropFirst(length)
            return (number, .delimited(value))
        default: preconditionFailure("wire type \(key & 7) is used by no Mesos message")
        }
    }

    private mutating func varint() -> UInt64 {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while let byte = rest.popFirst() {
            value |= UInt64(byte & 0x7F) << shift
            if byte & 0x80 == 0 { return value }
            shift += 7
        }
        preconditionFailure("a number is cut short")
    }

    private mutating func fixed(_ count: Int) -> UInt64 {
        precondition(rest.count >= count, "a number is cut short")
        var value: UInt64 = 0
        for (index, byte) in rest.prefix(count).enumerated() { value |= UInt64(byte) << UInt64(8 * index) }
        rest = rest.dropFirst(count)
        return value
    }
}
