import Glibc
import LinuxOS
import TestKit
import Testing

@Suite struct MountTableTests {
    @Test func readsLinesAsTheKernelWritesThem() throws {
        let text = """
            36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue
            37 36 0:41 / /mnt2/with\\040space\\134 ro - tmpfs none rw,size=1k
            38 36 0:42 / /mnt2 ro - tmpfs top rw
            """
        let table = try MountTable(parsing: text)
        #expect(table.entries.count == 3)
        #expect(table.entries[0].root == "/mnt1")
        #expect(table.entries[0].options == ["rw", "noatime"])
        #expect(table.entries[0].filesystem == "ext3")
        #expect(table.entries[1].mountPoint == "/mnt2/with space\\")
        #expect(table.entries[1].isReadOnly)
        #expect(table.mounted(at: "/mnt2")?.source == "top")
        #expect(table.mounts(under: "/mnt2").map(\.id) == [38, 37, 36])
        #expect(table.mounts(of: "/dev/root").map(\.id) == [36])
    }

    @Test(arguments: ["36 35 98:0", "x y z / / rw - a b c", "36 35 98:0 / /mnt rw shared:1 ext3 /dev/root rw"])
    func refusesOtherLines(_ line: String) {
        #expect(throws: LinuxError.self) { try MountTable(parsing: line) }
    }
}

@Suite(.serialized, .timeLimit(.minutes(1))) struct MountAndLoopTests {
    @Test func attachesMountsAndReleases() async throws {
        let directory = try TemporaryDirectory()
        let image = directory.file("image")
        try writeFile(image, "")
        #expect(truncate(image, 32 << 20) == 0)
        try await runChecked(["mkfs.ext4", "-q", "-F", "-b", "4096", image])
        #expect(try sizeOfFile(image) == 32 << 20)

        let target = try directory.directory("mount")
        do {
            let device = try LoopDevice.attach(image)
            #expect(device.size == 32 << 20)
            #expect(LoopDevice.find(backing: image) == [device.number])
            #expect(LoopDevice.status(of: device.number)?.hasDirectIO == true)
            try await Mount.mount(device.path, at: target, filesystem: "ext4", flags: [.noAccessTimes])
        }
        let entry = try #require(try MountTable.current().mounted(at: target))
        #expect(entry.filesystem == "ext4")
        #expect(entry.options.contains("noatime"))
        try writeFile("\(target)/file", "content")
        try await Mount.unmount(target)
        #expect(try MountTable.current().mounted(at: target) == nil)
        // The mount was the last user of the device.
        try await eventually("the release of the loop device") { LoopDevice.find(backing: image).isEmpty }
        await #expect(throws: LinuxError.self) { try await Mount.unmount(target) }
    }

    @Test func saysWhyAFileCannotBeAttached() throws {
        #expect(throws: LinuxError.self) { try LoopDevice.attach("/no/such/file") }
        #expect(throws: LinuxError.self) { try LoopDevice.attach("/dev/null") }
    }
}
