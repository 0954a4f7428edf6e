import Dispatch
import LinuxOS

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
        group.addTask {
            while !Task.isCancelled {
                try await publish()
                await Task.yield()
            }
        }
        for _ in 0..<rounds {
            var readers: [Task<Void, Never>] = []
            for _ in 0..<8 {
                let stream = try await open()
                // SAFETY: awaited below, whatever happens: nothing between throws.
                readers.append(Task { for await _ in stream {} })
            }
            await Task.yield()
            for reader in readers { reader.cancel() }
            for reader in readers { await reader.value }
        }
        group.cancelAll()
    }
}
