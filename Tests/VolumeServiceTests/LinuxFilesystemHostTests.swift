import Glibc
import LinuxOS
import TestKit
import Testing

@testable import VolumeDriver

@Suite struct LinuxFilesystemHostTests {
    /// A pipe that nobody writes to hangs in open(2) as a device does whose storage is away.
    @Test func whatHangsCountsAsUnreadable() async throws {
        let directory = try TemporaryDirectory()
        let pipe = directory.file("device")
        try #require(mkfifo(pipe, 0o600) == 0)
        // Ends the hanging after a while: a test that fails shall not hang with it.
        let rescue = Task { () -> Bool in
            do { try await Task.sleep(for: .seconds(10)) } catch { return false }
            _ = try Descriptor.open(pipe, O_RDWR)
            return true
        }
        let host = LinuxFilesystemHost(readDeadline: .milliseconds(50))
        #expect(await host.isReadable(pipe) == false)
        rescue.cancel()
        #expect(try await rescue.value == false)
        // Lets the thread go that still hangs.
        _ = try Descriptor.open(pipe, O_RDWR)
    }

    /// Asking again and again for a device that hangs does not make more and more threads.
    @Test func hangingCallsAreFew() async throws {
        let directory = try TemporaryDirectory()
        let pipe = directory.file("device")
        try #require(mkfifo(pipe, 0o600) == 0)
        let host = LinuxFilesystemHost(readDeadline: .milliseconds(20))
        for _ in 0..<20 { #expect(await host.isReadable(pipe) == false) }
        let names = directoryEntries("/proc/self/task").compactMap { try? readText("/proc/self/task/\($0)/comm") }
        // Another test may have its own.
        #expect(names.count { $0 == "hf-filesystem" } <= LinuxFilesystemHost.hangingMax + 2)
        _ = try Descriptor.open(pipe, O_RDWR)
        // Once the threads are gone the device is asked again.
        try #require(unlink(pipe) == 0)
        try writeFile(pipe, String(repeating: "x", count: 8192))
        let patient = LinuxFilesystemHost()
        try await eventually("the device is asked again") { await patient.isReadable(pipe) }
    }

    /// A device of 16 MiB that starts with `signature` at `offset` and carries the mark of an interrupted mkfs.
    private func markedDevice(_ path: String, _ signature: [UInt8], at offset: off_t) throws -> () throws -> [UInt8] {
        let file = try Descriptor.open(path, O_RDWR | O_CREAT)
        try #require(ftruncate(file.raw, 16 << 20) == 0)
        try #require(pwrite(file.raw, signature, signature.count, offset) == signature.count)
        let mark = LinuxFilesystemHost.formattingMark
        let place = try #require(LinuxFilesystemHost.markOffset(file))
        try #require(pwrite(file.raw, mark, mark.count, place) == mark.count)
        return {
            var bytes = [UInt8](repeating: 1, count: mark.count)
            let count = pread(file.raw, &bytes, bytes.count, place)
            return Array(bytes[..<max(0, count)])
        }
    }

    @Test func theMarkGivesOnlyUnknownDataAway() async throws {
        let directory = try TemporaryDirectory()
        let host = LinuxFilesystemHost()
        _ = try markedDevice(directory.file("unknown"), [7], at: 0)
        #expect(try await host.contents(of: directory.file("unknown")) == .blank)
        for (name, signature, offset) in [
            ("luks", "LUKS", off_t(0)), ("lvm", "LABELONE", 512), ("gpt", "EFI PART", 512),
        ] {
            _ = try markedDevice(directory.file(name), Array(signature.utf8), at: offset)
            guard case .foreign = try await host.contents(of: directory.file(name)) else {
                Issue.record("\(name) would be formatted")
                continue
            }
        }
    }

    @Test func theMarkEndsWhereAFilesystemIs() async throws {
        let directory = try TemporaryDirectory()
        let mark = try markedDevice(directory.file("device"), [0x53, 0xEF], at: 0x438)
        #expect(try mark() == LinuxFilesystemHost.formattingMark)
        #expect(
            try await LinuxFilesystemHost().contents(of: directory.file("device"))
                == .filesystem(.ext4, needsCheck: false))
        #expect(try mark().allSatisfy { $0 == 0 })
    }

    /// An XFS superblock of which mkfs.xfs has set sb_inprogress, and not cleared it.
    private static let unfinishedXFS = Array("XFSB".utf8) + [UInt8](repeating: 0, count: 122) + [1]

    @Test func anUnfinishedXFSIsMadeAnewWhereTheMarkIs() async throws {
        let directory = try TemporaryDirectory()
        let host = LinuxFilesystemHost()
        let mark = try markedDevice(directory.file("marked"), Self.unfinishedXFS, at: 0)
        #expect(try await host.contents(of: directory.file("marked")) == .blank)
        #expect(try mark() == LinuxFilesystemHost.formattingMark)
        try writeFile(directory.file("unmarked"), String(decoding: Self.unfinishedXFS, as: UTF8.self))
        #expect(try await host.contents(of: directory.file("unmarked")) == .unfinishedFilesystem)
        let finished = Self.unfinishedXFS.dropLast() + [0]
        try writeFile(directory.file("finished"), String(decoding: finished, as: UTF8.self))
        #expect(
            try await host.contents(of: directory.file("finished")) == .filesystem(.xfs, needsCheck: false))
    }

    /// mkfs is interrupted at any moment: none of what it writes may lie where the mark is.
    @Test(
        arguments: ["mkfs.xfs -f -q -K", "mkfs.ext4 -F -q -E nodiscard,lazy_itable_init=1,lazy_journal_init=1"],
        ["300M", "8G", "5T"])
    func mkfsLeavesTheMarkAlone(_ command: String, _ size: String) async throws {
        let directory = try TemporaryDirectory()
        let device = directory.file("device")
        try await runChecked(["truncate", "-s", size, device])
        let file = try Descriptor.open(device, O_RDWR)
        let mark = LinuxFilesystemHost.formattingMark
        let place = try #require(LinuxFilesystemHost.markOffset(file))
        try #require(pwrite(file.raw, mark, mark.count, place) == mark.count)
        try await runChecked(command.split(separator: " ").map(String.init) + [device])
        var found = [UInt8](repeating: 0, count: mark.count)
        try #require(pread(file.raw, &found, found.count, place) == found.count)
        #expect(found == mark)
    }

    @Test func onlyWhatAnswersIsReadable() async throws {
        let directory = try TemporaryDirectory()
        try writeFile(directory.file("device"), String(repeating: "x", count: 8192))
        #expect(await LinuxFilesystemHost().isReadable(directory.file("device")))
        #expect(await LinuxFilesystemHost().isReadable(directory.file("missing")) == false)
    }

    /// On a device without space for what is replayed the journal must stay: it holds what was flushed.
    @Test(.enabled(if: geteuid() == 0)) func aJournalOutlivesALackOfSpace() async throws {
        let directory = try TemporaryDirectory()
        let (memory, files) = (directory.file("memory"), directory.file("files"))
        func run(_ command: String...) async throws -> CommandResult {
            try await runCommand(command, deadline: .seconds(60))
        }
        func check(_ command: String...) async throws {
            let result = try await runCommand(command, deadline: .seconds(60))
            try #require(result.isSuccess, "\(command): \(result.errorText)")
        }
        try await check("mkdir", memory, files)
        try await check("mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", memory)
        var attachedDevice: String?
        do {
            try await check("truncate", "-s", "1G", "\(memory)/disk")
            try await check("mkfs.ext4", "-q", "-F", "-E", "nodiscard", "\(memory)/disk")
            try await check("mount", "-o", "loop", "\(memory)/disk", files)
            let made = """
                for i in $(seq 200); do mkdir $0/$i; echo $i > $0/$i/file; sync $0/$i/file; done
                cp --sparse=always $1/disk $1/crashed
                umount $0; rm $1/disk
                """
            try await check("sh", "-c", made, files, memory)
            let attached = try await run("losetup", "--find", "--show", "\(memory)/crashed")
            let device = try #require(attached.outputText.split(separator: "\n").first.map(String.init))
            attachedDevice = device
            _ = try await run("dd", "if=/dev/zero", "of=\(memory)/filler", "bs=4k")
            let host = LinuxFilesystemHost()
            await #expect(throws: VolumeDriverError.self) { try await host.check(.ext4, on: device) }
            try await check("rm", "\(memory)/filler")
            try await host.check(.ext4, on: device)
            try await check("e2fsck", "-f", "-n", device)
            try await check("mount", device, files)
            let found = try await run("sh", "-c", "cat $0/*/file | sort -n | uniq | wc -l", files)
            #expect(found.outputText.split(separator: "\n") == ["200"])
            try await check("umount", files)
            try await check("losetup", "--detach", device)
        } catch {
            _ = try await run("umount", files)
            if let attachedDevice { _ = try await run("losetup", "--detach", attachedDevice) }
            _ = try await run("umount", "-l", memory)
            throw error
        }
        try await check("umount", "-l", memory)
    }
}
