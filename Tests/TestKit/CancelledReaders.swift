import Dispatch
import LinuxOS
import Synchronization

/// Cancels readers of streams again and again while `publish` tells them news.
///
/// If who tells and who cancels wait for each other, they keep the pool's threads, and no time limit of a test is noticed: a
/// thread of its own watches, and stops the process after a minute.
public func cancelReaders<Element: Sendable>(
    rounds: Int, of open: @Sendable () async throws -> AsyncStream<Element>,
    whileTold publish: @escaping @Sendable () async throws -> Void
) async throws {
    let isOver = DispatchSemaphore(value: 0)
    try startThread(name: "cancel-watch") {
        precondition(
            isOver.wait(timeout: .now() + .seconds(60)) == .success,
            "Readers that were cancelled while they were told news have not ended in a minute.")
    }
    defer { isOver.signal() }
    try await withThrowingTaskGroup(of: Void.self) { group in
        let isEnough = Mutex(false)
        group.addTask {
            while !isEnough.withLock({ $0 }) {
                try await publish()
                await Task.yield()
            }
        }
        defer { isEnough.withLock { $0 = true } }
        for _ in 0..<rounds {
            var streams: [AsyncStream<Element>] = []
            for _ in 0..<8 { streams.append(try await open()) }
            // SAFETY: awaited below, and nothing between throws.
            let readers = streams.map { stream in Task { for await _ in stream {} } }
            await Task.yield()
            for reader in readers { reader.cancel() }
            for reader in readers { await reader.value }
        }
        isEnough.withLock { $0 = true }
        // What is told must not fail: otherwise nobody was told anything.
        try await group.waitForAll()
    }
}
