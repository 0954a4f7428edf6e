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
}
