import Base
import OrderedCollections

extension SchedulerCore {
    /// Places waiting instances on offers; what is left of an offer goes back with the acceptance, unused ones are
    /// declined.
    mutating func consider(_ offers: [AgentOffer], time: Timestamp, rng: inout some RandomNumberGenerator) {
        counters.offersIncoming += offers.count
        var unused: [String] = []
        for offer in offers {
            let launches = place(on: offer, time: time, rng: &rng)
            if launches.isEmpty {
                unused.append(offer.id)
            } else {
                counters.offersUsed += 1
                counters.tasksLaunched += launches.count
                effects.append(.accept(offerID: offer.id, agentID: offer.agentID, launches))
            }
        }
        if !unused.isEmpty {
            counters.offersDeclined += unused.count
            effects.append(.decline(unused, refuse: configuration.declineDuration))
        }
    }

    private mutating func place(
        on offer: AgentOffer, time: Timestamp, rng: inout some RandomNumberGenerator
    ) -> [Launch] {
        var remainder = OfferRemainder(offer)
        var launches: [Launch] = []
        for id in hungryApps(time) {
            while launches.count < configuration.instancesPerOfferMax, let entry = queue[id], entry.count > 0,
                let app = apps[id]
            {
                // Instances that this very offer got count as well: constraints hold within one batch.
                let peers = instances(of: id).filter { $0.isActive && $0.configVersion == app.lastConfigChangeAt }
                switch remainder.take(for: app, beside: peers, rng: &rng) {
                case .refused(let reasons):
                    if launches.last?.app.id != id { queue[id]?.refuse(offer, reasons: reasons, at: time) }
                case .taken(let shares, let hostPorts):
                    let instance = Instance(
                        id: "\(id.safe).instance-\(randomUUID(using: &rng))", appID: id, appVersion: app.version,
                        configVersion: app.lastConfigChangeAt, agentID: offer.agentID, host: offer.hostname,
                        hostPorts: hostPorts, placement: remainder.placement, stagedAt: time)
                    save(instance)
                    launches.append(
                        Launch(instance: instance, app: app, shares: shares, allocationRole: offer.allocationRole))
                    queue[id]?.count -= 1
                    queue[id]?.processed += 1
                    queue[id]?.lastUsed = time
                    publishCondition(instance, "Created", time: time)
                    continue
                }
                break
            }
        }
        return launches
    }

    /// The apps that may be launched now, the longest waiting first.
    func hungryApps(_ time: Timestamp) -> [AppID] {
        queue.filter { id, entry in entry.count > 0 && !isDelayed(id, time: time) }
            .sorted { left, right in
                left.value.since == right.value.since ? left.key < right.key : left.value.since < right.value.since
            }
            .map(\.key)
    }

    func isDelayed(_ id: AppID, time: Timestamp) -> Bool {
        guard let backoff = backoffs[id], let app = apps[id] else { return false }
        return backoff.configVersion == app.lastConfigChangeAt && backoff.until > time
    }

    /// Asks for offers when there is more to place than before, and from time to time while something waits; refuses
    /// them altogether while nothing does.
    mutating func balanceOffers(_ time: Timestamp) {
        guard isConnected else { return }
        let hungry = hungryApps(time)
        guard !hungry.isEmpty else {
            revivedFor = [:]
            if !isSuppressed {
                isSuppressed = true
                counters.suppresses += 1
                effects.append(.suppress)
            }
            return
        }
        let isNew = hungry.contains { (queue[$0]?.count ?? 0) > (revivedFor[$0] ?? 0) }
        let sinceLast = lastRevive.map { time.milliseconds - $0.milliseconds } ?? .max
        let interval = isNew || isSuppressed ? configuration.minReviveInterval : configuration.reviveRepeat
        if sinceLast >= interval.wholeNanoseconds / 1_000_000 {
            isSuppressed = false
            lastRevive = time
            revivedFor = [:]
            for id in hungry { revivedFor[id] = queue[id]?.count }
            counters.revives += 1
            effects.append(.revive)
        } else if !isNew {
            for id in hungry { revivedFor[id] = min(revivedFor[id] ?? 0, queue[id]?.count ?? 0) }
        }
    }
}
