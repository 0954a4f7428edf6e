import Glibc
import Synchronization

/// A block of memory aligned to 4096 bytes, as direct I/O wants it. Its memory goes back to the process's pool with the
/// last reference.
///
/// One owner at a time writes into it; it may move between threads with the request that it belongs to.
public final class IOBuffer: @unchecked Sendable {
    // SAFETY: a buffer belongs to exactly one request, which one thread at a time works on; hand-over goes through
    // locks.
    public let base: UnsafeMutableRawPointer
    /// Bytes that may be stored.
    public let capacity: Int
    /// Bytes in use, from `base`.
    public var count: Int

    /// A buffer for at least `count` bytes. The content is whatever the memory held before.
    public init(count: Int) {
        (base, capacity) = BufferPool.take(atLeast: count)
        self.count = count
    }

    /// A buffer that holds a copy of `bytes`.
    public convenience init(copying bytes: UnsafeRawBufferPointer) {
        self.init(count: bytes.count)
        if let source = bytes.baseAddress { base.copyMemory(from: source, byteCount: bytes.count) }
    }

    /// A buffer of `count` zeros.
    public convenience init(zeros count: Int) {
        self.init(count: count)
        memset(base, 0, count)
    }

    deinit { BufferPool.giveBack(base, capacity: capacity) }

    /// Fills part of the buffer with zeros.
    public func zero(_ range: Range<Int>) {
        precondition(range.lowerBound >= 0 && range.upperBound <= capacity, "outside the buffer")
        memset(base + range.lowerBound, 0, range.count)
    }

    public var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: base, count: count) }
}

/// Freed buffers by size class. Keeps a bounded number per class; what is above goes back to the system.
private enum BufferPool {
    static let smallest = 4096
    static let kept: [Int] = [1024, 256, 256, 128, 128, 64, 64, 64, 48, 16]

    struct Shelf: @unchecked Sendable {
        // SAFETY: the pointers are unowned memory, reached only under the mutex.
        var free: [[UnsafeMutableRawPointer]] = Array(repeating: [], count: kept.count)
    }
    static let shelf = Mutex(Shelf())

    static func sizeClass(_ count: Int) -> Int {
        var index = 0
        while smallest << index < count { index += 1 }
        return index
    }

    static func take(atLeast count: Int) -> (UnsafeMutableRawPointer, Int) {
        let index = sizeClass(count)
        let size = smallest << index
        if index < kept.count, let reused = shelf.withLock({ $0.free[index].popLast() }) { return (reused, size) }
        return (UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 4096), size)
    }

    static func giveBack(_ base: UnsafeMutableRawPointer, capacity: Int) {
        let index = sizeClass(capacity)
        let isKept =
            index < kept.count
            && shelf.withLock { shelf in
                guard shelf.free[index].count < kept[index] else { return false }
                shelf.free[index].append(base)
                return true
            }
        if !isKept { base.deallocate() }
    }
}
