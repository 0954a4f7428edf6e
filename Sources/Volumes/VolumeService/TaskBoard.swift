import Base
public import ServiceLifecycle
import Synchronization
import VolumeDriver

/// libStorage's tasks: calls that go on although their HTTP request has been answered because it took too long.
///
/// Overflow policy: reject. More than `runningMax` unfinished tasks answer `busy`. Finished ones are kept, the newest
/// `finishedMax` of them, so that a client that was told to come back finds its result.
public actor TaskBoard: Service {
    struct Entry: Sendable {
        enum State: String { case queued, running, success, error }
        var id: Int64
        var name: String
        var state = State.queued
        /// Seconds since 1970.
        var queued: Int64
        var started: Int64 = 0
        var completed: Int64 = 0
        var result: JSONValue?
        var failure: VolumeDriverError?

        var isFinished: Bool { state == .success || state == .error }
    }

    private struct Work: Sendable {
        var id: Int64
        var body: @Sendable () async throws -> JSONValue
    }

    private let runningMax: Int
    private let finishedMax: Int
    private var entries: [Int64: Entry] = [:]
    private var waiters: [Int64: [(id: UInt64, continuation: CheckedContinuation<Void, Never>)]] = [:]
    private var lastID: Int64 = 0
    private var lastWaiterID: UInt64 = 0
    private let work: AsyncStream<Work>
    private let queue: AsyncStream<Work>.Continuation

    public init(runningMax: Int = 256, finishedMax: Int = 1000) {
        self.runningMax = runningMax
        self.finishedMax = finishedMax
        (work, queue) = AsyncStream.makeStream(bufferingPolicy: .bufferingOldest(runningMax))
    }

    public func run() async throws {
        await cancelWhenGracefulShutdown {
            await withDiscardingTaskGroup { group in
                for await item in self.work {
                    group.addTask { await self.perform(item) }
                }
            }
        }
    }

    /// Queues `body` and waits for it, at most `deadline`. The answer is unfinished when it takes longer.
    func submit(
        _ name: String, deadline: Duration, _ body: @escaping @Sendable () async throws -> JSONValue
    ) async throws(VolumeDriverError) -> Entry {
        guard entries.values.count(where: { !$0.isFinished }) < runningMax else {
            throw VolumeDriverError(.busy, "There are \(runningMax) unfinished tasks already")
        }
        lastID += 1
        let id = lastID
        entries[id] = Entry(id: id, name: name, queued: secondsSince1970())
        queue.yield(Work(id: id, body: body))
        if deadline > .zero { await wait(for: id, deadline: deadline) }
        guard let entry = entries[id] else {
            throw VolumeDriverError(.failed, "The task \(id) was forgotten")
        }
        return entry
    }

    var all: [Entry] { entries.values.sorted { $0.id < $1.id } }

    func entry(_ id: Int64) -> Entry? { entries[id] }

    private func perform(_ item: Work) async {
        entries[item.id]?.state = .running
        entries[item.id]?.started = secondsSince1970()
        do {
            // Not in one line with what follows: the entry would be held open while others come and go.
            let result = try await item.body()
            entries[item.id]?.result = result
            entries[item.id]?.state = .success
        } catch {
            entries[item.id]?.failure =
                error as? VolumeDriverError ?? VolumeDriverError(.failed, errorChain(error))
            entries[item.id]?.state = .error
        }
        entries[item.id]?.completed = secondsSince1970()
        for waiter in waiters.removeValue(forKey: item.id) ?? [] { waiter.continuation.resume() }
        let finished = entries.values.filter(\.isFinished).map(\.id).sorted()
        for id in finished.dropLast(finishedMax) { entries[id] = nil }
    }

    private func wait(for id: Int64, deadline: Duration) async {
        lastWaiterID += 1
        let waiterID = lastWaiterID
        await withTaskGroup(of: Void.self) { group in
            group.addTask { await self.suspend(id, waiterID: waiterID) }
            group.addTask {
                try? await Task.sleep(for: deadline)
                await self.giveUp(id, waiterID: waiterID)
            }
            await group.next()
            group.cancelAll()
        }
    }

    private func suspend(_ id: Int64, waiterID: UInt64) async {
        // One that was given up before it began to wait would wait until the work ends.
        guard let entry = entries[id], !entry.isFinished, !Task.isCancelled else { return }
        await withCheckedContinuation { waiters[id, default: []].append((waiterID, $0)) }
    }

    private func giveUp(_ id: Int64, waiterID: UInt64) {
        guard let index = waiters[id]?.firstIndex(where: { $0.id == waiterID }) else { return }
        waiters[id]?.remove(at: index).continuation.resume()
    }
}
