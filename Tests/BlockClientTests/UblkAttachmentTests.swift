import Base
import BlockIO
import Glibc
import Testing

@testable import BlockClient

/// Volumes as ublk devices, with a kernel in memory.
@Suite(.serialized, .timeLimit(.minutes(2))) struct UblkAttachmentTests {
    final class Setup: @unchecked Sendable {
        // SAFETY: host, device and attachment are used on the reactor's thread only.
        let directory: TemporaryDirectory
        let kernel: FakeUblkKernel
        let reactor: Reactor
        let device: MemoryDevice
        let host: UblkHost
        private let links = WorkerPool(name: "links", threads: 1)
        private var attachment: (any VolumeAttachment)?
        var link: String { directory.path + "/by-id/emc-vol-1-2" }
        var records: String { directory.path + "/ublk-devices" }

        init(
            _ kernel: FakeUblkKernel = FakeUblkKernel(), in directory: TemporaryDirectory = TemporaryDirectory(),
            device: MemoryDevice = MemoryDevice(size: 1 << 20), features: Ublk.Features = [.device, .updateSize],
            holdTime: Duration = .seconds(60)
        ) throws {
            self.kernel = kernel
            self.directory = directory
            self.device = device
            reactor = try Reactor(name: "ublk-test")
            host = try UblkHost(
                kernel, features: features, workDirectory: directory.path, holdTime: holdTime, logger: quietLogger())
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

        /// The lines of the record behind its version.
        var recorded: [String] {
            let lines = runTool("cat", [records]).output.split(separator: "\n").map(String.init)
            #expect(lines.first == "version 1")
            return Array(lines.dropFirst())
        }

        func finish() {
            onReactor { $0?.detach() }
            host.awaitDetached()
            reactor.stop()
        }
    }

    private static let coming = ["add", "setParameters 0", "open 0", "start 0"]

    @Test func theKernelReadsWritesDiscardsAndFlushes() throws {
        let setup = try Setup()
        let kernel = setup.kernel
        setup.attach()
        try #require(until { setup.target == "/dev/ublkb0" })
        let made = try #require(kernel.device(0))
        #expect(made.info.features == .device && made.info.token != 0)
        #expect(
            made.parameters
                == Ublk.Parameters(size: 1 << 20, blockSize: 4096, isReadOnly: false, hasVolatileCache: false))
        let bytes = (0..<8192).map { UInt8(truncatingIfNeeded: $0 / 7) }
        #expect(kernel.ask(0, 1, at: 16, sectors: 16, bytes: bytes)?.result == 8192)
        let read = kernel.ask(0, 0, at: 16, sectors: 16)
        #expect(read?.result == 8192 && read?.bytes == bytes)
        #expect(kernel.ask(0, 2, at: 0, sectors: 0)?.result == 0)
        #expect(kernel.ask(0, 3, at: 16, sectors: 8)?.result == 0)
        #expect(kernel.ask(0, 5, at: 24, sectors: 8)?.result == 0)
        #expect(kernel.ask(0, 0, at: 16, sectors: 16)?.bytes == [UInt8](repeating: 0, count: 8192))
        #expect(kernel.ask(0, 0, at: 2048, sectors: 8)?.result == -EINVAL)
        #expect(kernel.ask(0, 4, at: 0, sectors: 8)?.result == -EOPNOTSUPP)
        #expect(setup.recorded == ["\(made.info.token.hex) v.1"])
        setup.finish()
        #expect(kernel.commands == Self.coming + ["stop 0", "delete 0"])
        #expect(until { setup.target == nil } && setup.recorded.isEmpty)
    }

    @Test func moreRequestsThanTagsAreAllServed() throws {
        let setup = try Setup()
        setup.attach()
        try #require(until { setup.target != nil })
        let names = (0..<UInt64(4 * Ublk.queueDepth)).map { index in
            setup.kernel.begin(
                0, 1, at: index % 256 * 8, sectors: 8, bytes: [UInt8](repeating: UInt8(index % 256), count: 4096))
        }
        for name in names { #expect(setup.kernel.finish(0, name)?.result == 4096) }
        #expect(setup.kernel.ask(0, 0, at: 8 * 77, sectors: 8)?.bytes == [UInt8](repeating: 77, count: 4096))
        setup.finish()
    }

    @Test func aReadOnlyVolumeIsAReadOnlyDevice() throws {
        let setup = try Setup()
        setup.device.isReadOnly = true
        setup.attach()
        try #require(until { setup.target != nil })
        #expect(setup.kernel.device(0)?.parameters?.isReadOnly == true)
        #expect(setup.kernel.ask(0, 1, at: 0, sectors: 8, bytes: [UInt8](repeating: 1, count: 4096))?.result == -EROFS)
        setup.finish()
    }

    @Test(arguments: [true, false]) func aGrownVolumeIsAGrownDeviceWhereTheKernelCan(canResize: Bool) throws {
        let setup = try Setup(features: canResize ? [.device, .updateSize] : .device)
        setup.attach()
        try #require(until { setup.target != nil })
        setup.device.size = 2 << 20
        setup.onReactor { $0?.refreshSize() }
        if canResize { #expect(until { setup.kernel.device(0)?.size == 2 << 20 }) }
        setup.finish()
        #expect(setup.kernel.commands.contains("updateSize 0") == canResize)
    }

    /// Requests that the volume never answers fail when it is withdrawn, before the device goes.
    @Test func whatIsUnderWayFailsWithTheVolume() throws {
        let setup = try Setup()
        setup.attach()
        try #require(until { setup.target != nil })
        setup.onReactor { _ in setup.device.isSilent = true }
        let names = [
            setup.kernel.begin(0, 0, at: 0, sectors: 8),
            setup.kernel.begin(0, 1, at: 8, sectors: 8, bytes: [UInt8](repeating: 1, count: 4096)),
        ]
        #expect(until { setup.reactor.sync { setup.device.unanswered.count } == 2 })
        setup.onReactor { $0?.detach() }
        #expect(until { setup.kernel.device(0) == nil })
        #expect(setup.kernel.commands == Self.coming + ["stop 0", "delete 0"])
        #expect(names.map { setup.kernel.outcome($0) } == [-EIO, -EIO])
        // What the volume answers now is for nobody.
        setup.onReactor { _ in setup.device.answerAll(EIO) }
        setup.finish()
    }

    @Test func aFencedVolumeAnswersErrors() throws {
        let setup = try Setup()
        setup.attach()
        try #require(until { setup.target != nil })
        setup.onReactor { _ in setup.device.failure = EIO }
        #expect(setup.kernel.ask(0, 0, at: 0, sectors: 8)?.result == -EIO)
        setup.finish()
    }

    @Test(arguments: ["add", "setParameters", "open", "start"]) func whatTheKernelRefusesIsNoDevice(_ step: String)
        throws
    {
        let setup = try Setup()
        setup.kernel.refuse(step, with: EPERM)
        setup.attach()
        #expect(until { setup.kernel.commands.contains { $0.hasPrefix(step) } })
        #expect(until { setup.kernel.devices().isEmpty && setup.recorded.isEmpty })
        setup.onReactor { #expect($0?.devicePath == nil) }
        setup.finish()
        #expect(setup.target == nil)
    }

    // MARK: Successors

    private func record(_ lines: [String], version: Int = 1, in directory: TemporaryDirectory) {
        let text = (["version \(version)"] + lines).joined(separator: "\\n") + "\\n"
        runTool("sh", ["-c", "printf '\(text)' > \(directory.path)/ublk-devices"])
    }

    /// What a later release wrote is not guessed at: its devices stay, and so do others'.
    @Test func recordsOfAnotherVersionTellNothing() throws {
        let (kernel, directory) = (FakeUblkKernel(), TemporaryDirectory())
        kernel.leave(3, token: 0x31)
        record(["0000000000000031 v.1"], version: 2, in: directory)
        let setup = try Setup(kernel, in: directory)
        setup.attach()
        #expect(until { setup.target == "/dev/ublkb0" })
        setup.finish()
        #expect(kernel.devices() == [3])
    }

    /// What a process that died had not answered, and what was asked while nobody served, is answered by the next one.
    @Test func aDeathAndARestartAreOneDevice() throws {
        let (kernel, directory, device) = (FakeUblkKernel(), TemporaryDirectory(), MemoryDevice(size: 1 << 20))
        let first = try Setup(kernel, in: directory, device: device)
        first.attach()
        try #require(until { first.target == "/dev/ublkb0" })
        first.onReactor { _ in device.isSilent = true }
        let data = [UInt8](repeating: 0x42, count: 4096)
        let underWay = kernel.begin(0, 1, at: 8, sectors: 8, bytes: data)
        #expect(until { first.reactor.sync { device.unanswered.count } == 1 })
        first.reactor.stop()
        kernel.bury(0)
        let queued = kernel.begin(0, 0, at: 8, sectors: 8)
        device.unanswered = []
        device.isSilent = false
        let second = try Setup(kernel, in: directory, device: device)
        second.attach()
        #expect(kernel.finish(0, underWay)?.result == 4096)
        #expect(kernel.finish(0, queued)?.result == 4096)
        #expect(kernel.ask(0, 0, at: 8, sectors: 8)?.bytes == data)
        second.finish()
        #expect(
            kernel.commands == Self.coming + [
                "startRecovery 0", "open 0", "endRecovery 0", "updateSize 0", "stop 0", "delete 0",
            ])
    }

    /// Devices are known by their tokens: neither a number nor a stale line is enough.
    @Test func aSuccessorTakesOverWhatIsItsOwn() throws {
        let (kernel, directory) = (FakeUblkKernel(), TemporaryDirectory())
        kernel.leave(2, token: 0x21)
        kernel.leave(3, token: 0x31)
        kernel.leave(4, token: 0x41)
        kernel.leave(5, token: 0x51, state: .dead)
        let lines = [
            "0000000000000031 v.1", "0000000000000041 w.7", "0000000000000051 x.1", "0000000000000061 y.1", "no record",
            "7 z.1", "000000000000000000000021 v.1",
        ]
        record(lines, in: directory)
        let setup = try Setup(kernel, in: directory)
        // What was never started goes at once.
        #expect(until { kernel.device(5) == nil })
        setup.attach(as: "v.1")
        try #require(until { setup.target == "/dev/ublkb3" })
        #expect(kernel.ask(3, 0, at: 0, sectors: 8)?.result == 4096)
        setup.onReactor { _ in setup.host.forgetExpected() }
        #expect(until { kernel.device(4) == nil && setup.recorded == ["0000000000000031 v.1"] })
        setup.finish()
        #expect(kernel.devices() == [2] && setup.recorded.isEmpty)
    }

    @Test func theFormerServerIsAwaited() throws {
        let (kernel, directory) = (FakeUblkKernel(), TemporaryDirectory())
        kernel.leave(3, token: 0x31, state: .live)
        record(["0000000000000031 v.1"], in: directory)
        let setup = try Setup(kernel, in: directory)
        setup.attach()
        #expect(until { kernel.commands.filter { $0 == "startRecovery 3" }.count >= 2 })
        kernel.bury(3)
        #expect(until { setup.target == "/dev/ublkb3" })
        setup.finish()
    }

    @Test func aDeviceThatCannotBeRecoveredIsReplaced() throws {
        let (kernel, directory) = (FakeUblkKernel(), TemporaryDirectory())
        kernel.leave(3, token: 0x31)
        kernel.refuse("startRecovery", with: EINVAL)
        record(["0000000000000031 v.1"], in: directory)
        let setup = try Setup(kernel, in: directory)
        setup.attach()
        #expect(until { setup.target == "/dev/ublkb0" })
        #expect(kernel.device(3) == nil)
        #expect(setup.recorded == ["\(kernel.device(0)?.info.token.hex ?? "") v.1"])
        setup.finish()
    }

    @Test func whatNobodyComesForGoes() throws {
        let (kernel, directory) = (FakeUblkKernel(), TemporaryDirectory())
        kernel.leave(3, token: 0x31)
        record(["0000000000000031 v.1"], in: directory)
        let request = kernel.begin(3, 0, at: 0, sectors: 8)
        kernel.refuse("delete", with: EBUSY)
        let setup = try Setup(kernel, in: directory, holdTime: .milliseconds(1))
        #expect(kernel.finish(3, request)?.result == -EIO)
        setup.finish()
    }
}
