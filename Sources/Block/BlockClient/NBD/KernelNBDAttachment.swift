import BlockIO
import CBlockIO
import Glibc
import Logging

/// One volume as /dev/nbdN. Performs the actions of a `KernelNBDCore` on the reactor's thread and its commands on a
/// thread of its own.
final class KernelNBDAttachment: VolumeAttachment, NBDConnectionOwner, @unchecked Sendable {
    // SAFETY: used on the reactor's thread only; what the worker gets are values.
    let device: any BlockDeviceBackend
    let exportName: String
    let logger: Logger
    private let control: any KernelNBDControl
    private let link: DeviceLink
    private let reactor: Reactor
    private let worker = WorkerPool(name: "sdc-attach", threads: 1)
    private var core = KernelNBDCore()
    /// Our end of the socket pair that the kernel has, or is about to get.
    private var connection: NBDConnection?
    /// Called once nothing is left.
    var ended: () -> Void = {}

    /// - Parameter identifier: by which a successor of this process finds the device.
    init(
        _ device: any BlockDeviceBackend, identifier: String, control: any KernelNBDControl, link: DeviceLink,
        on reactor: Reactor, logger: Logger
    ) {
        self.device = device
        exportName = identifier
        self.control = control
        self.link = link
        self.reactor = reactor
        self.logger = logger
    }

    var devicePath: String? { link.device }

    /// - Parameter existing: the device that a predecessor left for this mapping.
    func attach(existing: UInt32?) { handle(.attach(existing: existing)) }
    func refreshSize() { handle(.grown) }
    func detach() { handle(.withdraw) }

    private func handle(_ event: KernelNBDCore.Event) {
        var actions: [KernelNBDCore.Action] = []
        core.apply(event, into: &actions)
        for action in actions { perform(action) }
    }

    private func perform(_ action: KernelNBDCore.Action) {
        switch action {
        case .perform(let command): perform(command)
        case .wait(let delay): reactor.after(delay) { [weak self] in self?.handle(.retry) }
        case .show(let index): link.lead(to: "/dev/nbd\(index)")
        case .hide: link.remove()
        case .report(let trouble): report(trouble)
        case .gone:
            closeLink()
            worker.stop()
            logger.notice("volume detached", metadata: ["device.link": "\(link.path)"])
            ended()
        }
    }

    private func perform(_ command: KernelNBDCore.Command) {
        switch command {
        case .connect:
            offer({ .connected(error: $0, index: $1) }) { [control] (request) throws(BlockIOError) in
                try control.connect(request)
            }
        case .reconnect(let index):
            offer({ error, _ in .reconnected(error: error) }) { [control] (request) throws(BlockIOError) in
                try control.reconnect(index, request)
                return index
            }
        case .resize(let index):
            let (size, name) = (device.size, exportName)
            run({ .resized(error: $0) }) { [control] () throws(BlockIOError) in
                try control.resize(index, to: size, identifier: name)
            }
        case .disconnect(let index):
            run({ .disconnected(error: $0) }) { [control] () throws(BlockIOError) in try control.disconnect(index) }
        }
    }

    /// Makes a socket pair, serves one end and has the other handed to the kernel.
    private func offer(
        _ event: @escaping @Sendable (Int32, UInt32?) -> KernelNBDCore.Event,
        _ body: @escaping @Sendable (KernelNBD.Connection) throws(BlockIOError) -> UInt32
    ) {
        closeLink()
        var pair: [Int32] = [-1, -1]
        guard cbio_socket_pair(&pair) == 0 else { return fail(event, errno) }
        let kernelEnd = pair[1]
        let connection = NBDConnection(self)
        do throws(BlockIOError) {
            connection.serveNegotiated(
                try ByteSocket.adopt(pair[0], peer: "kernel", on: reactor, handler: connection))
        } catch {
            close(kernelEnd)
            return fail(event, ENOMEM)
        }
        self.connection = connection
        let request = KernelNBD.Connection(
            size: device.size, blockSize: UInt64(device.blockSize),
            serverFlags: UInt64(connection.transmissionFlags.rawValue),
            deadConnectionTimeoutSeconds: UInt64(orphanSeconds), identifier: exportName, sockets: [kernelEnd])
        worker.submit { [self] in
            let result = Result { () throws(BlockIOError) in try body(request) }
            // The kernel has a reference of its own, or does not want it.
            close(kernelEnd)
            reactor.perform { [self] in
                switch result {
                case .success(let index): handle(event(0, index))
                case .failure(let error):
                    logger.warning("NBD device refused by the kernel", metadata: ["error": "\(error)"])
                    handle(event(error.number, nil))
                }
            }
        }
    }

    private func fail(_ event: (Int32, UInt32?) -> KernelNBDCore.Event, _ error: Int32) {
        let event = event(error, nil)
        // Not at once: an action is being performed.
        reactor.after(.zero) { [weak self] in self?.handle(event) }
    }

    private func run(
        _ event: @escaping @Sendable (Int32) -> KernelNBDCore.Event,
        _ body: @escaping @Sendable () throws(BlockIOError) -> Void
    ) {
        worker.submit { [self] in
            var number: Int32 = 0
            do throws(BlockIOError) { try body() } catch { number = error.number }
            reactor.perform { [self, number] in handle(event(number)) }
        }
    }

    private func report(_ trouble: KernelNBDCore.Trouble) {
        let metadata: Logger.Metadata = ["device.link": "\(link.path)", "trouble": "\(trouble)"]
        switch trouble {
        case .noDevice: logger.error("volume cannot be attached", metadata: metadata)
        case .notResized: logger.error("volume not resized", metadata: metadata)
        case .notDisconnected: logger.error("volume not detached", metadata: metadata)
        case .notTakenOver: logger.warning("device of a predecessor not taken over", metadata: metadata)
        case .linkLost: logger.warning("the kernel closed the socket of a device", metadata: metadata)
        case .takenAway: logger.error("device lost", metadata: metadata)
        }
    }

    // MARK: The socket

    private func closeLink() {
        let former = connection
        connection = nil
        former?.close(reason: "replaced, or the device is gone")
    }

    func ended(_ connection: NBDConnection) {
        guard connection === self.connection else { return }
        self.connection = nil
        handle(.linkLost(wasUsed: connection.hasServed))
    }
}

extension BlockIOError {
    /// The `errno` of it; EPROTO for what has none.
    var number: Int32 {
        switch code {
        case .system(let number): number
        case .invalid, .malformed: EPROTO
        }
    }
}
