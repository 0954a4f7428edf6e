import BlockIO
import CBlockIO
import CURing
import Glibc
import LinuxOS

/// Commands for ublk_drv. All block, for `patience` at most, and may be called from any thread. Replaced in tests.
protocol UblkControl: Sendable {
    /// Makes a device that is not started.
    /// - Returns: its number.
    func add(_ info: Ublk.DeviceInfo) throws(BlockIOError) -> UInt32
    func setParameters(_ device: UInt32, _ parameters: Ublk.Parameters) throws(BlockIOError)
    /// Waits until every tag was offered.
    func start(_ device: UInt32) throws(BlockIOError)
    /// EBUSY while the kernel has not taken leave of the former server.
    func startRecovery(_ device: UInt32) throws(BlockIOError)
    /// Waits until every tag was offered.
    func endRecovery(_ device: UInt32) throws(BlockIOError)
    func updateSize(_ device: UInt32, to size: UInt64) throws(BlockIOError)
    /// Waits for the requests under way.
    func stop(_ device: UInt32) throws(BlockIOError)
    func delete(_ device: UInt32) throws(BlockIOError)
    func info(_ device: UInt32) throws(BlockIOError) -> Ublk.DeviceInfo
    /// The numbers of all devices of this host.
    func devices() -> [UInt32]
    func open(_ device: UInt32) throws(BlockIOError) -> any UblkChannel
}

/// The bytes and descriptors of one device's requests. Used on the reactor's thread.
protocol UblkChannel: AnyObject, Sendable {
    /// Begins. `fetched` is called with each tag that comes back and 0 or an `errno`.
    func start(on reactor: Reactor, fetched: @escaping (Int, Int32) -> Void)
    func fetch(_ tag: Int)
    func commit(_ tag: Int, result: Int32)
    /// The request of a tag that came back.
    func descriptor(_ tag: Int) -> Ublk.Descriptor
    /// Gets the bytes of a write from the kernel; 0 or an `errno`.
    func take(_ tag: Int, into buffer: IOBuffer) -> Int32
    /// Gives the kernel the bytes of a read; 0 or an `errno`.
    func give(_ tag: Int, _ bytes: UnsafeRawBufferPointer) -> Int32
    func close()
}

/// The kernel of this host, by /dev/ublk-control.
final class UblkControlDevice: UblkControl {
    private static let patienceMilliseconds: UInt32 = 30_000

    private let descriptor: Int32

    init() throws(BlockIOError) {
        descriptor = cbio_open(Ublk.controlPath, O_RDWR, 0)
        guard descriptor >= 0 else { throw .system(errno, "open \(Ublk.controlPath)") }
    }

    deinit { Glibc.close(descriptor) }

    private func perform(
        _ operation: Ublk.ControlOperation, _ command: Ublk.ControlCommand
    ) throws(BlockIOError) {
        let bytes = command.bytes
        let result = curing_control(
            descriptor, operation.rawValue, bytes, UInt32(bytes.count), UblkControlDevice.patienceMilliseconds)
        if result < 0 { throw .system(-result, "ublk \(operation) of device \(Int32(bitPattern: command.device))") }
    }

    /// Performs a command with memory that the kernel reads and writes; answers what is in it then.
    private func perform(
        _ operation: Ublk.ControlOperation, _ device: UInt32, _ bytes: [UInt8], pathLength: Int = 0
    ) throws(BlockIOError) -> [UInt8] {
        let buffer = bytes.withUnsafeBytes { IOBuffer(copying: $0) }
        let command = Ublk.ControlCommand(
            device: device, length: UInt16(bytes.count), address: UInt64(UInt(bitPattern: buffer.base)),
            pathLength: UInt16(pathLength))
        do throws(BlockIOError) {
            try perform(operation, command)
        } catch {
            // The command goes on, and may write to the memory whenever it ends.
            if error.code == .system(ETIME) { _ = Unmanaged.passRetained(buffer) }
            throw error
        }
        return Array(buffer.bytes)
    }

    /// What the driver can do. Linux 6.5 and later answer.
    func features() throws(BlockIOError) -> Ublk.Features {
        do throws(BlockIOError) {
            let answer = try perform(.getFeatures, Ublk.anyDevice, [UInt8](repeating: 0, count: 8))
            return Ublk.Features(rawValue: answer.native(0))
        } catch {
            throw BlockIOError(error.code, "\(error.message) (Linux 6.5 and later answer)")
        }
    }

    func add(_ info: Ublk.DeviceInfo) throws(BlockIOError) -> UInt32 {
        let made = try Ublk.DeviceInfo(try perform(.addDevice, info.device, info.bytes))
        guard made.features.isSuperset(of: .device), made.queues == 1, made.queueDepth == info.queueDepth else {
            try delete(made.device)
            throw BlockIOError(.invalid, "the kernel grants less than our devices need: \(made)")
        }
        return made.device
    }

    func setParameters(_ device: UInt32, _ parameters: Ublk.Parameters) throws(BlockIOError) {
        _ = try perform(.setParameters, device, parameters.bytes)
    }

    func start(_ device: UInt32) throws(BlockIOError) {
        try perform(.startDevice, Ublk.ControlCommand(device: device, data: UInt64(getpid())))
    }

    func startRecovery(_ device: UInt32) throws(BlockIOError) {
        try perform(.startUserRecovery, Ublk.ControlCommand(device: device))
    }

    func endRecovery(_ device: UInt32) throws(BlockIOError) {
        try perform(.endUserRecovery, Ublk.ControlCommand(device: device, data: UInt64(getpid())))
    }

    func updateSize(_ device: UInt32, to size: UInt64) throws(BlockIOError) {
        try perform(.updateSize, Ublk.ControlCommand(device: device, data: size / Ublk.sectorBytes))
    }

    func stop(_ device: UInt32) throws(BlockIOError) {
        try perform(.stopDevice, Ublk.ControlCommand(device: device))
    }

    /// Does not wait for those who have the device open: it goes when they close it. Kernels before 6.9 wait.
    func delete(_ device: UInt32) throws(BlockIOError) {
        do throws(BlockIOError) {
            try perform(.deleteDeviceAsync, Ublk.ControlCommand(device: device))
        } catch {
            guard error.code == .system(EOPNOTSUPP) || error.code == .system(EINVAL) else { throw error }
            try perform(.deleteDevice, Ublk.ControlCommand(device: device))
        }
    }

    func info(_ device: UInt32) throws(BlockIOError) -> Ublk.DeviceInfo {
        // The path comes first, with the byte 0 that ends it.
        let path = Array(Ublk.channelPath(device).utf8) + [0]
        let empty = [UInt8](repeating: 0, count: Ublk.DeviceInfo.encodedSize)
        let answer = try perform(.getDeviceInfo2, device, path + empty, pathLength: path.count)
        return try Ublk.DeviceInfo(Array(answer[path.count...]))
    }

    func devices() -> [UInt32] {
        directoryEntries("/sys/class/ublk-char").compactMap { name in
            name.hasPrefix("ublkc") ? UInt32(name.dropFirst("ublkc".count)) : nil
        }.sorted()
    }

    func open(_ device: UInt32) throws(BlockIOError) -> any UblkChannel {
        try UblkCharacterDevice(Ublk.channelPath(device), depth: Ublk.queueDepth)
    }
}
