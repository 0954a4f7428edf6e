import Glibc
import LinuxOS
import TestKit
import Testing
import VolumeDriver

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

    @Test func onlyWhatAnswersIsReadable() async throws {
        let directory = try TemporaryDirectory()
        try writeFile(directory.file("device"), String(repeating: "x", count: 8192))
        #expect(await LinuxFilesystemHost().isReadable(directory.file("device")))
        #expect(await LinuxFilesystemHost().isReadable(directory.file("missing")) == false)
    }
}
