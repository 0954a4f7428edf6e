import Base

/// Leases under which primaries answer reads of volumes that several clients have (docs/design/leases.md).
///
/// Invariants:
/// - A request is granted only after a commit that began after it arrived: at that moment nobody else had decided anything.
/// - No server is declared down while it may hold a lease and leads combs of a pool with such volumes. What a leader before
///   this one granted was asked for before this one began.
/// - A volume's second client is let in only when every server that may answer the first knows of it, or the first has
///   confirmed that it asks no others.
extension ManagerCore {
    struct LeaseRequest {
        var number: UInt64
        var link: LinkID
    }

    mutating func leaseRequested(
        _ number: UInt64, by server: SdsID, on link: LinkID, _ now: Instant, _ actions: inout [ManagerAction]
    ) {
        leaseAskedAt[server] = now
        guard configuration.rules.contains(.grantAfterCommit) else {
            return actions.append(.send(link, .lease(number: number)))
        }
        leaseRequests[server] = LeaseRequest(number: number, link: link)
    }

    /// Whether a commit has to be made for leases alone.
    func isLeaseCommitDue(_ now: Instant) -> Bool {
        !leaseRequests.isEmpty && now - lastCommit >= configuration.leaseCommitInterval
            && state.pools.keys.contains { isShared($0, in: state) }
    }

    /// A server that has lost its connection meanwhile, or was declared down, gets nothing.
    mutating func grantLeases(_ done: Batch, _ actions: inout [ManagerAction]) {
        for server in done.leases.keys.sorted() {
            guard let request = done.leases[server], links[request.link]?.role == .server(server) else { continue }
            actions.append(.send(request.link, .lease(number: request.number)))
        }
    }

    /// Whether several clients may see something of the pool.
    private func isShared(_ pool: StoragePoolID, in state: SystemState) -> Bool {
        state.volumes.values.contains {
            $0.pool == pool && ($0.mappings.count > 1 || fences[$0.id]?.endsSharing == true)
        }
    }

    /// Whether the server may still answer reads, unheard, although nobody hears of it.
    func mayHoldLease(_ server: SdsID, in state: SystemState, _ now: Instant) -> Bool {
        guard configuration.rules.contains(.promotionWaitsForLease) else { return false }
        let asked = max(startedAt, leaseAskedAt[server] ?? startedAt)
        guard now - asked < configuration.leaseTime else { return false }
        return state.pools.values.contains { pool in
            pool.combs.contains { $0.isPlaced && $0.primary.sds == server } && isShared(pool.id, in: state)
        }
    }

    // MARK: Beginning and ending

    /// What a change of mappings that awaits its proof means for those who have the volume.
    mutating func noteSharing(_ volume: Volume, before: Volume?) {
        let isShared = volume.mappings.count > 1
        let wasShared = (before?.mappings.count ?? 0) > 1
        if wasShared { fences[volume.id]?.endsSharing = true }
        if !isShared { fences[volume.id]?.beginsSharing = false }
        if isShared, !wasShared { fences[volume.id]?.beginsSharing = true }
    }

    /// The map revision up to which it is certain that nobody answers one of the volume's clients as if it were alone: servers
    /// know of the others, or the client knows which servers to ask. A server that was removed may live on, unheard.
    func sharingKnown(_ volume: Volume, _ fence: Fence) -> UInt64 {
        guard fence.beginsSharing, configuration.rules.contains(.sharingIsConfirmed) else { return .max }
        let domain = state.pools[volume.pool]?.domain
        let isKnownEverywhere = state.servers.values.allSatisfy { server in
            server.domain != domain || (presence[server.id]?.acknowledged ?? 0) >= fence.since
        }
        if isKnownEverywhere, state.removedServers.isEmpty { return .max }
        return volume.usableMappings.map { confirmed(by: $0.sdc) }.min() ?? .max
    }

    /// One that never introduced itself knows nothing and asks nobody.
    private func confirmed(by client: SdcID) -> UInt64 {
        if state.clients[client]?.incarnation == 0 { return .max }
        return links.values.reduce(0) { $1.role == .client(client) ? max($0, $1.confirmed) : $0 }
    }

    /// For people: whose word is awaited.
    func unconfirmedClients(of volume: Volume, _ fence: Fence) -> [String] {
        volume.usableMappings.filter { confirmed(by: $0.sdc) < fence.since }.map { mapping in
            guard let client = state.clients[mapping.sdc], !client.name.isEmpty else { return "SDC \(mapping.sdc)" }
            return "SDC \(client.name)"
        }
    }
}
