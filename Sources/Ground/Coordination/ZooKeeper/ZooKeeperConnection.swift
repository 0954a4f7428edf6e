import Logging
import Synchronization

/// Whether there is a connection, for those who wait for one, and the alarms of watches.
final class ZooKeeperConnection: Sendable {
    private struct State {
        var session: Int64?
        var nextID: UInt64 = 0
        var waiters: [UInt64: CheckedContinuation<Int64?, Never>] = [:]
        var watchers: [UInt64: (path: String, sink: AsyncStream<Void>.Continuation)] = [:]
    }

    private let state = Mutex(State())
    private let logger: Logger

    init(logger: Logger) { self.logger = logger }

    func take(_ event: SessionEvent) {
        switch event {
        case .connected(let number, let timeout): connected(number, timeout)
        case .disconnected:
            let wasConnected = state.withLock { state in
                defer { state.session = nil }
                return state.session != nil
            }
            if wasConnected { logger.warning("the connection to ZooKeeper is lost") }
        case .expired:
            state.withLock { $0.session = nil }
            logger.warning("the session with ZooKeeper has expired")
        case .changed(let path):
            state.withLock { state in
                for watcher in state.watchers.values where watcher.path == path { watcher.sink.yield() }
            }
        }
    }

    private func connected(_ number: Int64, _ timeout: Duration) {
        let waiters = state.withLock { state in
            // Watches end with their session, and news of before may be lost: all look again.
            for watcher in state.watchers.values { watcher.sink.yield() }
            state.session = number
            defer { state.waiters = [:] }
            return state.waiters.values
        }
        for waiter in waiters { waiter.resume(returning: number) }
        logger.info(
            "connected to ZooKeeper",
            metadata: ["session": "\(String(UInt64(bitPattern: number), radix: 16))", "timeout": "\(timeout)"])
    }

    /// The session as soon as there is a connection to it; nil when that takes too long or the caller is cancelled.
    func session(until end: ContinuousClock.Instant) async -> Int64? {
        let (id, present) = state.withLock { state in
            state.nextID += 1
            return (state.nextID, state.session)
        }
        if let present { return ContinuousClock.now < end ? present : nil }
        return await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let present = state.withLock { state -> Int64? in
                    if state.session == nil { state.waiters[id] = continuation }
                    return state.session
                }
                if let present { return continuation.resume(returning: present) }
                // Cancelled before there was anything to cancel?
                if Task.isCancelled { return giveUp(id) }
                // SAFETY: ends by itself at the deadline; `giveUp` is harmless once the waiter has gone.
                Task {
                    try? await Task.sleep(until: end, clock: .continuous)
                    self.giveUp(id)
                }
            }
        } onCancel: {
            giveUp(id)
        }
    }

    /// Asks until there is an answer, in one session or the next. What is `allowed` is an answer too.
    func ask(
        _ request: NodeRequest, through requests: ZooKeeperSession, until end: ContinuousClock.Instant,
        allowing allowed: Set<NodeFailure>
    ) async throws(NodeFailure) -> NodeReply {
        var reason = NodeFailure.connectionLoss
        while await session(until: end) != nil {
            let reply = await requests.ask(request)
            guard case .failed(let failure, _) = reply, !allowed.contains(failure) else { return reply }
            reason = failure
            guard failure == .connectionLoss || failure == .sessionExpired else { break }
            // The news of the lost connection may come behind the reply.
            try? await Task.sleep(for: .milliseconds(20))
        }
        throw reason
    }

    private func giveUp(_ id: UInt64) {
        state.withLock { $0.waiters.removeValue(forKey: id) }?.resume(returning: nil)
    }

    /// Alarms from now on. Several that nobody has taken yet are one.
    func alarms(of path: String) -> AsyncStream<Void> {
        let (stream, sink) = AsyncStream<Void>.makeStream(bufferingPolicy: .bufferingNewest(1))
        let id = state.withLock { state in
            state.nextID += 1
            state.watchers[state.nextID] = (path, sink)
            return state.nextID
        }
        sink.afterEnd { [weak self] in self?.state.withLock { _ = $0.watchers.removeValue(forKey: id) } }
        return stream
    }
}
