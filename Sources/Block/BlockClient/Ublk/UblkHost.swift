import BlockIO
import Logging

/// Volumes as ublk devices, which outlive this process: the kernel keeps their requests until a successor serves them.
final class UblkHost: DeviceHost {
    /// Longest wait for the kernel to let the devices go.
    private static let detachPatience = Duration.seconds(10)

    private struct Found {
        var device: UInt32
        var token: UInt64
    }

    private let control: any UblkControl
    private let records: UblkRecords
    private let canResize: Bool
    private let holdTime: Duration
    private let logger: Logger
    private let worker = WorkerPool(name: "sdc-ublk", threads: 1)
    private var reactor: Reactor?
    /// What a predecessor left and nobody has taken over yet, by name.
    private var expected: [String: Found] = [:]
    private let attachments = AttachmentCount()

    /// Looks for the devices of a predecessor, by the records in `workDirectory`. Blocks shortly.
    ///
    /// - Parameter holdTime: how long a predecessor's devices wait for their volumes to be attached again.
    init(
        _ control: any UblkControl, features: Ublk.Features, workDirectory: String, holdTime: Duration, logger: Logger
    ) throws(BlockIOError) {
        self.control = control
        self.logger = logger
        self.holdTime = holdTime
        canResize = features.contains(.updateSize)
        records = UblkRecords(path: workDirectory + "/ublk-devices")
        var tokens: Set<UInt64> = []
        for number in control.devices() {
            // Others' may be hidden from us, or go while we look.
            guard let info = try? control.info(number), let name = records.name(info.token) else { continue }
            tokens.insert(info.token)
            let found = Found(device: number, token: info.token)
            if info.state == Ublk.DeviceState.dead.rawValue || expected[name] != nil {
                remove(found)
            } else {
                expected[name] = found
            }
        }
        try records.keep(tokens)
    }

    func start(on reactor: Reactor) {
        self.reactor = reactor
        reactor.after(holdTime) { [weak self] in self?.forgetExpected() }
    }

    func attach(_ device: any BlockDeviceBackend, as name: String, link: DeviceLink) -> any VolumeAttachment {
        guard let reactor else { preconditionFailure("a volume before the start") }
        let found = expected.removeValue(forKey: name)
        let attachment = UblkAttachment(
            device, as: name, token: found?.token, canResize: canResize, control: control, records: records,
            link: link, on: reactor, logger: logger)
        attachments.begin()
        attachment.ended = { [attachments] in attachments.end() }
        attachment.attach(existing: found?.device)
        return attachment
    }

    func forgetExpected() {
        for found in expected.values.sorted(by: { $0.device < $1.device }) { remove(found) }
        expected = [:]
    }

    /// Stops and deletes a device that nobody serves, in the background: requests that wait for it fail.
    private func remove(_ found: Found) {
        attachments.begin()
        worker.submit { [control, records, logger, attachments] in
            defer { attachments.end() }
            do throws(BlockIOError) {
                try control.stop(found.device)
                try control.delete(found.device)
                try records.remove(found.token)
                logger.notice(
                    "device of a former mapping removed",
                    metadata: ["device.path": "\(Ublk.devicePath(found.device))"])
            } catch {
                logger.error("device of a former mapping not removed", metadata: ["error": "\(error)"])
            }
        }
    }

    func willStop() { forgetExpected() }

    func awaitDetached() {
        if !attachments.awaitNone(UblkHost.detachPatience) {
            logger.error("the kernel does not let all ublk devices go")
        }
    }

    func close() { worker.stop() }
}
