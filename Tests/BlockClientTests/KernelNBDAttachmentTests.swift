import Base
import BlockIO
import Glibc
import Synchronization
import Testing

@testable import BlockClient

/// The kernel's NBD client in memory: it takes sockets as netlink hands them over, and asks for blocks on them.
final class FakeNBDKernel: KernelNBDControl {
    struct Device: Sendable {
        var index: UInt32
        var connection: KernelNBD.Connection
        /// The kernel's own reference to the socket; nil: dead.
        var socket: Int32?
        var size: UInt64
    }

    private struct State {
        var devices: [UInt32: Device] = [:]
        var refusal: Int32 = 0
        /// RECONFIGURE leaves so many sockets untaken, as if the old ones were not known to be dead.
        var untaken = 0
        var commands: [String] = []
    }

    private let state = Mutex(State())

    var commands: [String] { state.withLock { $0.commands } }
    func device(_ index: UInt32) -> Device? { state.withLock { $0.devices[index] } }
    func refuse(with error: Int32) { state.withLock { $0.refusal = error } }
    func leaveUntaken(_ count: Int) { state.withLock { $0.untaken = count } }

    /// A device whose server has died, as a predecessor left it.
    func leave(_ index: UInt32, identifier: String) {
        let connection = KernelNBD.Connection(
            size: 1 << 20, blockSize: 4096, serverFlags: 1, deadConnectionTimeoutSeconds: 180, identifier: identifier,
            sockets: [])
        state.withLock {
            $0.devices[index] = Device(index: index, connection: connection, socket: nil, size: connection.size)
        }
    }

    /// The kernel finds a socket dead.
    func breakLink(_ index: UInt32) {
        let socket = state.withLock { $0.devices[index]?.socket.take() }
        if let socket { close(socket) }
    }

    private func note(_ command: String) throws(BlockIOError) {
        let refusal = state.withLock { state in
            state.commands.append(command)
            return state.refusal
        }
        if refusal != 0 { throw .system(refusal, command) }
    }

    func connect(_ connection: KernelNBD.Connection) throws(BlockIOError) -> UInt32 {
        try note("connect")
        let socket = dup(connection.sockets[0])
        return state.withLock { state in
            let index = (0...UInt32.max).first { state.devices[$0] == nil } ?? 0
            state.devices[index] = Device(index: index, connection: connection, socket: socket, size: connection.size)
            return index
        }
    }

    func reconnect(_ index: UInt32, _ connection: KernelNBD.Connection) throws(BlockIOError) {
        try note("reconnect \(index)")
        let error: Int32 = state.withLock { state in
            guard let device = state.devices[index], device.connection.identifier == connection.identifier else {
                return EINVAL
            }
            state.devices[index]?.size = connection.size
            state.untaken -= 1
            if device.socket == nil, state.untaken < 0 {
                state.devices[index]?.socket = dup(connection.sockets[0])
            }
            return 0
        }
        if error != 0 { throw .system(error, "reconnect") }
    }

    func resize(_ index: UInt32, to size: UInt64, identifier: String) throws(BlockIOError) {
        try note("resize \(index)")
        let isKnown = state.withLock { state in
            guard state.devices[index]?.connection.identifier == identifier else { return false }
            state.devices[index]?.size = size
            return true
        }
        if !isKnown { throw .system(EINVAL, "resize") }
    }

    func disconnect(_ index: UInt32) throws(BlockIOError) {
        try note("disconnect \(index)")
        breakLink(index)
        state.withLock { $0.devices[index] = nil }
    }

    func identified() throws(BlockIOError) -> [(index: UInt32, identifier: String)] {
        state.withLock { state in
            state.devices.values.sorted { $0.index < $1.index }.map { ($0.index, $0.connection.identifier) }
        }
    }

    // MARK: What a filesystem does

    /// Sends a request as drivers/block/nbd.c does; answers the error number and what was read, or nil when the socket
    /// is dead.
    func ask(
        _ index: UInt32, _ type: UInt16, flags: UInt16 = 0, at offset: UInt64, length: UInt32, payload: [UInt8] = []
    ) -> (error: UInt32, bytes: [UInt8])? {
        guard let socket = device(index)?.socket else { return nil }
        let cookie = UInt64.random(in: 0...UInt64.max)
        var request = big(UInt32(0x2560_9513)) + big(flags) + big(type) + big(cookie) + big(offset) + big(length)
        request += payload
        guard send(socket, request, request.count, Int32(MSG_NOSIGNAL)) == request.count,
            let reply = receive(socket, 16), Array(reply[..<4]) == big(UInt32(0x6744_6698)),
            Array(reply[8...]) == big(cookie)
        else { return nil }
        let error = reply[4..<8].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
        guard type == 0, error == 0 else { return (error, []) }
        return receive(socket, Int(length)).map { (0, $0) }
    }

    private func receive(_ socket: Int32, _ count: Int) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: count)
        return recv(socket, &bytes, count, Int32(MSG_WAITALL)) == count ? bytes : nil
    }

    private func big(_ number: some FixedWidthInteger) -> [UInt8] {
        withUnsafeBytes(of: number.bigEndian) { Array($0) }
    }
}

/// Volumes as devices of the kernel's NBD client, with a kernel in memory.
@Suite(.serialized, .timeLimit(.minutes(2))) struct KernelNBDAttachmentTests {
    final class Setup: @unchecked Sendable {
        // SAFETY: host, device and attachment are used on the reactor's thread only.
        let directory = TemporaryDirectory()
        let kernel: FakeNBDKernel
        let reactor: Reactor
        let device = MemoryDevice(size: 1 << 20)
        let host: KernelNBDHost
        private let links = WorkerPool(name: "links", threads: 1)
        private var attachment: (any VolumeAttachment)?
        var link: String { directory.path + "/by-id/emc-vol-1-2" }

        init(_ kernel: FakeNBDKernel = FakeNBDKernel(), client: String = "C1", holdTime: Duration = .seconds(60)) throws
        {
            self.kernel = kernel
            reactor = try Reactor(name: "kernel-nbd-test")
            host = try KernelNBDHost(kernel, client: client, holdTime: holdTime, logger: quietLogger())
            reactor.start()
            _ = reactor.sync { [self] in
                host.start(on: reactor)
                return true
            }
        }

        func attach(as name: String = "v.1") {
            _ = reactor.sync { [self] in
                let link = DeviceLink(link, queue: links, logger: quietLogger())
                attachment = host.attach(device, as: name, link: link)
                return true
            }
        }

        func onReactor(_ body: @escaping @Sendable ((any VolumeAttachment)?) -> Void) {
            _ = reactor.sync { [self] in
                body(attachment)
                return true
            }
        }

        /// Where the link leads to.
        var target: String? {
            let read = runTool("readlink", [link])
            return read.status == 0 ? String(read.output.prefix { $0 != "\n" }) : nil
        }

        /// As when the process is killed: every socket closes and nothing is said to the kernel.
        func die() { reactor.stop() }

        func finish() {
            onReactor { $0?.detach() }
            host.awaitDetached()
            reactor.stop()
        }
    }

    @Test func theKernelReadsWritesAndIsToldWhatTheVolumeCanDo() throws {
        let setup = try Setup()
        setup.attach()
        try #require(until { setup.target == "/dev/nbd0" })
        let connection = try #require(setup.kernel.device(0)).connection
        #expect(connection.size == 1 << 20 && connection.blockSize == 4096)
        #expect(connection.identifier == "holdfast/C1/v.1" && connection.requestTimeoutSeconds == 0)
        // HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES, CAN_MULTI_CONN.
        #expect(connection.serverFlags == 0x16d)
        let block = [UInt8](repeating: 0x5a, count: 4096)
        #expect(setup.kernel.ask(0, 1, flags: 1, at: 8192, length: 4096, payload: block)?.error == 0)
        #expect(setup.kernel.ask(0, 0, at: 8192, length: 4096)?.bytes == block)
        #expect(setup.kernel.ask(0, 3, at: 0, length: 0)?.error == 0)
        #expect(setup.kernel.ask(0, 4, at: 8192, length: 4096)?.error == 0)
        #expect(setup.kernel.ask(0, 0, at: 8192, length: 4096)?.bytes == [UInt8](repeating: 0, count: 4096))
        #expect(setup.kernel.ask(0, 0, at: 1 << 20, length: 4096)?.error == 22)
        setup.finish()
        #expect(setup.kernel.commands == ["connect", "disconnect 0"])
        #expect(until { setup.target == nil })
    }

    @Test func aReadOnlyVolumeIsAReadOnlyDevice() throws {
        let setup = try Setup()
        setup.device.isReadOnly = true
        setup.attach()
        try #require(until { setup.target != nil })
        #expect(setup.kernel.device(0)?.connection.serverFlags == 0x16f)
        let block = [UInt8](repeating: 1, count: 4096)
        #expect(setup.kernel.ask(0, 1, at: 0, length: 4096, payload: block)?.error == 1)
        setup.finish()
    }

    @Test func aGrownVolumeIsAGrownDevice() throws {
        let setup = try Setup()
        setup.attach()
        try #require(until { setup.target != nil })
        setup.device.size = 2 << 20
        setup.onReactor { $0?.refreshSize() }
        #expect(until { setup.kernel.device(0)?.size == 2 << 20 })
        setup.finish()
    }

    /// The volume fails its requests before the device goes.
    @Test func aFencedVolumeAnswersErrorsAndGoes() throws {
        let setup = try Setup()
        setup.attach()
        try #require(until { setup.target != nil })
        setup.onReactor { _ in setup.device.failure = EIO }
        #expect(setup.kernel.ask(0, 0, at: 0, length: 4096)?.error == 5)
        setup.finish()
        #expect(setup.kernel.device(0) == nil && setup.kernel.commands.last == "disconnect 0")
    }

    @Test func whatTheKernelRefusesIsNoDevice() throws {
        let setup = try Setup()
        setup.kernel.refuse(with: EPERM)
        setup.attach()
        #expect(until { setup.kernel.commands == ["connect"] })
        setup.onReactor { #expect($0?.devicePath == nil) }
        setup.finish()
        #expect(setup.kernel.commands == ["connect"] && setup.target == nil)
    }

    @Test func aSocketThatBreaksIsReplaced() throws {
        let setup = try Setup()
        setup.attach()
        try #require(until { setup.target != nil })
        setup.kernel.leaveUntaken(2)
        setup.kernel.breakLink(0)
        #expect(until { setup.kernel.device(0)?.socket != nil })
        #expect(setup.kernel.commands == ["connect", "reconnect 0", "reconnect 0", "reconnect 0"])
        #expect(setup.kernel.ask(0, 0, at: 0, length: 4096)?.error == 0)
        setup.finish()
    }

    /// The successor of a process that died finds the devices of its own mappings, and no others.
    @Test func aSuccessorTakesOverWhatIsItsOwn() throws {
        let kernel = FakeNBDKernel()
        kernel.leave(3, identifier: "holdfast/C1/v.1")
        kernel.leave(4, identifier: "holdfast/C1/w.7")
        kernel.leave(5, identifier: "holdfast/C2/v.1")
        kernel.leave(6, identifier: "something else")
        let setup = try Setup(kernel)
        setup.attach(as: "v.1")
        try #require(until { setup.target == "/dev/nbd3" })
        #expect(kernel.ask(3, 0, at: 0, length: 4096)?.error == 0)
        // What is no longer mapped here goes; what others have stays.
        setup.onReactor { _ in setup.host.forgetExpected() }
        #expect(until { kernel.device(4) == nil })
        #expect(kernel.commands == ["reconnect 3", "disconnect 4"])
        setup.finish()
        #expect(kernel.device(5) != nil && kernel.device(6) != nil && kernel.device(3) == nil)
    }

    @Test func theLaterEpochOfAVolumeIsAnotherDevice() throws {
        let kernel = FakeNBDKernel()
        kernel.leave(3, identifier: "holdfast/C1/v.1")
        let setup = try Setup(kernel, holdTime: .milliseconds(1))
        #expect(until { kernel.device(3) == nil }, "nobody came for it")
        setup.attach(as: "v.2")
        #expect(until { setup.target == "/dev/nbd0" })
        setup.finish()
    }

    @Test func aDeathAndARestartAreOneDevice() throws {
        let kernel = FakeNBDKernel()
        let first = try Setup(kernel)
        first.attach()
        try #require(until { first.target == "/dev/nbd0" })
        first.die()
        kernel.breakLink(0)
        let second = try Setup(kernel)
        second.attach()
        #expect(until { kernel.device(0)?.socket != nil })
        let block = [UInt8](repeating: 0x11, count: 4096)
        #expect(kernel.ask(0, 1, at: 0, length: 4096, payload: block)?.error == 0)
        second.finish()
        #expect(kernel.commands == ["connect", "reconnect 0", "disconnect 0"])
    }
}
