import Base
import BlockCore
import BlockIO
import Glibc
import Logging

/// Shows every attached volume to the host: an NBD socket, and a block device with its symbolic link.
///
/// Everything here runs on the reactor's thread.
final class FrontEnds: ClientVolumes, @unchecked Sendable {
    // SAFETY: made before the reactor starts; used on its thread only from then on.

    private struct Shown {
        var device: VolumeDevice
        var nbd: NBDServer?
        var attachment: (any VolumeAttachment)?
        var link: DeviceLink
    }

    private let configuration: BlockClientService.Configuration
    private let reactor: Reactor
    private let logger: Logger
    private let links = WorkerPool(name: "sdc-links", threads: 1)
    private let host: (any DeviceHost)?
    private var shown: [Attachment: Shown] = [:]
    private(set) var system: SystemID?
    private(set) var sdc: SdcID?
    /// Called when the manager refuses this client for good.
    var fatal: (String) -> Void = { _ in }

    /// - Parameter host: makes the block devices; nil for none.
    init(
        _ configuration: BlockClientService.Configuration, host: (any DeviceHost)?, on reactor: Reactor, logger: Logger
    ) {
        self.configuration = configuration
        self.host = host
        self.reactor = reactor
        self.logger = logger
    }

    func welcomed(system: SystemID, sdc: SdcID) {
        self.system = system
        self.sdc = sdc
    }

    func refused(_ reason: String) { fatal(reason) }

    func mapReceived() {
        // Whatever a predecessor showed and the manager no longer grants is gone.
        host?.forgetExpected()
    }

    func attached(_ device: VolumeDevice) {
        guard let system else { preconditionFailure("a volume before the welcome") }
        let volume = device.attachment.volume
        let link = DeviceLink(
            "\(configuration.deviceDirectory)/emc-vol-\(system)-\(volume)", queue: links, logger: logger)
        var entry = Shown(device: device, link: link)
        if configuration.frontEnds.contains(.nbd) {
            makeDirectories(configuration.nbdDirectory, mode: 0o700)
            let path = "\(configuration.nbdDirectory)/\(volume).sock"
            do throws(BlockIOError) {
                entry.nbd = try NBDServer(
                    device: device, exportName: "\(volume)", at: .unix(path: path), on: reactor, logger: logger)
            } catch {
                logger.error("volume not served over NBD", metadata: ["volume.id": "\(volume)", "error": "\(error)"])
            }
        }
        // An epoch never comes again, and so neither does the name.
        entry.attachment = host?.attach(device, as: "\(volume).\(device.attachment.epoch)", link: link)
        shown[device.attachment] = entry
        logger.notice(
            "volume mapped here",
            metadata: [
                "volume.id": "\(volume)", "volume.name": "\(device.volume.name)", "size": "\(device.size)",
                "attach.epoch": "\(device.attachment.epoch)",
            ])
    }

    func changed(_ device: VolumeDevice) { shown[device.attachment]?.attachment?.refreshSize() }

    func detached(_ device: VolumeDevice) {
        guard let entry = shown.removeValue(forKey: device.attachment) else { return }
        logger.notice(
            "volume no longer mapped here",
            metadata: [
                "volume.id": "\(device.attachment.volume)", "attach.epoch": "\(device.attachment.epoch)",
            ])
        hide(entry)
    }

    private func hide(_ entry: Shown) {
        entry.nbd?.close()
        entry.attachment?.detach()
    }

    func stop() {
        for entry in shown.values { hide(entry) }
        shown = [:]
    }

    /// What the control socket tells of the mapped volumes, in order of their ids.
    var description: [JSONValue] {
        shown.values.sorted { $0.device.attachment.volume < $1.device.attachment.volume }.map { entry in
            let volume = entry.device.volume
            let id = entry.device.attachment.volume
            return [
                "volumeId": .string(id.description),
                "mdmId": .optional(system?.description),
                "name": .string(volume.name),
                "sizeInKb": .integer(Int64(volume.sizeBytes >> 10)),
                "accessMode": .string(volume.mode.rawValue),
                "attachEpoch": .integer(Int64(entry.device.attachment.epoch)),
                "devicePath": .optional(entry.attachment?.devicePath),
                "deviceLink": .string(entry.link.path),
                "nbdSocket": entry.nbd.map { .string($0.address.description) } ?? .null,
            ]
        }
    }
}
