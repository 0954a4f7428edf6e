import Base
import BlockCore

/// Copies that are lost for good, and the operator who decides to go on with older ones.
extension Simulation {
    /// The server of the only good copy of something goes away for long, or its disk is replaced by an empty one.
    func loseLastCopy() {
        guard let state = manager.core?.state else { return }
        let last = state.pools.values.flatMap(\.combs).filter { $0.secondary == nil && $0.former != nil }
        let victims = serverIDs.filter { id in last.contains { $0.primary.sds == servers[id]?.sds } }
        guard let victim = victims.randomElement(using: &random), isUp(victim) else { return }
        if Bool.random(using: &random) {
            did("last copy away")
            crash(victim)
            heap.add(.start(victim), at: now + delay(3000, 9000))
            // Clients that write on soon cover what the two copies differ in.
            guard Bool.random(using: &random) else { return }
            for client in clientIDs {
                crash(client)
                heap.add(.start(client), at: now + delay(8000, 12000))
            }
        } else {
            wipe(victim)
        }
    }

    /// The disk comes back empty, and its server as another one.
    func wipe(_ id: NodeID) {
        guard isUp(id), let former = servers[id]?.sds else { return }
        did("disk wiped")
        crash(id)
        formerServers.insert(former)
        servers[id]?.install(id)
        heap.add(.start(id), at: now + delay(1000, 4000))
    }

    /// Deals with servers that are down and hold the only good copy of something, or never come back. True if there was one.
    func giveUpServers(_ state: SystemState) -> Bool {
        for server in state.servers.values where server.status == .down {
            let node = serverIDs.first { servers[$0]?.sds == server.id }
            let isGone = formerServers.contains(server.id)
            // An operator makes sure that it does not run any more, and mostly waits for it.
            guard isGone || (node.map { !isUp($0) } ?? false && Int.random(in: 0..<3, using: &random) == 0) else {
                continue
            }
            let held = state.pools.values.flatMap(\.combs).filter {
                $0.state == .unavailable && $0.primary.sds == server.id
            }
            if held.contains(where: { $0.former.map { state.isUsable($0.place) } ?? false }) {
                submit(.configure(.promoteStaleCopies(server.id, nil)), .reshape)
                return true
            }
            guard isGone else { continue }
            // What nobody has a copy of can only be made anew.
            if held.contains(where: { $0.former.map { formerServers.contains($0.place.sds) } ?? true }),
                let volume = state.volumes.values.first
            {
                submit(.removeVolume(volume.id, unmapping: true), .change(volume.id))
                return true
            }
            if held.isEmpty {
                submit(.removeSds(server.id), .reshape)
                return true
            }
        }
        return false
    }

    /// Compares what was stored before and after a commit: where an older copy was promoted and the volume is marked, readers may
    /// see any one state of the past from now on. Where it is not marked they may not.
    func noteLosses(_ before: [String: [UInt8]]) {
        guard let old = try? stored(before), let new = try? stored(store.records) else {
            return fail("the stored records cannot be read")
        }
        for pool in new.pools.values {
            for (index, comb) in pool.combs.enumerated() {
                // One that is placed anew, for want of volumes, has two copies.
                guard let was = old.pools[pool.id]?.combs[index], was.state == .unavailable,
                    comb.primary != was.primary, comb.secondary == nil
                else { continue }
                did("older copy promoted")
                for loss in new.dataLosses.values where loss.combs.contains(UInt32(index)) {
                    guard loss.revision == new.revision, let volume = new.volumes[loss.volume] else { continue }
                    lose(volume, UInt32(index), pool.combCount)
                }
            }
        }
    }

    private func lose(_ volume: Volume, _ comb: UInt32, _ combCount: UInt32) {
        for unit in 0..<volume.sizeUnits {
            guard Geometry.comb(of: FamilyKey(tree: volume.tree, index: unit), combCount: combCount) == comb else {
                continue
            }
            history.lost(volume.id, unit, at: now.nanoseconds)
        }
    }

    func stored(_ records: [String: [UInt8]]) throws -> SystemState? {
        let sorted = records.keys.sorted().map { (key: $0, value: records[$0] ?? []) }
        return try ManagerCore(records: sorted, configuration: ManagerConfiguration(), now: now)?.state
    }
}
