import BlockCore
public import BlockIO

/// Part of a buffer that an operation reads from or writes to.
public struct IOSlice {
    public var buffer: IOBuffer
    public var start: Int
    public var count: Int

    public init(_ buffer: IOBuffer, start: Int = 0, count: Int? = nil) {
        self.buffer = buffer
        self.start = start
        self.count = count ?? buffer.count - start
    }

    public var base: UnsafeMutableRawPointer { buffer.base + start }
    public var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: base, count: count) }
}

/// What can be asked of a block device.
public enum BlockOperation {
    /// Answered with so many bytes from the offset on.
    case read(count: Int)
    /// Stores the slice, which must not change until completion.
    case write(IOSlice)
    /// An ordering point: whatever completed before is stable when it completes.
    case flush
    /// The bytes are not needed any more: they may read back as anything that is stable, here zeros.
    case trim(count: UInt64)
    /// The bytes read back as zeros.
    case zeroes(count: UInt64)
}

/// Hears how its requests to a block device ended, on the reactor's thread.
public protocol BlockRequestOwner: AnyObject {
    /// `error` is 0 or an `errno`; `bytes` is what a read without error gave.
    func ended(_ tag: UInt64, error: Int32, bytes: IOSlice?)
}

/// A block device as the front ends (NBD, FUSE) see it. Called and answering on one reactor's thread.
public protocol BlockDeviceBackend: AnyObject {
    /// Bytes. May grow while the device is in use.
    var size: UInt64 { get }
    /// Every offset and length is a multiple of it.
    var blockSize: Int { get }
    var isReadOnly: Bool { get }
    /// Whether an acknowledged write is on stable media, so that `flush` has nothing left to do.
    var acknowledgesDurably: Bool { get }

    /// Starts an operation; `owner` hears of its end by `tag`, exactly once, possibly before this returns.
    /// Offsets and lengths lie inside the device: the front ends have checked them.
    func submit(_ operation: BlockOperation, at offset: UInt64, tag: UInt64, for owner: any BlockRequestOwner)

    /// Tells which of the bytes are stored. `completion` gets 0 and what lies there from `offset` on, at least one
    /// extent, together no more than `count` bytes and perhaps fewer; or an `errno`. Exactly once.
    func extents(at offset: UInt64, count: UInt64, completion: @escaping (Int32, [BlockExtent]) -> Void)
}

extension BlockDeviceBackend {
    /// A device that does not know counts everything as stored.
    public func extents(at offset: UInt64, count: UInt64, completion: @escaping (Int32, [BlockExtent]) -> Void) {
        completion(0, [BlockExtent(count: count, isHole: false)])
    }
}

/// Neighbouring bytes that are all stored, or that all read as zeros and take no space.
public struct BlockExtent: Equatable, Sendable {
    public var count: UInt64
    public var isHole: Bool

    public init(count: UInt64, isHole: Bool) {
        self.count = count
        self.isHole = isHole
    }
}

extension BlockExtent {
    /// What the block maps of successive units (`BlockMap.encodedSize` bytes each) say of the bytes from `start` to
    /// `end`, counted from the first unit's beginning.
    static func list(_ maps: UnsafeRawBufferPointer, from start: UInt64, to end: UInt64) -> [BlockExtent] {
        let block = UInt64(Geometry.blockBytes)
        var extents: [BlockExtent] = []
        var position = start
        while position < end {
            let number = Int(position / block)
            let isHole = maps[number / 8] & 1 << UInt8(number % 8) == 0
            let next = min(end, UInt64(number + 1) * block)
            if extents.last?.isHole == isHole {
                extents[extents.count - 1].count += next - position
            } else {
                extents.append(BlockExtent(count: next - position, isHole: isHole))
            }
            position = next
        }
        return extents
    }
}
