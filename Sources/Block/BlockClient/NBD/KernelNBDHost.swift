import Base
import BlockIO
import Glibc
import Logging
import Synchronization

/// Volumes as devices of the kernel's NBD client, whose requests come over a socket pair each.
///
/// When this process dies, the kernel keeps requests for `orphanSeconds`; a successor finds its devices by the
/// identifiers that the kernel keeps for them and gives them new sockets.
final class KernelNBDHost: DeviceHost {
    /// Longest wait for the kernel to let the devices go.
    private static let detachPatience = Duration.seconds(10)

    private let control: any KernelNBDControl
    /// Begins the identifiers of this client's devices: other clients may share the kernel.
    private let prefix: String
    private let logger: Logger
    private let worker = WorkerPool(name: "sdc-nbd", threads: 1)
    private var reactor: Reactor?
    /// What a predecessor left and nobody has taken over yet, by name.
    private var expected: [String: UInt32] = [:]
    private let holdTime: Duration
    /// Attachments that are not gone yet.
    private let attachments = AttachmentCount()

    /// Looks for the devices of a predecessor. Blocks shortly.
    ///
    /// - Parameters:
    ///   - client: this client's GUID.
    ///   - holdTime: how long a predecessor's devices wait for their volumes to be attached again.
    init(
        _ control: any KernelNBDControl, client: String, holdTime: Duration, logger: Logger
    ) throws(BlockIOError) {
        self.control = control
        self.logger = logger
        self.holdTime = holdTime
        prefix = "holdfast/\(client)/"
        for (index, identifier) in try control.identified() where identifier.hasPrefix(prefix) {
            expected[String(identifier.dropFirst(prefix.count))] = index
        }
    }

    func start(on reactor: Reactor) {
        self.reactor = reactor
        reactor.after(holdTime) { [weak self] in self?.forgetExpected() }
    }

    func attach(_ device: any BlockDeviceBackend, as name: String, link: DeviceLink) -> any VolumeAttachment {
        guard let reactor else { preconditionFailure("a volume before the start") }
        let attachment = KernelNBDAttachment(
            device, identifier: prefix + name, control: control, link: link, on: reactor, logger: logger)
        attachments.begin()
        attachment.ended = { [attachments] in attachments.end() }
        attachment.attach(existing: expected.removeValue(forKey: name))
        return attachment
    }

    func forgetExpected() {
        for (name, index) in expected.sorted(by: { $0.value < $1.value }) {
            worker.submit { [control, logger] in
                do throws(BlockIOError) {
                    try control.disconnect(index)
                    logger.notice(
                        "device of a former mapping removed",
                        metadata: ["device.path": "/dev/nbd\(index)", "device.name": "\(name)"])
                } catch {
                    logger.error("device of a former mapping not removed", metadata: ["error": "\(error)"])
                }
            }
        }
        expected = [:]
    }

    func willStop() { forgetExpected() }

    func awaitDetached() {
        if !attachments.awaitNone(KernelNBDHost.detachPatience) {
            logger.error("the kernel does not let all NBD devices go")
        }
    }

    func close() { worker.stop() }
}
