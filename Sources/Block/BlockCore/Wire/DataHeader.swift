/// What a data message asks for.
public enum Opcode: UInt8, Sendable, CaseIterable {
    /// Opens a session: `volume` is the client or server id, `session` its number, `offset` the `PeerKind`.
    case hello = 1
    case read = 2
    case write = 3
    /// An ordering point: answered when everything acknowledged before is stable (in durable pools: at once).
    case flush = 4
    /// The blocks read as zeros afterwards. No payload. Also used for discards.
    case writeZeroes = 5
    /// Which blocks of a whole unit hold data: answered by a `BlockMap` as payload, or by flag `zeros` if none does.
    case map = 6
    /// A primary's write to its secondary.
    case replicate = 16
    /// A primary's zeroing to its secondary.
    case replicateZeroes = 17
    /// Rebuilding: a populated range of a unit, to the target.
    case copy = 18
    /// Rebuilding: accept copies of the comb (`volume` is the pool, `unit` the comb). `attachEpoch` is the comb epoch at which
    /// the target was in sync and whose units it keeps; 0: it forgets all units of the comb.
    case beginCopy = 19
    /// Rebuilding: the target's units of the comb, from entry number `attachEpoch` on; the answer's payload are `UnitList`
    /// entries.
    case listUnits = 20
    /// Rebuilding: the target forgets the unit.
    case dropUnit = 21
    /// A primary asks its secondary for blocks, which are damaged at the primary; answered by payload or flag `zeros`.
    case fetch = 22
    /// A primary asks what its secondary's copy of a whole unit reads as; the answer's payload is a `UnitDigest`.
    case verify = 23
    /// A primary tells its secondary to forget the unit of a node if that of node `attachEpoch` has all of its blocks; else it is
    /// answered `invalid`.
    case dropMerged = 24
    /// Answered at once; shows that the peer is alive.
    case ping = 32
}

public enum PeerKind: UInt32, Sendable { case client = 1, server = 2, copyingServer = 3 }

/// How a data request ended.
public enum DataStatus: UInt8, Sendable, CaseIterable {
    case ok = 0
    /// A newer session of the same peer exists, or none was opened: the connection is useless.
    case staleSession = 1
    /// The right to use the volume was withdrawn: the device fails for good.
    case fenced = 2
    /// The comb has a newer configuration, or is not served here: refresh the map and ask the primary.
    case staleComb = 3
    /// This server's map is behind the request, or it is not ready: ask again soon.
    case notReady = 4
    case readOnly = 5
    case invalid = 6
    case noSpace = 7
    case mediaError = 8
    case overloaded = 9
}

/// The fixed part of every data message: 80 bytes, little-endian, with its own CRC32C. See docs/formats/volume-wire.md.
public struct DataHeader: Equatable, Sendable {
    public static let encodedSize = 80
    public static let magic: UInt32 = 0x4844_4C46
    public static let version: UInt8 = 3

    public struct Flags: OptionSet, Sendable {
        public var rawValue: UInt16
        public init(rawValue: UInt16) { self.rawValue = rawValue }
        public static let reply = Flags(rawValue: 1)
        /// The `length` bytes are all zero and are not sent. Of a second copy's `noSpace`: they are zeros there.
        public static let zeros = Flags(rawValue: 2)
        /// A CRC32C per 4 KiB follows the payload. Reserved: neither sent nor accepted.
        public static let checksums = Flags(rawValue: 4)
        /// The message is followed by `length` bytes of payload.
        public static let payload = Flags(rawValue: 8)
        /// Of a `copy`: the blocks are not what was once written, and reading them at the target has to fail.
        public static let damaged = Flags(rawValue: 16)
        /// Of a `replicateZeroes`: the blocks hold nothing afterwards, and what ancestors of the unit have there shows.
        public static let hole = Flags(rawValue: 32)
        static let known: Flags = [.reply, .zeros, .payload, .damaged, .hole]
    }

    public var opcode: Opcode
    public var flags: Flags = []
    /// Meaningful in replies.
    public var status: DataStatus = .ok
    /// Grows with each request of a session; a reply repeats it.
    public var request: UInt64 = 0
    public var session: UInt64 = 0
    public var volume: UInt64 = 0
    public var unit: UInt32 = 0
    /// Bytes inside the unit, whole blocks.
    public var offset: UInt32 = 0
    public var length: UInt32 = 0
    public var combEpoch: UInt64 = 0
    /// The mapping's epoch.
    public var attachEpoch: UInt64 = 0
    /// Between servers: the node whose unit is meant, `volume` being the tree.
    public var node: UInt32 = 0

    public init(opcode: Opcode) { self.opcode = opcode }

    public var isReply: Bool { flags.contains(.reply) }
    /// Bytes that follow the header on the wire.
    public var payloadLength: Int { flags.contains(.payload) ? Int(length) : 0 }
    /// The unit that a server's message means.
    public var unitKey: UnitKey { UnitKey(tree: TreeID(rawValue: volume), node: node, index: unit) }

    /// The header of the answer to this request, without payload.
    public func reply(_ status: DataStatus) -> DataHeader {
        var answer = self
        answer.flags = .reply
        answer.status = status
        return answer
    }
}

/// A buffer that the shell owns and the cores only name. Zero is never used.
public struct PayloadID: Hashable, Sendable {
    public var rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// A part of a buffer, in bytes.
public struct PayloadSlice: Equatable, Sendable {
    public var payload: PayloadID
    public var offset: UInt32
    public var length: UInt32

    public init(payload: PayloadID, offset: UInt32, length: UInt32) {
        self.payload = payload
        self.offset = offset
        self.length = length
    }
}
