import Base
import CBlockIO
import Glibc
import Synchronization
import Testing

@testable import BlockIO

struct ThreadTests {
    private final class Box: Sendable {
        let value = Mutex<Int?>(nil)
        func wait() -> Int? {
            let deadline = Reactor.now + .seconds(10)
            while Reactor.now < deadline {
                if let value = value.withLock({ $0 }) { return value }
                usleep(1000)
            }
            return nil
        }
    }

    /// A process that keeps its memory resident pays for the whole stack.
    @Test func aThreadHasASmallStack() throws {
        // Swift does not see what only GNU has.
        typealias Ask = @convention(c) (pthread_t, UnsafeMutablePointer<pthread_attr_t>) -> Int32
        let ask = unsafeBitCast(try #require(dlsym(nil, "pthread_getattr_np")), to: Ask.self)
        let box = Box()
        startThread(name: "stack-test") {
            var attributes = pthread_attr_t()
            var base: UnsafeMutableRawPointer?
            var size = 0
            if ask(pthread_self(), &attributes) == 0 {
                pthread_attr_getstack(&attributes, &base, &size)
                pthread_attr_destroy(&attributes)
            }
            box.value.withLock { $0 = size }
        }
        let size = try #require(box.wait())
        #expect(size > 0 && size <= threadStackBytes)
    }

    private final class Witness: Sendable {
        let box: Box
        init(_ box: Box) { self.box = box }
        deinit { box.value.withLock { $0 = 1 } }
    }

    /// Others wait behind it, as they do under load.
    @Test func aJobThatIsDoneLetsGoOfWhatItUsed() {
        let pool = WorkerPool(name: "pool-test", threads: 1)
        defer { pool.stop() }
        let (gone, goOn) = (Box(), Box())
        submitWitness(to: pool, gone)
        pool.submit { _ = goOn.wait() }
        pool.submit {}
        #expect(gone.wait() == 1)
        goOn.value.withLock { $0 = 1 }
    }

    private func submitWitness(to pool: WorkerPool, _ box: Box) {
        let witness = Witness(box)
        pool.submit { withExtendedLifetime(witness) {} }
    }
}
