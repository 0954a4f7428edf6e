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
/// A master that loses its leadership or its registry stops with an error: its successor starts from the registry, and
/// agents and frameworks come back to it.
public actor MasterService: Service {
    /// Where this master stands in the course of leadership.
    enum Phase {
        case following(leader: JSONValue?)
        case recovering
        case leading
    }

    struct Outlet {
        var feed: BoundedFeed
        var media: MediaType
    }

    static let electionPath = "/master/election"

    nonisolated let configuration: MasterConfiguration
    nonisolated let logger: Logger
    nonisolated let startTime: Double
    private let backend: CoordinationBackend
    private let onServerRunning: @Sendable (Int) async -> Void
    private let clockOrigin: ContinuousClock.Instant

    private(set) var phase = Phase.following(leader: nil)
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

    /// Everything but the HTTP server; returns on graceful shutdown, throws when this master must stop.
    func lead() async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await self.stand() }
            group.addTask { try await self.writeRegistry() }
            group.addTask {
                for await _ in self.wakeAllocator { await self.take(.allocate) }
            }
            group.addTask {
                for await connection in self.ended { await self.streamEnded(connection) }
            }
            group.addTask {
                while true {
                    try await Task.sleep(for: .milliseconds(200))
                    await self.tick()
                }
            }
            defer { group.cancelAll() }
            try await group.next()
        }
    }

    // MARK: Leadership

    private func stand() async throws {
        let info = jsonEncode(configuration.options.info)
        let candidacy = backend.election.stand(at: MasterService.electionPath, advertising: info)
        for await event in candidacy.events {
            switch event {
            case .elected(let epoch): try await recover(epoch)
            case .lost: throw MasterError(.leadershipLost, "Another master leads now")
            case .leader(let leader):
                if case .following = phase { phase = .following(leader: leader) }
            }
        }
    }

    private func recover(_ epoch: LeaderEpoch) async throws {
        phase = .recovering
        logger.notice("elected", metadata: ["epoch": "\(epoch.epoch)"])
        let registry = Registry(store: backend.store, epoch: epoch)
        let (agents, frameworks) = try await registry.load()
        core = MasterCore(
            options: configuration.options, agents: agents, frameworks: frameworks, now: now,
            epochOffset: Date().timeIntervalSince1970 - Double(now.nanoseconds) / 1e9)
        self.registry = registry
        electedTime = Date().timeIntervalSince1970
        phase = .leading
        logger.notice(
            "leading", metadata: ["agents": "\(agents.count)", "frameworks": "\(frameworks.count)"])
    }

    private func writeRegistry() async throws {
        for await _ in wakeWriter {
            guard let registry else { continue }
            while !writes.isEmpty {
                let batch = writes
                writes = []
                try await registry.commit(batch.flatMap(\.changes))
                for write in batch { take(.persisted(write.number)) }
            }
        }
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

    /// Who leads, as its MasterInfo; this master while nobody does.
    var leader: JSONValue {
        if case .following(let leader?) = phase { leader } else { jsonEncode(configuration.options.info) }
    }

    private func tick() {
        guard case .leading = phase else { return }
        core.epochOffset = Date().timeIntervalSince1970 - Double(now.nanoseconds) / 1e9
        take(.tick)
        if now >= nextWatcherHeartbeat {
            nextWatcherHeartbeat = now + configuration.options.heartbeatInterval
            heartbeatWatchers()
        }
    }

    /// Applies an event and does what follows. Answers with the core's refusal of a call, if any.
    @discardableResult
    func take(_ event: MasterCore.Event) -> MasterRefusal? {
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
            }
        }
        return refusal
    }

    private func write(_ message: some Message, to outlet: Outlet?) {
        guard let outlet else { return }
        outlet.feed.offer(RecordIO.encode(outlet.media.encode(message)))
    }

    // MARK: Streams

    /// What goes wrong at this master whatever the call says; nil while it leads.
    func unavailability(for target: String) -> HTTPFailure? {
        switch phase {
        case .leading: nil
        case .recovering: HTTPFailure(.serviceUnavailable, text: "Master has not finished recovery")
        case .following(nil): HTTPFailure(.serviceUnavailable, text: "No leader elected")
        case .following(let leader?): redirection(to: leader, target: target)
        }
    }

    /// Opens a scheduler's stream and subscribes on it.
    func subscribe(_ call: SchedulerCall, media: MediaType, principal: String?) -> (ConnectionID, BoundedFeed) {
        let (connection, feed) = open()
        schedulers[connection] = Outlet(feed: feed, media: media)
        take(.subscribe(call, connection, principal: principal))
        return (connection, feed)
    }

    /// Opens an agent's stream and registers it on it.
    func connect(_ message: ClusterAgentMessage, media: MediaType) -> (ConnectionID, BoundedFeed) {
        let (connection, feed) = open()
        agents[connection] = Outlet(feed: feed, media: media)
        take(.agent(message, connection))
        return (connection, feed)
    }

    /// Opens a stream of the operator API: the state first, then what changes.
    func watch(media: MediaType) -> BoundedFeed {
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

    /// Ends every stream, so that the server can stop: agents and frameworks come back to the next master.
    func closeStreams() {
        for outlet in [schedulers, agents, watchers].flatMap(\.values) { outlet.feed.finish() }
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
        try await cancelWhenGracefulShutdown {
            do { try await master.lead() } catch is CancellationError {}
        }
        await master.closeStreams()
    }
}
