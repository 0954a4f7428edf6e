import Base
public import BlockCore

/// The buffers that a core names by `PayloadID`. Owned by one reactor thread.
public struct PayloadTable {
    private var buffers = SlotTable<(buffer: IOBuffer, start: Int)>()

    public init() {}

    /// Buffers that are named now.
    public var count: Int { buffers.count }
    /// The bytes of those buffers.
    public private(set) var bytes = 0

    /// Names the bytes of `buffer` from `start` on.
    public mutating func insert(_ buffer: IOBuffer, start: Int = 0) -> PayloadID {
        bytes += buffer.count
        return PayloadID(rawValue: buffers.insert((buffer, start)))
    }

    /// The buffer and the range of it that `slice` means.
    public subscript(slice: PayloadSlice) -> (buffer: IOBuffer, range: Range<Int>) {
        guard let (buffer, start) = buffers[slice.payload.rawValue] else {
            preconditionFailure("unknown payload \(slice.payload)")
        }
        let first = start + Int(slice.offset)
        precondition(first + Int(slice.length) <= buffer.count, "a slice outside its payload")
        return (buffer, first..<first + Int(slice.length))
    }

    /// Forgets the name and answers the buffer.
    public mutating func remove(_ id: PayloadID) -> IOBuffer {
        guard let (buffer, _) = buffers.remove(id.rawValue) else { preconditionFailure("payload \(id) released twice") }
        bytes -= buffer.count
        return buffer
    }

    /// Forgets the name; the buffer is for others if nobody else holds it.
    public mutating func release(_ id: PayloadID, to pool: BufferPool) {
        var buffer: IOBuffer? = remove(id)
        pool.giveBack(&buffer)
    }
}
