import Base
import BlockIO
import Glibc
import Synchronization
import Testing

@testable import BlockClient

/// ublk_drv and the kernel's NBD client themselves, over a device in memory: what they ask of us, and what becomes of a
/// device whose server dies.
@Suite(.serialized, .timeLimit(.minutes(5))) struct KernelDeviceTests {
    enum Driver: String, CaseIterable, Sendable {
        case ublk, nbd

        var isHere: Bool {
            let driver: BlockClientService.DeviceDriver = self == .ublk ? .ublk : .nbd
            return geteuid() == 0 && (try? DriverProbes.host.ask(for: driver)) != nil
        }

        func host(in directory: String) throws -> any DeviceHost {
            switch self {
            case .ublk:
                let control = try UblkControlDevice()
                return try UblkHost(
                    control, features: try control.features(), workDirectory: directory, holdTime: .seconds(60),
                    logger: quietLogger())
            case .nbd:
                let control = NetlinkNBDControl(family: try NetlinkSocket().family(KernelNBD.familyName))
                return try KernelNBDHost(control, client: directory, holdTime: .seconds(60), logger: quietLogger())
            }
        }
    }

    static let drivers = Driver.allCases.filter(\.isHere)

    /// A client with one volume.
    final class Server: @unchecked Sendable {
        // SAFETY: host, device and attachment are used on the reactor's thread only.
        let reactor: Reactor
        let device: MemoryDevice
        let directory: TemporaryDirectory
        let link: String
        private var host: (any DeviceHost)?
        private var attachment: (any VolumeAttachment)?
        private let links = WorkerPool(name: "links", threads: 1)

        init(_ driver: Driver, in directory: TemporaryDirectory, device: MemoryDevice) throws {
            reactor = try Reactor(name: "device-test")
            self.device = device
            self.directory = directory
            link = directory.path + "/by-id/volume"
            #expect(reactor.openDiskRing())
            host = try driver.host(in: directory.path)
            reactor.start()
            let isStarted = reactor.sync { [self] in
                guard let host, (try? host.start(on: reactor)) != nil else { return false }
                let link = DeviceLink(link, queue: links, logger: quietLogger())
                attachment = host.attach(device, as: "v.1", link: link)
                return true
            }
            #expect(isStarted == true)
        }

        func onReactor(_ body: @escaping @Sendable ((any VolumeAttachment)?) -> Void) {
            _ = reactor.sync { [self] in
                body(attachment)
                return true
            }
        }

        /// As when a process dies: everything closes, and nothing is said to the kernel.
        func die() {
            reactor.stop()
            while !reactor.isDone { usleep(1000) }
            attachment = nil
            host = nil
        }

        func detach() { onReactor { $0?.detach() } }

        func finish() {
            detach()
            host?.awaitDetached()
            reactor.stop()
        }
    }

    private func target(_ server: Server) -> String? {
        let read = runTool("readlink", [server.link])
        return read.status == 0 ? String(read.output.prefix { $0 != "\n" }) : nil
    }

    private func fio(_ path: String, _ arguments: String...) -> (status: Int32, output: String) {
        let words = [
            "--name=v", "--filename=\(path)", "--ioengine=libaio", "--direct=1", "--bs=4k", "--verify=crc32c",
            "--verify_state_save=0", "--do_verify=1",
        ]
        return runTool("fio", words + arguments, seconds: 120)
    }

    @Test(
        .enabled(if: !drivers.isEmpty, "this kernel has neither ublk_drv of 6.5 or later nor an NBD client"),
        arguments: drivers)
    func aVolumeIsReadWrittenGrownAndWithdrawn(_ driver: Driver) throws {
        let directory = TemporaryDirectory()
        let server = try Server(driver, in: directory, device: MemoryDevice(size: 64 << 20))
        defer { server.finish() }
        try #require(until(seconds: 60) { target(server) != nil && access(server.link, F_OK) == 0 })
        let path = try #require(target(server))
        let facts = runTool("blockdev", ["--getsize64", "--getss", "--getpbsz", "--getro", path])
        #expect(facts.output == "67108864\n4096\n4096\n0\n", "\(facts.output)")
        let verified = fio(path, "--rw=randwrite", "--iodepth=64", "--size=4m")
        #expect(verified.status == 0, "\(verified.output)")
        let large = fio(path, "--rw=write", "--bs=2m", "--iodepth=4", "--size=32m")
        #expect(large.status == 0, "\(large.output)")
        #expect(server.reactor.sync { !server.device.isZero(from: 1 << 20, to: 3 << 20) } == true)
        let discarded = runTool("blkdiscard", ["-o", "1048576", "-l", "1048576", path])
        let zeroed = runTool("blkdiscard", ["-z", "-o", "2097152", "-l", "1048576", path])
        #expect(discarded.status == 0 && zeroed.status == 0, "\(discarded.output) \(zeroed.output)")
        #expect(server.reactor.sync { server.device.isZero(from: 1 << 20, to: 3 << 20) } == true)
        #expect(server.reactor.sync { !server.device.isZero(from: 0, to: 1 << 20) } == true)
        server.onReactor { attachment in
            server.device.size = 48 << 20
            attachment?.refreshSize()
        }
        // ublk learnt that in 6.16.
        let canResize = driver == .nbd || (try? UblkControlDevice().features().contains(.updateSize)) == true
        if canResize {
            #expect(until(seconds: 60) { runTool("blockdev", ["--getsize64", path]).output == "50331648\n" })
        }
        // An error of the volume is the device's; then the device goes under an open file.
        let file = open(path, O_RDWR | 0o40000 | O_CLOEXEC)
        try #require(file >= 0)
        let buffer = IOBuffer(zeros: 4096)
        #expect(pwrite(file, buffer.base, 4096, 0) == 4096)
        server.onReactor { _ in server.device.failure = EIO }
        #expect(pwrite(file, buffer.base, 4096, 0) == -1 && errno == EIO)
        server.detach()
        #expect(until(seconds: 60) { target(server) == nil })
        #expect(pwrite(file, buffer.base, 4096, 0) == -1)
        close(file)
    }

    @Test(
        .enabled(if: !drivers.isEmpty, "this kernel has neither ublk_drv of 6.5 or later nor an NBD client"),
        arguments: drivers)
    func aReadOnlyVolumeIsAReadOnlyDevice(_ driver: Driver) throws {
        let device = MemoryDevice(size: 16 << 20)
        device.isReadOnly = true
        let server = try Server(driver, in: TemporaryDirectory(), device: device)
        defer { server.finish() }
        try #require(until(seconds: 60) { target(server) != nil && access(server.link, F_OK) == 0 })
        #expect(runTool("blockdev", ["--getro", server.link]).output == "1\n")
        #expect(runTool("dd", ["if=\(server.link)", "of=/dev/null", "bs=1M", "count=4", "iflag=direct"]).status == 0)
        let written = runTool("dd", ["if=/dev/zero", "of=\(server.link)", "bs=4k", "count=1", "oflag=direct"])
        #expect(written.status != 0)
    }

    /// What is under way when the server dies, and what comes before the next one serves, is answered by that.
    @Test(
        .enabled(if: !drivers.isEmpty, "this kernel has neither ublk_drv of 6.5 or later nor an NBD client"),
        arguments: drivers)
    func aFileInUseOutlivesItsServer(_ driver: Driver) throws {
        let directory = TemporaryDirectory()
        let device = MemoryDevice(size: 16 << 20)
        let first = try Server(driver, in: directory, device: device)
        try #require(until(seconds: 60) { target(first) != nil && access(first.link, F_OK) == 0 })
        let path = try #require(target(first))
        let outcome = ResultBox<Int32>()
        startThread(name: "fio") {
            let run = self.fio(path, "--rw=randwrite", "--iodepth=8", "--size=4m", "--rate_iops=200")
            if run.status != 0 { print(run.output) }
            outcome.set(run.status)
        }
        #expect(until(seconds: 60) { first.reactor.sync { !device.isZero(from: 0, to: 4 << 20) } == true })
        first.onReactor { _ in device.isSilent = true }
        #expect(until(seconds: 60) { first.reactor.sync { !device.unanswered.isEmpty } == true })
        first.die()
        device.unanswered = []
        device.isSilent = false
        let second = try Server(driver, in: directory, device: device)
        defer { second.finish() }
        #expect(outcome.wait(seconds: 120) == 0)
        #expect(target(second) == path)
    }
}
