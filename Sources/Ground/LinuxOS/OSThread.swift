import CLinux
import Glibc
import Synchronization

/// Starts a thread of its own that runs `body` and ends with it. For loops that block: the cooperative pool has one
/// thread per processor and must never wait for the kernel.
public func startThread(name: String, _ body: @escaping @Sendable () -> Void) throws(LinuxError) {
    final class Box {
        let name: String
        let body: @Sendable () -> Void
        init(name: String, body: @escaping @Sendable () -> Void) {
            self.name = name
            self.body = body
        }
    }
    let box = Unmanaged.passRetained(Box(name: name, body: body))
    var thread = pthread_t()
    let result = pthread_create(
        &thread, nil,
        { argument in
            guard let argument else { return nil }
            let box = Unmanaged<Box>.fromOpaque(argument).takeRetainedValue()
            clinux_name_thread(box.name)
            box.body()
            return nil
        }, box.toOpaque())
    guard result == 0 else {
        box.release()
        throw LinuxError(errno: result, "A thread could not be started")
    }
    pthread_detach(thread)
}

/// How many `offPool` calls may run at once. Each has a thread; more than this means that the kernel hangs.
public let offPoolCallsMax = 256

private let offPoolCalls = Atomic<Int>(0)

/// Runs blocking `body` on a thread of its own and suspends the caller meanwhile. Cancellation does not interrupt it.
///
/// Refused with `LinuxError` `overloaded` beyond `offPoolCallsMax`.
public func offPool<Result: Sendable>(_ body: @escaping @Sendable () throws -> Result) async throws -> Result {
    guard offPoolCalls.add(1, ordering: .relaxed).newValue <= offPoolCallsMax else {
        offPoolCalls.subtract(1, ordering: .relaxed)
        throw LinuxError(.overloaded, "More than \(offPoolCallsMax) blocking calls are under way.")
    }
    return try await withCheckedThrowingContinuation { continuation in
        do {
            try startThread(name: "hf-blocking") {
                let result = Swift.Result { try body() }
                offPoolCalls.subtract(1, ordering: .relaxed)
                continuation.resume(with: result)
            }
        } catch {
            offPoolCalls.subtract(1, ordering: .relaxed)
            continuation.resume(throwing: error)
        }
    }
}
