import Base
import Glibc
import Synchronization
import Testing

@testable import BlockIO

/// Transfers by io_uring on a real file.
@Suite(.enabled(if: hasRing, "there is no io_uring here"))
struct DiskRingTests {
    /// Counts, and sees that no more is begun than the queue has room for.
    private final class Owner: DiskRingOwner, Sendable {
        let ended = Mutex<[UInt64: Int32]>([:])
        let begunMost = Atomic(0)
        let ring: @Sendable () -> DiskRing?
        init(_ ring: @escaping @Sendable () -> DiskRing?) { self.ring = ring }
        func ended(_ kind: DiskRing.Kind, _ tag: UInt64, error: Int32) {
            begunMost.max(ring()?.begun ?? 0, ordering: .relaxed)
            ended.withLock { $0[tag] = error }
        }
    }

    /// A gigabyte of them is not needed: all transfers are of one block of the file, with a byte of its own in each.
    @Test func moreOperationsThanTheQueueHasRoomForAllEnd() throws {
        var random = SystemRandomNumberGenerator()
        let path = "/tmp/holdfast-ring-\((random.next() as UInt64).hex)"
        let file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        try #require(file >= 0)
        defer {
            close(file)
            unlink(path)
        }
        let reactor = try Reactor(name: "ring-test")
        try #require(reactor.openDiskRing())
        reactor.start()
        defer { reactor.stop() }
        let owner = Owner { reactor.diskRing }
        let count = 6000
        let buffer = IOBuffer(zeros: count)
        memset(buffer.base, 1, count)
        let target = IOBuffer(zeros: count)
        run(count, on: reactor, owner) { ring, tag in
            ring.write(file, buffer, tag..<tag + 1, at: UInt64(tag), tag: UInt64(tag), for: owner)
        }
        run(count, on: reactor, owner) { ring, tag in
            // Flushes end later than what comes after them.
            if tag % 1000 == 0 { return ring.flush(file, tag: UInt64(tag), for: owner) }
            ring.read(file, target, tag..<tag + 1, at: UInt64(tag), tag: UInt64(tag), for: owner)
        }
        let wrong = withExtendedLifetime(target) {
            (0..<count).filter { target.bytes[$0] != ($0 % 1000 == 0 ? 0 : 1) }
        }
        #expect(wrong.isEmpty)
        #expect(owner.begunMost.load(ordering: .relaxed) <= 1024)
    }

    private func run(
        _ count: Int, on reactor: Reactor, _ owner: Owner, _ begin: @escaping @Sendable (DiskRing, Int) -> Void
    ) {
        owner.ended.withLock { $0 = [:] }
        reactor.perform {
            guard let ring = reactor.diskRing else { return }
            for tag in 0..<count { begin(ring, tag) }
        }
        let deadline = Reactor.now + .seconds(20)
        while Reactor.now < deadline && owner.ended.withLock({ $0.count }) < count { usleep(1000) }
        let outcomes = owner.ended.withLock { $0 }
        #expect(outcomes.count == count)
        #expect(outcomes.values.allSatisfy { $0 == 0 })
    }
}

private let hasRing = (try? Reactor(name: "probe").openDiskRing()) == true
