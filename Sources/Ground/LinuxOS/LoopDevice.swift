import CLinux
import Glibc

/// A loop device: a file as a block device. It detaches itself when its last user closes it, so whoever attaches one
/// must mount it or keep the `LoopDevice` (which holds it open) for as long as it shall exist.
public final class LoopDevice: Sendable {
    /// What /sys says of an attached loop device.
    public struct Status: Hashable, Sendable {
        /// "/dev/loop3".
        public var path: String
        public var backingFile: String
        /// Reads and writes pass the page cache of the backing file by.
        public var hasDirectIO: Bool
        public var isReadOnly: Bool
    }

    public let number: Int32
    public var path: String { "/dev/loop\(number)" }
    /// For whoever is to hold it open, too.
    public let descriptor: Descriptor

    private init(number: Int32, descriptor: Descriptor) {
        self.number = number
        self.descriptor = descriptor
    }

    /// Attaches `file` to a free device with direct I/O. Blocks.
    ///
    /// - Parameter blockSize: logical block size in bytes, a power of two from 512 to 4096.
    /// - Throws: also when the kernel did not grant direct I/O: without it writes would be acknowledged from memory.
    public static func attach(_ file: String, blockSize: UInt32 = 4096, readOnly: Bool = false) throws(LinuxError)
        -> LoopDevice
    {
        let backing = try Descriptor.open(file, readOnly ? O_RDONLY : O_RDWR)
        var raw: Int32 = -1
        let number = try checked(
            clinux_loop_attach(backing.raw, file, blockSize, readOnly ? 1 : 0, &raw),
            "\(file) could not be attached to a loop device")
        let device = LoopDevice(number: number, descriptor: Descriptor(owning: raw))
        guard status(of: number)?.hasDirectIO == true else {
            try device.detach()
            throw LinuxError(.invalid, "The loop device of \(file) has no direct I/O.")
        }
        return device
    }

    /// Opens a device that is attached already.
    public static func open(_ number: Int32) throws(LinuxError) -> LoopDevice {
        LoopDevice(number: number, descriptor: try Descriptor.open("/dev/loop\(number)", O_RDWR))
    }

    /// Detaches it when its last user closes it, and lets nobody open it before if that is this one. Blocks.
    public func detach() throws(LinuxError) {
        _ = try checked(clinux_loop_detach(descriptor.raw), "\(path) could not be detached")
    }

    /// Takes over a changed size of the backing file. Blocks.
    public func resize() throws(LinuxError) {
        _ = try checked(clinux_loop_resize(descriptor.raw), "\(path) could not be resized")
    }

    public var size: Int64 { clinux_size(descriptor.raw) }

    /// The inode number of the backing file, which others at the same path do not have; nil when nothing is attached.
    /// Blocks.
    public var backingInode: UInt64? {
        var inode: UInt64 = 0
        return clinux_loop_backing_inode(descriptor.raw, &inode) == 0 ? inode : nil
    }

    /// All attached devices, by number.
    public static func attached() -> [(number: Int32, status: Status)] {
        let numbers = directoryEntries("/sys/block").compactMap { name in
            name.hasPrefix("loop") ? Int32(name.dropFirst("loop".count)) : nil
        }
        return numbers.sorted().compactMap { number in status(of: number).map { (number, $0) } }
    }

    /// The devices whose backing file has this path.
    public static func find(backing file: String) -> [Int32] {
        attached().filter { $0.status.backingFile == file }.map(\.number)
    }

    /// Nil when nothing is attached to the device.
    public static func status(of number: Int32) -> Status? {
        let directory = "/sys/block/loop\(number)"
        guard let file = try? readText("\(directory)/loop/backing_file") else { return nil }
        return Status(
            path: "/dev/loop\(number)", backingFile: file,
            hasDirectIO: (try? readText("\(directory)/loop/dio")) == "1",
            isReadOnly: (try? readText("\(directory)/ro")) == "1")
    }
}

/// The size in bytes of a regular file or block device. Blocks.
public func sizeOfFile(_ path: String) throws(LinuxError) -> Int64 {
    let file = try Descriptor.open(path, O_RDONLY)
    let size = clinux_size(file.raw)
    guard size >= 0 else { throw LinuxError(errno: Int32(-size), "The size of \(path) could not be read") }
    return size
}
