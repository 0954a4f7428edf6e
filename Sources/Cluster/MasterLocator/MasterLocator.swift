import Base
import Coordination
import Synchronization

/// Answers "where is the leading master now?" and tells when it is elsewhere.
///
/// A client calls `next()` for the master to try, talks to it, follows its redirections, and gives it up when
/// `untilMoved(from:)` returns. It paces its own attempts: `next()` waits only while nobody is known to lead.
public final class MasterLocator: Sendable {
    private let location: MasterLocation
    private let state = Mutex(State())

    private struct State {
        var leader: MasterPlace?
        var turn = 0
        var nextID = 0
        var observers: [Int: AsyncStream<MasterPlace?>.Continuation] = [:]
    }

    public init(_ location: MasterLocation) { self.location = location }

    /// Whether an election tells who leads, so that an unreachable leader says nothing about others.
    public var isElected: Bool {
        switch location {
        case .addresses: false
        case .elected: true
        }
    }

    /// Follows the election until the task is cancelled. Nothing is known of the leader without it.
    public func run() async {
        switch location {
        case .addresses: await waitForCancellation()
        case .elected(let open):
            while !Task.isCancelled {
                for await info in open() { publish(info.flatMap { MasterPlace(info: $0) }) }
                // Whoever told us gave up. What was known last stays the best guess.
                try? await Task.sleep(for: .seconds(1))
            }
        }
    }

    /// The master to try next: the leader, waiting while there is none, or each given address in turn. Nil when the
    /// task is cancelled.
    public func next() async -> MasterPlace? {
        // What is buffered in a stream comes out of it also in a cancelled task.
        if Task.isCancelled { return nil }
        switch location {
        case .addresses(let addresses):
            guard !addresses.isEmpty else {
                await waitForCancellation()
                return nil
            }
            return state.withLock { state in
                defer { state.turn = (state.turn + 1) % addresses.count }
                return MasterPlace(address: addresses[state.turn])
            }
        case .elected:
            for await case let leader? in leaders() { return leader }
            return nil
        }
    }

    /// Returns when the leader is known to be elsewhere, or to be no more; with given addresses only when the task is
    /// cancelled.
    public func untilMoved(from place: MasterPlace) async {
        switch location {
        case .addresses: await waitForCancellation()
        case .elected: for await leader in leaders() where leader != place { return }
        }
    }

    /// The leader that an election tells of, now and after every change; of changes that come faster than they are
    /// read, the last. With given addresses nil for ever.
    public func leaders() -> AsyncStream<MasterPlace?> {
        let (stream, continuation) = AsyncStream<MasterPlace?>.makeStream(bufferingPolicy: .bufferingNewest(1))
        let id = state.withLock { state in
            state.nextID += 1
            state.observers[state.nextID] = continuation
            continuation.yield(state.leader)
            return state.nextID
        }
        continuation.afterEnd { [weak self] in
            self?.state.withLock { _ = $0.observers.removeValue(forKey: id) }
        }
        return stream
    }

    private func publish(_ leader: MasterPlace?) {
        state.withLock { state in
            guard state.leader != leader else { return }
            state.leader = leader
            for (_, observer) in state.observers { observer.yield(leader) }
        }
    }

    private func waitForCancellation() async {
        let (never, continuation) = AsyncStream<Never>.makeStream()
        for await _ in never {}
        continuation.finish()
    }
}
