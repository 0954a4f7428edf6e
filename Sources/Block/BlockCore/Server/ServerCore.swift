public import Base

/// A storage server: sessions, both epochs, replicated writes in one order on both copies, and rebuilding.
///
/// Invariants:
/// - An acknowledged write is stable on every in-sync copy of the committed comb.
/// - Operations on overlapping blocks are applied one after the other, in the order of their arrival at the primary.
/// - A map revision is confirmed to the manager only when everything accepted under older rules has ended.
/// - Nothing is served for a comb before the manager has said what this server is for it; a restarted one knows none.
public struct ServerCore: Sendable {
    enum PeerKey: Hashable {
        case client(SdcID)
        case server(SdsID)
        /// Another server's connection for what fills new copies.
        case copyingServer(SdsID)

        var server: SdsID? {
            switch self {
            case .client: nil
            case .server(let id), .copyingServer(let id): id
            }
        }
    }

    /// A data connection that somebody opened to us.
    struct Inbound {
        var peer: PeerKey
        var session: UInt64
        var lastRequest: UInt64 = 0
    }

    public let configuration: ServerConfiguration
    public let sds: SdsID
    public internal(set) var system: SystemID?
    var generation: UInt32?
    public internal(set) var stores: [UnitStore]
    /// Of each of `stores`: a store is large, and would be copied to be asked.
    let devices: [DeviceID]
    var map = ClusterMap()
    var inbound = IDTable<LinkID, Inbound>()
    var sessions: [PeerKey: UInt64] = [:]
    var peers = IDTable<PeerChannel, Peer>()
    var operations = IDTable<UInt64, Operation>()
    var nextOperation: UInt64 = 1
    /// Emptied, for the next event: what is used anew each time takes no memory each time.
    private var spareRequests: UnitStore.Requests = []
    private var spareCompletions: [UnitStore.Completion] = []
    /// As many as families were busy at once, which `requestsMax` bounds.
    var spareQueues: [[UInt64]] = []
    /// Per family, operations in the order of arrival: the range locks. A read may look through several units of a family, and a
    /// copy brings all of them, so volumes of a tree wait for each other where they touch the same blocks.
    var queues = IDTable<FamilyKey, [UInt64]>()
    var rebuilds: [CombKey: Rebuild] = [:]
    /// For each of `stores`.
    var throttles: [CopyThrottle]
    var counters: [IOCounters]
    var isStartingCopies = false
    /// Units that are being looked at, and of these in order those whose turn has not come.
    var examinations: [UnitKey: Examination] = [:]
    /// For each of `stores`.
    var scans: [Scan]
    var integrity: [DeviceIntegrity]
    var examinationsWaiting: [UnitKey] = []
    /// Combs whose primary this server is to be no longer.
    var handovers: [CombKey: Handover] = [:]
    var lease = Lease()
    var resignations: [CombKey: Resignation] = [:]
    /// Snapshots that are being taken.
    var cut: Cut?
    var merging = Merging()
    var badBlocks = BadBlocks()
    /// Combs that this server is ready to receive, by the epoch for which it forgot its old units.
    var readyTargets: [CombKey: UInt64] = [:]
    /// Drops of stale units that are not stable yet: as a target (to be answered), or in the background.
    var drops: [UInt64: Drop] = [:]
    /// Revisions not confirmed yet, and the operations that must end before.
    var barriers: [(revision: UInt64, open: Set<UInt64>)] = []
    var removalAsked: [CombKey: Instant] = [:]
    var isManagerConnected = false
    var needsSweep = false
    var lastKeepAlive = Instant.zero
    var lastSweep = Instant.zero
    var lastCooling = Instant.zero
    var stoppedTold: Set<DeviceID> = []
    /// The oldest request of each device, and since when it has been the oldest.
    var oldestRequests: [DeviceID: (request: UInt64, since: Instant)] = [:]
    var clientOperations = 0
    var rules: ProtocolRules { configuration.rules }
    /// Whether a connection is another server's.
    public func isServer(_ link: LinkID) -> Bool {
        inbound[link]?.peer.server != nil
    }
    /// Nothing accepted, and no forgetting of units, is under way.
    public var isIdle: Bool { operations.isEmpty && drops.isEmpty && examinations.isEmpty }
    /// Whether anything accepted for the family has not ended: without it, and with its comb normal, both copies are equal.
    public func hasWork(on family: FamilyKey) -> Bool { queues[family] != nil }
    /// Where one of `stores` has the unit, in bytes of its device, and which blocks hold data; nil if it has nothing of it.
    public func place(of unit: UnitKey, in index: Int) -> (at: UInt64, blocks: BlockMap)? {
        stores[index].location(of: unit).map { ($0, stores[index].map(of: unit)) }
    }
    /// Its blocks that are known not to be what was written there.
    public func damage(of unit: UnitKey, in index: Int) -> BlockMap { stores[index].damage(of: unit) }

    /// `stores` are opened devices of this server whose opening writes are stable. `system` is what their labels say.
    public init(configuration: ServerConfiguration, sds: SdsID, system: SystemID?, stores: [UnitStore]) {
        self.configuration = configuration
        self.sds = sds
        self.system = system
        self.stores = stores
        devices = stores.map(\.device)
        throttles = stores.map { _ in CopyThrottle() }
        counters = stores.map { _ in IOCounters() }
        scans = stores.map { _ in Scan() }
        integrity = stores.map { _ in DeviceIntegrity() }
    }

    /// To be called once before any event: starts the devices' housekeeping.
    public mutating func begin(into actions: inout [ServerAction]) {
        for index in stores.indices {
            var requests: UnitStore.Requests = []
            stores[index].begin(&requests)
            issue(&requests, index, &actions)
        }
    }

    public mutating func apply(_ event: ServerEvent, now: Instant, into actions: inout [ServerAction]) {
        switch event {
        case .managerConnected:
            isManagerConnected = true
            introduce(&actions)
        case .managerClosed:
            isManagerConnected = false
            endCut(now, &actions)
        case .manager(let message): receive(message, now, &actions)
        case .request(let link, let header, let payload): receive(header, payload, on: link, now, &actions)
        case .linkClosed(let link): inbound[link] = nil
        case .peerConnected(let peer, let link): connected(peer, link, now, &actions)
        case .peerClosed(let peer): disconnected(peer, now)
        case .answer(let link, let header, let bytes): answered(header, bytes, on: link, now, &actions)
        case .fetched(let link, let header, let payload):
            answered(header, [], payload, on: link, now, &actions)
        case .disk(let device, let id, let outcome): finish(device, id, outcome, now, &actions)
        case .tick: tick(now, &actions)
        }
        confirm(&actions)
    }

    // MARK: Manager

    private func introduce(_ actions: inout [ServerAction]) {
        let hello = ServerHello(
            system: system, sds: sds, name: configuration.name, domainName: configuration.domainName,
            address: configuration.address, incarnation: configuration.incarnation,
            hostBoot: configuration.hostBoot,
            devices: stores.filter { $0.stopReason == nil }.map { store in
                DeviceOffer(
                    id: store.device, poolName: configuration.poolNames[store.device] ?? "default",
                    path: configuration.devicePaths[store.device] ?? "", capacityUnits: store.label.capacityUnits,
                    mountCounter: store.label.mountCounter)
            }, faultSetName: configuration.faultSetName)
        actions.append(.sendManager(.serverHello(hello)))
    }

    private mutating func receive(
        _ message: MessageFromManager, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        switch message {
        case .welcomeServer(let system, _, let generation):
            self.system = system
            self.generation = generation
            for index in stores.indices {
                var requests: UnitStore.Requests = []
                stores[index].adopt(system, &requests)
                issue(&requests, index, &actions)
            }
            stoppedTold = []
            actions.append(.notice(.welcomed(system)))
        case .refused(let code, let message): actions.append(.notice(.refused(code: code, message: message)))
        case .update(let update): apply(update, now, &actions)
        case .cut(let id, let step): take(step, of: id, now, &actions)
        case .lease(let number): leaseGranted(number, now)
        case .keepAlive, .redirect, .welcomeClient: break
        }
    }

    private mutating func tick(_ now: Instant, _ actions: inout [ServerAction]) {
        if isManagerConnected, generation != nil, now - lastKeepAlive >= configuration.keepAliveInterval {
            lastKeepAlive = now
            let usage = stores.indices.map {
                DeviceUsage(
                    device: stores[$0].device, usedUnits: stores[$0].usedUnits,
                    thickUnits: stores[$0].thickUnits, counters: counters[$0], integrity: integrity(of: $0))
            }
            actions.append(.sendManager(.keepAlive(usage)))
            askForLease(now, &actions)
            for store in stores where store.stopReason != nil {
                actions.append(.sendManager(.deviceFailed(store.device)))
            }
        }
        tickDevices(now, &actions)
        tickPeers(now, &actions)
        tickForwards(now, &actions)
        tickRebuilds(now, &actions)
        tickCopies(now, &actions)
        tickHandovers(now, &actions)
        tickResignations(now, &actions)
        tickScans(now, &actions)
        tickCut(now, &actions)
        tickMerges(now, &actions)
        for index in stores.indices where stores[index].stopReason == nil {
            var requests: UnitStore.Requests = []
            stores[index].recordLeft(&requests)
            issue(&requests, index, &actions)
        }
        if now - lastCooling >= configuration.intentCooling {
            lastCooling = now
            for index in stores.indices { cool(index, underPressure: false, &actions) }
        }
        if needsSweep, now - lastSweep >= .milliseconds(500) {
            lastSweep = now
            sweep(&actions)
        }
    }

    // MARK: Devices

    private func integrity(of index: Int) -> DeviceIntegrity {
        var integrity = integrity[index]
        integrity.damagedBlocks = UInt64(stores[index].damagedBlocks)
        integrity.found = stores[index].damageFound
        integrity.keepsChecksums = stores[index].keepsChecksums
        return integrity
    }

    func storeIndex(_ device: DeviceID) -> Int? { devices.firstIndex(of: device) }

    /// No requests, to be filled and given to `issue`.
    mutating func noRequests() -> UnitStore.Requests {
        var requests: UnitStore.Requests = []
        swap(&requests, &spareRequests)
        return requests
    }

    /// Asks the device for them, and keeps their memory.
    mutating func issue(_ requests: inout UnitStore.Requests, _ index: Int, _ actions: inout [ServerAction]) {
        for (id, request) in requests { actions.append(.disk(devices[index], id, request)) }
        requests.removeAll(keepingCapacity: true)
        if requests.capacity > spareRequests.capacity { swap(&requests, &spareRequests) }
    }

    private mutating func finish(
        _ device: DeviceID, _ id: DiskOperationID, _ outcome: DiskOutcome, _ now: Instant,
        _ actions: inout [ServerAction]
    ) {
        guard let index = storeIndex(device) else { return }
        var requests = noRequests()
        var completions: [UnitStore.Completion] = []
        swap(&completions, &spareCompletions)
        stores[index].finish(id, outcome, &requests, into: &completions)
        issue(&requests, index, &actions)
        for operation in stores[index].takeBegun() { began(operation, now, &actions) }
        // A read that ends after its device was given up is nobody's.
        if completions.isEmpty, case .read(let payload, _) = outcome { actions.append(.release(payload)) }
        end(completions, of: index, now, &actions)
        completions.removeAll(keepingCapacity: true)
        swap(&completions, &spareCompletions)
    }

    /// Lets the device call units settled on which nothing is under way.
    mutating func cool(_ index: Int, underPressure: Bool, _ actions: inout [ServerAction]) {
        let (map, queues, rules) = (map, queues, rules)
        let place = CopyPlace(sds: sds, device: devices[index])
        var requests: UnitStore.Requests = []
        stores[index].cool(underPressure: underPressure, &requests) { unit in
            guard queues[unit.family] == nil, let key = map.combKey(of: unit), let comb = map.comb(key) else {
                return nil
            }
            // A copy made from nothing counts for nothing before it is complete.
            let isNew = comb.target == place && comb.targetEpoch == nil
            if rules.contains(.settledOnlyInSync), !comb.inSync.contains(place), !isNew { return nil }
            return rules.contains(.epochOfSettledUnits) ? comb.epoch : 0
        }
        issue(&requests, index, &actions)
    }

    /// Gives up devices that neither answer nor fail.
    private mutating func tickDevices(_ now: Instant, _ actions: inout [ServerAction]) {
        for index in stores.indices {
            let device = devices[index]
            guard let oldest = stores[index].oldestRequest else {
                oldestRequests[device] = nil
                continue
            }
            guard let known = oldestRequests[device], known.request == oldest else {
                oldestRequests[device] = (oldest, now)
                continue
            }
            guard now - known.since >= configuration.deviceTimeout else { continue }
            let seconds = configuration.deviceTimeout.components.seconds
            let completions = stores[index].stop("it has not answered for \(seconds) s")
            end(completions, of: index, now, &actions)
        }
        for index in stores.indices where isWornOut(index) {
            let completions = stores[index].stop("\(stores[index].damageFound) blocks of it were found damaged")
            end(completions, of: index, now, &actions)
        }
    }

    /// Whether so much of the device was damaged that it is not to be used any longer. The only copy of something is better
    /// than none.
    private func isWornOut(_ index: Int) -> Bool {
        guard stores[index].stopReason == nil, stores[index].damageFound >= configuration.damagedBlocksMax else {
            return false
        }
        return !map.pools.values.contains { pool in
            pool.combs.contains { $0.isPlaced && $0.primary.device == devices[index] && $0.secondary == nil }
        }
    }

    private mutating func end(
        _ completions: [UnitStore.Completion], of index: Int, _ now: Instant, _ actions: inout [ServerAction]
    ) {
        let device = devices[index]
        if let reason = stores[index].stopReason, stoppedTold.insert(device).inserted {
            actions.append(.notice(.deviceStopped(device, reason: reason)))
            if isManagerConnected { actions.append(.sendManager(.deviceFailed(device))) }
        }
        for completion in completions {
            if let unit = completion.damagedUnit { actions.append(.notice(.damaged(device, unit, completion.damaged))) }
            if let drop = drops.removeValue(forKey: completion.operation) {
                dropped(drop, completion.outcome, &actions)
            } else if operations[completion.operation] != nil {
                localFinished(completion.operation, completion, now, &actions)
            } else if case .read(let payload, _) = completion.outcome {
                actions.append(.release(payload))
            }
        }
    }
}
