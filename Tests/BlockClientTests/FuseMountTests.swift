import Base
import BlockIO
import Glibc
import Testing

@testable import BlockClient

@Suite(.serialized) struct FuseMountTests {
    final class Setup: @unchecked Sendable {
        // SAFETY: `mount` and `device` are used on the reactor's thread only.
        let directory = TemporaryDirectory()
        let reactor: Reactor
        let device: MemoryDevice
        var mount: FuseMount?
        var file: String { directory.path + "/mnt/vol" }

        init(size: Int = 64 << 20) throws {
            reactor = try Reactor(name: "fuse-test")
            device = MemoryDevice(size: size)
            reactor.start()
            let path = directory.path + "/mnt"
            let descriptor = try FuseMount.open(on: path)
            let made = reactor.sync { [self] in
                mount = try? FuseMount(
                    descriptor: descriptor, directory: path, on: reactor, logger: quietLogger())
                mount?.add("vol", device: device)
                return mount != nil
            }
            #expect(made == true)
        }

        /// As when a process dies and another takes over: nothing is said to the kernel in between.
        func succeed(with record: FuseRecord) {
            let succeeded = reactor.sync { [self] in
                guard let old = mount else { return false }
                let descriptor = dup(old.descriptor)
                old.close()
                guard (try? FuseMount.handOutAgain(descriptor)) != nil else { return false }
                mount = try? FuseMount(
                    descriptor: descriptor, directory: old.directory, on: reactor, logger: quietLogger())
                mount?.expect(record)
                return mount != nil
            }
            #expect(succeeded == true)
        }

        func finish() {
            FuseMount.detach(directory.path + "/mnt")
            _ = reactor.sync { [self] in mount?.close() }
            reactor.stop()
        }
    }

    @Test func showsOneFileAndVerifiesWithFio() throws {
        let setup = try Setup()
        defer { setup.finish() }
        #expect(runTool("stat", ["-c", "%s %F", setup.file]).output == "67108864 regular file\n")
        #expect(runTool("stat", [setup.directory.path + "/mnt/other"]).status != 0)
        let fio = runTool(
            "fio",
            [
                "--name=v", "--ioengine=libaio", "--direct=1", "--filename=\(setup.file)", "--rw=randwrite", "--bs=4k",
                "--iodepth=32", "--size=16m", "--verify=crc32c", "--verify_state_save=0", "--do_verify=1", "--minimal",
            ])
        #expect(fio.status == 0, "\(fio.output)")
        let large = runTool(
            "dd", ["if=/dev/zero", "of=\(setup.file)", "bs=4M", "count=4", "conv=notrunc", "oflag=direct"])
        #expect(large.status == 0, "\(large.output)")
    }

    /// The kernel passes on that a write has to be stable when it is answered, and does nothing about it.
    @Test(arguments: [true, false]) func aSynchronousWriteIsFlushed(isDurable: Bool) throws {
        let setup = try Setup()
        defer { setup.finish() }
        _ = setup.reactor.sync { setup.device.acknowledgesDurably = isDurable }
        for (flags, flushes) in [("direct", 0), ("direct,dsync", isDurable ? 0 : 5)] {
            let written = runTool(
                "dd", ["if=/dev/zero", "of=\(setup.file)", "bs=4k", "count=5", "conv=notrunc", "oflag=\(flags)"])
            #expect(written.status == 0, "\(written.output)")
            #expect(setup.reactor.sync { setup.device.flushes } == flushes)
        }
    }

    @Test func carriesALoopDeviceWithAFileSystem() throws {
        let setup = try Setup()
        defer { setup.finish() }
        let attached = runTool(
            "losetup", ["--find", "--show", "--direct-io=on", "--sector-size", "4096", setup.file])
        try #require(attached.status == 0, "\(attached.output)")
        let loop = String(attached.output.prefix { $0 != "\n" })
        defer { runTool("losetup", ["-d", loop]) }
        #expect(runTool("cat", ["/sys/block/\(loop.dropFirst(5))/loop/dio"]).output == "1\n")
        let made = runTool("mkfs.ext4", ["-q", loop])
        #expect(made.status == 0, "\(made.output)")
        let directory = setup.directory.path + "/fs"
        mkdir(directory, 0o700)
        let mounted = runTool("mount", [loop, directory])
        try #require(mounted.status == 0, "\(mounted.output)")
        let fio = runTool(
            "fio",
            [
                "--name=v", "--directory=\(directory)", "--rw=randwrite", "--bs=4k", "--size=8m", "--fsync=16",
                "--verify=crc32c", "--verify_state_save=0", "--do_verify=1", "--minimal",
            ])
        #expect(runTool("umount", [directory]).status == 0)
        #expect(fio.status == 0, "\(fio.output)")
        #expect(runTool("fsck.ext4", ["-fn", loop]).status == 0)
    }

    @Test func aRemovedFileAnswersErrorsAtOnce() throws {
        let setup = try Setup()
        defer { setup.finish() }
        let file = open(setup.file, O_RDWR | 0o40000 | O_CLOEXEC)
        try #require(file >= 0)
        defer { close(file) }
        let buffer = IOBuffer(zeros: 4096)
        #expect(pwrite(file, buffer.base, 4096, 0) == 4096)
        _ = setup.reactor.sync { setup.mount?.remove("vol") }
        #expect(pwrite(file, buffer.base, 4096, 0) == -1 && errno == EIO)
        #expect(pread(file, buffer.base, 4096, 0) == -1 && errno == EIO)
        #expect(access(setup.file, F_OK) != 0)
    }

    /// Whether the predecessor told its successor where it had come to, or was of a release that did not.
    @Test(arguments: [true, false])
    func aFileThatIsStillOpenNeverBecomesALaterOne(toldNumber: Bool) throws {
        let setup = try Setup()
        defer { setup.finish() }
        let (withdrawn, later) = (MemoryDevice(size: 1 << 20), MemoryDevice(size: 1 << 20))
        _ = setup.reactor.sync { setup.mount?.add("withdrawn", device: withdrawn) }
        let file = open(setup.directory.path + "/mnt/withdrawn", O_RDWR | 0o40000 | O_CLOEXEC)
        try #require(file >= 0)
        defer { close(file) }
        let buffer = IOBuffer(zeros: 4096)
        memset(buffer.base, 7, 4096)
        #expect(pwrite(file, buffer.base, 4096, 0) == 4096)
        let record = setup.reactor.sync { () -> FuseRecord? in
            setup.mount?.remove("withdrawn")
            return setup.mount?.record
        }
        var left = try #require(record ?? nil)
        #expect(left.files.map(\.name) == ["vol"])
        if !toldNumber { left.nextNode = 0 }
        setup.succeed(with: left)
        _ = setup.reactor.sync {
            setup.mount?.add("vol", device: setup.device)
            setup.mount?.add("later", device: later)
        }
        let other = open(setup.directory.path + "/mnt/later", O_RDWR | 0o40000 | O_CLOEXEC)
        try #require(other >= 0)
        defer { close(other) }
        #expect(pwrite(file, buffer.base, 4096, 0) == -1 && errno == EIO)
        #expect(setup.reactor.sync { later.isZero(from: 0, to: 4096) } == true)
        #expect(pwrite(other, buffer.base, 4096, 0) == 4096)
        #expect(setup.reactor.sync { later.isZero(from: 0, to: 4096) } == false)
    }

    @Test func generationsTellFilesApart() {
        let node: UInt64 = 1 << 40
        #expect(FuseMount.generation(of: node, "a.1") != FuseMount.generation(of: node, "a.2"))
        #expect(FuseMount.generation(of: node, "a.1") == FuseMount.generation(of: node, "a.1"))
        // What a release said that knew no generations.
        #expect(FuseMount.generation(of: 2, "a.1") == 1)
    }

    /// Numbers of releases that counted from 2 stay what they were.
    @Test func aNewNodeIsAboveAllThatEverWere() throws {
        let setup = try Setup()
        defer { setup.finish() }
        let told: UInt64 = 1 << 62
        let numbers = setup.reactor.sync { () -> [UInt64] in
            let first = setup.mount?.record.files.first?.node ?? 0
            setup.mount?.expect(FuseRecord(files: [FuseRecord.File(node: 9, name: "old")], nextNode: told))
            setup.mount?.add("old", device: setup.device)
            setup.mount?.add("new", device: setup.device)
            return [first] + (setup.mount?.record.files.filter { $0.name != "vol" }.map(\.node) ?? [])
        }
        #expect(numbers?.first.map { $0 > 1 << 32 } == true)
        #expect(numbers?.dropFirst() == [9, told])
    }

    @Test(.enabled(if: geteuid() == 0)) func onlyItsOwnerOpensAFile() throws {
        let setup = try Setup()
        defer { setup.finish() }
        #expect(chmod(setup.directory.path, 0o755) == 0)
        let stranger = ["--reuid=65534", "--regid=65534", "--clear-groups"]
        #expect(runTool("setpriv", stranger + ["stat", setup.directory.path]).status == 0)
        for words in [["of=/dev/null", "if=\(setup.file)"], ["if=/dev/zero", "of=\(setup.file)", "conv=notrunc"]] {
            let copy = ["dd", "bs=4096", "count=1"] + words
            let denied = runTool("setpriv", stranger + copy)
            #expect(denied.status != 0 && denied.output.contains("Permission denied"), "\(denied.output)")
            #expect(runTool("setpriv", ["--reuid=0"] + copy).status == 0)
        }
    }

    @Test func aDirectoryThatIsMadeIsItsOwnersOnly() throws {
        let directory = TemporaryDirectory()
        let path = directory.path + "/run/work"
        makeDirectories(path, mode: 0o700)
        #expect(runTool("stat", ["-c", "%a", directory.path + "/run", path]).output == "755\n700\n")
        // One that is there is an operator's.
        #expect(chmod(path, 0o750) == 0)
        makeDirectories(path, mode: 0o700)
        #expect(runTool("stat", ["-c", "%a", path]).output == "750\n")
    }
}
