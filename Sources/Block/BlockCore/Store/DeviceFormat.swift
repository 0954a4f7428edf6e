public import Base

/// What is wrong with a device.
public struct DeviceError: CodedError {
    public enum Code: String, Hashable, Sendable {
        /// Neither copy of the label is one of ours.
        case notFormatted
        /// Both copies of the label, or the unit table, fail their checksums.
        case corrupt
        /// Written by a newer version.
        case unsupportedVersion
        case tooSmall
    }

    public var code: Code
    public var message: String
    public var cause: (any Error)? { nil }
}

/// The identity of a device, kept in two copies at its beginning. See docs/formats/device.md.
public struct DeviceLabel: Equatable, Sendable {
    public static let formatVersion: UInt32 = 4
    static let magic: UInt64 = 0x484F_4C44_4641_5354
    static let copyOffsets: [UInt64] = [0, 64 << 10]

    /// Zero until the manager has welcomed the server.
    public var system: UInt64
    public var sds: SdsID
    public var device: DeviceID
    /// Counts the times the device was put into use; the manager notices when it goes back.
    public var mountCounter: UInt64
    public var capacityUnits: UInt32
    /// 4 KiB blocks of the metadata log.
    public var logBlocks: UInt32
    /// 4 KiB blocks of the checksum area; 0 on devices formatted before version 3, whose data is not checked.
    public var checksumBlocks: UInt32

    /// Of a new device. `logBlocks`: 2 at least, unless stated as many as suit its size.
    public init(sds: SdsID, device: DeviceID, capacityUnits: UInt32, logBlocks: UInt32? = nil) {
        system = 0
        self.sds = sds
        self.device = device
        mountCounter = 0
        self.capacityUnits = capacityUnits
        self.logBlocks = logBlocks ?? DeviceLayout.logBlocks(capacityUnits: capacityUnits)
        checksumBlocks = DeviceLayout.checksumBlocks(capacityUnits: capacityUnits)
    }

    /// One 4 KiB block.
    func encoded() -> [UInt8] {
        var writer = ByteWriter()
        writer.put(DeviceLabel.magic)
        writer.put(DeviceLabel.formatVersion)
        writer.put(capacityUnits)
        writer.put(system)
        writer.put(sds)
        writer.put(device)
        writer.put(mountCounter)
        writer.put(logBlocks)
        writer.put(checksumBlocks)
        return writer.sealedBlocks(1)
    }

    /// The better of the two copies in a device's first bytes (at least 68 KiB of them).
    public init(device bytes: [UInt8]) throws(DeviceError) {
        var best: DeviceLabel?
        var failure = DeviceError(code: .notFormatted, message: "the device carries no label of ours")
        for offset in DeviceLabel.copyOffsets where bytes.count >= Int(offset) + 4096 {
            do throws(DeviceError) {
                let label = try DeviceLabel(copy: Array(bytes[Int(offset)..<Int(offset) + 4096]))
                if best.map({ $0.mountCounter < label.mountCounter }) ?? true { best = label }
            } catch {
                if failure.code == .notFormatted { failure = error }
            }
        }
        guard let best else { throw failure }
        self = best
    }

    private init(copy block: [UInt8]) throws(DeviceError) {
        do throws(WireError) {
            var reader = ByteReader(block)
            guard try reader.number(UInt64.self) == DeviceLabel.magic else {
                throw WireError(description: "")
            }
            let version = try reader.number(UInt32.self)
            guard ByteReader.isSealed(block) else { throw WireError(description: "checksum") }
            guard (1...DeviceLabel.formatVersion).contains(version) else {
                throw WireError(description: "version \(version)")
            }
            capacityUnits = try reader.number(UInt32.self)
            system = try reader.number(UInt64.self)
            sds = try reader.id(SdsID.self)
            device = try reader.id(DeviceID.self)
            mountCounter = try reader.number(UInt64.self)
            logBlocks = try reader.number(UInt32.self)
            checksumBlocks = version < 3 ? 0 : try reader.number(UInt32.self)
            guard capacityUnits > 0, capacityUnits <= 1 << 24, logBlocks > 1, logBlocks <= 1 << 20,
                checksumBlocks == 0
                    || checksumBlocks == DeviceLayout.checksumBlocks(capacityUnits: capacityUnits)
            else { throw WireError(description: "checksum") }
        } catch {
            if error.description.isEmpty {
                throw DeviceError(code: .notFormatted, message: "the device carries no label of ours")
            }
            if error.description == "checksum" || !error.description.hasPrefix("version") {
                throw DeviceError(code: .corrupt, message: "the device label is corrupt")
            }
            throw DeviceError(
                code: .unsupportedVersion, message: "the device was formatted by another version: \(error)")
        }
    }

    public var layout: DeviceLayout {
        DeviceLayout(capacityUnits: capacityUnits, logBlocks: logBlocks, checksumBlocks: checksumBlocks)
    }
}

/// Where things lie on a device, in bytes.
public struct DeviceLayout: Equatable, Sendable {
    static let recordBytes = 80
    static let recordsPerLogBlock = (4096 - 32) / recordBytes

    /// Two areas that take turns in holding the unit table.
    public let tables: [UInt64]
    public let tableBytes: UInt64
    public let log: UInt64
    /// Of every unit's blocks, three units to a block.
    public let checksums: UInt64
    public let data: UInt64
    public let end: UInt64

    static func checksumBlocks(capacityUnits: UInt32) -> UInt32 {
        (capacityUnits + UInt32(UnitChecksums.perBlock) - 1) / UInt32(UnitChecksums.perBlock)
    }

    /// A table is written after half a log: 80 bytes for each unit that is bound, after 16384 commits of a device of 1 TB.
    static func logBlocks(capacityUnits: UInt32) -> UInt32 { min(max(1024, capacityUnits / 64 * 2), 1 << 16) }

    init(capacityUnits: UInt32, logBlocks: UInt32, checksumBlocks: UInt32) {
        let first: UInt64 = 128 << 10
        let records = UInt64(capacityUnits) * UInt64(DeviceLayout.recordBytes)
        tableBytes = (records + 4095) / 4096 * 4096 + 4096
        tables = [first, first + tableBytes]
        log = first + 2 * tableBytes
        checksums = log + UInt64(logBlocks) * 4096
        let metadataEnd = checksums + UInt64(checksumBlocks) * 4096
        let unit = UInt64(Geometry.unitBytes)
        data = (metadataEnd + unit - 1) / unit * unit
        end = data + UInt64(capacityUnits) * unit
    }

    /// The most units that fit on a device of `size` bytes.
    public static func capacityUnits(ofDeviceBytes size: UInt64) throws(DeviceError) -> UInt32 {
        func end(_ units: UInt32) -> UInt64 {
            let checksumBlocks = DeviceLayout.checksumBlocks(capacityUnits: units)
            let logBlocks = DeviceLayout.logBlocks(capacityUnits: units)
            return DeviceLayout(capacityUnits: units, logBlocks: logBlocks, checksumBlocks: checksumBlocks).end
        }
        var units = UInt32(min(size >> 20, 1 << 24))
        while units > 0, end(units) > size { units -= 1 }
        guard units > 0 else { throw DeviceError(code: .tooSmall, message: "the device is too small to hold a unit") }
        return units
    }

    func offset(ofSlot slot: UInt32) -> UInt64 { data + UInt64(slot) * UInt64(Geometry.unitBytes) }
}

extension ByteWriter {
    /// Pads to `count` whole blocks whose last four bytes are the CRC32C of all before.
    func sealedBlocks(_ count: Int) -> [UInt8] {
        let size = count * 4096
        precondition(bytes.count <= size - 4, "fits its blocks")
        var sealed = self
        sealed.bytes.append(contentsOf: repeatElement(0, count: size - 4 - bytes.count))
        sealed.put(CRC32C.checksum(sealed.bytes))
        return sealed.bytes
    }
}

extension ByteReader {
    static func isSealed(_ block: [UInt8]) -> Bool {
        var tail = ByteReader(Array(block.suffix(4)))
        guard let stored = try? tail.number(UInt32.self) else { return false }
        return CRC32C.checksum(Array(block.dropLast(4))) == stored
    }
}
