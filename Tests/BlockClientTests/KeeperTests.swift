import BlockIO
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
        let record = FuseRecord(files: [FuseRecord.File(node: 2, name: "v.1")], nextNode: 7)
        keeper.keep(backing.raw, record)
        let (successor, left) = try FuseKeeper.open(directory.path + "/keeper.sock", logger: Logger(label: "test"))
        defer { successor.stop() }
        #expect(left?.record == record)
        if let left { close(left.descriptor) }
        #expect(LoopDevice.find(backing: file) == [number])
        successor.hold(try LoopDevice.open(number))
        #expect(LoopDevice.find(backing: file) == [number])
        successor.release(number)
        for _ in 0..<500 where !LoopDevice.find(backing: file).isEmpty { try await Task.sleep(for: .milliseconds(20)) }
        #expect(LoopDevice.find(backing: file).isEmpty)
    }

    /// Releases that told no number are followed, and those that know none read the files.
    @Test func aRecordIsReadWithAndWithoutItsNumber() {
        let files = [FuseRecord.File(node: 2, name: "a.1"), FuseRecord.File(node: 5_000_000_000, name: "b.9")]
        let record = FuseRecord(files: files, nextNode: 5_000_000_001)
        #expect(record.text == "next 5000000001\n2 a.1\n5000000000 b.9\n")
        #expect(FuseRecord(parsing: record.text) == record)
        #expect(FuseRecord(parsing: "2 a.1\n5000000000 b.9\n") == FuseRecord(files: files, nextNode: 0))
        #expect(FuseRecord(parsing: "2\nx y\n18446744073709551615 c\n") == FuseRecord(files: [], nextNode: 0))
    }

    /// The keeper is forked from the process that holds the lock, and lives on when that dies.
    @Test func aKeeperDoesNotHoldTheLockOfItsDirectory() throws {
        let directory = TemporaryDirectory()
        let lock = try DirectoryLock(directory.path, patience: .zero)
        #expect(throws: BlockIOError.self) { _ = try DirectoryLock(directory.path, patience: .milliseconds(50)) }
        let (keeper, _) = try FuseKeeper.open(directory.path + "/keeper.sock", logger: Logger(label: "test"))
        defer { keeper.stop() }
        // It takes messages when it has let go of what it inherited.
        keeper.keep(0, FuseRecord(files: [], nextNode: 0))
        let (successor, left) = try FuseKeeper.open(directory.path + "/keeper.sock", logger: Logger(label: "test"))
        defer { successor.stop() }
        if let left { close(left.descriptor) }
        #expect(left != nil)
        lock.release()
        // What other tests fork at this moment inherits the lock too, until it has let go.
        #expect(throws: Never.self) { _ = try DirectoryLock(directory.path, patience: .seconds(10)) }
    }

    /// As when a client dies before it has told its keeper of the mount.
    @Test func aKeeperWithNothingToGiveEndsBeforeTheNextBegins() async throws {
        let directory = TemporaryDirectory()
        let path = directory.path + "/keeper.sock"
        let file = directory.path + "/backing"
        let backing = try Descriptor.open(file, O_RDWR | O_CREAT)
        #expect(ftruncate(backing.raw, 1 << 20) == 0)
        let (predecessor, _) = try FuseKeeper.open(path, logger: Logger(label: "test"))
        var device: LoopDevice? = try LoopDevice.attach(file)
        if let device { predecessor.hold(device) }
        device = nil
        let (keeper, left) = try FuseKeeper.open(path, logger: Logger(label: "test"))
        defer { keeper.stop() }
        #expect(left == nil)
        // The device goes with the first keeper.
        for _ in 0..<500 where !LoopDevice.find(backing: file).isEmpty { try await Task.sleep(for: .milliseconds(20)) }
        #expect(LoopDevice.find(backing: file).isEmpty)
        predecessor.stop()
    }

    @Test func aKeeperThatEndsLeavesTheSocketOfAnother() throws {
        let directory = TemporaryDirectory()
        let path = directory.path + "/keeper.sock"
        let (abandoned, _) = try FuseKeeper.open(path, logger: Logger(label: "test"))
        let connection = try FuseKeeper.start(path)
        abandoned.end()
        #expect(access(path, F_OK) == 0)
        close(connection)
        let (keeper, _) = try FuseKeeper.open(path, logger: Logger(label: "test"))
        keeper.end()
        #expect(access(path, F_OK) != 0)
    }
}
