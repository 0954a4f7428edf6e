extension DataHeader {
    /// Writes the `encodedSize` bytes of the header to `buffer`, which must have room for them.
    public func encode(into buffer: UnsafeMutableRawBufferPointer) {
        precondition(buffer.count >= DataHeader.encodedSize)
        func store<Number: FixedWidthInteger>(_ value: Number, _ offset: Int) {
            buffer.storeBytes(of: value.littleEndian, toByteOffset: offset, as: Number.self)
        }
        store(DataHeader.magic, 0)
        store(DataHeader.version, 4)
        store(opcode.rawValue, 5)
        store(flags.rawValue, 6)
        store(request, 8)
        store(session, 16)
        store(volume, 24)
        store(unit, 32)
        store(offset, 36)
        store(length, 40)
        store(status.rawValue, 44)
        store(UInt8(0), 45)
        store(UInt16(0), 46)
        store(combEpoch, 48)
        store(attachEpoch, 56)
        store(UInt64(0), 64)
        store(node, 72)
        store(CRC32C.checksum(UnsafeRawBufferPointer(rebasing: buffer[0..<76])), 76)
    }

    public func encoded() -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: DataHeader.encodedSize)
        bytes.withUnsafeMutableBytes { encode(into: $0) }
        return bytes
    }

    /// Reads a header from the first `encodedSize` bytes; whatever a peer can send either decodes or throws.
    public init(decoding buffer: UnsafeRawBufferPointer) throws(WireError) {
        guard buffer.count >= DataHeader.encodedSize else { throw WireError(description: "header cut short") }
        func load<Number: FixedWidthInteger>(_ type: Number.Type, _ offset: Int) -> Number {
            Number(littleEndian: buffer.loadUnaligned(fromByteOffset: offset, as: type))
        }
        guard load(UInt32.self, 0) == DataHeader.magic else { throw WireError(description: "not a data message") }
        guard CRC32C.checksum(UnsafeRawBufferPointer(rebasing: buffer[0..<76])) == load(UInt32.self, 76) else {
            throw WireError(description: "header checksum differs")
        }
        let version = load(UInt8.self, 4)
        guard version == DataHeader.version else { throw WireError(description: "data protocol version \(version)") }
        guard let opcode = Opcode(rawValue: load(UInt8.self, 5)) else {
            throw WireError(description: "unknown opcode \(load(UInt8.self, 5))")
        }
        guard let status = DataStatus(rawValue: load(UInt8.self, 44)) else {
            throw WireError(description: "unknown status \(load(UInt8.self, 44))")
        }
        self.init(opcode: opcode)
        flags = Flags(rawValue: load(UInt16.self, 6))
        self.status = status
        request = load(UInt64.self, 8)
        session = load(UInt64.self, 16)
        volume = load(UInt64.self, 24)
        unit = load(UInt32.self, 32)
        offset = load(UInt32.self, 36)
        length = load(UInt32.self, 40)
        combEpoch = load(UInt64.self, 48)
        attachEpoch = load(UInt64.self, 56)
        node = load(UInt32.self, 72)
        guard flags.isSubset(of: .known) else {
            throw WireError(description: "unknown flags \(flags.rawValue)")
        }
        guard length <= Geometry.unitBytes else { throw WireError(description: "payload of \(length) bytes") }
    }
}
