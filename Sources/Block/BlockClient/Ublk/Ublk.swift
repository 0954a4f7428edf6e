import BlockIO

/// The structures and numbers by which ublk_drv and a server of block devices understand each other (linux/ublk_cmd.h
/// of Linux 6.5, with UPDATE_SIZE of 6.16), in the byte order of the host.
enum Ublk {
    static let controlPath = "/dev/ublk-control"
    static func channelPath(_ id: UInt32) -> String { "/dev/ublkc\(id)" }
    static func devicePath(_ id: UInt32) -> String { "/dev/ublkb\(id)" }
    /// Any number that is free.
    static let anyDevice = UInt32.max
    static let sectorBytes: UInt64 = 512
    /// Requests that the kernel hands us at a time; each device has one queue, as this process has one reactor.
    static let queueDepth = 128
    /// Longest read or write.
    static let transferMax = 1 << 20
    /// Longest discard or zeroing.
    static let zeroMax: UInt64 = 1 << 30

    /// UBLK_F_...
    struct Features: OptionSet, Equatable, Sendable {
        let rawValue: UInt64
        /// The device outlives its server.
        static let userRecovery = Self(rawValue: 1 << 3)
        /// What the dead server had not answered is asked again.
        static let userRecoveryReissue = Self(rawValue: 1 << 4)
        /// Commands have the numbers of ioctls.
        static let ioctlEncoding = Self(rawValue: 1 << 6)
        /// The server reads and writes the bytes of requests from the channel's file.
        static let userCopy = Self(rawValue: 1 << 7)
        static let updateSize = Self(rawValue: 1 << 10)

        /// What our devices have.
        static let device: Self = [.userRecovery, .userRecoveryReissue, .ioctlEncoding, .userCopy]
    }

    /// Commands to `controlPath`: _IOR and _IOWR of 'u' for 32 bytes.
    enum ControlOperation: UInt32, Sendable {
        case addDevice = 0xc020_7504
        case deleteDevice = 0xc020_7505
        case startDevice = 0xc020_7506
        case stopDevice = 0xc020_7507
        case setParameters = 0xc020_7508
        case startUserRecovery = 0xc020_7510
        case endUserRecovery = 0xc020_7511
        case getDeviceInfo2 = 0x8020_7512
        case getFeatures = 0x8020_7513
        case deleteDeviceAsync = 0x8020_7514
        case updateSize = 0xc020_7515
    }

    /// Commands to a channel: _IOWR of 'u' for 16 bytes.
    enum IOOperation: UInt32, Sendable {
        /// Offers a tag for the first time.
        case fetch = 0xc010_7520
        /// Answers the request of a tag and offers the tag again.
        case commitAndFetch = 0xc010_7521
    }

    /// What a tag's command ends with when the device goes (UBLK_IO_RES_ABORT).
    static let aborted: Int32 = 19

    enum DeviceState: UInt16, Sendable {
        case dead = 0
        case live = 1
        /// Without a server; requests wait.
        case quiesced = 2
        /// Without a server; requests fail.
        case failing = 3
    }

    /// `struct ublksrv_ctrl_cmd`: the payload of a control command.
    struct ControlCommand: Equatable {
        static let encodedSize = 32
        var device: UInt32
        /// Of the memory at `address`.
        var length: UInt16 = 0
        var address: UInt64 = 0
        var data: UInt64 = 0
        /// Bytes of the channel's path at the beginning of that memory.
        var pathLength: UInt16 = 0

        var bytes: [UInt8] {
            var bytes: [UInt8] = []
            bytes.append(native: device)
            // No command of ours is for one queue.
            bytes.append(native: UInt16.max)
            bytes.append(native: length)
            bytes.append(native: address)
            bytes.append(native: data)
            bytes.append(native: pathLength)
            bytes.append(native: UInt16(0))
            bytes.append(native: UInt32(0))
            return bytes
        }
    }

    /// `struct ublksrv_ctrl_dev_info`.
    struct DeviceInfo: Equatable, Sendable {
        static let encodedSize = 64
        var queues: UInt16 = 1
        var queueDepth = UInt16(Ublk.queueDepth)
        /// Raw: a kernel may know more states than we.
        var state: UInt16 = 0
        var transferMax = UInt32(Ublk.transferMax)
        var device = Ublk.anyDevice
        var server: Int32 = 0
        var features: Features = .device
        /// Kept by the kernel and of no meaning to it (`ublksrv_flags`): by it we know our devices.
        var token: UInt64 = 0

        init(token: UInt64) { self.token = token }

        var bytes: [UInt8] {
            var bytes: [UInt8] = []
            bytes.append(native: queues)
            bytes.append(native: queueDepth)
            bytes.append(native: state)
            bytes.append(native: UInt16(0))
            bytes.append(native: transferMax)
            bytes.append(native: device)
            bytes.append(native: server)
            bytes.append(native: UInt32(0))
            bytes.append(native: features.rawValue)
            bytes.append(native: token)
            bytes.append(contentsOf: [UInt8](repeating: 0, count: 24))
            return bytes
        }

        init(_ bytes: [UInt8]) throws(BlockIOError) {
            guard bytes.count >= DeviceInfo.encodedSize else {
                throw BlockIOError(.malformed, "ublk tells \(bytes.count) bytes of a device")
            }
            queues = bytes.native(0)
            queueDepth = bytes.native(2)
            state = bytes.native(4)
            transferMax = bytes.native(8)
            device = bytes.native(12)
            server = bytes.native(16)
            features = Features(rawValue: bytes.native(24))
            token = bytes.native(32)
        }
    }

    /// `struct ublk_params` with its parts `basic` and `discard`.
    struct Parameters: Equatable, Sendable {
        static let encodedSize = 64
        private static let basicAndDiscard: UInt32 = 3
        private static let readOnly: UInt32 = 1
        private static let volatileCache: UInt32 = 4

        /// Bytes.
        var size: UInt64
        /// Bytes, a power of two.
        var blockSize: Int
        var isReadOnly: Bool
        /// Answered writes may be lost until a flush.
        var hasVolatileCache: Bool

        var bytes: [UInt8] {
            let blockShift = UInt8(blockSize.trailingZeroBitCount)
            var attributes: UInt32 = 0
            if isReadOnly { attributes |= Parameters.readOnly }
            if hasVolatileCache { attributes |= Parameters.volatileCache }
            var bytes: [UInt8] = []
            bytes.append(native: UInt32(Parameters.encodedSize))
            bytes.append(native: Parameters.basicAndDiscard)
            bytes.append(native: attributes)
            // Logical and physical block, best and least transfer, as powers of two.
            let best = UInt8(Ublk.transferMax.trailingZeroBitCount)
            bytes.append(contentsOf: [blockShift, blockShift, best, blockShift])
            bytes.append(native: UInt32(UInt64(Ublk.transferMax) / sectorBytes))
            bytes.append(native: UInt32(0))
            bytes.append(native: size / sectorBytes)
            bytes.append(native: UInt64(0))
            bytes.append(native: UInt32(0))
            bytes.append(native: UInt32(blockSize))
            bytes.append(native: UInt32(zeroMax / sectorBytes))
            bytes.append(native: UInt32(zeroMax / sectorBytes))
            bytes.append(native: UInt16(1))
            bytes.append(native: UInt16(0))
            // The end of the structure is aligned to 8 bytes.
            bytes.append(native: UInt32(0))
            return bytes
        }
    }

    /// `struct ublksrv_io_cmd`: the payload of a command to a channel, as two words of memory.
    static func ioCommand(tag: Int, result: Int32) -> (UInt64, UInt64) {
        var bytes: [UInt8] = []
        // The queue's number.
        bytes.append(native: UInt16(0))
        bytes.append(native: UInt16(tag))
        bytes.append(native: result)
        return (bytes.native(0), 0)
    }

    /// `struct ublksrv_io_desc`: a request, in memory that we share with the kernel.
    struct Descriptor: Equatable {
        static let encodedSize = 24
        var operation: UInt8
        /// Bits 8 to 31 of the first word.
        var flags: UInt32
        var sectors: UInt32
        var start: UInt64

        /// - Parameter bytes: `encodedSize` of them.
        init(_ bytes: UnsafeRawBufferPointer) {
            let word = bytes.loadUnaligned(as: UInt32.self)
            operation = UInt8(truncatingIfNeeded: word)
            flags = word >> 8
            sectors = bytes.loadUnaligned(fromByteOffset: 4, as: UInt32.self)
            start = bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
        }

        init(operation: UInt8, sectors: UInt32, start: UInt64) {
            self.operation = operation
            flags = 0
            self.sectors = sectors
            self.start = start
        }
    }

    /// Bytes of the shared descriptors of a queue.
    static func descriptorBytes(depth: Int) -> Int { (depth * Descriptor.encodedSize + 4095) / 4096 * 4096 }

    /// Where in the channel's file the bytes of a request of queue 0 lie.
    static func position(tag: Int) -> Int { 0x8000_0000 + tag << 25 }
}

extension Array where Element == UInt8 {
    /// Appends an integer in the byte order of the host.
    mutating func append<T: FixedWidthInteger & BitwiseCopyable>(native value: T) {
        Swift.withUnsafeBytes(of: value) { append(contentsOf: $0) }
    }
}
