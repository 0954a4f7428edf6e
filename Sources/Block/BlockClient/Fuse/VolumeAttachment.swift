import BlockIO
import Glibc
import LinuxOS
import Logging
import Synchronization

/// One volume's way into the system: FUSE file, loop device over it and the symbolic link by which drivers find it.
///
/// `attach` and `detach` may be called from the reactor's thread: the blocking part runs in order on a thread of its own.
final class VolumeAttachment: Sendable {
    private let file: String
    private let link: String
    private let isReadOnly: Bool
    private let blockSize: Int
    private let logger: Logger
    private let worker: WorkerPool
    private let loop = Mutex<LoopDevice?>(nil)

    /// - Parameters:
    ///   - file: the path of the volume's file in the FUSE mount.
    ///   - link: the symbolic link to make, such as `/dev/disk/by-id/emc-vol-<system>-<volume>`.
    init(file: String, link: String, isReadOnly: Bool, blockSize: Int, logger: Logger) {
        self.file = file
        self.link = link
        self.isReadOnly = isReadOnly
        self.blockSize = blockSize
        self.logger = logger
        worker = WorkerPool(name: "sdc-attach", threads: 1)
    }

    /// The block device, once it is there.
    var devicePath: String? { loop.withLock { $0?.path } }

    func attach(finished: @escaping @Sendable (Bool) -> Void) {
        worker.submit { [self] in
            do {
                let device = try LoopDevice.attach(file, blockSize: UInt32(blockSize), readOnly: isReadOnly)
                loop.withLock { $0 = device }
                try makeLink(to: device.path)
                logger.notice("volume attached", metadata: ["device.path": "\(device.path)", "device.link": "\(link)"])
                finished(true)
            } catch {
                logger.error("volume cannot be attached", metadata: ["error": "\(error)", "device.link": "\(link)"])
                finished(false)
            }
        }
    }

    func refreshSize() {
        worker.submit { [self] in try? loop.withLock { $0 }?.resize() }
    }

    /// Removes link and device. The FUSE file must fail its requests already, or this could wait for them.
    func detach(finished: @escaping @Sendable () -> Void) {
        worker.submit { [self] in
            let device = loop.withLock { loop in
                defer { loop = nil }
                return loop
            }
            if let device {
                if linkTarget() == device.path { unlink(link) }
                do {
                    try device.detach()
                } catch {
                    logger.error("volume not detached", metadata: ["error": "\(error)"])
                }
                logger.notice("volume detached", metadata: ["device.path": "\(device.path)", "device.link": "\(link)"])
            }
            finished()
        }
        worker.stop()
    }

    private func makeLink(to target: String) throws(BlockIOError) {
        makeDirectories(String(link[..<(link.lastIndex(of: "/") ?? link.startIndex)]))
        let temporary = link + ".new"
        unlink(temporary)
        guard symlink(target, temporary) == 0, rename(temporary, link) == 0 else {
            throw .system(errno, "make the link \(link)")
        }
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
