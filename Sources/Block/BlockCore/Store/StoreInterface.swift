/// Names one device operation until its outcome.
public struct DiskOperationID: Hashable, Sendable {
    public var rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// What a server core asks of a device file. Offsets and lengths are bytes, whole 4 KiB blocks. Operations may be
/// carried out in any order and at the same time, except that a `flush` must cover every operation whose outcome was
/// given before the flush was asked for. A failed operation is reported once and not repeated.
public enum DiskRequest: Equatable, Sendable {
    case write(at: UInt64, PayloadSlice)
    /// A `write` that is stable itself when it is done, without a flush.
    case writeThrough(at: UInt64, PayloadSlice)
    case writeZeros(at: UInt64, length: UInt32)
    /// Metadata that the core composed itself.
    case writeBytes(at: UInt64, [UInt8])
    /// Read `length` bytes into a new buffer, then zero the holes (byte ranges relative to the buffer's start).
    case read(at: UInt64, length: UInt32, holes: [Range<UInt32>])
    /// Read parts of the device that lie apart into one new buffer of `length` bytes, then zero the holes. Parts and holes
    /// together cover the buffer.
    case gather([ReadPart], length: UInt32, holes: [Range<UInt32>])
    /// fdatasync.
    case flush
    /// Make the range read as zeros, releasing the space where the file system can.
    case punch(at: UInt64, length: UInt32)
}

/// Where a part of a read lies on the device, and where in the buffer it belongs. In bytes, whole 4 KiB blocks.
public struct ReadPart: Equatable, Sendable {
    public var at: UInt64
    public var into: Range<UInt32>

    public init(at: UInt64, into: Range<UInt32>) {
        self.at = at
        self.into = into
    }
}

public enum DiskOutcome: Equatable, Sendable {
    case done
    /// Of a write, through or not: the checksums of the bytes that were handed over to be written. `done` leaves them unknown.
    case written(BlockChecksums)
    /// The buffer of a read, which the core releases with `release`, and the checksums of its blocks, if they are to be compared.
    case read(PayloadID, BlockChecksums? = nil)
    case failed(reason: String)
}
