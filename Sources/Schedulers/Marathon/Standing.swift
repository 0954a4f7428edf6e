import Base
import Coordination
import Synchronization

/// One leadership from election to end.
struct Term: Sendable {
    enum End: Sendable {
        /// Somebody else may lead by now.
        case lost
        /// An operator asked for it.
        case resigned
    }

    let epoch: LeaderEpoch
    private let ends: AsyncStream<End>
    private let continuation: AsyncStream<End>.Continuation

    init(_ epoch: LeaderEpoch) {
        self.epoch = epoch
        (ends, continuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingOldest(1))
    }

    func end(_ end: End) {
        continuation.yield(end)
        continuation.finish()
    }

    /// Returns when the term ends, or the task is cancelled. For one reader.
    func awaitEnd() async -> End {
        for await end in ends { return end }
        return .lost
    }
}

/// Who answers requests at present: written by the service as the election goes on, read by every request.
final class Standing: Sendable {
    enum Role: Sendable {
        /// `leader` is nil while nobody is known to lead.
        case following(leader: String?)
        /// Elected, and still reading what is stored.
        case preparing
        case leading(MarathonScheduler)
    }

    private struct State {
        var address: String
        var leader: String?
        var term: Term?
        var scheduler: MarathonScheduler?
    }

    private let state: Mutex<State>

    init(address: String) { state = Mutex(State(address: address)) }

    /// "host:port" under which others reach this process.
    var address: String {
        get { state.withLock { $0.address } }
        set { state.withLock { $0.address = newValue } }
    }

    var role: Role {
        state.withLock { state in
            if let scheduler = state.scheduler { return .leading(scheduler) }
            if state.term != nil { return .preparing }
            // Old news of ourselves are no leader to send anybody to.
            return .following(leader: state.leader == state.address ? nil : state.leader)
        }
    }

    /// The role once it is clear who answers, or as it is when the time for that is over.
    func settled(leaderWait: Duration, preparationWait: Duration) async throws -> Role {
        let start = ContinuousClock.now
        while true {
            let role = role
            let patience: Duration
            switch role {
            case .leading, .following(leader: .some): return role
            case .following(leader: nil): patience = leaderWait
            case .preparing: patience = preparationWait
            }
            if ContinuousClock.now - start >= patience { return role }
            try await Task.sleep(for: .milliseconds(25))
        }
    }

    func follow(_ leader: String?) { state.withLock { $0.leader = leader } }

    func begin(_ term: Term) {
        let former = state.withLock { state in
            let former = state.term
            state.term = term
            state.scheduler = nil
            return former
        }
        former?.end(.lost)
    }

    /// Has the scheduler of `term` answer from now on, unless the term has ended.
    func serve(_ scheduler: MarathonScheduler, in term: Term) {
        state.withLock { if $0.term?.epoch == term.epoch { $0.scheduler = scheduler } }
    }

    /// Ends the present term, if there is one: requests are handed on from now on.
    func end(_ end: Term.End) {
        let term = state.withLock { state in
            let term = state.term
            state.term = nil
            state.scheduler = nil
            if state.leader == state.address { state.leader = nil }
            return term
        }
        term?.end(end)
    }

    /// Ends a term that has failed. False when it had been lost already.
    func stepDown(from term: Term) -> Bool {
        guard state.withLock({ $0.term?.epoch == term.epoch }) else { return false }
        end(.lost)
        return true
    }
}
