import BlockIO
import CBlockIO
import Glibc
import Synchronization

/// One operation on a device file. Offsets and lengths are whole 4 KiB blocks.
enum DeviceOperation: Sendable {
    case write(at: UInt64, IOBuffer, Range<Int>)
    case writeZeros(at: UInt64, length: Int)
    /// Fills the buffer (`count` bytes).
    case read(at: UInt64, IOBuffer)
    case flush
    case punch(at: UInt64, length: UInt64)
}

/// A file or a raw disk used with direct I/O: worker threads for reads and writes, one thread that flushes.
///
/// Flushes are grouped: one fdatasync answers every flush that waited when it began. After a failed write or flush
/// nothing succeeds any more: what the kernel did with the pages of a failed flush is unknown (fail-stop).
final class DeviceFile: Sendable {
    typealias Completion = @Sendable (BlockIOError?) -> Void

    private struct FlushQueue {
        var waiting: [Completion] = []
        var isRunning = false
    }

    let path: String
    /// Bytes.
    let size: UInt64
    private let descriptor: Int32
    private let isRegularFile: Bool
    private let workers: WorkerPool
    private let flusher: WorkerPool
    private let flushes = Mutex(FlushQueue())
    private let failure = Mutex<BlockIOError?>(nil)

    /// Opens `path` for exclusive use. When it does not exist and `sizeWhenAbsent` is given, a sparse file of that size
    /// is made.
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
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            close(descriptor)
            throw BlockIOError(.invalid, "device \(path) is in use by another process")
        }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw .system(errno, "stat \(path)") }
        isRegularFile = status.st_mode & 0o170000 == 0o100000
        var bytes = UInt64(max(0, status.st_size))
        if !isRegularFile && cbio_block_device_size(descriptor, &bytes) != 0 {
            close(descriptor)
            throw BlockIOError(.invalid, "\(path) is neither a file nor a block device")
        }
        size = bytes
        self.descriptor = descriptor
        workers = WorkerPool(name: "sds-disk", threads: 3)
        flusher = WorkerPool(name: "sds-flush", threads: 1)
    }

    deinit { close(descriptor) }

    /// Ends the threads after the operations under way.
    func stop() {
        workers.stop()
        flusher.stop()
    }

    /// Starts an operation; `completion` comes on a thread of the device.
    func submit(_ operation: DeviceOperation, completion: @escaping Completion) {
        if case .flush = operation { return joinFlush(completion) }
        workers.submit { [self] in completion(perform(operation)) }
    }

    private func joinFlush(_ completion: @escaping Completion) {
        let mustStart = flushes.withLock { queue in
            queue.waiting.append(completion)
            defer { queue.isRunning = true }
            return !queue.isRunning
        }
        if mustStart { flusher.submit { self.flushUntilNobodyWaits() } }
    }

    private func flushUntilNobodyWaits() {
        while true {
            let group = flushes.withLock { queue in
                let group = queue.waiting
                queue.waiting = []
                if group.isEmpty { queue.isRunning = false }
                return group
            }
            if group.isEmpty { return }
            var result = failure.withLock { $0 }
            if result == nil && fdatasync(descriptor) != 0 { result = stopWith(.system(errno, "flush \(path)")) }
            for completion in group { completion(result) }
        }
    }

    private func stopWith(_ error: BlockIOError) -> BlockIOError {
        failure.withLock { failure in
            if failure == nil { failure = error }
        }
        return error
    }

    /// Does a read or a write on the calling thread. For the time before the device serves (label, recovery) also from
    /// outside.
    func perform(_ operation: DeviceOperation) -> BlockIOError? {
        if let failure = failure.withLock({ $0 }) { return failure }
        switch operation {
        case .write(let offset, let buffer, let range):
            return write(buffer.base + range.lowerBound, range.count, at: offset)
        case .writeZeros(let offset, let length): return writeZeros(at: offset, length: length)
        case .read(let offset, let buffer): return read(into: buffer, at: offset)
        case .punch(let offset, let length): return punch(at: offset, length: length)
        case .flush: return fdatasync(descriptor) == 0 ? nil : stopWith(.system(errno, "flush \(path)"))
        }
    }

    private func write(_ base: UnsafeMutableRawPointer, _ count: Int, at offset: UInt64) -> BlockIOError? {
        var done = 0
        while done < count {
            let written = pwrite(descriptor, base + done, count - done, off_t(offset) + off_t(done))
            if written < 0 && errno == EINTR { continue }
            // A short write of direct I/O means that the device is full or failing; the rest tells which.
            guard written > 0 else {
                return stopWith(.system(written < 0 ? errno : ENOSPC, "write \(path) at \(offset)"))
            }
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
    private func read(into buffer: IOBuffer, at offset: UInt64) -> BlockIOError? {
        var done = 0
        while done < buffer.count {
            let count = pread(descriptor, buffer.base + done, buffer.count - done, off_t(offset) + off_t(done))
            if count < 0 && errno == EINTR { continue }
            if count < 0 { return .system(errno, "read \(path) at \(offset)") }
            if count == 0 { return BlockIOError(.invalid, "read \(path) at \(offset): beyond its end") }
            done += count
        }
        return nil
    }

    private func punch(at offset: UInt64, length: UInt64) -> BlockIOError? {
        if isRegularFile {
            if cbio_punch(descriptor, Int64(offset), Int64(length)) == 0 { return nil }
            guard errno == EOPNOTSUPP else { return stopWith(.system(errno, "punch \(path) at \(offset)")) }
        }
        return writeZeros(at: offset, length: Int(length))
    }
}
