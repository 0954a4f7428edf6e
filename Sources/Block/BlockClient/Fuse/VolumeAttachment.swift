import BlockIO
import Glibc
import LinuxOS
import Logging
import Synchronization

/// One volume's way into the system: FUSE file, loop device over it and the symbolic link by which drivers find it.
///
/// `attach` and `detach` may be called from the reactor's thread: the blocking part runs in order on a thread of its
/// own.
final class VolumeAttachment: Sendable {
    private let file: String
    private let link: String
    private let isReadOnly: Bool
    private let blockSize: Int
    private let logger: Logger
    private let worker: WorkerPool
    private let links: WorkerPool
    private let loop = Mutex<LoopDevice?>(nil)

    /// - Parameters:
    ///   - file: the path of the volume's file in the FUSE mount.
    ///   - link: the symbolic link to make, such as `/dev/disk/by-id/emc-vol-<system>-<volume>`.
    ///   - links: a serial queue for the making and removing of links, common to all volumes: a volume that is mapped
    /// again
    ///     gets the link of its earlier device.
    init(file: String, link: String, isReadOnly: Bool, blockSize: Int, links: WorkerPool, logger: Logger) {
        self.file = file
        self.link = link
        self.isReadOnly = isReadOnly
        self.blockSize = blockSize
        self.links = links
        self.logger = logger
        worker = WorkerPool(name: "sdc-attach", threads: 1)
    }

    /// The block device, once it is there.
    var devicePath: String? { loop.withLock { $0?.path } }

    /// - Parameter lookingForExisting: a predecessor may have left a loop device over the same file; use that.
    func attach(lookingForExisting: Bool) {
        worker.submit { [self] in
            do {
                let existing = lookingForExisting ? LoopDevice.find(backing: file).first : nil
                let device =
                    if let existing {
                        try LoopDevice.open(existing)
                    } else {
                        try LoopDevice.attach(file, blockSize: UInt32(blockSize), readOnly: isReadOnly)
                    }
                loop.withLock { $0 = device }
                links.submit { [self] in makeLink(to: device.path) }
            } catch {
                logger.error("volume cannot be attached", metadata: ["error": "\(error)", "device.link": "\(link)"])
            }
        }
    }

    /// Takes over a size that the FUSE file has already.
    func refreshSize() {
        worker.submit { [self] in
            guard let device = loop.withLock({ $0 }) else { return }
            do {
                // Some kernels know a file's size only from the last look at it.
                _ = try sizeOfFile(file)
                try device.resize()
            } catch {
                logger.error(
                    "volume not resized", metadata: ["error": "\(error)", "device.path": "\(device.path)"])
            }
        }
    }

    /// Removes link and device. The FUSE file must fail its requests already, or this could wait for them.
    func detach() {
        worker.submit { [self] in
            let device = loop.withLock { loop in
                defer { loop = nil }
                return loop
            }
            guard let device else { return }
            links.submit { [self] in
                if linkTarget() == device.path { unlink(link) }
            }
            do {
                try device.detach()
                logger.notice("volume detached", metadata: ["device.path": "\(device.path)"])
            } catch {
                logger.error("volume not detached", metadata: ["error": "\(error)"])
            }
        }
        worker.stop()
    }

    private func makeLink(to target: String) {
        // Withdrawn meanwhile: the device is on its way out.
        guard devicePath == target else { return }
        makeDirectories(String(link[..<(link.lastIndex(of: "/") ?? link.startIndex)]))
        let temporary = link + ".new"
        unlink(temporary)
        guard symlink(target, temporary) == 0, rename(temporary, link) == 0 else {
            return logger.error(
                "link not made",
                metadata: ["device.link": "\(link)", "error": "\(String(cString: strerror(errno)))"])
        }
        logger.notice("volume attached", metadata: ["device.path": "\(target)", "device.link": "\(link)"])
    }

    private func linkTarget() -> String? {
        var target = [UInt8](repeating: 0, count: 256)
        let length = target.withUnsafeMutableBufferPointer { buffer in
            buffer.baseAddress.map { base in
                base.withMemoryRebound(to: CChar.self, capacity: buffer.count) { readlink(link, $0, buffer.count) }
            } ?? -1
        }
        return length > 0 ? String(decoding: target[..<length], as: UTF8.self) : nil
    }
}

/// Makes `path` and what is missing above it; errors show when it is used.
func makeDirectories(_ path: String) {
    var position = path.startIndex
    while let slash = path[position...].dropFirst().firstIndex(of: "/") {
        mkdir(String(path[..<slash]), 0o755)
        position = slash
    }
    if !path.isEmpty { mkdir(path, 0o755) }
}
