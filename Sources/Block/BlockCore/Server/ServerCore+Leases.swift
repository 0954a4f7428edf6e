import Base

/// Reads of volumes that several clients have: a primary that was replaced and has not heard of it must not answer them
/// (docs/design/leases.md).
///
/// Invariants:
/// - They are answered only under a lease, which is looked at after the device has read, with the time of that moment.
/// - A lease counts from when it was asked for.
/// - Of a comb whose primary this server has asked not to be any more it answers none, until it learns of a new epoch.
extension ServerCore {
    struct Lease {
        /// On the server's own clock.
        var end = Instant.zero
        var lastNumber: UInt64 = 0
        /// Requests that a grant may still be worth something for, in order: those of the last `leaseTime`.
        var requests: [(number: UInt64, at: Instant)] = []
    }

    /// A comb that another server may lead at any moment, because this one has asked for it.
    struct Resignation {
        var epoch: UInt64
        /// What the manager was told, if it has to be told again until it decides.
        var message: MessageToManager?
        var nextTell: Instant
    }

    private static let retellInterval = Duration.milliseconds(500)

    /// Whether a client's read must not be answered, although it has been read.
    func mustWithhold(_ operation: Operation, _ now: Instant) -> Bool {
        guard !map.sharedVolumes.isEmpty, operation.isClients,
            map.sharedVolumes.contains(VolumeID(rawValue: operation.header.volume))
        else { return false }
        if resignations[operation.comb] != nil, rules.contains(.resignationEndsReads) { return true }
        return rules.contains(.leaseForReads) && now >= lease.end
    }

    mutating func askForLease(_ now: Instant, _ actions: inout [ServerAction]) {
        guard !map.sharedVolumes.isEmpty, isManagerConnected, generation != nil else { return }
        lease.requests.removeAll { now - $0.at >= configuration.leaseTime }
        lease.lastNumber += 1
        lease.requests.append((lease.lastNumber, now))
        actions.append(.sendManager(.leaseRequest(number: lease.lastNumber)))
    }

    mutating func leaseGranted(_ number: UInt64, _ now: Instant) {
        guard let index = lease.requests.firstIndex(where: { $0.number == number }) else { return }
        let start = rules.contains(.leaseCountsFromRequest) ? lease.requests[index].at : now
        lease.requests.removeFirst(index + 1)
        lease.end = max(lease.end, start + configuration.leaseTime)
    }

    /// From now on the manager may replace this server at once. `repeating`: what it has to be told until it does.
    mutating func resign(_ key: CombKey, _ epoch: UInt64, repeating message: MessageToManager?, _ now: Instant) {
        resignations[key] = Resignation(epoch: epoch, message: message, nextTell: now + ServerCore.retellInterval)
    }

    mutating func reviseResignation(_ key: CombKey, _ comb: Comb) {
        if let known = resignations[key], comb.epoch > known.epoch { resignations[key] = nil }
    }

    /// Where clients wait for the new primary, the word must not be lost.
    mutating func tickResignations(_ now: Instant, _ actions: inout [ServerAction]) {
        guard !resignations.isEmpty, !map.sharedVolumes.isEmpty, isManagerConnected else { return }
        for key in resignations.keys.sorted() {
            guard let known = resignations[key], let message = known.message, now >= known.nextTell else { continue }
            resignations[key]?.nextTell = now + ServerCore.retellInterval
            actions.append(.sendManager(message))
        }
    }
}
