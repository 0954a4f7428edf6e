public import Base

/// The manager: a function from commands, connections and time to committed changes of the objects.
///
/// Invariants:
/// - `state` is what is stored. Pushes, answers and proofs go out only after the commit they speak of.
/// - At most one commit is in progress; what arrives meanwhile waits and becomes one batch.
/// - A copy is promoted only if the committed comb says that it is in sync.
/// - A mapping is shown to its client only after every older right is proven refused: each in-sync copy of each comb
///   of the pool lies on a server that has confirmed both the new rights and the comb's present epoch.
public struct ManagerCore: Sendable {
    enum Change {
        case command(Ticket, ManagerCommand, arrived: Instant)
        case serverHello(LinkID, ServerHello)
        case clientHello(LinkID, ClientHello)
        case serverDown(SdsID, reason: String)
        case report(SdsID, MessageToManager)
        case raiseFence(VolumeID, epoch: UInt64)
        case planRebuilds
        case planMoves
        /// A step of the cut of this number.
        case switchHeads(cut: UInt64)
        case showSnapshots(cut: UInt64)
        /// Nodes that no volume has, as a cut that failed leaves them.
        case pruneTrees
        /// The tree's node that has given away everything.
        case removeMerged(TreeID)

        /// Whether nobody waits for it: of copies that end, many may share a commit.
        var isPatient: Bool { if case .report(_, .rebuildDone) = self { true } else { false } }
    }

    /// Each change touches a few records, the introduction of a server one for each of its devices; a store takes
    /// about a thousand at once.
    static let changesPerBatch = 64

    enum Role: Equatable {
        case introducing
        case server(SdsID)
        case client(SdcID)
    }

    struct Link {
        var role: Role
        var lastHeard: Instant
        /// Of a client: the map revision that it has confirmed.
        var confirmed: UInt64 = 0
    }

    /// What is known of a server beyond the stored objects.
    struct Presence {
        var link: LinkID?
        var lastHeard: Instant
        var acknowledged: UInt64 = 0
        var linkLostAt: Instant?
    }

    /// A volume whose withdrawn rights await their proof.
    struct Fence {
        var startedAt: Instant
        /// The commit that withdrew them.
        var since: UInt64
        var epoch: UInt64
        /// Combs of the pool not yet proven.
        var pending: [UInt32]
        var isRaising = false
        /// A second client gets the volume: nobody may answer the first one as if it were alone.
        var beginsSharing = false
        /// Of several clients some lose it: until the proof they may still see it.
        var endsSharing = false
        var waiters: [(ticket: Ticket, arrived: Instant)] = []
    }

    struct HoldBack {
        /// No copy begins before.
        var until: Instant
        /// And none on these servers before.
        var avoided: [SdsID: Instant] = [:]
    }

    struct Batch {
        var draft: ManagerDraft
        var replies: [(Ticket, Result<ManagerReply, ManagerError>)] = []
        var waiters: [(VolumeID, Ticket, Instant)] = []
        var snapshots: [SnapshotRequest] = []
        /// The cut whose new heads are in the draft.
        var cut: UInt64?
        var welcomes: [(LinkID, Role, Result<MessageFromManager, ManagerError>)] = []
        /// Those that arrived before its commit began.
        var leases: [SdsID: LeaseRequest] = [:]

        /// Whether the server introduced itself while this batch waited: it lives.
        func admits(_ server: SdsID) -> Bool { welcomes.contains { $0.1 == .server(server) } }
    }

    public internal(set) var state: SystemState
    let configuration: ManagerConfiguration
    var queue: [Change] = []
    var batch: Batch?
    var links: [LinkID: Link] = [:]
    var presence: [SdsID: Presence] = [:]
    var fences: [VolumeID: Fence] = [:]
    /// Snapshots that are being taken, and those that come after them.
    var cut: Cut?
    var snapshotRequests: [SnapshotRequest] = []
    /// Nodes that may go once no server has anything of them.
    var merges: [TreeID: PendingMerge] = [:]
    /// Not granted yet, the last one of each server.
    var leaseRequests: [SdsID: LeaseRequest] = [:]
    /// When each server asked last: it holds no lease for longer than `leaseTime` after that.
    var leaseAskedAt: [SdsID: Instant] = [:]
    /// When the last commit began.
    var lastCommit = Instant.zero
    /// Combs whose last rebuild or secondary failed.
    var holdBacks: [CombKey: HoldBack] = [:]
    /// Since when this leader knows servers to be down.
    var absences: [SdsID: Instant] = [:]
    var samples: [DeviceID: Sample] = [:]
    /// What an operator was told of damage, and when it was last looked at.
    var integrityTold: [DeviceID: (integrity: DeviceIntegrity, at: Instant)] = [:]
    /// How often servers were declared down in a short while.
    var oscillations: [SdsID: (count: Int, last: Instant)] = [:]
    /// Since when combs exchange their parts, as far as this leader knows.
    var swaps: [CombKey: (epoch: UInt64, since: Instant)] = [:]
    var lastMovePlan: Instant
    /// When a server or device last came, went or changed.
    var disturbedAt: Instant
    let startedAt: Instant
    var lastKeepAlive: Instant
    var isFinished = false
    var needsFirstCommit: Bool

    /// A new system: the first event yields the commit that creates it.
    public init(system: System, configuration: ManagerConfiguration, now: Instant) {
        self.init(state: SystemState(system: system), configuration: configuration, now: now)
        needsFirstCommit = true
    }

    /// A leader that takes over what is stored; nil if nothing is.
    public init?(
        records: [(key: String, value: [UInt8])], configuration: ManagerConfiguration, now: Instant
    ) throws(ManagerError) {
        guard let state = try SystemState.decode(records) else { return nil }
        self.init(state: state, configuration: configuration, now: now)
        for volume in state.volumes.values where volume.isFencePending {
            awaitFence(volume, now)
            // What was before is not known.
            fences[volume.id]?.beginsSharing = volume.mappings.count > 1
            fences[volume.id]?.endsSharing = true
        }
        if !state.trees.isEmpty { queue.append(.pruneTrees) }
    }

    private init(state: SystemState, configuration: ManagerConfiguration, now: Instant) {
        self.state = state
        self.configuration = configuration
        startedAt = now
        lastKeepAlive = now
        lastMovePlan = now
        disturbedAt = now
        needsFirstCommit = false
        for server in state.servers.values {
            presence[server.id] = Presence(lastHeard: now)
            if server.status == .down { absences[server.id] = now }
        }
    }

    public mutating func apply(
        _ event: ManagerEvent, now: Instant, rng: inout some RandomNumberGenerator
    ) -> [ManagerAction] {
        if isFinished { return [] }
        var actions: [ManagerAction] = []
        switch event {
        case .submit(let ticket, let command):
            if queue.count >= configuration.queueDepthMax {
                return [.reply(ticket, .failure(ManagerError(.overloaded, "too many commands are waiting")))]
            }
            queue.append(.command(ticket, command, arrived: now))
        case .message(let link, let message): receive(message, on: link, now, &actions)
        case .linkClosed(let link): lose(link, now)
        case .committed: finishBatch(now, &actions)
        case .commitFailed: abandon(&actions)
        case .tick: tick(now, &actions)
        }
        startBatch(now, &rng, &actions)
        tendCut(now, &rng, &actions)
        startBatch(now, &rng, &actions)
        return actions
    }

    // MARK: Connections

    private mutating func receive(
        _ message: MessageToManager, on link: LinkID, _ now: Instant, _ actions: inout [ManagerAction]
    ) {
        guard let known = links[link] else {
            links[link] = Link(role: .introducing, lastHeard: now)
            switch message {
            case .serverHello(let hello): queue.append(.serverHello(link, hello))
            case .clientHello(let hello): queue.append(.clientHello(link, hello))
            case .keepAlive, .acknowledge, .removeSecondary, .rebuildDone, .rebuildFailed, .deviceFailed,
                .copyUnreadable, .drained, .cut, .nodeEmpty, .leaseRequest, .requestMap:
                links[link] = nil
                actions.append(.close(link))
            }
            return
        }
        links[link]?.lastHeard = now
        switch known.role {
        case .introducing: break
        case .client(let client):
            switch message {
            case .requestMap: actions.append(.send(link, .update(state.fullUpdate(for: client))))
            case .keepAlive: break
            case .acknowledge(let revision):
                guard revision <= state.revision else { break }
                links[link]?.confirmed = revision
                if fences.values.contains(where: \.beginsSharing) { evaluateFences() }
            case .serverHello, .clientHello, .removeSecondary, .rebuildDone, .rebuildFailed, .deviceFailed,
                .copyUnreadable, .drained, .cut, .nodeEmpty, .leaseRequest:
                drop(link, now, &actions)
            }
        case .server(let server):
            presence[server]?.lastHeard = now
            switch message {
            case .keepAlive(let usage):
                for usage in usage where state.devices[usage.device]?.sds == server {
                    state.usedUnits[usage.device] = usage.usedUnits
                    state.thickUnits[usage.device] = usage.thickUnits
                    sample(usage, now)
                    note(usage.integrity, of: usage.device, now, &actions)
                }
            case .acknowledge(let revision):
                // Proof of a fence rests on this word: who confirms what does not exist yet is not believed again.
                guard revision <= state.revision else { return drop(link, now, &actions) }
                if let before = presence[server]?.acknowledged, before < revision {
                    presence[server]?.acknowledged = revision
                    evaluateFences()
                }
            case .requestMap: actions.append(.send(link, .update(state.fullUpdate(for: nil))))
            case .leaseRequest(let number): leaseRequested(number, by: server, on: link, now, &actions)
            case .cut(let id, let answer, let isIntact): cutAnswered(id, answer, isIntact, by: server, on: link)
            case .nodeEmpty(let tree, let node, let revision): noteEmpty(tree, node, revision, at: server)
            case .removeSecondary, .rebuildDone, .rebuildFailed, .deviceFailed, .copyUnreadable, .drained:
                if queue.count < configuration.queueDepthMax * 4 { queue.append(.report(server, message)) }
            case .serverHello, .clientHello: drop(link, now, &actions)
            }
        }
    }

    private mutating func drop(_ link: LinkID, _ now: Instant, _ actions: inout [ManagerAction]) {
        lose(link, now)
        actions.append(.close(link))
    }

    private mutating func lose(_ link: LinkID, _ now: Instant) {
        guard let lost = links.removeValue(forKey: link) else { return }
        switch lost.role {
        case .introducing: break
        case .server(let server):
            if presence[server]?.link == link {
                presence[server]?.link = nil
                presence[server]?.linkLostAt = now
            }
        case .client(let client):
            if !links.values.contains(where: { $0.role == .client(client) }) { state.connectedClients.remove(client) }
        }
    }

    // MARK: Time

    private mutating func tick(_ now: Instant, _ actions: inout [ManagerAction]) {
        for server in state.servers.values where server.status == .up {
            guard let presence = presence[server.id] else { continue }
            let silent = now - presence.lastHeard >= configuration.serverTimeout
            let gone = presence.linkLostAt.map { now - $0 >= configuration.reconnectGrace } ?? false
            if silent || (gone && presence.link == nil), !mayHoldLease(server.id, in: state, now) {
                let reason = silent ? "no keep-alive" : "its connection broke"
                queue.append(.serverDown(server.id, reason: reason))
            }
        }
        for link in links.keys.sorted() {
            guard let known = links[link], now - known.lastHeard >= configuration.serverTimeout + .seconds(3) else {
                continue
            }
            drop(link, now, &actions)
        }
        if now - lastKeepAlive >= configuration.keepAliveInterval {
            lastKeepAlive = now
            for link in links.keys.sorted() where links[link]?.role != .introducing {
                actions.append(.send(link, .keepAlive))
            }
        }
        expireWaiters(now, &actions)
        if state.pools.values.contains(where: { $0.combs.contains { $0.state == .degraded } }) {
            queue.append(.planRebuilds)
        }
        if now - lastMovePlan >= configuration.moveInterval {
            lastMovePlan = now
            queue.append(.planMoves)
        }
    }

    // MARK: Batches

    private mutating func startBatch(
        _ now: Instant, _ rng: inout some RandomNumberGenerator, _ actions: inout [ManagerAction]
    ) {
        let isLeaseDue = isLeaseCommitDue(now)
        let isHeldUp = now - lastCommit < configuration.patience && queue.allSatisfy(\.isPatient)
        guard batch == nil, !isFinished, !isHeldUp && !queue.isEmpty || needsFirstCommit || isLeaseDue else { return }
        var next = Batch(draft: ManagerDraft(state, rules: configuration.rules))
        next.draft.reservedNodes = cut?.reserved ?? [:]
        // What does not fit into one commit of the store waits for the next.
        let changes = queue.prefix(ManagerCore.changesPerBatch)
        queue.removeFirst(changes.count)
        for change in changes { perform(change, in: &next, now, &rng) }
        planRebuilds(in: &next, now)
        if next.draft.isEmpty && !needsFirstCommit && !isLeaseDue {
            batch = next
            finishBatch(now, &actions)
        } else {
            needsFirstCommit = false
            lastCommit = now
            next.leases = leaseRequests
            leaseRequests = [:]
            batch = next
            actions.append(.commit(next.draft.mutations()))
        }
    }

    private mutating func finishBatch(_ now: Instant, _ actions: inout [ManagerAction]) {
        guard let done = batch else { return }
        batch = nil
        if !done.draft.isEmpty { publish(done.draft, now, &actions) }
        for (link, role, result) in done.welcomes { welcome(link, role, result, now, &actions) }
        grantLeases(done, &actions)
        for (ticket, result) in done.replies { actions.append(.reply(ticket, result)) }
        concludeCut(done, now: now, &actions)
        snapshotRequests += done.snapshots
        for (volume, ticket, arrived) in done.waiters { attend(volume, ticket, arrived, now, &actions) }
        for notice in done.draft.notices { actions.append(.notice(notice)) }
        evaluateFences()
    }

    /// The committed batch becomes the state, and everybody connected hears of it.
    private mutating func publish(_ draft: ManagerDraft, _ now: Instant, _ actions: inout [ManagerAction]) {
        let before = state
        state = draft.state
        state.usedUnits = before.usedUnits
        state.thickUnits = before.thickUnits
        state.connectedClients = before.connectedClients
        state.activity = before.activity
        state.integrity = before.integrity
        state.oscillating = before.oscillating
        if before.servers != state.servers || before.devices != state.devices { disturbedAt = now }
        // Who was declared down has to introduce itself again, even if its old connection still carries something.
        for link in links.keys.sorted() {
            if case .server(let server) = links[link]?.role, state.servers[server]?.status != .up {
                drop(link, now, &actions)
            }
        }
        let forServers = draft.update(for: nil)
        for link in links.keys.sorted() {
            switch links[link]?.role {
            case .server: actions.append(.send(link, .update(forServers)))
            case .client(let client): actions.append(.send(link, .update(draft.update(for: client))))
            case .introducing, nil: break
            }
        }
        for volume in state.volumes.values where volume.revision == state.revision {
            if volume.isFencePending {
                awaitFence(volume, now)
                noteSharing(volume, before: before.volumes[volume.id])
            } else {
                satisfyFence(volume, now, &actions)
            }
        }
        for volume in fences.keys.sorted() where state.volumes[volume] == nil {
            for waiter in fences[volume]?.waiters ?? [] {
                actions.append(
                    .reply(waiter.ticket, .failure(ManagerError(.volumeNotFound, "volume \(volume) was removed"))))
            }
            fences[volume] = nil
        }
    }

    private mutating func welcome(
        _ link: LinkID, _ role: Role, _ result: Result<MessageFromManager, ManagerError>, _ now: Instant,
        _ actions: inout [ManagerAction]
    ) {
        switch result {
        case .failure(let error):
            actions.append(.notice(.connectionRefused(link, error)))
            if links.removeValue(forKey: link) != nil {
                actions.append(.send(link, .refused(code: error.code.rawValue, message: error.message)))
                actions.append(.close(link))
            }
        case .success(let message):
            guard links[link] != nil else {
                if case .server(let server) = role, presence[server] == nil {
                    presence[server] = Presence(lastHeard: now, linkLostAt: now)
                }
                return
            }
            links[link]?.role = role
            switch role {
            case .introducing: break
            case .server(let server):
                if let old = presence[server]?.link, links.removeValue(forKey: old) != nil {
                    actions.append(.close(old))
                }
                presence[server] = Presence(link: link, lastHeard: now)
                actions.append(.send(link, message))
                actions.append(.send(link, .update(state.fullUpdate(for: nil))))
            case .client(let client):
                state.connectedClients.insert(client)
                actions.append(.send(link, message))
                actions.append(.send(link, .update(state.fullUpdate(for: client))))
            }
        }
    }

    /// The store did not take the batch: nobody may hear of it, and nothing more is decided here.
    private mutating func abandon(_ actions: inout [ManagerAction]) {
        isFinished = true
        let error = ManagerError(.storeFailed, "the change could not be stored; whether it happened is unknown")
        for (ticket, _) in batch?.replies ?? [] { actions.append(.reply(ticket, .failure(error))) }
        for (_, ticket, _) in batch?.waiters ?? [] { actions.append(.reply(ticket, .failure(error))) }
        for case .command(let ticket, _, _) in queue {
            actions.append(.reply(ticket, .failure(ManagerError(.notLeader, "this manager no longer leads"))))
        }
        for volume in fences.keys.sorted() {
            for waiter in fences[volume]?.waiters ?? [] { actions.append(.reply(waiter.ticket, .failure(error))) }
        }
        for link in links.keys.sorted() { actions.append(.close(link)) }
        let snapshots = snapshotRequests + (batch?.snapshots ?? []) + [cut?.request].compactMap { $0 }
        for request in snapshots { actions.append(.reply(request.ticket, .failure(error))) }
        snapshotRequests = []
        cut = nil
        batch = nil
        queue = []
        fences = [:]
        links = [:]
        leaseRequests = [:]
    }
}
