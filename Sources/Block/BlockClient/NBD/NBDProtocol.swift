import BlockIO

/// The numbers of the NBD protocol (github.com/NetworkBlockDevice/nbd, doc/proto.md).
enum NBD {
    static let initMagic: UInt64 = 0x4e42_444d_4147_4943
    static let optionMagic: UInt64 = 0x4948_4156_454f_5054
    static let optionReplyMagic: UInt64 = 0x0003_e889_0455_65a9
    static let requestMagic: UInt32 = 0x2560_9513
    static let simpleReplyMagic: UInt32 = 0x6744_6698
    static let structuredReplyMagic: UInt32 = 0x668e_33ef
    static let requestLength = 28
    static let fixedNewstyle: UInt16 = 1
    static let noZeroes: UInt16 = 2
    /// Longest option data that we read.
    static let optionLengthMax = 8192
    /// Longest read or write that we take, as most servers.
    static let transferMax = 32 << 20

    enum Option: UInt32 {
        case exportName = 1
        case abort = 2
        case list = 3
        case info = 6
        case go = 7
        case structuredReply = 8
        case listMetaContext = 9
        case setMetaContext = 10
    }

    enum OptionReply: UInt32 {
        case acknowledge = 1
        case server = 2
        case info = 3
        case metaContext = 4
        case unsupported = 0x8000_0001
        case invalid = 0x8000_0003
        case unknownExport = 0x8000_0006
        case tooBig = 0x8000_0009
    }

    enum Command: UInt16 {
        case read = 0
        case write = 1
        case disconnect = 2
        case flush = 3
        case trim = 4
        case writeZeroes = 6
        case blockStatus = 7
    }

    struct CommandFlags: OptionSet {
        let rawValue: UInt16
        /// Every acknowledged write is stable anyway.
        static let forceUnitAccess = Self(rawValue: 1)
        /// Only a wish: a thin volume keeps no space for zeros.
        static let noHole = Self(rawValue: 2)
        /// Every answer is one chunk anyway.
        static let dontFragment = Self(rawValue: 4)
        /// One extent is enough.
        static let requestOne = Self(rawValue: 8)
    }

    /// The kinds of chunks of structured replies.
    enum Chunk: UInt16 {
        case data = 1
        case blockStatus = 5
        case error = 32769
    }

    /// The only meta context: which bytes are stored.
    static let allocationContext = "base:allocation"
    /// The number by which block status names it.
    static let allocationContextID: UInt32 = 1
    static let statusHole: UInt32 = 1
    static let statusZero: UInt32 = 2

    struct TransmissionFlags: OptionSet {
        let rawValue: UInt16
        static let hasFlags = Self(rawValue: 1)
        static let readOnly = Self(rawValue: 2)
        static let flush = Self(rawValue: 4)
        static let forceUnitAccess = Self(rawValue: 8)
        static let trim = Self(rawValue: 32)
        static let writeZeroes = Self(rawValue: 64)
        static let dontFragment = Self(rawValue: 128)
        static let multipleConnections = Self(rawValue: 256)
    }

    enum Failure: UInt32 {
        case permission = 1
        case io = 5
        case invalid = 22
        case noSpace = 28
        case overflow = 75
        case notSupported = 95
        case shutdown = 108
    }

    struct Request {
        var flags: CommandFlags
        var type: UInt16
        var cookie: UInt64
        var offset: UInt64
        var length: UInt32

        /// Nil when the magic is wrong.
        init?(_ bytes: UnsafeRawBufferPointer) {
            guard bytes.count >= NBD.requestLength, bytes.bigEndian(0, as: UInt32.self) == NBD.requestMagic else {
                return nil
            }
            flags = CommandFlags(rawValue: bytes.bigEndian(4))
            type = bytes.bigEndian(6)
            cookie = bytes.bigEndian(8)
            offset = bytes.bigEndian(16)
            length = bytes.bigEndian(24)
        }
    }

    static func failure(errno number: Int32) -> Failure {
        switch number {
        case 1, 30: .permission
        case 22: .invalid
        case 28: .noSpace
        case 75: .overflow
        case 95: .notSupported
        case 108: .shutdown
        default: .io
        }
    }
}
