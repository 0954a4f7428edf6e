import BlockIO
import LinuxOS
import Logging
import Synchronization

/// One volume's way into the system through FUSE: a file, a loop device over it and the symbolic link to that.
///
/// The blocking part of `attach` and `detach` runs in order on a thread of its own.
final class LoopAttachment: VolumeAttachment, Sendable {
    private let file: String
    private let link: DeviceLink
    private let isReadOnly: Bool
    private let blockSize: Int
    private let logger: Logger
    private let worker: WorkerPool
    private let loop = Mutex<LoopDevice?>(nil)
    // SAFETY: called on the reactor's thread only.
    private nonisolated(unsafe) let hide: () -> Void
    /// Told of the device when it is there, and of its number when it was detached; on the attachment's thread.
    private let attached: @Sendable (LoopDevice) -> Void
    private let detached: @Sendable (Int32) -> Void

    /// - Parameters:
    ///   - file: the path of the volume's file in the FUSE mount.
    ///   - hide: lets the file fail its requests; called on the reactor's thread when the volume is detached.
    init(
        file: String, link: DeviceLink, isReadOnly: Bool, blockSize: Int, logger: Logger, hide: @escaping () -> Void,
        attached: @escaping @Sendable (LoopDevice) -> Void, detached: @escaping @Sendable (Int32) -> Void
    ) {
        self.file = file
        self.link = link
        self.isReadOnly = isReadOnly
        self.blockSize = blockSize
        self.logger = logger
        self.hide = hide
        self.attached = attached
        self.detached = detached
        worker = WorkerPool(name: "sdc-attach", threads: 1)
    }

    var devicePath: String? { device?.path }
    /// The loop device, once it is there.
    var device: LoopDevice? { loop.withLock { $0 } }

    /// - Parameter inode: of a file that a predecessor showed: it may have left a loop device over it; use that.
    func attach(existingOver inode: UInt64?) {
        worker.submit { [self] in
            do {
                let device =
                    if let inode, let existing = deviceLeft(over: inode) {
                        existing
                    } else {
                        try LoopDevice.attach(file, blockSize: UInt32(blockSize), readOnly: isReadOnly)
                    }
                // The volume may have grown while nobody was there to tell.
                if inode != nil { takeOverSize(device) }
                loop.withLock { $0 = device }
                attached(device)
                link.lead(to: device.path)
            } catch {
                logger.error(
                    "volume cannot be attached", metadata: ["error": "\(error)", "device.link": "\(link.path)"])
            }
        }
    }

    /// Others over files of the same path have failed for good.
    private func deviceLeft(over inode: UInt64) -> LoopDevice? {
        for number in LoopDevice.find(backing: file) {
            if let device = try? LoopDevice.open(number), device.backingInode == inode { return device }
        }
        return nil
    }

    func refreshSize() {
        worker.submit { [self] in
            if let device = loop.withLock({ $0 }) { takeOverSize(device) }
        }
    }

    private func takeOverSize(_ device: LoopDevice) {
        do {
            // Some kernels know a file's size only from the last look at it.
            _ = try sizeOfFile(file)
            try device.resize()
        } catch {
            logger.error("volume not resized", metadata: ["error": "\(error)", "device.path": "\(device.path)"])
        }
    }

    func detach() {
        // First the requests fail, then the device goes: the kernel must not wait for what will never be answered.
        hide()
        worker.submit { [self] in
            let device = loop.withLock { loop in
                defer { loop = nil }
                return loop
            }
            guard let device else { return }
            defer { detached(device.number) }
            link.remove()
            do {
                try device.detach()
                logger.notice("volume detached", metadata: ["device.path": "\(device.path)"])
            } catch {
                logger.error("volume not detached", metadata: ["error": "\(error)"])
            }
        }
        worker.stop()
    }
}
