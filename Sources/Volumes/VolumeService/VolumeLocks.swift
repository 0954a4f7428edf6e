import Base
import VolumeDriver

/// Serialises the operations on each volume: first come, first served, nobody waits beyond a deadline.
///
/// Overflow policy: reject. More than `waitersMax` operations on one volume answer `busy` at once.
actor VolumeLocks {
    private struct Waiter {
        var id: UInt64
        var continuation: CheckedContinuation<Void, any Error>
    }

    private let waitersMax: Int
    private var lastID: UInt64 = 0
    /// The keys that are held, with those who wait in order.
    private var waiting: [String: [Waiter]] = [:]

    init(waitersMax: Int = 64) { self.waitersMax = waitersMax }

    /// Runs `body` while nobody else runs under `key`.
    func withLock<Value: Sendable>(
        _ key: String, deadline: Duration = .seconds(100), _ body: @Sendable () async throws -> Value
    ) async throws -> Value {
        try await acquire(key, deadline: deadline)
        do {
            let value = try await body()
            release(key)
            return value
        } catch {
            release(key)
            throw error
        }
    }

    /// Runs `body` if nobody else runs under `key`; answers nil without waiting otherwise.
    func ifFree<Value: Sendable>(_ key: String, _ body: @Sendable () async throws -> Value) async throws -> Value? {
        guard waiting[key] == nil else { return nil }
        return try await withLock(key, body)
    }

    private func acquire(_ key: String, deadline: Duration) async throws {
        guard let queue = waiting[key] else {
            waiting[key] = []
            return
        }
        guard queue.count < waitersMax else {
            throw VolumeDriverError(.busy, "\(queue.count) operations wait for the volume \(key) already")
        }
        lastID += 1
        let id = lastID
        try await withThrowingTaskGroup(of: Bool.self) { group in
            group.addTask {
                try await self.wait(id: id, key: key)
                return true
            }
            group.addTask {
                // Cancelled when the wait is over, or when the caller is: there is nobody to give up for, or nobody who
                // waits.
                try? await Task.sleep(for: deadline)
                await self.giveUp(id: id, key: key)
                return false
            }
            defer { group.cancelAll() }
            while let isLocked = try await group.next(), !isLocked {}
        }
    }

    private func wait(id: UInt64, key: String) async throws {
        try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Void, any Error>) in
            if Task.isCancelled {
                // Given up before it began to wait: nobody would end the waiting.
                continuation.resume(throwing: CancellationError())
            } else if waiting[key] == nil {
                waiting[key] = []
                continuation.resume()
            } else {
                waiting[key]?.append(Waiter(id: id, continuation: continuation))
            }
        }
    }

    private func giveUp(id: UInt64, key: String) {
        guard let index = waiting[key]?.firstIndex(where: { $0.id == id }) else { return }
        let waiter = waiting[key]?.remove(at: index)
        waiter?.continuation.resume(
            throwing: VolumeDriverError(.timedOut, "Other operations on the volume \(key) did not end in time"))
    }

    private func release(_ key: String) {
        guard var queue = waiting[key], !queue.isEmpty else {
            waiting[key] = nil
            return
        }
        let next = queue.removeFirst()
        waiting[key] = queue
        next.continuation.resume()
    }
}
