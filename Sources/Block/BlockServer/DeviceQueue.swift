import BlockIO
import Glibc
import Synchronization

/// How a server's devices are driven.
public enum DeviceEngine: Sendable {
    /// io_uring where the kernel offers it, else threads.
    case automatic
    case uring
    case threads
}

/// Hears how operations of a device have ended, on the reactor's thread.
protocol DeviceQueueOwner: AnyObject {
    func ended(_ tag: UInt64, _ error: BlockIOError?)
}

/// The operations under way on a device: on the reactor's io_uring if it has one, else on threads of its own.
///
/// Flushes are grouped: one fdatasync answers every flush that waited when it began. Used on the reactor's thread.
/// Unbounded by itself: the core bounds what it asks for.
final class DeviceQueue: DiskRingOwner, @unchecked Sendable {
    // SAFETY: everything is touched on the reactor's thread only, except `file` and `finished`, which are safe to share.
    /// The tag of our own flush on the ring: the core's are never this large.
    private static let flushTag = UInt64.max

    let file: DeviceFile
    private let reactor: Reactor
    private weak var owner: (any DeviceQueueOwner)?
    /// For transfers and flushes; nil without io_uring.
    private let ring: DiskRing?
    /// For what the ring does not do, or all but flushes.
    private let workers: WorkerPool
    private let flusher: WorkerPool?
    /// Where nothing can be punched, zeros are written: nobody's reads and writes wait behind that.
    private let puncher: WorkerPool
    private var waitingFlushes: [UInt64] = []
    private var runningFlushes: [UInt64] = []
    /// What the threads have done and the reactor has not heard of.
    private let finished = Mutex<[(tag: UInt64, error: BlockIOError?)]>([])

    init(_ file: DeviceFile, on reactor: Reactor, owner: any DeviceQueueOwner) {
        self.file = file
        self.reactor = reactor
        self.owner = owner
        ring = reactor.diskRing
        workers = WorkerPool(name: "sds-disk", threads: ring == nil ? 3 : 1)
        flusher = ring == nil ? WorkerPool(name: "sds-flush", threads: 1) : nil
        puncher = WorkerPool(name: "sds-punch", threads: 1)
    }

    /// Ends the threads after the operations under way.
    func stop() {
        workers.stop()
        puncher.stop()
        flusher?.stop()
    }

    /// Starts an operation; the owner hears of its end by `tag`, not before this returns.
    func submit(_ operation: DeviceOperation, tag: UInt64) {
        if case .flush = operation {
            waitingFlushes.append(tag)
            if runningFlushes.isEmpty { flush() }
            return
        }
        if case .punch = operation { return submit(operation, tag: tag, to: puncher) }
        guard let ring, file.failure == nil else { return submit(operation, tag: tag, to: workers) }
        switch operation {
        case .write(let offset, let buffer, let range, let isThrough):
            ring.write(file.descriptor, buffer, range, at: offset, isThrough: isThrough, tag: tag, for: self)
        case .read(let offset, let buffer, let range):
            ring.read(file.descriptor, buffer, range, at: offset, tag: tag, for: self)
        case .writeZeros, .punch, .flush: submit(operation, tag: tag, to: workers)
        }
    }

    private func flush() {
        swap(&waitingFlushes, &runningFlushes)
        if let ring, file.failure == nil {
            ring.flush(file.descriptor, tag: DeviceQueue.flushTag, for: self)
        } else {
            submit(.flush, tag: DeviceQueue.flushTag, to: flusher ?? workers)
        }
    }

    private func submit(_ operation: DeviceOperation, tag: UInt64, to pool: WorkerPool) {
        pool.submit { [self] in
            let error = file.perform(operation)
            let isFirst = finished.withLock { finished in
                finished.append((tag, error))
                return finished.count == 1
            }
            if isFirst { reactor.perform { self.takeFinished() } }
        }
    }

    private func takeFinished() {
        let ended = finished.withLock { finished in
            let ended = finished
            finished = []
            return ended
        }
        for (tag, error) in ended { conclude(tag, error) }
    }

    /// How an operation on the ring ended.
    func ended(_ kind: DiskRing.Kind, _ tag: UInt64, error number: Int32) {
        if number == 0 { return conclude(tag, file.failure) }
        switch kind {
        // The mirror has the data.
        case .read: conclude(tag, .system(number, "read from \(file.path)"))
        case .write: conclude(tag, file.stop(number, "write to"))
        case .flush: conclude(tag, file.stop(number, "flush"))
        case .command: preconditionFailure("no driver was asked")
        }
    }

    private func conclude(_ tag: UInt64, _ error: BlockIOError?) {
        guard tag == DeviceQueue.flushTag else {
            owner?.ended(tag, error)
            return
        }
        for flush in runningFlushes { owner?.ended(flush, error) }
        runningFlushes.removeAll(keepingCapacity: true)
        if !waitingFlushes.isEmpty { flush() }
    }
}
