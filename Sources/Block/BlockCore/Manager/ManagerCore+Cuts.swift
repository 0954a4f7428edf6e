import Base

/// Taking snapshots of volumes at one moment (docs/design/snapshots.md): hold, seal, commit the new heads, and show the
/// snapshots only if every server says that no write has begun meanwhile.
///
/// Invariants:
/// - Asked are all servers that have a copy of any comb of the pool which may serve, each over one connection from the first
///   step to the last. A connection that ends, or a comb that changes before the new heads are committed, ends the attempt.
/// - A snapshot is a volume only after all of them have said *intact*. Until then it is a node that no volume has, which a
///   failed attempt, or the next leader, takes away again.
/// - One cut at a time.
extension ManagerCore {
    /// Beyond these, snapshots are refused as `overloaded`.
    static let snapshotRequestsMax = 256

    struct SnapshotRequest {
        var ticket: Ticket
        var definitions: [SnapshotDefinition]
        var createdAt: UInt64
        var attempts = 0
        var notBefore = Instant.zero
    }

    struct Cut {
        enum Phase: Equatable {
            case holding, sealing, committing, concluding, showing
            case failed(ManagerError.Code, String)
        }

        let id: UInt64
        var request: SnapshotRequest
        var phase = Phase.holding
        var servers: [SdsID: LinkID]
        /// Have not answered the step under way.
        var awaited: Set<SdsID>
        /// What was committed when it began.
        var since: UInt64
        var deadline: Instant
        /// Of the snapshots, once they are about to be committed.
        var nodes: [UInt32] = []
        var reserved: [TreeID: Set<UInt32>] = [:]
    }

    /// Begins the next cut, and ends one that cannot go on.
    mutating func tendCut(
        _ now: Instant, _ rng: inout some RandomNumberGenerator, _ actions: inout [ManagerAction]
    ) {
        guard !isFinished else { return }
        if let known = cut, now >= known.deadline, known.phase != .committing, known.phase != .showing {
            fail("not every server has answered in time")
        }
        if let known = cut, known.servers.contains(where: { presence[$0.key]?.link != $0.value }) {
            if known.phase != .showing { fail("the connection to a server has ended") }
        }
        advanceCut(now, &actions)
        if case .failed(let code, let reason) = cut?.phase, batch?.cut != cut?.id {
            giveUpCut(code, reason, now, &actions)
        }
        guard cut == nil, let next = snapshotRequests.firstIndex(where: { now >= $0.notBefore }) else { return }
        beginCut(snapshotRequests.remove(at: next), id: rng.next(), now, &actions)
    }

    private mutating func fail(_ reason: String, code: ManagerError.Code = .snapshotFailed) {
        if case .failed = cut?.phase { return }
        cut?.phase = .failed(code, reason)
    }

    private mutating func beginCut(
        _ request: SnapshotRequest, id: UInt64, _ now: Instant, _ actions: inout [ManagerAction]
    ) {
        var request = request
        request.attempts += 1
        let volumes = request.definitions.map(\.volume)
        var servers: [SdsID: LinkID] = [:]
        var reason: String?
        let pool = state.volumes[volumes[0]].flatMap { state.pools[$0.pool] }
        for comb in pool?.combs ?? [] {
            // Also one that the manager calls unavailable may be served by who has not heard of it.
            for place in comb.inSync {
                if let link = presence[place.sds]?.link, links[link] != nil {
                    servers[place.sds] = link
                } else {
                    reason = "server \(state.servers[place.sds]?.name ?? place.sds.description) is not connected"
                }
            }
        }
        if reason != nil { servers = [:] }
        // Servers do not hold up a volume that they do not know, and say nothing: each attempt would wait for them.
        let gone = volumes.first { state.volumes[$0] == nil }
        if gone != nil { servers = [:] }
        cut = Cut(
            id: id, request: request, servers: servers, awaited: Set(servers.keys), since: state.revision,
            deadline: now + configuration.cutStepTimeout)
        if let gone { return giveUpCut(.volumeNotFound, "no volume \(gone)", now, &actions) }
        if let reason { return giveUpCut(.snapshotFailed, reason, now, &actions) }
        tell(.hold(volumes), &actions)
    }

    private mutating func tell(_ step: CutStep, _ actions: inout [ManagerAction]) {
        guard let known = cut else { return }
        cut?.awaited = Set(known.servers.keys)
        for server in known.servers.keys.sorted() {
            if let link = known.servers[server], links[link] != nil {
                actions.append(.send(link, .cut(known.id, step)))
            }
        }
    }

    mutating func cutAnswered(_ id: UInt64, _ answer: CutAnswer, _ isIntact: Bool, by server: SdsID, on link: LinkID) {
        guard let known = cut, known.id == id, known.servers[server] == link, known.phase == answer.phase else {
            return
        }
        guard isIntact || answer == .concluded && !configuration.rules.contains(.disturbedCutsAreDropped) else {
            return fail("writes could not be held up at server \(state.servers[server]?.name ?? server.description)")
        }
        cut?.awaited.remove(server)
    }

    private mutating func advanceCut(_ now: Instant, _ actions: inout [ManagerAction]) {
        guard let known = cut, known.awaited.isEmpty else { return }
        switch known.phase {
        case .holding:
            cut?.phase = .sealing
            cut?.deadline = now + configuration.cutStepTimeout
            tell(.seal, &actions)
        case .sealing:
            cut?.phase = .committing
            queue.append(.switchHeads(cut: known.id))
        case .concluding:
            cut?.phase = .showing
            queue.append(.showSnapshots(cut: known.id))
        case .committing, .showing, .failed: break
        }
    }

    /// Into the batch go the new heads, if nothing has changed that the servers' promise rests on.
    mutating func switchHeads(cut id: UInt64, in batch: inout Batch) {
        guard let known = cut, known.id == id, known.phase == .committing else { return }
        let before = batch.draft
        do throws(ManagerError) {
            let pool = try batch.draft.volume(known.request.definitions[0].volume).pool
            let combs = batch.draft.state.pools[pool]?.combs ?? []
            guard combs.allSatisfy({ $0.revision <= known.since }) else {
                return fail("copies have come or gone meanwhile")
            }
            cut?.nodes = try batch.draft.cut(known.request.definitions)
            cut?.reserved = batch.draft.reservedNodes
            batch.cut = id
        } catch {
            batch.draft = before
            fail(error.message, code: error.code)
        }
    }

    /// The new heads are committed and on their way to the servers.
    mutating func concludeCut(_ done: Batch, now: Instant, _ actions: inout [ManagerAction]) {
        guard let known = cut, done.cut == known.id, known.phase == .committing else { return }
        cut?.phase = .concluding
        cut?.deadline = now + configuration.cutStepTimeout
        tell(.conclude, &actions)
    }

    /// All have kept to it.
    mutating func showSnapshots(cut id: UInt64, in batch: inout Batch, _ rng: inout some RandomNumberGenerator) {
        guard let known = cut, known.id == id, known.phase == .showing else { return }
        let (before, request) = (batch.draft, known.request)
        do throws(ManagerError) {
            let reply = try batch.draft.show(request.definitions, known.nodes, createdAt: request.createdAt, &rng)
            batch.replies.append((request.ticket, .success(reply)))
            batch.draft.reservedNodes = [:]
            cut = nil
        } catch {
            batch.draft = before
            fail(error.message, code: error.code)
        }
    }

    /// Tries again, unless it was tried often enough or cannot succeed.
    private mutating func giveUpCut(
        _ code: ManagerError.Code, _ reason: String, _ now: Instant, _ actions: inout [ManagerAction]
    ) {
        guard let known = cut else { return }
        tell(.release, &actions)
        cut = nil
        if !known.nodes.isEmpty { queue.append(.pruneTrees) }
        var request = known.request
        guard code == .snapshotFailed, request.attempts < configuration.cutAttempts else {
            let error = ManagerError(
                code, code == .snapshotFailed ? "snapshots could not be taken of one moment: \(reason)" : reason)
            return actions.append(.reply(request.ticket, .failure(error)))
        }
        request.notBefore = now + configuration.cutPause
        snapshotRequests.append(request)
    }
}

extension CutAnswer {
    fileprivate var phase: ManagerCore.Cut.Phase {
        switch self {
        case .held: .holding
        case .sealed: .sealing
        case .concluded: .concluding
        }
    }
}
