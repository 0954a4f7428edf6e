import Base
import BlockIO
import CURing
import Glibc
import LinuxOS
import Synchronization
import TestKit
import Testing

/// Commands to drivers by io_uring. Every kernel from 6.7 on has one driver that takes some: sockets, of which command 0
/// asks how many bytes wait.
@Suite(.enabled(if: hasSocketCommands, "sockets take commands from Linux 6.7 on, where io_uring is allowed"))
struct DiskRingCommandTests {
    private static let bytesWaiting: UInt32 = 0
    private static let unknown: UInt32 = 0xffff

    private final class Owner: DiskRingOwner, Sendable {
        let outcomes = Mutex<[UInt64: Int32]>([:])
        func ended(_ kind: DiskRing.Kind, _ tag: UInt64, error: Int32) {
            #expect(kind == .command)
            outcomes.withLock { $0[tag] = error }
        }
    }

    @Test func aRingTellsWhatTheDriverSays() throws {
        let reactor = try Reactor(name: "command-test")
        try #require(reactor.openDiskRing())
        reactor.start()
        defer { reactor.stop() }
        let socket = datagramSocket()
        defer { close(socket) }
        let owner = Owner()
        reactor.perform {
            // More than the queue takes at once, and more than it has room for when they end.
            for tag in 0..<4000 {
                let operation = tag % 2 == 0 ? DiskRingCommandTests.bytesWaiting : DiskRingCommandTests.unknown
                reactor.diskRing?.command(socket, operation, payload: (0, 0), tag: UInt64(tag), for: owner)
            }
        }
        let deadline = Reactor.now + .seconds(10)
        while Reactor.now < deadline && owner.outcomes.withLock({ $0.count }) < 4000 { usleep(1000) }
        let outcomes = owner.outcomes.withLock { $0 }
        #expect(outcomes.count == 4000)
        for (tag, error) in outcomes { #expect(error == (tag % 2 == 0 ? 0 : EOPNOTSUPP)) }
    }

    @Test func aCommandOnItsOwnIsWaitedFor() {
        let socket = datagramSocket()
        defer { close(socket) }
        let payload = [UInt8](repeating: 0, count: 80)
        #expect(curing_control(socket, DiskRingCommandTests.bytesWaiting, payload, 32, 5000) == 0)
        sendToItself(socket, 5)
        #expect(curing_control(socket, DiskRingCommandTests.bytesWaiting, payload, 80, 5000) == 5)
        #expect(curing_control(socket, DiskRingCommandTests.unknown, payload, 32, 5000) == -EOPNOTSUPP)
        #expect(curing_control(-1, DiskRingCommandTests.bytesWaiting, payload, 32, 5000) == -EBADF)
        #expect(curing_control(socket, DiskRingCommandTests.bytesWaiting, payload, 81, 5000) == -EINVAL)
        // A file whose driver takes none.
        let file = open("/proc/self/exe", O_RDONLY)
        defer { close(file) }
        #expect(curing_control(file, 1, payload, 32, 5000) == -EOPNOTSUPP)
    }

    /// Block devices discard by a command from Linux 6.12 on: the first word of what ublk takes as its payload is the
    /// length, and the place is zero.
    @Test(
        .enabled(if: geteuid() == 0 && access("/dev/loop-control", F_OK) == 0 && isAtLeast(6, 12)),
        arguments: [true, false])
    func thePayloadIsWhereDriversLookForIt(onARing: Bool) throws {
        var random = SystemRandomNumberGenerator()
        let path = "/var/tmp/holdfast-command-\((random.next() as UInt64).hex)"
        let file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        defer {
            close(file)
            unlink(path)
        }
        let full = [UInt8](repeating: 0xff, count: 1 << 20)
        try #require(pwrite(file, full, full.count, 0) == full.count && fsync(file) == 0)
        let loop = try LoopDevice.attach(path)
        defer { try? loop.detach() }
        let device = open(loop.path, O_RDWR | O_CLOEXEC)
        defer { close(device) }
        let discard: UInt32 = 0x1200
        if onARing {
            let reactor = try Reactor(name: "command-test")
            try #require(reactor.openDiskRing())
            reactor.start()
            defer { reactor.stop() }
            let owner = Owner()
            reactor.perform { reactor.diskRing?.command(device, discard, payload: (65536, 0), tag: 7, for: owner) }
            let deadline = Reactor.now + .seconds(10)
            while Reactor.now < deadline && owner.outcomes.withLock({ $0.isEmpty }) { usleep(1000) }
            #expect(owner.outcomes.withLock { $0 } == [7: 0])
        } else {
            let payload = withUnsafeBytes(of: UInt64(65536)) { Array($0) } + [UInt8](repeating: 0, count: 24)
            #expect(curing_control(device, discard, payload, 32, 5000) == 0)
        }
        var content = full
        #expect(pread(file, &content, content.count, 0) == content.count)
        #expect(content[..<65536].allSatisfy { $0 == 0 } && content[65536...].allSatisfy { $0 == 0xff })
    }
}

private let hasSocketCommands: Bool = {
    let socket = datagramSocket()
    defer { close(socket) }
    return curing_control(socket, 0, [UInt8](repeating: 0, count: 32), 32, 5000) == 0
}()

private func isAtLeast(_ major: Int, _ minor: Int) -> Bool {
    var name = utsname()
    uname(&name)
    let release = withUnsafeBytes(of: name.release) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    let numbers = release.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
    return numbers.count == 2 && (numbers[0], numbers[1]) >= (major, minor)
}

/// A UDP socket of this host alone.
private func datagramSocket() -> Int32 {
    let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    withUnsafePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            _ = bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
    }
    return descriptor
}

private func sendToItself(_ descriptor: Int32, _ count: Int) {
    var address = sockaddr_in()
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    withUnsafeMutablePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            _ = getsockname(descriptor, $0, &length)
            _ = sendto(descriptor, "hello, world", count, 0, $0, length)
        }
    }
}
