import Glibc

/// A block of memory aligned to 4096 bytes, as direct I/O wants it. `BufferPool` has ready ones.
///
/// One owner at a time writes into it; it may move between threads with the request that it belongs to.
public final class IOBuffer: @unchecked Sendable {
    // SAFETY: a buffer belongs to exactly one request, which one thread at a time works on; hand-over goes through
    // locks.
    public let base: UnsafeMutableRawPointer
    /// Bytes that may be stored: a power of two.
    public let capacity: Int
    /// Bytes in use, from `base`.
    public var count: Int

    /// A buffer for at least `count` bytes. The content is whatever the memory held before.
    public init(count: Int) {
        capacity = BufferPool.capacity(for: count)
        base = .allocate(byteCount: capacity, alignment: 4096)
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

    deinit { base.deallocate() }

    /// Fills part of the buffer with zeros.
    public func zero(_ range: Range<Int>) {
        precondition(range.lowerBound >= 0 && range.upperBound <= capacity, "outside the buffer")
        memset(base + range.lowerBound, 0, range.count)
    }

    public var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: base, count: count) }
}

/// Buffers of one thread to be used again, by size: in the steady state no request allocates memory.
///
/// What was not needed since the last `trim` goes back to the system with the next one.
public final class BufferPool {
    private static let smallest = 4096
    /// The largest kept size is 2 MiB.
    private static let classes = 10

    private struct Shelf {
        var free: [IOBuffer] = []
        /// The fewest that lay here since the last `trim`.
        var leastFree = 0
    }

    private var shelves = [Shelf](repeating: Shelf(), count: BufferPool.classes)

    public init() {}

    private static func sizeClass(_ count: Int) -> Int {
        count <= smallest ? 0 : Int.bitWidth - ((count - 1) / smallest).leadingZeroBitCount
    }

    /// The bytes of a buffer for `count`.
    static func capacity(for count: Int) -> Int { smallest << sizeClass(count) }

    /// A buffer for `count` bytes, with whatever content.
    public func take(_ count: Int) -> IOBuffer {
        let index = BufferPool.sizeClass(count)
        guard index < shelves.count, let buffer = shelves[index].free.popLast() else { return IOBuffer(count: count) }
        shelves[index].leastFree = min(shelves[index].leastFree, shelves[index].free.count)
        buffer.count = count
        return buffer
    }

    /// A buffer that holds a copy of `bytes`.
    public func take(copying bytes: UnsafeRawBufferPointer) -> IOBuffer {
        let buffer = take(bytes.count)
        if let source = bytes.baseAddress { buffer.base.copyMemory(from: source, byteCount: bytes.count) }
        return buffer
    }

    /// Takes the reference, and keeps the buffer for others unless somebody else holds it too: then its last holder
    /// gives it back.
    public func giveBack(_ buffer: inout IOBuffer?) {
        let isLast = isKnownUniquelyReferenced(&buffer)
        guard let given = buffer.take(), isLast else { return }
        let index = BufferPool.sizeClass(given.capacity)
        if index < shelves.count { shelves[index].free.append(given) }
    }

    /// Returns to the system what nobody has needed since the last call.
    public func trim() {
        for index in shelves.indices {
            shelves[index].free.removeFirst(min(shelves[index].leastFree, shelves[index].free.count))
            shelves[index].leastFree = shelves[index].free.count
        }
    }
}
