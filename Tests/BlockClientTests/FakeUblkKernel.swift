import Base
import BlockIO
import Glibc
import Synchronization

@testable import BlockClient

/// ublk_drv in memory: devices with their states, and channels on which it asks for blocks.
final class FakeUblkKernel: UblkControl {
    struct Device: Sendable {
        var info: Ublk.DeviceInfo
        var parameters: Ublk.Parameters?
        var size: UInt64 = 0
        var channel: FakeUblkChannel?
        /// Requests that nobody has answered yet: they wait for a server, or are with one.
        var requests: [UInt64: Request] = [:]
    }

    struct Request: Sendable {
        var descriptor: Ublk.Descriptor
        var bytes: [UInt8]
        /// While a server has it.
        var tag: Int?
        var result: Int32?
    }

    private struct State {
        var devices: [UInt32: Device] = [:]
        var refusals: [String: Int32] = [:]
        var commands: [String] = []
        var nextRequest: UInt64 = 1
        /// What servers committed.
        var outcomes: [UInt64: Int32] = [:]
    }

    private let state = Mutex(State())

    var commands: [String] { state.withLock { $0.commands } }
    func device(_ number: UInt32) -> Device? { state.withLock { $0.devices[number] } }
    /// What a server committed for a request, of devices that are gone too.
    func outcome(_ name: UInt64) -> Int32? { state.withLock { $0.outcomes[name] } }
    /// Refuses the command of this name from now on; 0: no longer.
    func refuse(_ command: String, with error: Int32) { state.withLock { $0.refusals[command] = error } }

    /// A device whose server has died, as a predecessor left it.
    func leave(_ number: UInt32, token: UInt64, state deviceState: Ublk.DeviceState = .quiesced) {
        var info = Ublk.DeviceInfo(token: token)
        info.device = number
        info.state = deviceState.rawValue
        state.withLock { $0.devices[number] = Device(info: info, size: 1 << 20) }
    }

    /// The server of a device has died: what it had is asked again of the next one.
    func bury(_ number: UInt32) {
        state.withLock { state in
            state.devices[number]?.channel = nil
            state.devices[number]?.info.state = Ublk.DeviceState.quiesced.rawValue
            for name in state.devices[number]?.requests.keys.sorted() ?? [] {
                if state.devices[number]?.requests[name]?.result == nil {
                    state.devices[number]?.requests[name]?.tag = nil
                }
            }
        }
    }

    private func note(_ command: String, _ number: UInt32? = nil) throws(BlockIOError) {
        let refusal = state.withLock { state in
            state.commands.append(number.map { "\(command) \($0)" } ?? command)
            return state.refusals[command] ?? 0
        }
        if refusal != 0 { throw .system(refusal, command) }
        if let number, device(number) == nil { throw .system(ENODEV, command) }
    }

    private func until(_ condition: () -> Bool) throws(BlockIOError) {
        let deadline = Reactor.now + .seconds(10)
        while !condition() {
            guard Reactor.now < deadline else { throw .system(ETIME, "wait") }
            usleep(1000)
        }
    }

    // MARK: Commands

    func add(_ info: Ublk.DeviceInfo) throws(BlockIOError) -> UInt32 {
        try note("add")
        return state.withLock { state in
            var info = info
            info.device = (0...UInt32.max).first { state.devices[$0] == nil } ?? 0
            state.devices[info.device] = Device(info: info)
            return info.device
        }
    }

    func setParameters(_ number: UInt32, _ parameters: Ublk.Parameters) throws(BlockIOError) {
        try note("setParameters", number)
        state.withLock { state in
            state.devices[number]?.parameters = parameters
            state.devices[number]?.size = parameters.size
        }
    }

    func start(_ number: UInt32) throws(BlockIOError) {
        try note("start", number)
        try until { self.device(number)?.channel?.isReady == true }
        live(number)
    }

    func startRecovery(_ number: UInt32) throws(BlockIOError) {
        try note("startRecovery", number)
        guard device(number)?.info.state == Ublk.DeviceState.quiesced.rawValue else { throw .system(EBUSY, "recovery") }
    }

    func endRecovery(_ number: UInt32) throws(BlockIOError) {
        try note("endRecovery", number)
        try until { self.device(number)?.channel?.isReady == true }
        live(number)
    }

    private func live(_ number: UInt32) {
        state.withLock { $0.devices[number]?.info.state = Ublk.DeviceState.live.rawValue }
        dispatch(number)
    }

    func updateSize(_ number: UInt32, to size: UInt64) throws(BlockIOError) {
        try note("updateSize", number)
        state.withLock { $0.devices[number]?.size = size }
    }

    func stop(_ number: UInt32) throws(BlockIOError) {
        try note("stop", number)
        // What waits without a server fails; what a server has is awaited.
        state.withLock { state in
            for name in state.devices[number]?.requests.keys.sorted() ?? [] {
                if state.devices[number]?.requests[name]?.tag == nil {
                    state.devices[number]?.requests[name]?.result = -EIO
                }
            }
        }
        try until { self.device(number)?.requests.values.allSatisfy { $0.result != nil } ?? true }
        state.withLock { $0.devices[number]?.info.state = Ublk.DeviceState.dead.rawValue }
        device(number)?.channel?.abort()
    }

    func delete(_ number: UInt32) throws(BlockIOError) {
        try note("delete", number)
        guard device(number)?.channel == nil else { throw .system(EBUSY, "delete") }
        state.withLock { $0.devices[number] = nil }
    }

    func info(_ number: UInt32) throws(BlockIOError) -> Ublk.DeviceInfo {
        guard let device = device(number) else { throw .system(ENODEV, "info") }
        return device.info
    }

    func devices() -> [UInt32] { state.withLock { $0.devices.keys.sorted() } }

    func open(_ number: UInt32) throws(BlockIOError) -> any UblkChannel {
        try note("open", number)
        let channel = FakeUblkChannel(self, number)
        state.withLock { $0.devices[number]?.channel = channel }
        return channel
    }

    // MARK: The channel's side

    func closed(_ channel: FakeUblkChannel) {
        state.withLock { state in
            if state.devices[channel.number]?.channel === channel { state.devices[channel.number]?.channel = nil }
        }
    }

    func request(_ number: UInt32, _ tag: Int) -> Request? {
        device(number)?.requests.values.first { $0.tag == tag && $0.result == nil }
    }

    func change(_ number: UInt32, _ tag: Int, _ body: (inout Request) -> Void) {
        state.withLock { state in
            guard
                let found = state.devices[number]?.requests.first(where: {
                    $0.value.tag == tag && $0.value.result == nil
                })
            else { return }
            var request = found.value
            body(&request)
            state.devices[number]?.requests[found.key] = request
            state.outcomes[found.key] = request.result
        }
    }

    /// Hands waiting requests to free tags.
    func dispatch(_ number: UInt32) {
        guard let device = device(number), device.info.state == Ublk.DeviceState.live.rawValue,
            let channel = device.channel
        else { return }
        for name in device.requests.keys.sorted() {
            guard let request = device.requests[name], request.tag == nil, request.result == nil,
                let tag = channel.takeFree()
            else { continue }
            state.withLock { $0.devices[number]?.requests[name]?.tag = tag }
            channel.deliver(tag, 0)
        }
    }

    // MARK: What a filesystem does

    /// Asks for a request and does not wait for it.
    func begin(
        _ number: UInt32, _ operation: UInt8, at sector: UInt64, sectors: UInt32, bytes: [UInt8] = []
    ) -> UInt64 {
        let descriptor = Ublk.Descriptor(operation: operation, sectors: sectors, start: sector)
        let name = state.withLock { state in
            let name = state.nextRequest
            state.nextRequest += 1
            state.devices[number]?.requests[name] = Request(descriptor: descriptor, bytes: bytes)
            return name
        }
        dispatch(number)
        return name
    }

    /// The outcome of a request, with the bytes of a read; nil: there is none after ten seconds.
    func finish(_ number: UInt32, _ name: UInt64) -> (result: Int32, bytes: [UInt8])? {
        try? until { self.device(number)?.requests[name]?.result != nil }
        guard let request = device(number)?.requests[name], let result = request.result else { return nil }
        return (result, request.bytes)
    }

    func ask(
        _ number: UInt32, _ operation: UInt8, at sector: UInt64, sectors: UInt32, bytes: [UInt8] = []
    ) -> (result: Int32, bytes: [UInt8])? {
        finish(number, begin(number, operation, at: sector, sectors: sectors, bytes: bytes))
    }
}

/// /dev/ublkcN in memory.
final class FakeUblkChannel: UblkChannel {
    private struct State {
        var free = Set<Int>()
        var hasAll = false
        var isClosed = false
    }

    let number: UInt32
    private let kernel: FakeUblkKernel
    private let state = Mutex(State())
    // SAFETY: set on the reactor's thread before any tag is offered, called there only.
    private nonisolated(unsafe) var fetched: (Int, Int32) -> Void = { _, _ in }
    private nonisolated(unsafe) var reactor: Reactor?

    init(_ kernel: FakeUblkKernel, _ number: UInt32) {
        self.kernel = kernel
        self.number = number
    }

    var isReady: Bool { state.withLock { $0.hasAll } }

    func takeFree() -> Int? { state.withLock { state in state.free.min().flatMap { state.free.remove($0) } } }

    func deliver(_ tag: Int, _ error: Int32) {
        reactor?.perform { [self] in
            if !state.withLock({ $0.isClosed }) { fetched(tag, error) }
        }
    }

    /// Gives every tag back that the kernel has.
    func abort() {
        while let tag = takeFree() { deliver(tag, Ublk.aborted) }
    }

    func start(on reactor: Reactor, fetched: @escaping (Int, Int32) -> Void) {
        self.reactor = reactor
        self.fetched = fetched
    }

    func fetch(_ tag: Int) {
        state.withLock { state in
            state.free.insert(tag)
            state.hasAll = state.hasAll || state.free.count == Ublk.queueDepth
        }
    }

    func commit(_ tag: Int, result: Int32) {
        kernel.change(number, tag) { $0.result = result }
        state.withLock { _ = $0.free.insert(tag) }
        if kernel.device(number)?.info.state == Ublk.DeviceState.dead.rawValue { abort() }
        kernel.dispatch(number)
    }

    func descriptor(_ tag: Int) -> Ublk.Descriptor {
        kernel.request(number, tag)?.descriptor ?? Ublk.Descriptor(operation: 255, sectors: 0, start: 0)
    }

    func take(_ tag: Int, into buffer: IOBuffer) -> Int32 {
        guard let bytes = kernel.request(number, tag)?.bytes, bytes.count == buffer.count else { return EFAULT }
        bytes.withUnsafeBytes { source in
            if let base = source.baseAddress { buffer.base.copyMemory(from: base, byteCount: source.count) }
        }
        return 0
    }

    func give(_ tag: Int, _ bytes: UnsafeRawBufferPointer) -> Int32 {
        kernel.change(number, tag) { $0.bytes = Array(bytes) }
        return 0
    }

    func close() {
        state.withLock { $0.isClosed = true }
        kernel.closed(self)
    }
}
