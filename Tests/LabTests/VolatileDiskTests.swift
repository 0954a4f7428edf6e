import Glibc
import LinuxOS
import TestKit
import Testing

/// The disk that forgets: what was flushed outlives its power, the rest only in part.
@Suite(.serialized, .enabled(if: getuid() == 0), .timeLimit(.minutes(1))) struct VolatileDiskTests {
    private static let blocks = 64

    @Test func onlyWhatWasFlushedSurvivesForSure() async throws {
        let directory = try TemporaryDirectory()
        let (file, place) = (directory.file("disk"), directory.file("mount"))
        for flushes in [false, true] {
            let disk = try ChildProcess.spawn(
                ChildProcess.Request([HoldfastProcess.executable, "lab-disk", file, place, "--size", "1048576"]))
            defer {
                disk.signal(SIGKILL)
                umount2(place, Int32(MNT_DETACH))
            }
            try await eventually("the disk") { access("\(place)/device", F_OK) == 0 }
            let (letter, byte) = flushes ? ("b", UInt8(ascii: "b")) : ("a", UInt8(ascii: "a"))
            let write = "tr '\\0' \(letter) </dev/zero | dd of=\(place)/device bs=4k count=\(Self.blocks)"
            let options = "iflag=fullblock oflag=direct conv=notrunc\(flushes ? ",fsync" : "")"
            try await runChecked(["sh", "-c", "\(write) \(options)"])
            let read = ["dd", "if=\(place)/device", "bs=4k", "count=\(Self.blocks)", "iflag=direct"]
            let seen = try await runChecked(read).output
            #expect(seen == Array(repeating: byte, count: Self.blocks * 4096))
            disk.signal(SIGKILL)
            _ = try await disk.wait()
            let kept = try await offPool { try readFile(file) }
            let survivors = (0..<Self.blocks).count { kept[$0 * 4096] == byte }
            #expect(flushes ? survivors == Self.blocks : (1..<Self.blocks).contains(survivors))
        }
    }
}
