public import Base
import Synchronization

/// The election of one machine: candidates of this process lead in the order in which they stood. Each leadership has
/// an epoch that the store keeps, so a second process that opens the same store deposes the first instead of sharing
/// with it.
public final class EmbeddedElection: LeaderElection {
    private let store: EmbeddedStore
    private let places = Mutex(Places())

    private struct Candidate {
        var info: JSONValue
        var continuation: AsyncStream<ElectionEvent>.Continuation
    }

    private struct Places {
        var nextID = 0
        /// In the order in which they stood.
        var candidates: [String: [(id: Int, candidate: Candidate)]] = [:]
        /// Who leads, once its epoch is committed.
        var leaders: [String: Int] = [:]
        var followers: [String: [Int: AsyncStream<JSONValue?>.Continuation]] = [:]
    }

    public init(store: EmbeddedStore) { self.store = store }

    public func stand(at path: String, advertising info: JSONValue) -> Candidacy {
        // A candidate that does not listen is of no use: the oldest news are dropped, the newest kept.
        let (stream, continuation) = AsyncStream<ElectionEvent>.makeStream(bufferingPolicy: .bufferingNewest(64))
        let (id, isFirst, leader) = places.withLock { places in
            places.nextID += 1
            let leader = EmbeddedElection.leaderInfo(at: path, places)
            places.candidates[path, default: []].append(
                (places.nextID, Candidate(info: info, continuation: continuation)))
            return (places.nextID, places.candidates[path]?.count == 1, leader)
        }
        continuation.afterEnd { [weak self] in self?.resign(id, at: path) }
        if isFirst {
            elect(id, at: path)
        } else {
            continuation.yield(.leader(leader))
        }
        return Candidacy(events: stream) { [weak self] in
            self?.abdicate(id, at: path)
        } leave: { [weak self] in
            self?.resign(id, at: path)
        }
    }

    public func follow(_ path: String) -> AsyncStream<JSONValue?> {
        let (stream, continuation) = AsyncStream<JSONValue?>.makeStream(bufferingPolicy: .bufferingNewest(1))
        let id = places.withLock { places in
            places.nextID += 1
            places.followers[path, default: [:]][places.nextID] = continuation
            continuation.yield(EmbeddedElection.leaderInfo(at: path, places))
            return places.nextID
        }
        continuation.afterEnd { [weak self] in self?.forget(id, following: path) }
        return stream
    }

    private func forget(_ follower: Int, following path: String) {
        places.withLock { _ = $0.followers[path]?.removeValue(forKey: follower) }
    }

    private static func leaderInfo(at path: String, _ places: Places) -> JSONValue? {
        guard let id = places.leaders[path] else { return nil }
        return places.candidates[path]?.first { $0.id == id }?.candidate.info
    }

    /// Commits an epoch for the candidate and tells everybody. Failing that, tries again: nobody leads meanwhile.
    private func elect(_ id: Int, at path: String) {
        // SAFETY: standing is not async, and the work ends by itself: with the epoch committed or the candidate gone.
        Task { [weak self] in
            while let self, self.stands(id, at: path) {
                if let epoch = try? await self.store.elect(at: path) {
                    self.install(id, epoch)
                    return
                }
                try? await Task.sleep(for: .milliseconds(500))
            }
        }
    }

    private func stands(_ id: Int, at path: String) -> Bool {
        places.withLock { $0.candidates[path]?.first?.id == id }
    }

    private func install(_ id: Int, _ epoch: LeaderEpoch) {
        places.withLock { places in
            guard let leader = places.candidates[epoch.path]?.first, leader.id == id else { return }
            places.leaders[epoch.path] = id
            leader.candidate.continuation.yield(.elected(epoch))
            EmbeddedElection.announce(leader.candidate.info, at: epoch.path, places)
        }
    }

    private func resign(_ id: Int, at path: String) {
        let next: Int? = places.withLock { EmbeddedElection.withdraw(id, at: path, &$0).next }
        if let next { elect(next, at: path) }
    }

    private func abdicate(_ id: Int, at path: String) {
        let next: Int? = places.withLock { places in
            guard let place = places.candidates[path]?.first(where: { $0.id == id }) else { return nil }
            let (wasFirst, _) = EmbeddedElection.withdraw(id, at: path, &places)
            places.candidates[path, default: []].append(place)
            guard wasFirst else { return nil }
            place.candidate.continuation.yield(.lost)
            return places.candidates[path]?.first?.id
        }
        if let next { elect(next, at: path) }
    }

    /// Takes a candidate out; `next` is who has to be elected for that.
    private static func withdraw(_ id: Int, at path: String, _ places: inout Places) -> (wasFirst: Bool, next: Int?) {
        let wasFirst = places.candidates[path]?.first?.id == id
        places.candidates[path]?.removeAll { $0.id == id }
        guard wasFirst else { return (false, nil) }
        if places.leaders[path] == id {
            places.leaders[path] = nil
            announce(nil, at: path, places)
        }
        return (true, places.candidates[path]?.first?.id)
    }

    private static func announce(_ info: JSONValue?, at path: String, _ places: Places) {
        for (_, candidate) in places.candidates[path] ?? [] { candidate.continuation.yield(.leader(info)) }
        for (_, continuation) in places.followers[path] ?? [:] { continuation.yield(info) }
    }
}
