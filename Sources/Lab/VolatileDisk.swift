import Base
public import BlockClient
import BlockIO
import CBlockIO
import Glibc
import LinuxOS
public import Logging

/// A disk with a volatile cache, for machines that lose power: one file in a FUSE mount, kept in another file.
///
/// What was not flushed lies in this process's memory and is gone with it, as it would be from a disk's cache. Some of it
/// is written at once, chosen at random, as disks do: after a power loss any part of the unflushed writes may be there.
/// Blocks of 4 KiB are written as a whole.
public final class VolatileDisk: BlockDeviceBackend {
    /// Unflushed blocks beyond which some are written on, as a disk's cache is limited: 32 MiB.
    private static let cachedMax = 8192

    public let size: UInt64
    public let blockSize = 4096
    public let isReadOnly = false
    public let acknowledgesDurably = false
    private let file: Descriptor
    private var random = SystemRandomNumberGenerator()
    /// Unflushed blocks by their number.
    private var cached: [UInt64: IOBuffer] = [:]

    init(_ path: String, size: UInt64) throws(LinuxError) {
        file = try Descriptor.open(path, O_RDWR | O_CREAT, mode: 0o600)
        guard ftruncate(file.raw, off_t(size)) == 0 else { throw LinuxError(errno: errno, "\(path) has no room") }
        self.size = size
    }

    /// Serves the disk `path` as `directory`/device until the process ends.
    public static func serve(_ path: String, size: UInt64, in directory: String, logger: Logger) async throws {
        let reactor = try Reactor(name: "lab-disk")
        let disk = try VolatileDisk(path, size: size)
        let descriptor = try await offPool { try FuseMount.open(on: directory) }
        let mount = try FuseMount(descriptor: descriptor, directory: directory, on: reactor, logger: logger)
        mount.add("device", device: disk)
        reactor.start()
        while !Task.isCancelled { try await Task.sleep(for: .seconds(3600)) }
        withExtendedLifetime(mount) {}
    }

    public func submit(_ operation: BlockOperation, at offset: UInt64, tag: UInt64, for owner: any BlockRequestOwner) {
        switch operation {
        case .read(let count):
            let bytes = IOSlice(IOBuffer(count: count))
            owner.ended(tag, error: read(bytes, at: offset), bytes: bytes)
        case .write(let slice): owner.ended(tag, error: write(slice, at: offset), bytes: nil)
        case .flush: owner.ended(tag, error: writeOn { _ in true }, bytes: nil)
        case .trim(let count), .zeroes(let count): owner.ended(tag, error: zero(offset, count), bytes: nil)
        }
    }

    private func read(_ slice: IOSlice, at offset: UInt64) -> Int32 {
        guard pread(file.raw, slice.base, slice.count, off_t(offset)) == slice.count else { return EIO }
        for block in 0..<slice.count / blockSize {
            guard let unflushed = cached[offset / 4096 + UInt64(block)] else { continue }
            (slice.base + block * blockSize).copyMemory(from: unflushed.base, byteCount: blockSize)
        }
        return 0
    }

    private func write(_ slice: IOSlice, at offset: UInt64) -> Int32 {
        for block in 0..<slice.count / blockSize {
            let number = offset / 4096 + UInt64(block)
            let bytes = UnsafeRawBufferPointer(start: slice.base + block * blockSize, count: blockSize)
            cached[number] = IOBuffer(copying: bytes)
        }
        let isFull = cached.count > Self.cachedMax
        let first = offset / 4096
        let range = first..<first + UInt64(slice.count / blockSize)
        return writeOn { number in (isFull || range.contains(number)) && Bool.random(using: &random) }
    }

    /// Writes the unflushed blocks that are `chosen` to the file.
    private func writeOn(_ chosen: (UInt64) -> Bool) -> Int32 {
        for (number, buffer) in cached where chosen(number) {
            guard pwrite(file.raw, buffer.base, blockSize, off_t(number) * 4096) == blockSize else { return EIO }
            cached[number] = nil
        }
        return 0
    }

    /// Holes are made at once.
    private func zero(_ offset: UInt64, _ count: UInt64) -> Int32 {
        let blocks = offset / 4096..<(offset + count) / 4096
        for number in cached.keys where blocks.contains(number) { cached[number] = nil }
        return cbio_punch(file.raw, Int64(offset), Int64(count)) == 0 ? 0 : EIO
    }
}
