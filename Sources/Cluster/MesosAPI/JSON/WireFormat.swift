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

/// Reads bytes that the generated code wrote, so bytes that are cut short are our own mistake. Their fields may be of any
/// number and type: a message read elsewhere may carry what its sender made up.
struct WireReader {
    private var rest: ArraySlice<UInt8>

    init(_ bytes: ArraySlice<UInt8>) { rest = bytes }

    /// The next field of a type that Mesos messages use, nil at the end.
    mutating func next() -> (number: Int, value: WireValue)? {
        // Groups may nest; their fields are passed over together with them.
        var openGroups = 0
        while !rest.isEmpty {
            let key = varint()
            var value: WireValue?
            switch key & 7 {
            case 0: value = .varint(varint())
            case 1: value = .fixed64(fixed(8))
            case 2: value = .delimited(take(Int(varint())))
            case 3: openGroups += 1
            case 4: openGroups -= 1
            case 5: _ = take(4)
            default: preconditionFailure("there is no wire type \(key & 7)")
            }
            if openGroups == 0, let value { return (Int(key >> 3), value) }
        }
        return nil
    }

    private mutating func take(_ count: Int) -> ArraySlice<UInt8> {
        let value = rest.prefix(count)
        precondition(value.count == count, "a field is cut short")
        rest = rest.dropFirst(count)
        return value
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
        var value: UInt64 = 0
        for (index, byte) in take(count).enumerated() { value |= UInt64(byte) << UInt64(8 * index) }
        return value
    }
}
