import BlockIO
import Glibc

/// Serves the requests of one ublk device from a block device: performs the actions of a `UblkQueue`.
///
/// Used on the reactor's thread.
final class UblkServer: BlockRequestOwner {
    private let device: any BlockDeviceBackend
    private let channel: any UblkChannel
    private let reactor: Reactor
    private var queue: UblkQueue
    private var events: [UblkQueue.Event] = []
    private var actions: [UblkQueue.Action] = []
    private var isHandling = false
    private var isClosed = false
    /// Called when the kernel has given all tags back, or refuses our commands.
    private let over: () -> Void
    private let fault: (Int32) -> Void

    init(
        _ device: any BlockDeviceBackend, _ channel: any UblkChannel, depth: Int = Ublk.queueDepth,
        on reactor: Reactor, over: @escaping () -> Void, fault: @escaping (Int32) -> Void
    ) {
        self.device = device
        self.channel = channel
        self.reactor = reactor
        self.over = over
        self.fault = fault
        queue = UblkQueue(depth: depth)
    }

    /// Offers every tag.
    func start() {
        channel.start(on: reactor) { [weak self] tag, error in self?.fetched(tag, error) }
        handle(.start)
    }

    /// What is being served fails, and all that comes.
    func failRequests() { handle(.withdraw) }

    /// No request is answered any more.
    func close() {
        isClosed = true
        channel.close()
    }

    private func fetched(_ tag: Int, _ error: Int32) {
        handle(.fetched(tag, error: error, error == 0 ? channel.descriptor(tag) : nil))
    }

    func ended(_ tag: UInt64, error: Int32, bytes: IOSlice?) {
        guard !isClosed else { return }
        let tag = Int(tag)
        var error = error
        if error == 0, let bytes, queue.isServed(tag) { error = channel.give(tag, bytes.bytes) }
        handle(.served(tag, error: error))
    }

    /// Events that arise while actions are performed wait, so that the core is never entered twice.
    private func handle(_ event: UblkQueue.Event) {
        guard !isClosed else { return }
        events.append(event)
        guard !isHandling else { return }
        isHandling = true
        var position = 0
        while position < events.count && !isClosed {
            let limits = UblkQueue.Limits(
                size: device.size, blockSize: device.blockSize, isReadOnly: device.isReadOnly)
            queue.apply(events[position], limits, into: &actions)
            position += 1
            let due = actions
            actions.removeAll(keepingCapacity: true)
            for action in due { perform(action) }
        }
        events.removeAll(keepingCapacity: true)
        isHandling = false
    }

    private func perform(_ action: UblkQueue.Action) {
        guard !isClosed else { return }
        switch action {
        case .fetch(let tag): channel.fetch(tag)
        case .commit(let tag, let result): channel.commit(tag, result: result)
        case .serve(let tag, let request): serve(tag, request)
        case .fault(let error): fault(error)
        case .over: over()
        }
    }

    private func serve(_ tag: Int, _ request: UblkQueue.Request) {
        let name = UInt64(tag)
        switch request {
        case .read(let offset, let count):
            device.submit(.read(count: count), at: offset, tag: name, for: self)
        case .write(let offset, let count):
            let buffer = reactor.buffers.take(count)
            let error = channel.take(tag, into: buffer)
            guard error == 0 else { return handle(.served(tag, error: error)) }
            device.submit(.write(IOSlice(buffer)), at: offset, tag: name, for: self)
        case .flush: device.submit(.flush, at: 0, tag: name, for: self)
        case .discard(let offset, let count):
            device.submit(.trim(count: count), at: offset, tag: name, for: self)
        case .zeroes(let offset, let count):
            device.submit(.zeroes(count: count), at: offset, tag: name, for: self)
        }
    }
}
