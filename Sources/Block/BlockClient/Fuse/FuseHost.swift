import BlockIO
import Glibc
import Logging

/// Volumes as loop devices over the files of a FUSE mount, which a keeper process holds for a successor of this one.
final class FuseHost: DeviceHost {
    private let mountPoint: String
    private let holdTime: Duration
    private let logger: Logger
    private let keeper: FuseKeeper
    private let descriptor: Int32
    /// What a predecessor showed to the kernel; nil when the mount is new.
    private let inherited: [(node: UInt64, name: String)]?
    private var mount: FuseMount?

    /// Mounts on a directory in `workDirectory`, or takes the mount of a predecessor over. Blocks.
    ///
    /// - Parameter holdTime: how long requests for what the predecessor showed wait until it is attached again.
    init(workDirectory: String, holdTime: Duration, logger: Logger) throws(BlockIOError) {
        mountPoint = workDirectory + "/fuse"
        self.holdTime = holdTime
        self.logger = logger
        let (keeper, inheritance) = try FuseKeeper.open(workDirectory + "/keeper.sock", logger: logger)
        self.keeper = keeper
        inherited = inheritance?.files
        if let inheritance {
            descriptor = inheritance.descriptor
        } else {
            descriptor = try FuseMount.open(on: mountPoint)
        }
    }

    func start(on reactor: Reactor) throws(BlockIOError) {
        let mount = try FuseMount(
            descriptor: descriptor, directory: mountPoint, takenOver: inherited != nil, on: reactor, logger: logger)
        for (node, name) in inherited ?? [] { mount.expect(name, node: node) }
        self.mount = mount
        keeper.watch(on: reactor)
        keeper.restart = { [weak self] in self?.tellKeeper() }
        tellKeeper()
        reactor.after(holdTime) { [weak mount] in mount?.forgetExpected() }
    }

    private func tellKeeper() {
        if let mount { keeper.keep(mount.descriptor, files: mount.files) }
    }

    func attach(_ device: any BlockDeviceBackend, as name: String, link: DeviceLink) -> any VolumeAttachment {
        guard let mount else { preconditionFailure("a volume before the start") }
        mount.add(name, device: device)
        tellKeeper()
        let attachment = LoopAttachment(
            file: "\(mountPoint)/\(name)", link: link, isReadOnly: device.isReadOnly, blockSize: device.blockSize,
            logger: logger
        ) { [weak self] in
            self?.mount?.remove(name)
            self?.tellKeeper()
        }
        attachment.attach(lookingForExisting: inherited != nil)
        return attachment
    }

    func forgetExpected() {
        mount?.forgetExpected()
        tellKeeper()
    }

    func willStop() { keeper.stop() }

    func awaitDetached() {
        // Loop devices ask the FUSE file for its last requests; answer them, then end the mount.
        usleep(100_000)
        FuseMount.detach(mountPoint)
    }

    func close() {
        mount?.close()
        mount = nil
    }
}
