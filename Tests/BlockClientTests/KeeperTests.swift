import Glibc
import LinuxOS
import Logging
import Testing

@testable import BlockClient

/// A real keeper process and a real loop device.
@Suite struct KeeperTests {
    /// Nobody else has it open, and still its number is nobody else's.
    @Test func aDeviceOutlivesWhoeverAttachedIt() async throws {
        let directory = TemporaryDirectory()
        let file = directory.path + "/backing"
        let backing = try Descriptor.open(file, O_RDWR | O_CREAT)
        #expect(ftruncate(backing.raw, 1 << 20) == 0)
        let (keeper, inheritance) = try FuseKeeper.open(directory.path + "/keeper.sock", logger: Logger(label: "test"))
        #expect(inheritance == nil)
        defer { keeper.stop() }
        var device: LoopDevice? = try LoopDevice.attach(file)
        let number = try #require(device?.number)
        if let device { keeper.hold(device) }
        device = nil
        // The keeper takes messages in order: the answer to this one comes after it has the device.
        keeper.keep(backing.raw, files: [(node: 2, name: "v.1")])
        let (successor, left) = try FuseKeeper.open(directory.path + "/keeper.sock", logger: Logger(label: "test"))
        defer { successor.stop() }
        #expect(left?.files.map(\.name) == ["v.1"])
        if let left { close(left.descriptor) }
        #expect(LoopDevice.find(backing: file) == [number])
        successor.hold(try LoopDevice.open(number))
        #expect(LoopDevice.find(backing: file) == [number])
        successor.release(number)
        for _ in 0..<500 where !LoopDevice.find(backing: file).isEmpty { try await Task.sleep(for: .milliseconds(20)) }
        #expect(LoopDevice.find(backing: file).isEmpty)
    }
}
