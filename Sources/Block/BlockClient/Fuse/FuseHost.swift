import BlockIO
import Glibc
import LinuxOS
import Logging

/// Volumes as loop devices over the files of a FUSE mount, which a keeper process holds for a successor of this one.
final class FuseHost: DeviceHost {
    private let mountPoint: String
    private let holdTime: Duration
    private let logger: Logger
    private let keeper: FuseKeeper
    private let descriptor: Int32
    /// What a predecessor showed to the kernel; nil when the mount is new.
    private let inherited: FuseRecord?
    private var mount: FuseMount?
    private var reactor: Reactor?
    private var attachments: [String: LoopAttachment] = [:]
    private let worker = WorkerPool(name: "sdc-loops", threads: 1)

    /// Mounts on a directory in `workDirectory`, or takes the mount of a predecessor over. Blocks.
    ///
    /// - Parameters:
    ///   - holdTime: how long requests for what the predecessor showed wait until it is attached again.
    ///   - handOutAgain: asks the kernel for what the predecessor had not answered. Replaced in tests.
    init(
        workDirectory: String, holdTime: Duration, logger: Logger,
        handOutAgain: (Int32) throws(BlockIOError) -> Void = FuseMount.handOutAgain
    ) throws(BlockIOError) {
        mountPoint = workDirectory + "/fuse"
        self.holdTime = holdTime
        self.logger = logger
        var (keeper, inheritance) = try FuseKeeper.open(workDirectory + "/keeper.sock", logger: logger)
        if let left = inheritance {
            do throws(BlockIOError) {
                try handOutAgain(left.descriptor)
            } catch {
                // Whoever waits for a lost answer would wait for ever: end the connection, and all of it fails at once.
                logger.error("devices of a predecessor are given up", metadata: ["error": "\(error)"])
                keeper.end()
                Glibc.close(left.descriptor)
                (keeper, inheritance) = try FuseKeeper.open(workDirectory + "/keeper.sock", logger: logger)
            }
        }
        self.keeper = keeper
        inherited = inheritance?.record
        if let inheritance {
            descriptor = inheritance.descriptor
        } else {
            descriptor = try FuseMount.open(on: mountPoint)
        }
    }

    func start(on reactor: Reactor) throws(BlockIOError) {
        let mount = try FuseMount(
            descriptor: descriptor, directory: mountPoint, on: reactor, logger: logger)
        if let inherited { mount.expect(inherited) }
        self.mount = mount
        self.reactor = reactor
        keeper.watch(on: reactor)
        keeper.restart = { [weak self] in self?.tellAll() }
        tellKeeper()
        reactor.after(holdTime) { [weak self] in self?.forgetExpected() }
    }

    /// A new keeper knows nothing.
    private func tellAll() {
        tellKeeper()
        for attachment in attachments.values {
            if let device = attachment.device { keeper.hold(device) }
        }
    }

    private func tellKeeper() {
        if let mount { keeper.keep(mount.descriptor, mount.record) }
    }

    func attach(_ device: any BlockDeviceBackend, as name: String, link: DeviceLink) -> any VolumeAttachment {
        guard let mount else { preconditionFailure("a volume before the start") }
        let known = mount.add(name, device: device)
        tellKeeper()
        let attachment = LoopAttachment(
            file: "\(mountPoint)/\(name)", link: link, isReadOnly: device.isReadOnly, blockSize: device.blockSize,
            logger: logger,
            hide: { [weak self] in
                self?.mount?.remove(name)
                self?.attachments[name] = nil
                self?.tellKeeper()
            },
            attached: { [keeper, reactor] device in reactor?.perform { keeper.hold(device) } },
            detached: { [keeper, reactor] number in reactor?.perform { keeper.release(number) } })
        attachments[name] = attachment
        attachment.attach(existingOver: known)
        return attachment
    }

    func forgetExpected() {
        guard let mount, let reactor else { return }
        let gone = mount.expectedNames
        mount.forgetExpected()
        tellKeeper()
        if gone.isEmpty { return }
        // A predecessor's devices of volumes that are no longer mapped: found now, before one that is mapped after all gets a
        // new device over the same path.
        let numbers = gone.flatMap { LoopDevice.find(backing: "\(mountPoint)/\($0)") }
        worker.submit { [keeper, logger] in
            for number in numbers {
                do throws(LinuxError) {
                    try LoopDevice.open(number).detach()
                } catch {
                    logger.error("device of a former mapping not detached", metadata: ["error": "\(error)"])
                }
                reactor.perform { keeper.release(number) }
            }
        }
    }

    func willStop() { keeper.stop() }

    func awaitDetached() {
        // Loop devices ask the FUSE file for its last requests; answer them, then end the mount.
        usleep(100_000)
        FuseMount.detach(mountPoint)
    }

    func close() {
        worker.stop()
        mount?.close()
        mount = nil
    }
}
