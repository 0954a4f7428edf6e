import Base
public import BlockCore
public import BlockIO
public import Coordination
import Glibc
public import Logging
public import ServiceLifecycle
import Synchronization

/// The manager (MDM) of the block store as a service: stands for leadership, keeps the objects in the metadata store,
/// and serves the control connections of servers and clients. Also the way in for the Gateway (`ManagerPort`,
/// `ManagerClusterPort`).
///
/// Whatever happens to the leadership, the process goes on: it steps down, forgets what it knew as the leader, sends
/// whoever connects to the new leader, and stands again.
public final class ManagerService: Service, ManagerPort, ManagerClusterPort {
    public struct Configuration: Sendable {
        /// Where servers and clients connect (port 0: any free one, see `address`).
        public var listen: SocketAddress
        /// Where others are told to find this manager when it leads: numeric, `host:port`; nil: where it listens.
        public var advertise: String?
        /// Where other managers' gateways reach this one's, `host:port`; nil: they cannot.
        public var gateway: String?
        /// Tells the managers of a cluster apart, over restarts; nil: the address.
        public var name: String?
        /// The name of a system that does not exist yet.
        public var systemName = "holdfast"
        public var core = ManagerConfiguration()

        public init(listen: SocketAddress) { self.listen = listen }
    }

    private enum Work: Sendable {
        case elected(LeaderEpoch)
        case lost
        /// What is stored could not be read under this epoch.
        case loadAgain(LeaderEpoch)
        case commit(generation: UInt64, [StoreMutation])
        case giveWay(to: ManagerID)
    }

    /// A leadership of this manager.
    private struct Reign {
        var epoch: LeaderEpoch
        /// Which core decides; nil before everything is read.
        var generation: UInt64?
    }

    /// What others may ask at any time.
    private struct View {
        var epoch: LeaderEpoch?
        var term: UInt64?
        var leader: ManagerMember?
    }

    /// Below it lies everything that the manager stores.
    private static let keyPrefix = "/block/"
    private static let electionPath = "/block-manager"
    private static let handOverMax = Duration.seconds(10)

    /// The address that is really listened at.
    public let address: SocketAddress
    private let own: ManagerMember
    private let configuration: Configuration
    private let backend: CoordinationBackend
    private let logger: Logger
    private let reactor: Reactor
    private let descriptor: Int32
    private let work: AsyncStream<Work>
    private let workIn: AsyncStream<Work>.Continuation
    private let shell: ManagerShell
    private let membership: ManagerMembership
    private let log: EventLog
    private let happened: AsyncStream<(StorageEvent, LeaderEpoch)>
    private let view = Mutex(View())

    /// Binds the control port; serves when run.
    public init(
        _ configuration: Configuration, backend: CoordinationBackend, logger: Logger
    ) throws(BlockIOError) {
        self.configuration = configuration
        self.backend = backend
        self.logger = logger
        (descriptor, address) = try configuration.listen.listen()
        let advertised = configuration.advertise ?? address.description
        let name = configuration.name ?? advertised
        // The id follows from the name: nothing has to be kept for it to last.
        let hash = name.utf8.reduce(0xCBF2_9CE4_8422_2325 as UInt64) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
        own = ManagerMember(
            id: ManagerID(rawValue: max(1, mix64(hash))), name: name, address: advertised,
            gateway: configuration.gateway)
        membership = ManagerMembership(own: own, store: backend.store)
        reactor = try Reactor(name: "mdm")
        // One commit at a time and rare election news: the bound is never reached.
        let (work, workIn) = AsyncStream<Work>.makeStream(bufferingPolicy: .bufferingNewest(64))
        self.work = work
        self.workIn = workIn
        log = EventLog(store: backend.store)
        // A store that is away for long costs the oldest events, never a change.
        let (happened, happenedIn) = AsyncStream<(StorageEvent, LeaderEpoch)>.makeStream(
            bufferingPolicy: .bufferingNewest(Int(EventLog.kept)))
        self.happened = happened
        shell = ManagerShell(on: reactor, logger: logger) { generation, mutations in
            workIn.yield(.commit(generation: generation, mutations))
        }
        shell.happened = { [weak self] event in
            if let epoch = self?.view.withLock({ $0.epoch }) { happenedIn.yield((event, epoch)) }
        }
    }

    public func run() async throws {
        reactor.start()
        let started: Result<Void, BlockIOError>? = await onReactor { [shell, descriptor, address] in
            Result { () throws(BlockIOError) in try shell.start(listening: descriptor, at: address) }
        }
        try started?.get()
        logger.notice("manager listens", metadata: ["address": "\(address)", "mdm.id": "\(own.id)"])
        await cancelWhenGracefulShutdown {
            let candidacy = self.backend.election.stand(
                at: ManagerService.electionPath, advertising: ManagerMembership.document(self.own))
            await withTaskGroup(of: Void.self) { group in
                group.addTask { await self.hear(candidacy) }
                group.addTask { await self.keepMembership() }
                group.addTask { await self.keepEvents() }
                await self.doWork(candidacy)
                group.cancelAll()
            }
            await candidacy.end()
        }
        view.withLock { $0 = View() }
        await onReactor { [shell] in shell.stop() }
        reactor.stop()
    }

    private func hear(_ candidacy: Candidacy) async {
        for await event in candidacy.events {
            switch event {
            case .elected(let epoch): workIn.yield(.elected(epoch))
            case .lost:
                workIn.yield(.lost)
                // At once: the work may be waiting for a commit that cannot succeed any more.
                await depose()
            case .leader(let info):
                let leader = info.flatMap { ManagerMembership.member($0) }
                view.withLock { $0.leader = leader }
                let elsewhere = leader.flatMap { $0.id == own.id ? nil : $0.address }
                await onReactor { [shell] in shell.learn(leader: elsewhere) }
            }
        }
    }

    private func keepEvents() async {
        for await (event, epoch) in happened {
            do throws(StoreError) {
                try await log.append([event], as: epoch)
            } catch {
                logger.info("an event is not kept", metadata: ["event": "\(event.text)", "error": "\(error)"])
            }
        }
    }

    private func keepMembership() async {
        while !Task.isCancelled {
            var pause = ManagerMembership.interval
            do throws(StoreError) {
                try await membership.renew()
                try await membership.observe(as: view.withLock { $0.epoch })
            } catch {
                logger.info("the managers' records cannot be kept", metadata: ["error": "\(error)"])
                pause = .seconds(1)
            }
            try? await Task.sleep(for: pause)
        }
    }

    // MARK: Leading

    private func doWork(_ candidacy: Candidacy) async {
        var reign: Reign?
        for await work in work {
            switch work {
            case .elected(let epoch):
                reign = Reign(epoch: epoch)
                await begin(&reign, candidacy)
            case .loadAgain(let epoch):
                guard reign?.epoch == epoch, reign?.generation == nil else { continue }
                await begin(&reign, candidacy)
            case .lost:
                guard reign != nil else { continue }
                logger.notice("manager leads no longer")
                reign = nil
                await depose()
            case .commit(let generation, let mutations):
                // Commits of an earlier leadership may still wait; somebody else may have led in between.
                guard let current = reign, current.generation == generation else { continue }
                if await store(mutations, as: current.epoch, generation) { continue }
                // The core is finished. What the next leader reads decides what happened to the change.
                reign = nil
                await depose()
                candidacy.abdicate()
            case .giveWay(let member):
                guard let current = reign, current.generation != nil else { continue }
                await giveWay(to: member, current.epoch)
                reign = nil
                await depose()
                candidacy.abdicate()
            }
        }
    }

    private func store(_ mutations: [StoreMutation], as epoch: LeaderEpoch, _ generation: UInt64) async -> Bool {
        let changes = mutations.map { mutation -> StoreChange in
            switch mutation {
            case .put(let key, let value):
                .put(key: ManagerService.keyPrefix + key, bytes: value, expected: .any)
            case .delete(let key): .delete(key: ManagerService.keyPrefix + key, expected: .any)
            }
        }
        var succeeded = true
        do {
            try await backend.store.commit(changes, as: epoch)
        } catch {
            logger.error("change not stored, stepping down", metadata: ["error": "\(errorChain(error))"])
            succeeded = false
        }
        let result = succeeded
        await onReactor { [shell] in shell.committed(generation, succeeded: result) }
        return succeeded
    }

    /// Reads what is stored and leads with it, unless another manager leads or shall lead.
    private func begin(_ reign: inout Reign?, _ candidacy: Candidacy) async {
        guard let epoch = reign?.epoch else { return }
        do {
            // An empty commit tells whether this leadership still holds before anything is decided under it.
            try await backend.store.commit([], as: epoch)
            if try await membership.mustGiveWay(as: epoch) {
                logger.notice("giving way to the preferred manager")
                reign = nil
                candidacy.abdicate()
                return
            }
            let core = try await load()
            let generation = await onReactor { [shell] in shell.lead(core) }
            reign?.generation = generation
            view.withLock {
                $0.epoch = epoch
                $0.term = epoch.epoch
            }
            logger.notice(
                "manager leads", metadata: ["system.id": "\(core.state.system.id)", "epoch": "\(epoch.epoch)"])
        } catch let error as StoreError where error.code == .fenced {
            logger.notice("another manager leads")
            reign = nil
            candidacy.abdicate()
        } catch {
            logger.error("stored state not readable", metadata: ["error": "\(errorChain(error))"])
            try? await Task.sleep(for: .milliseconds(500))
            workIn.yield(.loadAgain(epoch))
        }
    }

    private func load() async throws -> ManagerCore {
        let prefix = ManagerService.keyPrefix
        let records = try await backend.store.list(prefix: prefix).map {
            (key: String($0.key.dropFirst(prefix.count)), value: $0.value.bytes)
        }
        if let core = try ManagerCore(records: records, configuration: configuration.core, now: Reactor.now) {
            return core
        }
        let system = System(
            id: SystemID(rawValue: UInt64.random(in: 1...UInt64.max)), name: configuration.systemName,
            createdAt: UInt64(max(0, time(nil))))
        return ManagerCore(system: system, configuration: configuration.core, now: Reactor.now)
    }

    private func depose() async {
        view.withLock {
            $0.epoch = nil
            $0.term = nil
        }
        // Whoever waits had a change in the works: the code must not claim that nothing happened.
        let error = ManagerError(.storeFailed, "this manager leads no longer; whether the change happened is unknown")
        await onReactor { [shell] in shell.depose(error) }
    }

    private func giveWay(to member: ManagerID, _ epoch: LeaderEpoch) async {
        do throws(StoreError) {
            try await membership.prefer(member, as: epoch)
            logger.notice("handing over to another manager", metadata: ["mdm.id": "\(member)"])
        } catch {
            logger.warning("the preferred manager is not noted", metadata: ["error": "\(error)"])
        }
    }

    // MARK: ManagerClusterPort

    public func leadership() -> ManagerLeadership {
        view.withLock { view in
            if let term = view.term { return .here(term: term) }
            guard let leader = view.leader, leader.id != own.id else { return .nowhere }
            return .elsewhere(gateway: leader.gateway)
        }
    }

    public func members() async throws(ManagerError) -> [ManagerMember] {
        do {
            return try await membership.members(leader: view.withLock { $0.leader?.id })
        } catch {
            throw ManagerError(.unavailable, "the managers' records cannot be read", cause: error)
        }
    }

    public func giveLeadership(to member: ManagerID) async throws(ManagerError) {
        guard view.withLock({ $0.term }) != nil else {
            throw ManagerError(.notLeader, "this manager does not lead")
        }
        guard let target = try await members().first(where: { $0.id == member }) else {
            throw ManagerError(.managerNotFound, "there is no manager \(member)")
        }
        if target.id == own.id { return }
        guard target.isPresent else { throw ManagerError(.unavailable, "the manager \(target.name) does not answer") }
        workIn.yield(.giveWay(to: member))
        let end = Reactor.now + ManagerService.handOverMax
        while view.withLock({ $0.leader?.id }) != member {
            guard Reactor.now < end, !Task.isCancelled else {
                throw ManagerError(.unavailable, "the manager \(target.name) has not taken over")
            }
            try? await Task.sleep(for: .milliseconds(20))
        }
    }

    // MARK: ManagerPort

    public func state() async throws(ManagerError) -> SystemState {
        let result = await onReactor { [shell] in shell.state() }
        guard let result else { throw ManagerError(.unavailable, "the manager is not running") }
        return try result.get()
    }

    public func events(after number: UInt64) async throws(ManagerError) -> [StorageEvent] {
        do {
            return try await log.events(after: number)
        } catch {
            throw ManagerError(.unavailable, "the events cannot be read", cause: error)
        }
    }

    public func submit(_ command: ManagerCommand) async throws(ManagerError) -> ManagerReply {
        let result: Result<ManagerReply, ManagerError> = await withCheckedContinuation { continuation in
            let isTaken = reactor.perform { [shell] in shell.submit(command) { continuation.resume(returning: $0) } }
            if !isTaken {
                continuation.resume(returning: .failure(ManagerError(.unavailable, "the manager is not running")))
            }
        }
        return try result.get()
    }

    /// Runs `body` on the reactor's thread; nil when that has ended.
    @discardableResult
    private func onReactor<Value: Sendable>(_ body: @escaping @Sendable () -> Value) async -> Value? {
        await withCheckedContinuation { continuation in
            if !reactor.perform({ continuation.resume(returning: body()) }) { continuation.resume(returning: nil) }
        }
    }
}
