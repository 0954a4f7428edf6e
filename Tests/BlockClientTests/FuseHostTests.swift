import Base
import BlockIO
import Glibc
import Testing

@testable import BlockClient

/// Loop devices over a FUSE mount whose server dies, with a real keeper.
@Suite(
    .serialized, .timeLimit(.minutes(3)),
    .enabled(if: geteuid() == 0 && (try? DriverProbes.host.fuse()) != nil, "there is no FUSE here, or no loop device"))
struct FuseHostTests {
    /// A client without its manager.
    final class Client: @unchecked Sendable {
        // SAFETY: host and attachments are used on the reactor's thread only.
        let reactor: Reactor
        private let directory: String
        private var host: FuseHost?
        private var attachments: [String: any VolumeAttachment] = [:]
        private let links = WorkerPool(name: "links", threads: 1)

        init(
            in directory: TemporaryDirectory,
            handOutAgain: (Int32) throws(BlockIOError) -> Void = FuseMount.handOutAgain
        ) throws {
            self.directory = directory.path
            reactor = try Reactor(name: "fuse-host-test")
            host = try FuseHost(
                workDirectory: directory.path, holdTime: .seconds(60), logger: quietLogger(),
                handOutAgain: handOutAgain)
            reactor.start()
            let isStarted = reactor.sync { [self] in host.map { (try? $0.start(on: reactor)) != nil } }
            #expect(isStarted == true)
        }

        /// Waits for the device of a volume, and until the keeper has been told of it: before, it would die with us.
        func attach(_ device: MemoryDevice, as name: String = "v.1") throws -> String {
            let link = DeviceLink("\(directory)/by-id/\(name)", queue: links, logger: quietLogger())
            _ = reactor.sync { [self] in attachments[name] = host?.attach(device, as: name, link: link) }
            let isThere = until { link.device != nil }
            #expect(isThere)
            let path = reactor.sync { [self] in attachments[name]?.devicePath }
            return try #require(path ?? nil)
        }

        func forgetExpected() { _ = reactor.sync { [self] in host?.forgetExpected() } }

        /// As when a process dies: everything closes, and nothing is said to the kernel or the keeper.
        func die() {
            _ = reactor.sync { [self] in host?.close() }
            reactor.stop()
            while !reactor.isDone { usleep(1000) }
            attachments = [:]
            host = nil
        }

        func finish() {
            _ = reactor.sync { [self] in
                host?.willStop()
                for attachment in attachments.values { attachment.detach() }
            }
            host?.awaitDetached()
            _ = reactor.sync { [self] in host?.close() }
            reactor.stop()
        }
    }

    private func reads(_ path: String) -> Bool {
        let file = open(path, O_RDWR | 0o40000 | O_CLOEXEC)
        defer { close(file) }
        return file >= 0 && read(file) == 4096
    }

    /// Reads the first block: how many bytes came, or a negative errno.
    private func read(_ file: Int32) -> Int {
        let buffer = IOBuffer(zeros: 4096)
        return withExtendedLifetime(buffer) {
            let count = pread(file, buffer.base, 4096, 0)
            return count < 0 ? Int(-errno) : count
        }
    }

    @Test func aVolumeThatIsBackInTimeHasItsDevice() throws {
        let directory = TemporaryDirectory()
        let first = try Client(in: directory)
        let path = try first.attach(MemoryDevice(size: 1 << 20))
        first.die()
        let second = try Client(in: directory)
        defer { second.finish() }
        #expect(try second.attach(MemoryDevice(size: 1 << 20)) == path)
        #expect(reads(path))
    }

    @Test func aVolumeThatGrewMeanwhileHasItsSize() throws {
        let directory = TemporaryDirectory()
        let first = try Client(in: directory)
        let path = try first.attach(MemoryDevice(size: 1 << 20))
        #expect(runTool("blockdev", ["--getsize64", path]).output == "1048576\n")
        first.die()
        let second = try Client(in: directory)
        defer { second.finish() }
        #expect(try second.attach(MemoryDevice(size: 3 << 20)) == path)
        #expect(runTool("blockdev", ["--getsize64", path]).output == "3145728\n")
    }

    /// Its device has failed for good, and stays for as long as somebody has it open.
    @Test func aVolumeThatIsBackTooLateHasAnotherDevice() throws {
        let directory = TemporaryDirectory()
        let first = try Client(in: directory)
        let path = try first.attach(MemoryDevice(size: 1 << 20))
        let user = open(path, O_RDONLY | O_CLOEXEC)
        try #require(user >= 0)
        defer { close(user) }
        first.die()
        let second = try Client(in: directory)
        second.forgetExpected()
        let late = try second.attach(MemoryDevice(size: 1 << 20))
        #expect(late != path)
        #expect(reads(late) && !reads(path))
        second.die()
        // Two devices have files of the same path now.
        let third = try Client(in: directory)
        defer { third.finish() }
        #expect(try third.attach(MemoryDevice(size: 1 << 20)) == late)
        #expect(reads(late))
    }

    /// A read that the first client has taken and never answers. What became of it: the bytes read, or a negative errno.
    private func lostRead(_ path: String, _ device: MemoryDevice, of client: Client) -> ResultBox<Int> {
        let outcome = ResultBox<Int>()
        _ = client.reactor.sync { device.isSilent = true }
        startThread(name: "lost-read") {
            let file = open(path, O_RDONLY | 0o40000 | O_CLOEXEC)
            outcome.set(read(file))
            close(file)
        }
        let isTaken = until { client.reactor.sync { !device.unanswered.isEmpty } == true }
        #expect(isTaken)
        return outcome
    }

    @Test(.enabled(if: FuseHostTests.handsOutAgain, "kernels hand FUSE requests out again from Linux 6.9 on"))
    func aSuccessorAnswersWhatItsPredecessorHadTaken() throws {
        let directory = TemporaryDirectory()
        let first = try Client(in: directory)
        let device = MemoryDevice(size: 1 << 20)
        let path = try first.attach(device)
        let outcome = lostRead(path, device, of: first)
        first.die()
        let second = try Client(in: directory)
        defer { second.finish() }
        #expect(try second.attach(MemoryDevice(size: 1 << 20)) == path)
        #expect(outcome.wait(seconds: 20) == 4096)
    }

    @Test func whereTheKernelDoesNotHandOutAgainNobodyWaitsForEver() throws {
        let directory = TemporaryDirectory()
        let first = try Client(in: directory)
        let device = MemoryDevice(size: 1 << 20)
        let outcome = lostRead(try first.attach(device), device, of: first)
        first.die()
        let second = try Client(in: directory) { _ throws(BlockIOError) in throw .system(EINVAL, "write") }
        defer { second.finish() }
        #expect(outcome.wait(seconds: 20) == Int(-EIO))
        let path = try second.attach(MemoryDevice(size: 1 << 20))
        #expect(reads(path))
    }

    private static var handsOutAgain: Bool {
        var name = utsname()
        uname(&name)
        let release = withUnsafeBytes(of: name.release) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        let numbers = release.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
        return numbers.count == 2 && (numbers[0], numbers[1]) >= (6, 9)
    }
}
