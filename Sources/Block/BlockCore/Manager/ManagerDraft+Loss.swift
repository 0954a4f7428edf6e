/// Combs whose only good copy is lost for good. Only an operator can say so; then the copy that left before takes its place, and
/// every volume with data there is marked.
extension ManagerDraft {
    /// Promotes the older copies of all combs that are unavailable because of this server, or this one device of it.
    mutating func promoteStaleCopies(of id: SdsID, _ device: DeviceID?) throws(ManagerError) -> ManagerReply {
        guard let server = state.servers[id] else { throw ManagerError(.sdsNotFound, "no SDS \(id)") }
        if let device, state.devices[device]?.sds != id {
            throw ManagerError(.deviceNotFound, "SDS \(id) has no device \(device)")
        }
        var (promoted, left) = (0, 0)
        for pool in state.pools.values {
            var combs: [UInt32] = []
            for (index, comb) in pool.combs.enumerated() where comb.state == .unavailable {
                guard comb.primary.sds == id, device == nil || comb.primary.device == device else { continue }
                guard let former = comb.former, state.isUsable(former.place) else {
                    left += 1
                    continue
                }
                promote(former.place, of: CombKey(pool: pool.id, index: UInt32(index)), insteadOf: comb)
                combs.append(UInt32(index))
            }
            guard !combs.isEmpty else { continue }
            promoted += combs.count
            notices.append(.staleCopiesPromoted(count: combs.count, pool: pool.id, lost: id))
            if rules.contains(.lossIsMarked) { mark(combs, of: pool) }
        }
        guard promoted + left > 0 else {
            throw ManagerError(.invalidArgument, "nothing is unavailable because of SDS \(server.name)")
        }
        guard promoted > 0 else {
            throw ManagerError(.invalidArgument, "no older copy of any of the \(left) pieces is in reach")
        }
        let rest = left > 0 ? "; of \(left) others no older copy is in reach" : ""
        return .doneWithWarning("\(promoted) pieces hold older data now, and every volume in them is marked\(rest)")
    }

    /// What the lost copy has beyond this one nobody else knows, so it is never brought up to date by differences: if it ever
    /// returns it is filled from nothing.
    private mutating func promote(_ place: CopyPlace, of key: CombKey, insteadOf lost: Comb) {
        reconfigure(key, primary: place, state: .degraded, distrusting: true)
        let former = rules.contains(.lostCopyIsFilledAnew) ? nil : FormerCopy(place: lost.primary, epoch: lost.epoch)
        remember(former, of: key)
    }

    private mutating func mark(_ combs: [UInt32], of pool: StoragePool) {
        for volume in state.volumes(in: pool.id) {
            let touched = combs.filter { volume.units(inComb: $0, combCount: pool.combCount) > 0 }
            if touched.isEmpty { continue }
            let all = Set(touched).union(state.dataLosses[volume.id]?.combs ?? []).sorted()
            let units = all.reduce(0) { $0 + volume.units(inComb: $1, combCount: pool.combCount) }
            put(DataLoss(volume: volume.id, revision: revision, combs: all, units: units))
            notices.append(.volumeLostData(volume.id, units: units))
        }
    }

    /// The operator has dealt with it.
    mutating func clearDataLoss(of id: VolumeID) throws(ManagerError) {
        guard state.volumes[id] != nil else { throw ManagerError(.volumeNotFound, "no volume \(id)") }
        guard state.dataLosses[id] != nil else {
            throw ManagerError(.invalidArgument, "volume \(id) is not marked as having lost data")
        }
        removeDataLoss(id)
        notices.append(.dataLossCleared(id))
    }
}
