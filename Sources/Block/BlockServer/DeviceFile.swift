import Base
import BlockIO
import CBlockIO
import Glibc
import Synchronization

/// One operation on a device file. Offsets and lengths are whole 4 KiB blocks.
enum DeviceOperation: Sendable {
    /// `isThrough`: on stable media when it is done.
    case write(at: UInt64, IOBuffer, Range<Int>, isThrough: Bool = false)
    case writeZeros(at: UInt64, length: Int)
    /// Fills the range of the buffer.
    case read(at: UInt64, IOBuffer, Range<Int>)
    case flush
    case punch(at: UInt64, length: UInt64)
}

/// A file or a raw disk used with direct I/O, and its calls that block. `DeviceQueue` has those that do not.
///
/// After a failed write or flush nothing succeeds any more: what the kernel did with the pages of a failed flush is
/// unknown (fail-stop).
final class DeviceFile: Sendable {
    let path: String
    /// Bytes.
    let size: UInt64
    let descriptor: Int32
    private let stopped = Mutex<BlockIOError?>(nil)

    /// A server that has just ended holds its device until its last I/O is over.
    private static let predecessorPatience = Duration.seconds(5)

    /// Opens `path` for exclusive use. Blocks, while another server has it, for some seconds. When it does not exist and
    /// `sizeWhenAbsent` is given, a sparse file of that size is made.
    init(path: String, sizeWhenAbsent: UInt64?) throws(BlockIOError) {
        self.path = path
        var descriptor = cbio_open_direct(path, O_RDWR, 0)
        if descriptor < 0 && errno == ENOENT, let size = sizeWhenAbsent {
            descriptor = cbio_open_direct(path, O_RDWR | O_CREAT | O_EXCL, 0o600)
            if descriptor >= 0 && ftruncate(descriptor, off_t(size)) != 0 {
                let number = errno
                close(descriptor)
                unlink(path)
                throw .system(number, "make \(path) \(size) bytes large")
            }
        }
        guard descriptor >= 0 else { throw .system(errno, "open device \(path)") }
        let deadline = Reactor.now + DeviceFile.predecessorPatience
        while flock(descriptor, LOCK_EX | LOCK_NB) != 0 {
            guard Reactor.now < deadline else {
                close(descriptor)
                throw BlockIOError(.invalid, "device \(path) is in use by another server")
            }
            usleep(10_000)
        }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw .system(errno, "stat \(path)") }
        let isRegularFile = status.st_mode & 0o170000 == 0o100000
        var bytes = UInt64(max(0, status.st_size))
        if !isRegularFile && cbio_block_device_size(descriptor, &bytes) != 0 {
            close(descriptor)
            throw BlockIOError(.invalid, "\(path) is neither a file nor a block device")
        }
        size = bytes
        self.descriptor = descriptor
    }

    deinit { close(descriptor) }

    /// Why the device takes nothing any more.
    var failure: BlockIOError? { stopped.withLock { $0 } }

    /// Stops the device for good; answers the error for the operation that failed.
    func stop(_ number: Int32, _ doing: String) -> BlockIOError {
        let error = BlockIOError.system(number, "\(doing) \(path)")
        stopped.withLock { stopped in
            if stopped == nil { stopped = error }
        }
        return error
    }

    /// Does an operation on the calling thread, which waits.
    func perform(_ operation: DeviceOperation) -> BlockIOError? {
        if let failure { return failure }
        switch operation {
        case .write(let offset, let buffer, let range, let isThrough):
            return write(buffer.base + range.lowerBound, range.count, at: offset, isThrough: isThrough)
        case .writeZeros(let offset, let length): return writeZeros(at: offset, length: length)
        case .read(let offset, let buffer, let range): return read(into: buffer, range, at: offset)
        case .punch(let offset, let length): return punch(at: offset, length: length)
        case .flush: return fdatasync(descriptor) == 0 ? nil : stop(errno, "flush")
        }
    }

    private func write(
        _ base: UnsafeMutableRawPointer, _ count: Int, at offset: UInt64, isThrough: Bool = false
    ) -> BlockIOError? {
        var done = 0
        while done < count {
            let position = off_t(offset) + off_t(done)
            let written =
                isThrough
                ? cbio_write_through(descriptor, base + done, count - done, position)
                : pwrite(descriptor, base + done, count - done, position)
            if written < 0 && errno == EINTR { continue }
            // A short write of direct I/O means that the device is full or failing; the rest tells which.
            guard written > 0 else { return stop(written < 0 ? errno : ENOSPC, "write at \(offset) to") }
            done += written
        }
        return nil
    }

    private func writeZeros(at offset: UInt64, length: Int) -> BlockIOError? {
        let piece = IOBuffer(zeros: min(length, 1 << 20))
        var done = 0
        while done < length {
            let count = min(piece.count, length - done)
            if let error = write(piece.base, count, at: offset + UInt64(done)) { return error }
            done += count
        }
        return nil
    }

    /// A failed read does not stop the device: the mirror has the data.
    private func read(into buffer: IOBuffer, _ range: Range<Int>, at offset: UInt64) -> BlockIOError? {
        let start = buffer.base + range.lowerBound
        var done = 0
        while done < range.count {
            let count = pread(descriptor, start + done, range.count - done, off_t(offset) + off_t(done))
            if count < 0 && errno == EINTR { continue }
            if count < 0 { return .system(errno, "read at \(offset) from \(path)") }
            if count == 0 { return BlockIOError(.invalid, "read \(path) at \(offset): beyond its end") }
            done += count
        }
        return nil
    }

    private func punch(at offset: UInt64, length: UInt64) -> BlockIOError? {
        if cbio_punch(descriptor, Int64(offset), Int64(length)) == 0 { return nil }
        guard errno == EOPNOTSUPP else { return stop(errno, "punch at \(offset) in") }
        return writeZeros(at: offset, length: Int(length))
    }
}
