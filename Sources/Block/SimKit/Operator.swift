import Base
import BlockCore

/// Who makes, maps and removes volumes, as a scheduler does.
extension Simulation {
    enum Question {
        case create
        case fence(VolumeID)
        case change(VolumeID)
        case reshape
        case snapshot
        case overwriting(VolumeID)
    }

    static let volumesWanted = 2
    static let volumesMax = 6

    func submit(_ command: ManagerCommand, _ question: Question) {
        let ticket = Ticket(rawValue: nextTicket)
        nextTicket += 1
        // Sometimes a leader of before is asked; it must not promise anything.
        let former = managerIDs.first { $0 != leader && isUp($0) && now >= pausedUntil($0) }
        let odds = options.profile == .shared ? 16 : 4
        let asked = Int.random(in: 0..<odds, using: &random) == 0 ? former ?? leader : leader
        tickets[ticket] = question
        managers[asked]?.tickets.insert(ticket)
        note("operator asks \(asked): \(command)")
        drive(asked, ManagerEvent.submit(ticket, command))
    }

    func answer(_ ticket: Ticket, _ result: Result<ManagerReply, ManagerError>) {
        guard let question = tickets.removeValue(forKey: ticket) else { return fail("a ticket was answered twice") }
        switch (question, result) {
        case (.fence(let volume), .success(.fenced(let proof))):
            fences += 1
            note("proof \(proof)")
            let proven = managerIDs.lazy.compactMap { self.managers[$0]?.core?.state.volumes[volume] }
                .first { $0.attachEpoch == proof.attachEpoch }
            if let proven, proven.mappings.count > 1 { did("volume with two clients") }
            history.fence(
                volume, proof.attachEpoch, keeping: Set(proven?.mappings.map(\.epoch) ?? []), at: now.nanoseconds)
        case (.overwriting(let volume), .failure(let error)) where error.code == .volumeMapped:
            // Nothing of it has happened, whoever said so.
            askedOverwriting[volume] = nil
        case (.create, _), (.fence, _), (.change, _), (.reshape, _), (.snapshot, _), (.overwriting, _):
            note("answer: \(question) \(result)")
        }
    }

    /// Now and then. After the end of the faults every volume only gets its client.
    func operate() {
        heap.add(.operate, at: now + operatorsPause())
        guard let state = manager.core?.state, now >= manager.pausedUntil else { return }
        if isHealed, makeRoom(state) { return }
        if isHealed, let server = state.servers.values.first(where: { $0.maintenance != .none }) {
            submit(.configure(.exitMaintenance(server.id)), .reshape)
        }
        // What does not fit elsewhere cannot be taken away.
        if isHealed, options.profile == .cramped, let server = state.servers.values.first(where: \.isLeaving) {
            submit(.configure(.abortRemoveSds(server.id)), .reshape)
        }
        if losesDisks, giveUpServers(state) { return }
        if let pool = state.pools.values.first, pool.sparePercentage != options.profile.sparePercentage {
            submit(.configure(.setSparePercentage(pool.id, options.profile.sparePercentage)), .reshape)
        } else if state.volumes.count < Simulation.volumesWanted {
            create(in: state)
        } else if !isHealed, overwrite(state) {
            return
        } else if let homeless = state.volumes.values.first(where: { $0.mappings.isEmpty }) {
            give(homeless, state, preempting: false)
        } else if !isHealed, options.profile == .shared, regroup(state) {
            return
        } else if !isHealed, takesSnapshots, Int.random(in: 0..<3, using: &random) > 0 {
            takeSnapshots(state)
        } else if !isHealed, let volume = state.volumes.values.randomElement(using: &random) {
            change(volume, state)
        }
    }

    private func operatorsPause() -> Duration {
        if isHealed { return .milliseconds(500) }
        if options.profile == .lasting { return delay(500, 15_000) }
        if takesSnapshots { return delay(50, 700) }
        return options.profile == .shared ? delay(100, 1200) : delay(200, 2500)
    }

    /// Where what is stored leaves no room for second copies or new volumes, some has to go: of snapshots, if there are any.
    private func makeRoom(_ state: SystemState) -> Bool {
        let isFull = state.pools.values.contains { pool in
            state.capacity(of: pool.id).isAbove(pool.settings.capacityAlertCritical)
        }
        guard takesSnapshots || isFull, options.profile == .cramped, now - healedAt > .seconds(10) else { return false }
        let isWhole = state.pools.values.allSatisfy { pool in
            pool.combs.allSatisfy { if case .degraded = $0.state { false } else { true } }
        }
        if isWhole, state.volumes.count >= Simulation.volumesWanted { return false }
        let ofSnapshots = state.volumes.values.filter { $0.head != 0 }
        let volumes = ofSnapshots.isEmpty && isFull ? Array(state.volumes.values) : ofSnapshots
        guard let volume = volumes.randomElement(using: &random) else { return false }
        submit(.removeVolume(volume.id, unmapping: true), .change(volume.id))
        return true
    }

    /// Of one volume or several, also of snapshots; or takes a volume out of its tree, whatever hangs on it.
    private func takeSnapshots(_ state: SystemState) {
        let room = Simulation.volumesMax - state.volumes.count
        guard room > 0 else {
            guard let volume = state.volumes.keys.randomElement(using: &random) else { return }
            return submit(.removeVolume(volume, unmapping: true), .change(volume))
        }
        let sources = state.volumes.keys.filter { askedOverwriting[$0] == nil }.shuffled(using: &random)
            .prefix(Int.random(in: 1...room, using: &random))
        let definitions = sources.map { source in
            defer { nextValue += 1 }
            askedSnapshots["s\(nextValue)"] = (source, now)
            return SnapshotDefinition(volume: source, name: "s\(nextValue)")
        }
        submit(.takeSnapshots(definitions, createdAt: 0), .snapshot)
    }

    /// Snapshots that have appeared: from now on what they show must fit to one moment.
    func watchSnapshots() {
        guard takesSnapshots, let state = manager.core?.state else { return }
        for volume in state.volumes.values {
            guard let group = volume.snapshotGroup, let asked = askedSnapshots.removeValue(forKey: volume.name) else {
                continue
            }
            snapshots += 1
            note("snapshot \(volume.id) of \(asked.source) has appeared")
            history.appeared(
                volume.id, of: asked.source, group: group.rawValue, from: asked.at.nanoseconds, to: now.nanoseconds)
        }
    }

    private func create(in state: SystemState) {
        guard let pool = state.pools.values.first else { return }
        let units = UInt32.random(in: options.profile.volumeUnits, using: &random)
        let isThick = wantsThick(state.capacity(of: pool.id))
        submit(
            .createVolume(
                pool: pool.id, name: "v\(nextTicket)", sizeUnits: isThick ? Simulation.thickUnits : units,
                provisioning: isThick ? .thick : .thin, createdAt: 0), .create)
    }

    /// Moves a client's volume to another, as a scheduler does after it has given up on a host.
    func preempt(_ client: NodeID) {
        guard !isHealed, let state = manager.core?.state, now >= manager.pausedUntil,
            let owner = clients[client]?.core?.sdc,
            let volume = state.volumes.values.filter({ $0.mapping(of: owner) != nil }).randomElement(using: &random)
        else { return }
        give(volume, state, preempting: true)
    }

    private func give(_ volume: Volume, _ state: SystemState, preempting: Bool) {
        let owner = volume.mappings.first?.sdc
        guard let heir = state.clients.keys.filter({ $0 != owner }).randomElement(using: &random) else { return }
        submit(
            .map(volume.id, heir, mode: .readWrite, allowMultiple: false, preempt: preempting), .fence(volume.id))
    }

    /// Takes a server away although it holds data, or thinks better of it.
    private func reshape(_ state: SystemState) {
        if let pool = state.pools.keys.first, Int.random(in: 0..<4, using: &random) == 0,
            let kind = IoPriorityPolicy.Kind.allCases.randomElement(using: &random)
        {
            var policy = IoPriorityPolicy(kind)
            policy.concurrentIosPerDevice = UInt32.random(in: 1...4, using: &random)
            policy.appIopsThreshold = UInt32.random(in: 0...50, using: &random)
            let copies = CopyKind.allCases.randomElement(using: &random) ?? .rebuild
            return submit(.configure(.setIoPriorityPolicy(pool, copies, policy)), .reshape)
        }
        if let server = state.servers.values.first(where: { $0.maintenance != .none }) {
            guard Bool.random(using: &random) else { return }
            return submit(.configure(.exitMaintenance(server.id)), .reshape)
        }
        if Int.random(in: 0..<4, using: &random) == 0, let server = state.servers.keys.randomElement(using: &random) {
            let isProtected = Bool.random(using: &random)
            if Bool.random(using: &random) { hamper(server) }
            return submit(.configure(.enterMaintenance(server, protected: isProtected)), .reshape)
        }
        if let leaving = state.servers.values.first(where: \.isLeaving) {
            guard Int.random(in: 0..<3, using: &random) == 0 else { return }
            return submit(.configure(.abortRemoveSds(leaving.id)), .reshape)
        }
        guard let server = state.servers.values.randomElement(using: &random) else { return }
        if Bool.random(using: &random) { hamper(server.id) }
        submit(.removeSds(server.id), .reshape)
    }

    private func change(_ volume: Volume, _ state: SystemState) {
        // In every second run the system stays what it is.
        switch Int.random(in: 0..<(options.seed % 2 == 0 ? 14 : 10), using: &random) {
        case 10...13: reshape(state)
        case 0, 1: submit(.unmap(volume.id, volume.mappings.first?.sdc), .fence(volume.id))
        case 2, 3: submit(.removeVolume(volume.id, unmapping: true), .change(volume.id))
        case 4:
            guard volume.sizeUnits < options.profile.volumeUnitsMax else { return }
            submit(.resizeVolume(volume.id, sizeUnits: volume.sizeUnits + 1), .change(volume.id))
        case 5: limit(volume)
        default: give(volume, state, preempting: true)
        }
    }

    /// Some limits bind, some do not, and some end.
    private func limit(_ volume: Volume) {
        guard let mapping = volume.mappings.first else { return }
        let isLimited = mapping.limitIops == 0 && mapping.limitKibibytesPerSecond == 0
        submit(
            .setMappingLimits(
                volume.id, mapping.sdc, iops: isLimited ? UInt32.random(in: 11...400, using: &random) : 0,
                kibibytesPerSecond: isLimited && Bool.random(using: &random) ? 1024 : 0), .change(volume.id))
    }
}
