import BlockIO
import Glibc
import Logging

/// One volume as /dev/ublkbN. Performs the actions of a `UblkDeviceCore` on the reactor's thread and its commands on a
/// thread of its own.
final class UblkAttachment: VolumeAttachment, @unchecked Sendable {
    // SAFETY: used on the reactor's thread only; what the worker gets are values and a channel that it hands over.
    private let device: any BlockDeviceBackend
    private let name: String
    private let control: any UblkControl
    private let records: UblkRecords
    private let link: DeviceLink
    private let reactor: Reactor
    private let logger: Logger
    private let worker = WorkerPool(name: "sdc-attach", threads: 1)
    private var core: UblkDeviceCore
    private var server: UblkServer?
    /// Of the device that there is, or is about to be.
    private var token: UInt64
    /// Called once nothing is left.
    var ended: () -> Void = {}

    /// - Parameters:
    ///   - name: by which a successor of this process finds the device.
    ///   - token: of a predecessor's device.
    init(
        _ device: any BlockDeviceBackend, as name: String, token: UInt64?, canResize: Bool,
        control: any UblkControl, records: UblkRecords, link: DeviceLink, on reactor: Reactor, logger: Logger
    ) {
        self.device = device
        self.name = name
        self.token = token ?? 0
        self.control = control
        self.records = records
        self.link = link
        self.reactor = reactor
        self.logger = logger
        core = UblkDeviceCore(canResize: canResize)
    }

    var devicePath: String? { link.device }

    /// - Parameter existing: the device that a predecessor left for this mapping.
    func attach(existing: UInt32?) { handle(.attach(existing: existing)) }
    func refreshSize() { handle(.grown) }
    func detach() { handle(.withdraw) }

    private func handle(_ event: UblkDeviceCore.Event) {
        var actions: [UblkDeviceCore.Action] = []
        core.apply(event, into: &actions)
        for action in actions { perform(action) }
    }

    private func perform(_ action: UblkDeviceCore.Action) {
        switch action {
        case .perform(let command): perform(command)
        case .openChannel(let number): openChannel(number)
        case .closeChannel:
            server?.close()
            server = nil
        case .failRequests: server?.failRequests()
        case .wait(let delay, let number): reactor.after(delay) { [self] in handle(.retry(number)) }
        case .show(let number): link.lead(to: Ublk.devicePath(number))
        case .hide: link.remove()
        case .report(let trouble): report(trouble)
        case .gone:
            worker.stop()
            logger.notice("volume detached", metadata: ["device.link": "\(link.path)"])
            ended()
        }
    }

    private func perform(_ command: UblkDeviceCore.Command) {
        switch command {
        case .add:
            let token = UInt64.random(in: 1...UInt64.max)
            self.token = token
            run { [control, records, name] () throws(BlockIOError) in
                // First: a device that nobody remembers would stay.
                try records.add(token, name: name)
                do throws(BlockIOError) {
                    return try control.add(Ublk.DeviceInfo(token: token))
                } catch {
                    try records.remove(token)
                    throw error
                }
            }
        case .setParameters(let number):
            let parameters = Ublk.Parameters(
                size: device.size, blockSize: device.blockSize, isReadOnly: device.isReadOnly,
                hasVolatileCache: !device.acknowledgesDurably)
            run(number) { [control] () throws(BlockIOError) in try control.setParameters(number, parameters) }
        case .start(let number): run(number) { [control] () throws(BlockIOError) in try control.start(number) }
        case .startRecovery(let number):
            run(number) { [control] () throws(BlockIOError) in try control.startRecovery(number) }
        case .endRecovery(let number):
            run(number) { [control] () throws(BlockIOError) in try control.endRecovery(number) }
        case .updateSize(let number):
            let size = device.size
            run(number) { [control] () throws(BlockIOError) in try control.updateSize(number, to: size) }
        case .stop(let number): run(number) { [control] () throws(BlockIOError) in try control.stop(number) }
        case .delete(let number):
            let token = token
            run(number) { [control, records] () throws(BlockIOError) in
                try control.delete(number)
                try records.remove(token)
            }
        }
    }

    private func run(_ number: UInt32, _ body: @escaping @Sendable () throws(BlockIOError) -> Void) {
        run { () throws(BlockIOError) in
            try body()
            return number
        }
    }

    /// Performs the command under way on the worker's thread.
    private func run(_ body: @escaping @Sendable () throws(BlockIOError) -> UInt32) {
        worker.submit { [self] in
            let result = Result { () throws(BlockIOError) in try body() }
            reactor.perform { [self] in
                switch result {
                case .success(let number): handle(.finished(error: 0, device: number))
                case .failure(let error):
                    logger.warning("ublk command refused by the kernel", metadata: ["error": "\(error)"])
                    handle(.finished(error: error.number, device: nil))
                }
            }
        }
    }

    private func openChannel(_ number: UInt32) {
        worker.submit { [self] in
            let result = Result { () throws(BlockIOError) in try control.open(number) }
            reactor.perform { [self] in
                switch result {
                case .success(let channel): serve(channel)
                case .failure(let error):
                    logger.warning("ublk channel not opened", metadata: ["error": "\(error)"])
                    handle(.opened(error: error.number))
                }
            }
        }
    }

    private func serve(_ channel: any UblkChannel) {
        let server = UblkServer(
            device, channel, on: reactor, over: { [weak self] in self?.handle(.queueOver) },
            fault: { [weak self] in self?.handle(.queueFault($0)) })
        self.server = server
        server.start()
        handle(.opened(error: 0))
    }

    private func report(_ trouble: UblkDeviceCore.Trouble) {
        let metadata: Logger.Metadata = ["device.link": "\(link.path)", "trouble": "\(trouble)"]
        switch trouble {
        case .noDevice: logger.error("volume cannot be attached", metadata: metadata)
        case .notResized: logger.error("volume not resized", metadata: metadata)
        case .notStopped, .notDeleted, .notDrained: logger.error("volume not detached", metadata: metadata)
        case .notTakenOver: logger.warning("device of a predecessor not taken over", metadata: metadata)
        case .lost: logger.error("device lost", metadata: metadata)
        }
    }
}
