import Base
import BlockIO
import Glibc
import Synchronization

/// One of the ways in which mapped volumes become block devices of the host.
///
/// Everything here is called on the reactor's thread unless it says otherwise.
protocol DeviceHost: AnyObject {
    /// Begins to serve the kernel. To be called once, before anything else.
    func start(on reactor: Reactor) throws(BlockIOError)
    /// Makes `device` a block device of the host, in the background. `name` is that of the mapping and never used
    /// again; a device that a predecessor of this process showed under it is taken over.
    func attach(_ device: any BlockDeviceBackend, as name: String, link: DeviceLink) -> any VolumeAttachment
    /// What a predecessor showed and is not attached by now is gone for good: its requests fail.
    func forgetExpected()
    /// The process ends on purpose, and every attachment is about to be detached: no successor is to find devices.
    func willStop()
    /// Waits until the devices are gone, for some seconds at most. Blocks; not on the reactor's thread.
    func awaitDetached()
    /// Ends what `start` began.
    func close()
}

/// One volume's way into the system. Used on the reactor's thread.
protocol VolumeAttachment: AnyObject {
    /// The block device, while it is there.
    var devicePath: String? { get }
    /// Takes over a size that the volume has already.
    func refreshSize()
    /// Removes link and device. The volume must refuse its requests already, or this could wait for them.
    func detach()
}

/// How long the kernel keeps the requests for a device whose process has died before it fails them, in seconds.
let orphanSeconds: Int32 = 180

/// How many attachments of a host are not gone yet.
final class AttachmentCount: Sendable {
    private let count = Mutex(0)

    func begin() { count.withLock { $0 += 1 } }
    func end() { count.withLock { $0 -= 1 } }

    /// Blocks until there are none; false when it took longer than `patience`.
    func awaitNone(_ patience: Duration) -> Bool {
        let deadline = Reactor.now + patience
        while count.withLock({ $0 }) > 0 {
            guard Reactor.now < deadline else { return false }
            usleep(10_000)
        }
        return true
    }
}
