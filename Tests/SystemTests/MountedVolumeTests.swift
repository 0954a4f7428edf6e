import LinuxOS
import TestKit
import Testing

/// A volume in the hands of an operator: `rexray` on a machine, a filesystem, and storage servers that die below it.
@Suite(.serialized) struct MountedVolumeTests {
    static let script = ["fio", "--name=v", "--bs=4k", "--size=48m", "--verify=crc32c", "--verify_state_save=0"]

    @Test(.timeLimit(.minutes(8))) func aMountedFilesystemOutlivesItsServers() async throws {
        try await withLab(["--store", "embedded", "--without-docker"]) { lab in
            try await lab.execute(on: 2, ["rexray", "volume", "create", "--size=1", "tank"])
            try await lab.execute(on: 2, ["rexray", "volume", "mount", "tank"])
            let mounts = try await lab.execute(on: 2, ["cat", "/proc/mounts"])
            let line = try #require(mounts.split(separator: "\n").first { $0.contains("/tank ") })
            let (device, path) = (String(line.split(separator: " ")[0]), String(line.split(separator: " ")[1]))

            func sectorsWritten() async throws -> Int {
                let fields = try await lab.execute(on: 2, ["cat", "/sys/block/\(device.dropFirst(5))/stat"])
                    .split(separator: " ")
                return Int(fields[6]) ?? 0
            }
            let before = try await sectorsWritten()
            // Slow enough to be at work through all that follows.
            let job =
                Self.script + [
                    "--directory=\(path)", "--rw=randwrite", "--fsync=8", "--do_verify=1", "--rate_iops=800",
                    "--output=/run/fio.txt",
                ]
            async let written = lab.execute(on: 2, job, deadline: .seconds(120))
            try await eventually("the first writes") { try await sectorsWritten() > before + 1000 }
            try await lab.run(["lab", "kill", "node3"], deadline: .seconds(30))
            try await eventually("two copies on the machines that remain", within: .seconds(90)) {
                try await lab.isWhole(servers: 3)
            }
            try await lab.run(["lab", "crash", "node4", "sds"], deadline: .seconds(30))
            _ = try await written

            // Once more from the medium, and the filesystem as a whole.
            try await lab.execute(on: 2, ["sh", "-c", "sync; echo 3 > /proc/sys/vm/drop_caches"])
            let check = Self.script + ["--directory=\(path)", "--rw=read", "--verify_only", "--output=/run/fio.txt"]
            try await lab.execute(on: 2, check, deadline: .seconds(120))
            try await lab.execute(on: 2, ["umount", path])
            try await lab.execute(on: 2, ["e2fsck", "-f", "-n", device], deadline: .seconds(60))
            try await lab.execute(on: 2, ["rexray", "volume", "unmount", "tank"])
        }
    }

    /// Asked for on one machine, on the machine that has it mounted and on another. xfs, since a kernel lets ext4 grow only
    /// for those who have CAP_SYS_RESOURCE.
    @Test(.timeLimit(.minutes(6))) func aMountedFilesystemGrows() async throws {
        try await withLab(["--store", "embedded", "--without-docker"]) { lab in
            try await lab.execute(on: 2, ["rexray", "volume", "create", "--size=8", "lake"])
            try await lab.execute(on: 2, ["rexray", "volume", "mount", "--fsType=xfs", "lake"])
            func size() async throws -> Int {
                let mounts = try await lab.execute(on: 2, ["df", "--output=size,target", "-BG"])
                let line = mounts.split(separator: "\n").first { $0.hasSuffix("/lake") }
                return Int(line?.split(separator: "G").first?.filter(\.isNumber) ?? "") ?? 0
            }
            #expect(try await size() == 8)
            try await lab.execute(on: 2, ["holdfast", "volume", "resize", "lake", "16"])
            #expect(try await size() == 16)
            try await lab.execute(on: 3, ["holdfast", "volume", "resize", "lake", "24"])
            try await eventually("the filesystem grows where it is") { try await size() == 24 }
            try await lab.execute(on: 2, ["rexray", "volume", "unmount", "lake"])
        }
    }
}
