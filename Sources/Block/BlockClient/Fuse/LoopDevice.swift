import BlockIO
import CBlockIO
import Glibc

/// A loop device over a volume's FUSE file: the only real block device that a kernel without nbd and ublk offers.
///
/// Its calls block (opening the file is answered by our own FUSE mount), so none of them belongs on a reactor's thread.
struct LoopDevice {
    let number: Int32
    /// Keeps the device configured: it clears itself with its last user, so that nothing is left behind by a crash.
    let descriptor: Int32
    var path: String { "/dev/loop\(number)" }

    /// Configures a free loop device with direct I/O and blocks of `blockSize` bytes over `file`.
    /// Fails when the kernel would not use direct I/O: buffered, it would cache twice and acknowledge too early.
    static func attach(_ file: String, readOnly: Bool, blockSize: Int) throws(BlockIOError) -> LoopDevice {
        let backing = cbio_open_direct(file, readOnly ? O_RDONLY : O_RDWR, 0)
        guard backing >= 0 else { throw .system(errno, "open \(file)") }
        defer { close(backing) }
        let control = cbio_open("/dev/loop-control", O_RDWR, 0)
        guard control >= 0 else { throw .system(errno, "open /dev/loop-control") }
        defer { close(control) }
        // Somebody else may take the free number between the two calls.
        for _ in 0..<64 {
            let number = cbio_ioctl(control, UInt(LOOP_CTL_GET_FREE), 0)
            guard number >= 0 else { throw .system(errno, "find a free loop device") }
            let device = try openNode(number, readOnly: readOnly)
            var configuration = loop_config()
            configuration.fd = UInt32(backing)
            configuration.block_size = UInt32(blockSize)
            var flags = UInt32(LO_FLAGS_DIRECT_IO) | UInt32(LO_FLAGS_AUTOCLEAR)
            if readOnly { flags |= UInt32(LO_FLAGS_READ_ONLY) }
            configuration.info.lo_flags = flags
            withUnsafeMutableBytes(of: &configuration.info.lo_file_name) { name in
                for (index, byte) in file.utf8.prefix(name.count - 1).enumerated() { name[index] = byte }
            }
            if cbio_ioctl_pointer(device, UInt(LOOP_CONFIGURE), &configuration) == 0 {
                let loop = LoopDevice(number: number, descriptor: device)
                guard loop.usesDirectIO else {
                    loop.detach()
                    throw BlockIOError(.invalid, "\(loop.path) does not use direct I/O")
                }
                return loop
            }
            let error = errno
            close(device)
            guard error == EBUSY else { throw .system(error, "configure /dev/loop\(number)") }
        }
        throw BlockIOError(.invalid, "no free loop device could be had")
    }

    private static func openNode(_ number: Int32, readOnly: Bool) throws(BlockIOError) -> Int32 {
        let path = "/dev/loop\(number)"
        // Where no devtmpfs makes the node, we do (major 7).
        if access(path, F_OK) != 0 { mknod(path, 0o060600, gnu_dev_makedev(7, UInt32(number))) }
        let device = cbio_open(path, readOnly ? O_RDONLY : O_RDWR, 0)
        guard device >= 0 else { throw .system(errno, "open \(path)") }
        return device
    }

    var usesDirectIO: Bool {
        let file = cbio_open("/sys/block/loop\(number)/loop/dio", O_RDONLY, 0)
        guard file >= 0 else { return false }
        defer { close(file) }
        var byte: UInt8 = 0
        return read(file, &byte, 1) == 1 && byte == UInt8(ascii: "1")
    }

    /// Has the kernel ask for the file's size again after the volume grew.
    func refreshSize() { _ = cbio_ioctl(descriptor, UInt(LOOP_SET_CAPACITY), 0) }

    /// Gives the device back. With users left (a mounted file system) the kernel does it when they go.
    func detach() {
        _ = cbio_ioctl(descriptor, UInt(LOOP_CLR_FD), 0)
        close(descriptor)
    }
}
