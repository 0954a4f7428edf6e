import Base
public import Coordination
import FoundationEssentials
import HTTPKit
import HTTPTypes
public import Logging
import MasterCore
import MesosAPI
public import ServiceLifecycle
import SwiftProtobuf

/// A Mesos master: stands for leadership, recovers the registry, and from then on feeds the core with what comes in
/// over HTTP and does what the core wants.
///
/// A master that loses its leadership, or cannot write its registry, steps down: it ends all streams, forgets
/// everything and follows, until it is elected again. Its successor starts from the registry, and agents and
/// frameworks come back to it. The HTTP server lives as long as the service.
public actor MasterService: Service {
    /// Where this master stands in the course of leadership.
    enum Phase {
        case following
        /// Elected, and reading the registry.
        case recovering(LeaderEpoch)
        case leading(LeaderEpoch)
    }

    struct Outlet {
        var feed: BoundedFeed
        var media: MediaType
    }

    /// The name of the election in a backend.
    public static let electionPath = "/master/election"

    nonisolated let configuration: MasterConfiguration
    nonisolated let logger: Logger
    nonisolated let startTime: Double
    private let backend: CoordinationBackend
    private let onServerRunning: @Sendable (Int) async -> Void
    private let clockOrigin: ContinuousClock.Instant

    private(set) var phase = Phase.following
    /// What the election says of the leader, which may be this master.
    private var advertised: JSONValue?
    private var candidacy: Candidacy?
    private(set) var electedTime: Double?
    private var core: MasterCore
    private var rng = SystemRandomNumberGenerator()
    private var schedulers: [ConnectionID: Outlet] = [:]
    private var agents: [ConnectionID: Outlet] = [:]
    private var watchers: [ConnectionID: Outlet] = [:]
    private var nextWatcherHeartbeat = Instant.zero
    private var registry: Registry?
    private var writes: [(changes: [RegistryChange], number: UInt64)] = []

    private let (wakeWriter, writerWaker) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
    private let (wakeAllocator, allocatorWaker) = AsyncStream.makeStream(
        of: Void.self, bufferingPolicy: .bufferingNewest(1))
    /// Streams that ended. Each open stream is in it at most once, so its length is bounded by the open connections.
    private let (ended, endedSink) = AsyncStream.makeStream(of: ConnectionID.self)

    /// - Parameter onServerRunning: called with the port once the server accepts.
    public init(
        _ configuration: MasterConfiguration, backend: CoordinationBackend, logger: Logger,
        onServerRunning: @escaping @Sendable (Int) async -> Void = { _ in }
    ) {
        self.configuration = configuration
        self.backend = backend
        self.logger = logger
        self.onServerRunning = onServerRunning
        clockOrigin = .now
        startTime = Date().timeIntervalSince1970
        core = MasterCore(options: configuration.options, now: .zero, epochOffset: startTime)
    }

    public func run() async throws {
        let server = HTTPServer(
            name: "holdfast", address: configuration.address, router: makeRouter(), logger: logger,
            onServerRunning: onServerRunning)
        let services = ServiceGroup(
            configuration: .init(
                services: [.init(service: server), .init(service: MasterLoop(master: self))], logger: logger))
        try await services.run()
    }

    /// Everything but the HTTP server, until the task is cancelled.
    func lead() async {
        await withTaskGroup(of: Void.self) { group in
            group.addTask { await self.stand() }
            group.addTask { await self.writeRegistry() }
            group.addTask {
                for await _ in self.wakeAllocator { await self.allocate() }
            }
            group.addTask {
                for await connection in self.ended { await self.streamEnded(connection) }
            }
            group.addTask {
                while !Task.isCancelled {
                    try? await Task.sleep(for: .milliseconds(200))
                    await self.tick()
                }
            }
        }
        stepDown("the master ends", abdicates: false)
    }

    // MARK: Leadership

    private func stand() async {
        let info = jsonEncode(configuration.options.info)
        let candidacy = backend.election.stand(at: MasterService.electionPath, advertising: info)
        self.candidacy = candidacy
        await withDiscardingTaskGroup { group in
            for await event in candidacy.events {
                switch event {
                case .elected(let epoch):
                    stepDown("elected anew", abdicates: false)
                    phase = .recovering(epoch)
                    group.addTask { await self.recover(epoch) }
                case .lost: stepDown("the leadership is lost", abdicates: false)
                case .leader(let leader): advertised = leader
                }
            }
            group.cancelAll()
        }
        self.candidacy = nil
    }

    /// Reads the registry, again and again for as long as the leadership lasts.
    private func recover(_ epoch: LeaderEpoch) async {
        logger.notice("elected", metadata: ["epoch": "\(epoch.epoch)"])
        let registry = Registry(store: backend.store, epoch: epoch)
        while !Task.isCancelled, case .recovering(epoch) = phase {
            do {
                let (agents, frameworks) = try await registry.load()
                guard case .recovering(epoch) = phase else { return }
                begin(registry, agents, frameworks)
                return
            } catch {
                guard case .recovering(epoch) = phase else { return }
                if error.code == .leadershipLost { return stepDown("\(error)", abdicates: true) }
                logger.error("registry not read", metadata: ["error": "\(error)"])
            }
            try? await Task.sleep(for: .milliseconds(500))
        }
    }

    private func begin(_ registry: Registry, _ agents: [RegistryAgent], _ frameworks: [RegistryFramework]) {
        core = MasterCore(
            options: configuration.options, agents: agents, frameworks: frameworks, now: now,
            epochOffset: Date().timeIntervalSince1970 - Double(now.nanoseconds) / 1e9)
        self.registry = registry
        electedTime = Date().timeIntervalSince1970
        phase = .leading(registry.epoch)
        logger.notice(
            "leading",
            metadata: [
                "epoch": "\(registry.epoch.epoch)", "agents": "\(agents.count)", "frameworks": "\(frameworks.count)",
            ])
    }

    /// Ends whatever this master did as leader, and follows.
    ///
    /// - Parameter abdicates: whether the election has yet to learn of it.
    private func stepDown(_ reason: String, abdicates: Bool) {
        if case .following = phase { return }
        logger.warning("stepping down", metadata: ["reason": "\(reason)"])
        phase = .following
        for outlet in [schedulers, agents, watchers].flatMap(\.values) { outlet.feed.finish() }
        schedulers = [:]
        agents = [:]
        watchers = [:]
        registry = nil
        writes = []
        electedTime = nil
        core = MasterCore(options: configuration.options, now: now, epochOffset: startTime)
        if abdicates { candidacy?.abdicate() }
    }

    /// Gives the leadership to another candidate, if there is one.
    func abdicate() { stepDown("asked to", abdicates: true) }

    private func writeRegistry() async {
        for await _ in wakeWriter {
            while !writes.isEmpty, let registry {
                let batch = writes
                writes = []
                do {
                    try await registry.commit(batch.flatMap(\.changes))
                } catch {
                    // Whether it is written or not shows only when the registry is read anew.
                    if self.registry?.epoch == registry.epoch { stepDown("\(error)", abdicates: true) }
                    continue
                }
                for write in batch where self.registry?.epoch == registry.epoch { take(.persisted(write.number)) }
            }
        }
    }

    private func allocate() {
        if isLeading { take(.allocate) }
    }

    // MARK: The core

    private var now: Instant {
        Instant.zero + (ContinuousClock.now - clockOrigin)
    }

    /// The state at this moment, for readers outside the actor.
    var snapshot: MasterCore { core }

    var times: MasterTimes { MasterTimes(start: startTime, elected: electedTime) }

    var isLeading: Bool {
        if case .leading = phase { true } else { false }
    }

    /// Who leads, as its MasterInfo; this master while nobody else does.
    var leader: JSONValue { otherLeader ?? jsonEncode(configuration.options.info) }

    /// The other master that leads. What this one advertised may stand for a moment after it stepped down.
    private var otherLeader: JSONValue? {
        guard case .following = phase, let advertised, advertised["id"]?.string != configuration.options.info.id else {
            return nil
        }
        return advertised
    }

    private func tick() {
        core.epochOffset = Date().timeIntervalSince1970 - Double(now.nanoseconds) / 1e9
        take(.tick)
        guard isLeading else { return }
        if now >= nextWatcherHeartbeat {
            nextWatcherHeartbeat = now + configuration.options.heartbeatInterval
            heartbeatWatchers()
        }
    }

    /// As `take`, for what came with a request to `target`: fails while this master does not lead.
    func take(_ event: MasterCore.Event, for target: String) throws -> MasterRefusal? {
        try requireLeading(target)
        return take(event)
    }

    /// Applies an event and does what follows. Answers with the core's refusal of a call, if any.
    @discardableResult
    private func take(_ event: MasterCore.Event) -> MasterRefusal? {
        var refusal: MasterRefusal?
        for action in core.apply(event, now: now, rng: &rng) {
            switch action {
            case .event(let event, let connection): write(event, to: schedulers[connection])
            case .closeScheduler(let connection): schedulers.removeValue(forKey: connection)?.feed.finish()
            case .message(let message, let connection): write(message, to: agents[connection])
            case .closeAgent(let connection): agents.removeValue(forKey: connection)?.feed.finish()
            case .refuse(let reason): refusal = reason
            case .persist(let changes, let number):
                writes.append((changes, number))
                writerWaker.yield()
            case .publish(let event):
                for outlet in watchers.values { write(event, to: outlet) }
            case .allocate: allocatorWaker.yield()
            case .notice(let text, let subject):
                logger.notice("\(text)", metadata: subject.mapValues { .string($0) })
            case .stepDown(let reason):
                stepDown(reason, abdicates: true)
                return refusal
            }
        }
        return refusal
    }

    private func write(_ message: some Message, to outlet: Outlet?) {
        guard let outlet else { return }
        outlet.feed.offer(RecordIO.encode(outlet.media.encode(message)))
    }

    // MARK: Streams

    /// Answers whatever the call says while this master does not lead.
    func requireLeading(_ target: String) throws {
        switch phase {
        case .leading: return
        case .recovering: throw HTTPFailure(.serviceUnavailable, text: "Master has not finished recovery")
        case .following:
            guard let leader = otherLeader else { throw HTTPFailure(.serviceUnavailable, text: "No leader elected") }
            throw redirection(to: leader, target: target)
        }
    }

    /// The state as the leader has it.
    func leadingSnapshot(_ target: String) throws -> MasterCore {
        try requireLeading(target)
        return core
    }

    /// Opens a scheduler's stream and subscribes on it.
    func subscribe(
        _ call: SchedulerCall, media: MediaType, principal: String?, target: String
    ) throws -> (ConnectionID, BoundedFeed) {
        try requireLeading(target)
        let (connection, feed) = open()
        schedulers[connection] = Outlet(feed: feed, media: media)
        take(.subscribe(call, connection, principal: principal))
        return (connection, feed)
    }

    /// Opens an agent's stream and registers it on it.
    func connect(
        _ message: ClusterAgentMessage, media: MediaType, target: String
    ) throws -> (ConnectionID, BoundedFeed) {
        try requireLeading(target)
        let (connection, feed) = open()
        agents[connection] = Outlet(feed: feed, media: media)
        take(.agent(message, connection))
        return (connection, feed)
    }

    /// Opens a stream of the operator API: the state first, then what changes.
    func watch(media: MediaType, target: String) throws -> BoundedFeed {
        try requireLeading(target)
        let (connection, feed) = open()
        var event = MasterEvent()
        event.type = .subscribed
        event.subscribed.getState = OperatorViews(core: core).state
        event.subscribed.heartbeatIntervalSeconds = configuration.options.heartbeatInterval.inSeconds
        let outlet = Outlet(feed: feed, media: media)
        write(event, to: outlet)
        watchers[connection] = outlet
        return feed
    }

    private func open() -> (ConnectionID, BoundedFeed) {
        let connection = ConnectionID(randomUUID(using: &rng))
        let feed = BoundedFeed(limit: 16384)
        feed.onEnd { [endedSink] in endedSink.yield(connection) }
        return (connection, feed)
    }

    private func streamEnded(_ connection: ConnectionID) {
        watchers[connection] = nil
        if schedulers.removeValue(forKey: connection) != nil { take(.schedulerGone(connection)) }
        if agents.removeValue(forKey: connection) != nil { take(.agentGone(connection)) }
    }

    private func heartbeatWatchers() {
        var event = MasterEvent()
        event.type = .heartbeat
        for outlet in watchers.values { write(event, to: outlet) }
    }
}

/// The part of a master that runs beside its HTTP server.
private struct MasterLoop: Service {
    let master: MasterService

    func run() async throws {
        await cancelWhenGracefulShutdown { await master.lead() }
    }
}
