import Base

/// What copies between devices take of one device, held to the policies of its pool. Copies are counted in units.
struct CopyThrottle {
    private struct Work {
        /// Units that are being copied.
        var active = 0
        /// When the bandwidth that was used so far is paid for.
        var paidAt = Instant.zero
        /// When applications were last seen above the thresholds.
        var busyAt: Instant?
        /// What was copied last has had its share of the time until then.
        var restsUntil = Instant.zero
    }

    /// One copy's turn on a device.
    struct Turn {
        var kind: CopyKind
        var began: Instant
    }

    /// A copy may begin so long before its bandwidth is there: it is looked for only at every tick.
    private static let advance = Duration.milliseconds(25)
    private static let window = Duration.seconds(1)
    /// Units under way even where nothing limits them: each has a buffer.
    private static let activeMax = 16
    /// After a request of applications a device counts as theirs for so long: copies go in small pieces and rest between units.
    private static let attention = Duration.milliseconds(100)
    /// A rest takes as long as what was copied before it, up to a limit.
    private static let restMax = Duration.seconds(1)
    /// Blocks of a piece: a request may have to wait for one in the disk's queue.
    private static let pieceBlocks: UInt16 = 32

    private var rebuild = Work()
    private var rebalance = Work()
    private var windowStart = Instant.zero
    private var requests: UInt64 = 0
    private var bytes: UInt64 = 0
    /// When an application's request came last.
    private var requestAt: Instant?

    private subscript(kind: CopyKind) -> Work {
        get { kind == .rebuild ? rebuild : rebalance }
        set { if kind == .rebuild { rebuild = newValue } else { rebalance = newValue } }
    }

    func mayStart(_ kind: CopyKind, _ policy: IoPriorityPolicy, _ now: Instant) -> Bool {
        let work = self[kind]
        guard work.active < CopyThrottle.activeMax else { return false }
        let hasTurn = work.active < Int(policy.concurrentIosPerDevice) && now >= work.restsUntil
        switch policy.kind {
        case .unlimited: return true
        case .limitNumOfConcurrentIos: return hasTurn
        case .favorAppIos: return hasTurn && now + CopyThrottle.advance >= work.paidAt
        case .dynamicBwThrottling:
            guard isHeldBack(work, policy, now) else { return true }
            return hasTurn && now + CopyThrottle.advance >= work.paidAt
        }
    }

    /// Whether applications are, or were lately, so busy that `dynamicBwThrottling` limits copies.
    private func isHeldBack(_ work: Work, _ policy: IoPriorityPolicy, _ now: Instant) -> Bool {
        guard let busyAt = work.busyAt else { return false }
        return now - busyAt < .milliseconds(Int64(policy.quietPeriodMilliseconds)) + CopyThrottle.window
    }

    mutating func started(_ kind: CopyKind, _ policy: IoPriorityPolicy, bytes: UInt64, _ now: Instant) {
        self[kind].active += 1
        switch policy.kind {
        case .unlimited, .limitNumOfConcurrentIos: break
        // What was copied without a limit is not owed when there is one again.
        case .dynamicBwThrottling where !isHeldBack(self[kind], policy, now): self[kind].paidAt = now
        case .favorAppIos, .dynamicBwThrottling:
            let rate = UInt64(max(1, policy.kibibytesPerSecondPerDevice)) * 1024
            self[kind].paidAt =
                max(now, self[kind].paidAt) + .nanoseconds(Int64(clamping: bytes * 1_000_000_000 / rate))
        }
    }

    mutating func ended(_ turn: Turn, _ policy: IoPriorityPolicy, _ now: Instant) {
        self[turn.kind].active -= 1
        guard isShared(turn.kind, policy, now) else { return }
        let rest = min(now - turn.began, CopyThrottle.restMax)
        self[turn.kind].restsUntil = max(self[turn.kind].restsUntil, now + rest)
    }

    /// Whether copies that the policy limits share the device with applications.
    private func isShared(_ kind: CopyKind, _ policy: IoPriorityPolicy, _ now: Instant) -> Bool {
        guard let requestAt, now - requestAt < CopyThrottle.attention else { return false }
        switch policy.kind {
        case .unlimited: return false
        case .limitNumOfConcurrentIos, .favorAppIos: return true
        case .dynamicBwThrottling: return isHeldBack(self[kind], policy, now)
        }
    }

    /// Most blocks that are to be copied in one piece.
    func pieceBlocks(_ kind: CopyKind, _ policy: IoPriorityPolicy, _ now: Instant) -> UInt16 {
        isShared(kind, policy, now) ? CopyThrottle.pieceBlocks : BlockRange.wholeUnit.count
    }

    /// An application's request on the device.
    mutating func noteRequest(bytes count: UInt32, _ now: Instant) {
        requests += 1
        bytes += UInt64(count)
        requestAt = now
    }

    /// Looks once a second how busy applications are.
    mutating func tick(_ policies: PoolSettings, _ now: Instant) {
        let elapsed = now - windowStart
        guard elapsed >= CopyThrottle.window else { return }
        let milliseconds = UInt64(
            max(1, elapsed.components.seconds * 1000 + elapsed.components.attoseconds / 1_000_000_000_000_000))
        let requestsPerSecond = requests * 1000 / milliseconds
        let kibibytesPerSecond = bytes * 1000 / 1024 / milliseconds
        for kind in CopyKind.allCases {
            let policy = policies.policy(kind)
            if requestsPerSecond > policy.appIopsThreshold || kibibytesPerSecond > policy.appKibibytesThreshold {
                self[kind].busyAt = now
            }
        }
        windowStart = now
        (requests, bytes) = (0, 0)
    }
}

extension ServerCore {
    /// Units of one comb that are copied at once when nothing limits them: enough to keep a disk and a link busy.
    static let copiesPerComb = 4

    /// What a comb's copies are for.
    func copyKind(_ key: CombKey) -> CopyKind {
        if case .moving = map.comb(key)?.state { .rebalance } else { .rebuild }
    }

    func policy(_ key: CombKey, _ kind: CopyKind) -> IoPriorityPolicy {
        (map.pools[key.pool]?.settings ?? PoolSettings()).policy(kind)
    }

    /// Begins as many copies from a device as the policies allow, the comb with the fewest under way first.
    mutating func startCopies(_ store: Int, _ now: Instant, _ actions: inout [ServerAction]) {
        // A copy that ends at once asks for the next one: the loop below already does.
        guard !isStartingCopies else { return }
        isStartingCopies = true
        defer { isStartingCopies = false }
        while let key = nextToCopy(store, now), let family = rebuilds[key]?.order.popLast() {
            let kind = copyKind(key)
            rebuilds[key]?.copiesActive += 1
            let blocks = map.nodes(of: family.tree).reduce(0) { count, node in
                count + stores[store].map(of: UnitKey(tree: family.tree, node: node, index: family.index)).count
            }
            let bytes = UInt64(blocks) * UInt64(Geometry.blockBytes)
            throttles[store].started(kind, policy(key, kind), bytes: bytes, now)
            var operation = Operation(
                kind: .copyUnit, link: nil, header: DataHeader(opcode: .copy), payload: nil,
                unit: UnitKey(tree: family.tree, node: 0, index: family.index),
                range: .wholeUnit, comb: key, store: store)
            operation.turn = CopyThrottle.Turn(kind: kind, began: now)
            enqueue(operation, now, &actions)
        }
    }

    private func nextToCopy(_ store: Int, _ now: Instant) -> CombKey? {
        let device = devices[store]
        return rebuilds.keys.sorted().filter { key in
            guard let rebuild = rebuilds[key], rebuild.phase == .copying, !rebuild.order.isEmpty,
                rebuild.copiesActive < ServerCore.copiesPerComb, map.comb(key)?.primary.device == device
            else { return false }
            let kind = copyKind(key)
            return throttles[store].mayStart(kind, policy(key, kind), now)
        }.min { (rebuilds[$0]?.copiesActive ?? 0, $0) < (rebuilds[$1]?.copiesActive ?? 0, $1) }
    }

    mutating func copyEnded(_ operation: Operation, _ now: Instant) {
        guard let turn = operation.turn else { return }
        throttles[operation.store].ended(turn, policy(operation.comb, turn.kind), now)
        // Of one that was given up it was counted then.
        if operation.kind == .copyUnit, operation.failure == nil { rebuilds[operation.comb]?.copiesActive -= 1 }
    }

    mutating func tickCopies(_ now: Instant, _ actions: inout [ServerAction]) {
        for index in stores.indices {
            let pool = rebuilds.keys.sorted().first { map.comb($0)?.primary.device == devices[index] }?.pool
            guard let pool else { continue }
            throttles[index].tick(map.pools[pool]?.settings ?? PoolSettings(), now)
            startCopies(index, now, &actions)
        }
    }

    /// Counts what is accepted. What a copy reads is counted run by run.
    mutating func count(_ operation: Operation) {
        let kind: IOCounters.Class
        switch operation.kind {
        case .clientRead: kind = .primaryRead
        case .clientWrite, .clientZeroes: kind = .primaryWrite
        case .replicaWrite where operation.header.opcode == .copy:
            // A copy that is in sync gets what is merged.
            let place = CopyPlace(sds: sds, device: stores[operation.store].device)
            let isMerged = map.comb(operation.comb)?.inSync.contains(place) == true
            kind = isMerged || copyKind(operation.comb) == .rebalance ? .rebalanceWrite : .rebuildWrite
        case .replicaWrite, .replicaZeroes: kind = .secondaryWrite
        case .clientMap, .replicaDrop, .replicaRead, .examine, .copyUnit, .mergeUnit, .mergeDrop: return
        }
        counters[operation.store].add(kind, bytes: operation.range.length)
    }
}
