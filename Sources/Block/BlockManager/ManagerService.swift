import Base
public import BlockCore
public import BlockIO
public import Coordination
import Glibc
public import Logging
public import ServiceLifecycle

/// The manager (MDM) of the block store as a service: stands for leadership, keeps the objects in the metadata store,
/// and serves the control connections of servers and clients. Also the way in for the Gateway (`ManagerPort`).
public final class ManagerService: Service, ManagerPort {
    public struct Configuration: Sendable {
        /// Where servers and clients connect (port 0: any free one, see `address`).
        public var listen: SocketAddress
        /// Where others are told to find this manager when it leads.
        public var advertise: String?
        /// The name of a system that does not exist yet.
        public var systemName = "holdfast"
        public var core = ManagerConfiguration()

        public init(listen: SocketAddress) { self.listen = listen }
    }

    private enum Work: Sendable {
        case elected(LeaderEpoch)
        case lost
        case commit(generation: UInt64, [StoreMutation])
    }

    /// Below it lies everything that the manager stores.
    private static let keyPrefix = "/block/"
    private static let electionPath = "/block-manager"

    /// The address that is really listened at.
    public let address: SocketAddress
    private let configuration: Configuration
    private let backend: CoordinationBackend
    private let logger: Logger
    private let reactor: Reactor
    private let descriptor: Int32
    private let work: AsyncStream<Work>
    private let workIn: AsyncStream<Work>.Continuation
    private let shell: ManagerShell

    /// Binds the control port; serves when run.
    public init(
        _ configuration: Configuration, backend: CoordinationBackend, logger: Logger
    ) throws(BlockIOError) {
        self.configuration = configuration
        self.backend = backend
        self.logger = logger
        (descriptor, address) = try configuration.listen.listen()
        reactor = try Reactor(name: "mdm")
        // One commit at a time and rare election news: the bound is never reached.
        let (work, workIn) = AsyncStream<Work>.makeStream(bufferingPolicy: .bufferingNewest(64))
        self.work = work
        self.workIn = workIn
        shell = ManagerShell(on: reactor, logger: logger) { generation, mutations in
            workIn.yield(.commit(generation: generation, mutations))
        }
    }

    public func run() async throws {
        reactor.start()
        let started: Result<Void, BlockIOError>? = await onReactor { [shell, descriptor, address] in
            Result { () throws(BlockIOError) in try shell.start(listening: descriptor, at: address) }
        }
        try started?.get()
        logger.notice("manager listens", metadata: ["address": "\(address)"])
        await cancelWhenGracefulShutdown {
            await withTaskGroup(of: Void.self) { group in
                group.addTask { await self.standForElection() }
                await self.doWork()
                group.cancelAll()
            }
        }
        await onReactor { [shell] in shell.stop() }
        reactor.stop()
    }

    private func standForElection() async {
        let info = JSONValue.string(configuration.advertise ?? address.description)
        let candidacy = backend.election.stand(at: ManagerService.electionPath, advertising: info)
        for await event in candidacy.events {
            switch event {
            case .elected(let epoch): workIn.yield(.elected(epoch))
            case .lost: workIn.yield(.lost)
            case .leader: break
            }
        }
    }

    private func doWork() async {
        var epoch: LeaderEpoch?
        // Commits of an earlier leadership may still wait; somebody else may have led in between.
        var leadership: UInt64?
        for await work in work {
            switch work {
            case .elected(let new):
                epoch = new
                leadership = await lead(new)
            case .lost:
                epoch = nil
                leadership = nil
                await depose()
            case .commit(let generation, let mutations):
                guard let current = epoch, generation == leadership else { continue }
                if await store(mutations, as: current, generation) { continue }
                // The core is finished; start anew from what is stored, unless somebody else leads.
                try? await Task.sleep(for: .milliseconds(500))
                leadership = await lead(current)
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
            logger.error("change not stored", metadata: ["error": "\(error)"])
            succeeded = false
        }
        let result = succeeded
        await onReactor { [shell] in shell.committed(generation, succeeded: result) }
        return succeeded
    }

    /// Reads what is stored and leads with it; tries again until that works or the leadership is over.
    ///
    /// - Returns: the number of this leadership; nil if it did not begin.
    private func lead(_ epoch: LeaderEpoch) async -> UInt64? {
        while !Task.isCancelled {
            do {
                let core = try await load(epoch)
                let number = await onReactor { [shell] in shell.lead(core) }
                logger.notice(
                    "manager leads", metadata: ["system.id": "\(core.state.system.id)", "epoch": "\(epoch.epoch)"])
                return number
            } catch let error as StoreError where error.code == .fenced {
                logger.notice("another manager leads")
                await depose()
                return nil
            } catch {
                logger.error("stored state not readable", metadata: ["error": "\(errorChain(error))"])
                try? await Task.sleep(for: .seconds(1))
            }
        }
        return nil
    }

    private func load(_ epoch: LeaderEpoch) async throws -> ManagerCore {
        // An empty commit tells whether this leadership still holds before anything is decided under it.
        try await backend.store.commit([], as: epoch)
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
        await onReactor { [shell] in shell.depose(ManagerError(.notLeader, "this manager no longer leads")) }
    }

    // MARK: ManagerPort

    public func state() async throws(ManagerError) -> SystemState {
        let result = await onReactor { [shell] in shell.state() }
        guard let result else { throw ManagerError(.unavailable, "the manager is not running") }
        return try result.get()
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
