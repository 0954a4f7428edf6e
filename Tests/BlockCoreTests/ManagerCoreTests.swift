import Base
import BlockCore
import Testing

/// A manager whose store is a dictionary and whose commits succeed at once, unless they are held.
struct ManagerBench {
    var core: ManagerCore
    var records: [String: [UInt8]] = [:]
    var now = Instant(nanoseconds: 1_000_000_000)
    var random = SeededRandom(seed: 1)
    var replies: [Ticket: Result<ManagerReply, ManagerError>] = [:]
    var sent: [(LinkID, MessageFromManager)] = []
    var closed: [LinkID] = []
    var commits = 0
    /// Bytes of the largest commit's values.
    var largestCommit = 0
    /// A commit is stored, and the manager does not hear of it until it is fed `committed`.
    var holdsCommits = false
    var nextTicket: UInt64 = 1

    init(combCount: UInt32 = 64) {
        var configuration = ManagerConfiguration()
        configuration.combCount = combCount
        configuration.rebuildsPerDevice = 4
        core = ManagerCore(
            system: System(id: SystemID(rawValue: 1), name: "test", createdAt: 0), configuration: configuration,
            now: now)
        feed(.tick)
    }

    mutating func feed(_ event: ManagerEvent) {
        var events = [event]
        while !events.isEmpty {
            for action in core.apply(events.removeFirst(), now: now, rng: &random) {
                switch action {
                case .commit(let mutations):
                    var size = 0
                    for mutation in mutations {
                        switch mutation {
                        case .put(let key, let value):
                            records[key] = value
                            size += value.count
                        case .delete(let key): records[key] = nil
                        }
                    }
                    commits += 1
                    largestCommit = max(largestCommit, size)
                    if !holdsCommits { events.append(.committed) }
                case .reply(let ticket, let result): replies[ticket] = result
                case .send(let link, let message): sent.append((link, message))
                case .close(let link): closed.append(link)
                case .notice: break
                }
            }
        }
    }

    mutating func submit(_ command: ManagerCommand) -> Ticket {
        let ticket = Ticket(rawValue: nextTicket)
        nextTicket += 1
        feed(.submit(ticket, command))
        return ticket
    }

    mutating func run(_ command: ManagerCommand) throws -> ManagerReply {
        let ticket = submit(command)
        return try #require(replies[ticket]).get()
    }

    static func link(_ server: UInt64) -> LinkID { LinkID(rawValue: server) }

    mutating func join(
        _ server: UInt64, incarnation: UInt64 = 1, link: UInt64? = nil, mountCounter: UInt64? = nil
    ) {
        feed(
            .message(
                LinkID(rawValue: link ?? server),
                .serverHello(
                    ServerHello(
                        system: nil, sds: SdsID(rawValue: server), name: "sds\(server)", domainName: "domain1",
                        address: "10.0.0.\(server):7072", incarnation: incarnation,
                        devices: [
                            DeviceOffer(
                                id: DeviceID(rawValue: server), poolName: "pool1", path: "/d", capacityUnits: 1000,
                                mountCounter: mountCounter ?? incarnation)
                        ]))))
        acknowledge(server, link: link)
    }

    mutating func acknowledge(_ server: UInt64, link: UInt64? = nil) {
        feed(.message(LinkID(rawValue: link ?? server), .acknowledge(revision: core.state.revision)))
    }

    /// Lets time pass while `alive` servers send keep-alives.
    mutating func pass(_ duration: Duration, alive: [UInt64]) {
        let end = now + duration
        while now < end {
            now = now + .milliseconds(100)
            for server in alive { feed(.message(ManagerBench.link(server), .keepAlive([]))) }
            feed(.tick)
        }
    }

    mutating func volume(clients: Int = 2) throws -> (VolumeID, [SdcID]) {
        for server in 1...3 { join(UInt64(server)) }
        let pool = try #require(core.state.pools.values.first?.id)
        guard
            case .createdVolume(let volume) = try run(
                .createVolume(pool: pool, name: "data", sizeUnits: 16, provisioning: .thin, createdAt: 1))
        else { throw ManagerError(.malformed, "not a volume") }
        var sdcs: [SdcID] = []
        for index in 0..<clients {
            if case .registeredSdc(let sdc) = try run(
                .registerSdc(guid: "GUID-\(index)", ip: "10.0.0.\(index)", name: "c\(index)"))
            {
                sdcs.append(sdc)
            }
        }
        for server in 1...3 { acknowledge(UInt64(server)) }
        return (volume, sdcs)
    }

    var combs: [Comb] { core.state.pools.values.first?.combs ?? [] }
}

@Suite struct ManagerCoreTests {
    @Test func copiesAreSpreadEvenlyAndApart() throws {
        var bench = ManagerBench()
        _ = try bench.volume()
        for comb in bench.combs { #expect(comb.secondary != nil && comb.secondary?.sds != comb.primary.sds) }
        for server in 1...3 {
            let primaries = bench.combs.filter { $0.primary.sds.rawValue == UInt64(server) }.count
            #expect((20...23).contains(primaries))
        }
    }

    @Test func onePlaceIsNotEnough() throws {
        var bench = ManagerBench()
        bench.join(1)
        let pool = try #require(bench.core.state.pools.values.first?.id)
        #expect(throws: ManagerError.self) {
            try bench.run(.createVolume(pool: pool, name: "v", sizeUnits: 8, provisioning: .thin, createdAt: 1))
        }
    }

    @Test func aSilentServersCombsMoveInOneCommit() throws {
        var bench = ManagerBench()
        _ = try bench.volume()
        let before = bench.core.state.revision
        bench.pass(.seconds(3), alive: [2, 3])
        #expect(bench.core.state.servers[SdsID(rawValue: 1)]?.status == .down)
        for comb in bench.combs {
            #expect(!comb.inSync.contains { $0.sds.rawValue == 1 })
            #expect(comb.state != .unavailable)
        }
        #expect(bench.core.state.revision > before)
        #expect(bench.combs.allSatisfy { $0.target == nil }, "the server may be back at once")
        bench.pass(ManagerConfiguration().absenceGrace, alive: [2, 3])
        // Rebuilding has begun, within its limit for each device.
        let targets = bench.combs.compactMap(\.target)
        #expect(!targets.isEmpty && targets.count <= 4)
    }

    @Test func aReturningServerIsNotTrusted() throws {
        var bench = ManagerBench()
        _ = try bench.volume()
        bench.join(1, incarnation: 2, link: 11)
        #expect(bench.combs.allSatisfy { !$0.inSync.contains { $0.sds.rawValue == 1 } })
    }

    @Test func theLastCopyWaitsForItsServer() throws {
        var bench = ManagerBench()
        _ = try bench.volume()
        bench.pass(.seconds(3), alive: [3])
        bench.pass(.seconds(3), alive: [3])
        let lost = bench.combs.filter { $0.state == .unavailable }
        #expect(!lost.isEmpty)
        #expect(lost.allSatisfy { $0.primary.sds.rawValue != 3 })
        for server in [1, 2] { bench.join(UInt64(server), incarnation: 5, link: UInt64(20 + server)) }
        #expect(bench.combs.allSatisfy { $0.state != .unavailable })
    }

    /// The image of a device that somebody put back is a lost copy, however often its server starts on it.
    @Test(arguments: [1, 2] as [UInt64]) func anOldImageNeverCounts(_ counter: UInt64) throws {
        var bench = ManagerBench()
        _ = try bench.volume()
        bench.join(1, incarnation: 2, link: 19)
        #expect(bench.core.state.devices[DeviceID(rawValue: 1)]?.mountCounter == 2)
        for start in 0..<4 as Range<UInt64> {
            bench.join(1, incarnation: 10 + start, link: 20 + start, mountCounter: counter + start)
            #expect(bench.core.state.devices[DeviceID(rawValue: 1)]?.status == .failed)
            #expect(!bench.combs.contains { $0.inSync.contains { $0.sds.rawValue == 1 } && $0.state != .unavailable })
        }
    }

    @Test func aServerThatWasRemovedComesBackWithNewerSessions() throws {
        var bench = ManagerBench()
        bench.join(1)
        bench.join(1, incarnation: 2, link: 21)
        bench.join(1, incarnation: 3, link: 31)
        let before = try #require(bench.core.state.servers[SdsID(rawValue: 1)]?.generation)
        bench.feed(.linkClosed(LinkID(rawValue: 31)))
        _ = try bench.run(.removeSds(SdsID(rawValue: 1)))
        _ = try bench.run(.configure(.addSds(SdsID(rawValue: 1))))
        bench.join(1, incarnation: 4, link: 41)
        #expect(try #require(bench.core.state.servers[SdsID(rawValue: 1)]?.generation) > before)
    }

    @Test func whatThePrimaryCannotReadTheSecondaryServes() throws {
        var bench = ManagerBench()
        _ = try bench.volume()
        let index = try #require(bench.combs.firstIndex { $0.secondary != nil })
        let comb = bench.combs[index]
        let pool = try #require(bench.core.state.pools.values.first?.id)
        bench.feed(
            .message(
                ManagerBench.link(comb.primary.sds.rawValue),
                .copyUnreadable(CombKey(pool: pool, index: UInt32(index)), epoch: comb.epoch, copy: comb.primary)))
        #expect(bench.combs[index].primary == comb.secondary)
        #expect(bench.combs[index].epoch > comb.epoch)
        #expect(!bench.combs[index].inSync.contains(comb.primary))
    }

    @Test func aCrowdOfHellosIsStoredInPieces() throws {
        let bench = ManagerBench()
        var (core, random) = (bench.core, bench.random)
        var largest = 0
        var actions: [ManagerAction] = []
        func apply(_ event: ManagerEvent) { actions += core.apply(event, now: bench.now, rng: &random) }
        for number in 1...400 as ClosedRange<UInt64> {
            let hello = ClientHello(guid: "GUID-\(number)", name: "", ip: "10.0.0.1", incarnation: number)
            apply(.message(LinkID(rawValue: number), .clientHello(hello)))
        }
        for _ in 0..<400 {
            let commits = actions.compactMap { if case .commit(let mutations) = $0 { mutations.count } else { nil } }
            actions = []
            largest = max(largest, commits.max() ?? 0)
            for _ in commits { apply(.committed) }
        }
        #expect(core.state.clients.count == 400)
        #expect(largest <= 128)
    }

    @Test func aRemapWaitsForEveryServersWord() throws {
        var bench = ManagerBench()
        let (volume, sdcs) = try bench.volume()
        _ = try bench.run(.map(volume, sdcs[0], mode: .readWrite, allowMultiple: false, preempt: false))
        let refused = bench.submit(.map(volume, sdcs[1], mode: .readWrite, allowMultiple: false, preempt: false))
        #expect(throws: ManagerError.self) { try bench.replies[refused]?.get() }
        let ticket = bench.submit(.map(volume, sdcs[1], mode: .readWrite, allowMultiple: false, preempt: true))
        #expect(bench.replies[ticket] == nil)
        bench.acknowledge(1)
        bench.acknowledge(2)
        #expect(bench.replies[ticket] == nil, "the third may still serve the old client")
        #expect(bench.core.state.volumes[volume]?.usableMappings.isEmpty == true)
        bench.acknowledge(3)
        guard case .success(.fenced(let proof)) = bench.replies[ticket] else {
            Issue.record("not answered")
            return
        }
        #expect(proof.entries.count == 3 && proof.attachEpoch == 2)
        #expect(bench.core.state.volumes[volume]?.usableMappings.map(\.sdc) == [sdcs[1]])
    }

    @Test func aDeadServerIsProvenByItsRemoval() throws {
        var bench = ManagerBench()
        let (volume, sdcs) = try bench.volume()
        _ = try bench.run(.map(volume, sdcs[0], mode: .readWrite, allowMultiple: false, preempt: false))
        let ticket = bench.submit(.map(volume, sdcs[1], mode: .readWrite, allowMultiple: false, preempt: true))
        for _ in 0..<25 {
            bench.pass(.milliseconds(100), alive: [2, 3])
            for server in [2, 3] { bench.acknowledge(UInt64(server)) }
        }
        guard case .success(.fenced(let proof)) = bench.replies[ticket] else {
            Issue.record("not answered")
            return
        }
        let dead = proof.entries.first { $0.sds.rawValue == 1 }
        guard case .removed = dead?.evidence else {
            Issue.record("no proof for the dead server: \(proof)")
            return
        }
    }

    @Test func withoutProofTheAnswerNamesTheServer() throws {
        var bench = ManagerBench()
        let (volume, sdcs) = try bench.volume()
        _ = try bench.run(.map(volume, sdcs[0], mode: .readWrite, allowMultiple: false, preempt: false))
        let ticket = bench.submit(.map(volume, sdcs[1], mode: .readWrite, allowMultiple: false, preempt: true))
        bench.pass(.seconds(25), alive: [1, 2, 3])
        guard case .failure(let error) = bench.replies[ticket] else {
            Issue.record("answered without proof")
            return
        }
        #expect(error.code == .fencingUnproven && error.message.contains("sds1"))
    }

    @Test func aNewLeaderReadsEverythingBack() throws {
        var bench = ManagerBench()
        let (volume, sdcs) = try bench.volume()
        _ = try bench.run(.map(volume, sdcs[0], mode: .readWrite, allowMultiple: false, preempt: false))
        let records = bench.records.sorted { $0.key < $1.key }.map { (key: $0.key, value: $0.value) }
        let next = try #require(
            try ManagerCore(records: records, configuration: ManagerConfiguration(), now: bench.now))
        #expect(next.state.pools == bench.core.state.pools)
        #expect(next.state.volumes == bench.core.state.volumes)
        #expect(next.state.servers == bench.core.state.servers)
        #expect(next.state.clients == bench.core.state.clients)
        #expect(next.state.revision == bench.core.state.revision)
        #expect(throws: ManagerError.self) {
            try ManagerCore(
                records: [("system", [9, 9])], configuration: ManagerConfiguration(), now: bench.now)
        }
    }

    /// Servers need time to find a new leader: it counts their silence from its own beginning.
    @Test func aNewLeaderWaitsOneLeaseBeforeItDeclaresAnybodyDown() throws {
        var bench = ManagerBench()
        _ = try bench.volume()
        let before = bench.core.state
        // For a long time nobody led.
        bench.now = bench.now + .seconds(60)
        let records = bench.records.sorted { $0.key < $1.key }.map { (key: $0.key, value: $0.value) }
        let lease = ManagerConfiguration().serverTimeout
        bench.core = try #require(
            try ManagerCore(records: records, configuration: ManagerConfiguration(), now: bench.now))
        bench.feed(.tick)
        bench.pass(lease - .milliseconds(200), alive: [])
        #expect(bench.core.state.servers == before.servers)
        for server: UInt64 in [2, 3] { bench.join(server, link: server + 10) }
        #expect(bench.core.state.servers == before.servers, "the same processes keep their generations")
        #expect(bench.core.state.pools == before.pools)
        bench.now = bench.now + .milliseconds(300)
        bench.feed(.tick)
        #expect(bench.core.state.servers.values.map(\.status) == [.down, .up, .up])
    }

    @Test func mappedVolumesStay() throws {
        var bench = ManagerBench()
        let (volume, sdcs) = try bench.volume()
        _ = try bench.run(.map(volume, sdcs[0], mode: .readWrite, allowMultiple: false, preempt: false))
        do {
            _ = try bench.run(.removeVolume(volume, unmapping: false))
            Issue.record("removed while mapped")
        } catch let error as ManagerError {
            #expect(error.code == .volumeMapped)
        }
        #expect(try bench.run(.removeVolume(volume, unmapping: true)) == .done)
        #expect(bench.core.state.volumes.isEmpty)
    }

    @Test func aFailedCommitIsNeverAnswered() throws {
        var core = ManagerCore(
            system: System(id: SystemID(rawValue: 1), name: "t", createdAt: 0),
            configuration: ManagerConfiguration(), now: .zero)
        var random = SeededRandom(seed: 1)
        let ticket = Ticket(rawValue: 1)
        _ = core.apply(.submit(ticket, .createProtectionDomain(name: "d")), now: .zero, rng: &random)
        let actions = core.apply(.commitFailed, now: .zero, rng: &random)
        let failures = actions.compactMap { action -> ManagerError.Code? in
            if case .reply(ticket, .failure(let error)) = action { return error.code }
            return nil
        }
        #expect(failures == [.storeFailed])
        #expect(core.state.domains.isEmpty)
    }
}
