import Base
import BlockCore
import BlockIO
import CBlockIO
import Glibc
import LinuxOS

/// Damages a device while its server runs, as a medium does that rots, and waits until nothing of the damage is left.
///
/// Only blocks are chosen whose damage has to be noticed, whatever happens: those of units that have rested for a while, and
/// whose stored checksums are those of what is there.
public struct DeviceSpoiler {
    /// What became of the blocks.
    public struct Outcome: Equatable, Sendable, CustomStringConvertible {
        /// They hold again what they held.
        public var mended = 0
        /// They hold what was written since.
        public var written = 0

        public var description: String {
            "\(mended + written) blocks spoiled, \(mended) mended, \(written) written anew"
        }

        init() {}

        /// The description's opposite.
        init?(parsing text: String) {
            let numbers = text.split { !$0.isASCII || !$0.isNumber }.compactMap { Int($0) }
            guard numbers.count == 3, numbers[0] == numbers[1] + numbers[2] else { return nil }
            (mended, written) = (numbers[1], numbers[2])
        }

        static func += (total: inout Outcome, more: Outcome) {
            total.mended += more.mended
            total.written += more.written
        }
    }

    private struct Block {
        var offset: UInt64
        var before: [UInt8]
        var garbage: [UInt8]
    }

    /// Units that rest this long are cold, and are likely to be so for a while.
    private static let rest: UInt32 = 7
    private static let blockBytes = 4096

    private let path: String
    private let file: Descriptor
    private let buffer: IOBuffer

    private init(_ path: String) throws {
        self.path = path
        let raw = cbio_open_direct(path, O_RDWR, 0)
        guard raw >= 0 else { throw LinuxError(errno: errno, "\(path) could not be opened") }
        file = Descriptor(owning: raw)
        buffer = IOBuffer(count: 1 << 20)
    }

    /// Blocks until all is mended.
    ///
    /// - Parameter count: blocks of 4 KiB; fewer when no more may be chosen.
    /// - Throws: `ScenarioFailure` when a block still holds what was put there after `deadline`.
    public static func spoil(_ path: String, count: Int, seed: UInt64, deadline: Duration) throws -> Outcome {
        let spoiler = try DeviceSpoiler(path)
        var random = SeededRandom(seed: seed)
        let offsets = choose(count, of: try spoiler.restingBlocks(), &random)
        var blocks: [Block] = []
        for offset in offsets {
            let garbage = (0..<blockBytes).map { _ in UInt8.random(in: 0...255, using: &random) }
            blocks.append(Block(offset: offset, before: try spoiler.read(offset, blockBytes), garbage: garbage))
            try spoiler.write(garbage, at: offset)
        }
        return try spoiler.awaitMending(of: blocks, until: .now + deadline)
    }

    /// From as many units as possible, so that small ones are met too.
    static func choose(_ count: Int, of offsets: [UInt64], _ random: inout SeededRandom) -> [UInt64] {
        var units = Dictionary(grouping: offsets) { $0 >> 20 }
        var chosen: [UInt64] = []
        while chosen.count < count, !units.isEmpty {
            for unit in units.keys.sorted().shuffled(using: &random) where chosen.count < count {
                guard var blocks = units[unit] else { continue }
                chosen.append(blocks.remove(at: Int.random(in: blocks.indices, using: &random)))
                units[unit] = blocks.isEmpty ? nil : blocks
            }
        }
        return chosen
    }

    private func awaitMending(of blocks: [Block], until end: ContinuousClock.Instant) throws -> Outcome {
        var outcome = Outcome()
        var left = blocks
        while true {
            var damaged: [Block] = []
            for block in left {
                let now = try read(block.offset, Self.blockBytes)
                if now == block.garbage {
                    damaged.append(block)
                } else if now == block.before {
                    outcome.mended += 1
                } else {
                    outcome.written += 1
                }
            }
            left = damaged
            if !left.isEmpty { left = try takeBack(left, &outcome) }
            guard let first = left.first else { return outcome }
            guard ContinuousClock.now < end else {
                throw ScenarioFailure(
                    "\(left.count) of \(blocks.count) spoiled blocks of \(path) are not mended, the first at \(first.offset)"
                )
            }
            usleep(500_000)
        }
    }

    /// What was discarded just before it was spoiled nobody reads or mends: the device has zeros there.
    private func takeBack(_ blocks: [Block], _ outcome: inout Outcome) throws -> [Block] {
        let data = try dataBlocks()
        return try blocks.filter { block in
            let number = UInt16(block.offset % (1 << 20) / UInt64(Self.blockBytes))
            if data[block.offset >> 20]?[number] == true { return true }
            guard try read(block.offset, Self.blockBytes) == block.garbage else { return true }
            try write([UInt8](repeating: 0, count: Self.blockBytes), at: block.offset)
            outcome.written += 1
            return false
        }
    }

    // MARK: Looking

    /// Blocks that were the same, with the right checksum, some seconds ago.
    private func restingBlocks() throws -> [UInt64] {
        let before = try settledBlocks()
        sleep(Self.rest)
        let now = try settledBlocks()
        return try now.keys.filter { before[$0] == now[$0] }.sorted().filter { offset in
            try read(offset, Self.blockBytes).withUnsafeBytes { crc32c($0) } == now[offset]
        }
    }

    private func settledBlocks() throws -> [UInt64: UInt32] {
        Dictionary(uniqueKeysWithValues: try store().settledBlocks.map { ($0.offset, $0.checksum) })
    }

    /// By MiB of the device, which blocks of the unit there hold data.
    private func dataBlocks() throws -> [UInt64: BlockMap] {
        let store = try store()
        let units = store.units { _ in true }.compactMap { unit in
            store.location(of: unit).map { ($0 >> 20, store.map(of: unit)) }
        }
        return Dictionary(uniqueKeysWithValues: units)
    }

    /// The server goes on writing: what is read of its metadata may be of several moments, and then does not fit together.
    private func store() throws -> UnitStore {
        var attempt = 0
        while true {
            do {
                let label = try DeviceLabel(device: read(0, 128 << 10))
                // Only units that rest are of interest, and these have nothing that would have to be found.
                let metadata = try read(0, Int(label.layout.checksums))
                var opened = try UnitStore.open(label, metadata: metadata) { _ in BlockMap() }
                opened.store.loadChecksums(
                    at: label.layout.checksums,
                    try read(label.layout.checksums, Int(label.layout.data - label.layout.checksums)))
                return opened.store
            } catch let error as DeviceError {
                attempt += 1
                guard attempt < 10 else { throw error }
                usleep(300_000)
            }
        }
    }

    // MARK: Input and output

    private func read(_ offset: UInt64, _ count: Int) throws -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count)
        while bytes.count < count {
            let piece = min(buffer.count, count - bytes.count)
            guard pread(file.raw, buffer.base, piece, off_t(offset) + off_t(bytes.count)) == piece else {
                throw LinuxError(errno: errno, "\(path) could not be read at \(offset)")
            }
            bytes += UnsafeRawBufferPointer(start: buffer.base, count: piece)
        }
        return bytes
    }

    private func write(_ bytes: [UInt8], at offset: UInt64) throws {
        buffer.base.copyMemory(from: bytes, byteCount: bytes.count)
        guard pwrite(file.raw, buffer.base, bytes.count, off_t(offset)) == bytes.count else {
            throw LinuxError(errno: errno, "\(path) could not be written at \(offset)")
        }
    }
}
