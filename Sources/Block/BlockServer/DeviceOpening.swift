import Base
import BlockCore
import BlockIO

/// A device with its label read (or written, when it was new) and its unit table loaded.
struct OpenedDevice: Sendable {
    var file: DeviceFile
    var store: UnitStore
}

/// Opens the devices of a server, in order. New ones get a label; a label that cannot be read is an error and nothing
/// is written. Blocks.
struct DeviceOpener {
    /// What must read as zeros for a device to count as new: both copies of the label and what lies before the first
    /// table.
    private static let emptyHead = 128 << 10

    var random = SystemRandomNumberGenerator()

    mutating func open(_ paths: [String], sizeWhenAbsent: UInt64?) throws -> [OpenedDevice] {
        var opened: [OpenedDevice] = []
        let files = try paths.map { try DeviceFile(path: $0, sizeWhenAbsent: sizeWhenAbsent) }
        var labels = try files.map { try DeviceOpener.label(of: $0) }
        let known = Set(labels.compactMap { $0?.sds })
        guard known.count <= 1 else {
            throw BlockIOError(.invalid, "the devices carry the labels of different servers: \(known.sorted())")
        }
        let sds = known.first ?? SdsID(rawValue: UInt64.random(in: 1...UInt64.max, using: &random))
        for (index, file) in files.enumerated() {
            if labels[index] == nil { labels[index] = try format(file, sds) }
            guard let label = labels[index] else { preconditionFailure("a device without label") }
            opened.append(try DeviceOpener.load(file, label))
        }
        return opened
    }

    /// Nil for a new device.
    private static func label(of file: DeviceFile) throws -> DeviceLabel? {
        guard file.size >= UInt64(emptyHead) else {
            throw BlockIOError(.invalid, "device \(file.path) has only \(file.size) bytes")
        }
        let head = try read(file, at: 0, emptyHead)
        if head.allSatisfy({ $0 == 0 }) { return nil }
        do {
            return try DeviceLabel(device: head)
        } catch {
            throw BlockIOError(.invalid, "device \(file.path) is not used", cause: error)
        }
    }

    private mutating func format(_ file: DeviceFile, _ sds: SdsID) throws -> DeviceLabel {
        let capacity = try DeviceLayout.capacityUnits(ofDeviceBytes: file.size)
        let label = DeviceLabel(
            sds: sds, device: DeviceID(rawValue: UInt64.random(in: 1...UInt64.max, using: &random)),
            capacityUnits: capacity)
        // Written once in full, so that later writes there need no allocation in the file below.
        if let error = file.perform(.writeZeros(at: 0, length: Int(label.layout.data))) { throw error }
        try DeviceOpener.write(UnitStore.format(label), to: file)
        return label
    }

    private static func load(_ file: DeviceFile, _ label: DeviceLabel) throws -> OpenedDevice {
        guard label.layout.end <= file.size else {
            throw BlockIOError(.invalid, "device \(file.path) is smaller than its label says")
        }
        do {
            let metadata = try read(file, at: 0, Int(label.layout.checksums))
            var opened = try UnitStore.open(label, metadata: metadata) { dataOfUnit(at: $0, of: file) }
            let area = label.layout.checksums..<label.layout.checksums + UInt64(label.checksumBlocks) * 4096
            for start in stride(from: area.lowerBound, to: area.upperBound, by: 1 << 20) {
                let count = Int(min(1 << 20, area.upperBound - start))
                opened.store.loadChecksums(at: start, try read(file, at: start, count))
            }
            for (offset, length) in opened.zeroes {
                if let error = file.perform(.punch(at: offset, length: UInt64(length))) { throw error }
            }
            if let error = file.perform(.flush) { throw error }
            try write(opened.writes, to: file)
            return OpenedDevice(file: file, store: opened.store)
        } catch let error as DeviceError {
            throw BlockIOError(.invalid, "device \(file.path) is not used", cause: error)
        }
    }

    /// Which blocks of the unit there are something else than zeros, or cannot be read.
    private static func dataOfUnit(at offset: UInt64, of file: DeviceFile) -> BlockMap {
        let block = Int(Geometry.blockBytes)
        let whole = try? read(file, at: offset, Int(Geometry.unitBytes))
        var data = BlockMap()
        for number in 0..<UInt16(Geometry.blocksPerUnit) {
            let start = Int(number) * block
            let bytes = whole?[start..<start + block] ?? (try? read(file, at: offset + UInt64(start), block))?[...]
            if bytes?.allSatisfy({ $0 == 0 }) != true { _ = data.insert(BlockRange(start: number, count: 1)) }
        }
        return data
    }

    private static func read(_ file: DeviceFile, at offset: UInt64, _ count: Int) throws -> [UInt8] {
        let buffer = IOBuffer(count: count)
        if let error = file.perform(.read(at: offset, buffer, 0..<buffer.count)) { throw error }
        return [UInt8](buffer.bytes)
    }

    /// In order, each flushed before the next.
    private static func write(_ writes: [(offset: UInt64, bytes: [UInt8])], to file: DeviceFile) throws {
        for (offset, bytes) in writes {
            let buffer = bytes.withUnsafeBytes { IOBuffer(copying: $0) }
            if let error = file.perform(.write(at: offset, buffer, 0..<buffer.count)) ?? file.perform(.flush) {
                throw error
            }
        }
    }
}
