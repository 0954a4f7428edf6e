import Base
import FoundationEssentials
import HTTPKit
public import Logging
public import MasterLocator
public import MesosAPI
import NIOCore
import NIOHTTP1

/// A scheduler's side of the v1 scheduler API: one subscription that is renewed whenever it breaks, and calls on it.
///
/// Start `run()` in a task group, iterate `signals`, make calls with `call` or the methods named after them. All calls
/// go out in the order in which they were made only if the caller awaits each before the next.
public actor SchedulerClient {
    public struct Options: Sendable {
        /// Where the leading master is found; followers redirect to it. When it is known to be elsewhere, the
        /// subscription goes there at once.
        public var masters: MasterLocation
        public var framework: MesosFrameworkInfo
        public var suppressedRoles: [String] = []
        public var mediaType = MediaType.protobuf
        /// Basic authentication.
        public var credential: (principal: String, secret: String)?
        /// Pause before a renewal, doubled up to `backoffMax` while renewals fail.
        public var backoffMin = Duration.milliseconds(250)
        public var backoffMax = Duration.seconds(15)
        /// How long one call may take.
        public var callDeadline = Duration.seconds(15)
        /// How often a master from which nothing came is asked for a sign of life; nil relies on its own heartbeats.
        ///
        /// With it, `run()` gives up a master that an election names and that has shown none for `missedHeartbeatsMax`
        /// intervals: whoever else runs for this framework may reach it.
        public var heartbeatInterval: Duration?
        /// The subscription is given up after this many heartbeats of silence.
        public var missedHeartbeatsMax = 5.0

        var masterPatience: Duration? { heartbeatInterval.map { $0 * missedHeartbeatsMax } }

        /// - Parameter framework: with its id to fail over to this scheduler; without for a new framework.
        public init(masters: MasterLocation, framework: MesosFrameworkInfo) {
            self.masters = masters
            self.framework = framework
        }
    }

    /// What the subscription brings, in order.
    public enum Signal: Sendable {
        /// A subscription begins (again): outstanding offers of before are void, tasks should be reconciled.
        case subscribed(frameworkID: MesosFrameworkID, master: MesosMasterInfo?)
        /// Everything but SUBSCRIBED and HEARTBEAT.
        case event(SchedulerEvent)
        /// The subscription broke; it is being renewed.
        case disconnected(reason: String)
    }

    /// The signals, for exactly one reader. Bounded: when the reader falls 16384 signals behind, the subscription is
    /// renewed and what was missed has to be reconciled, as after any disconnection.
    public nonisolated let signals: AsyncStream<Signal>

    private let continuation: AsyncStream<Signal>.Continuation
    private let options: Options
    private let logger: Logger
    private let caller: HTTPCaller
    private var framework: MesosFrameworkInfo
    private var connection: Connection?
    /// Since when the master that the election names has not been heard of, while there is no connection to it.
    private var unheardSince: ContinuousClock.Instant?

    private struct Connection {
        var master: HTTPAddress
        var streamID: String
        var lastRecord: ContinuousClock.Instant
        var silenceMax = Duration.seconds(75)
    }

    public init(_ options: Options, logger: Logger) {
        self.options = options
        self.logger = logger
        framework = options.framework
        (signals, continuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingOldest(16384))
        var headers: HTTPHeaders = ["content-type": options.mediaType.rawValue, "accept": options.mediaType.rawValue]
        if let (principal, secret) = options.credential {
            let token = Data("\(principal):\(secret)".utf8).base64EncodedString()
            headers.add(name: "authorization", value: "Basic \(token)")
        }
        caller = HTTPCaller(headers: headers)
    }

    /// The framework's id once it has one.
    public var frameworkID: MesosFrameworkID? { framework.hasID ? framework.id : nil }

    /// What the next subscription announces; call `resubscribe()` or UPDATE_FRAMEWORK to make it known earlier.
    public func update(framework info: MesosFrameworkInfo) {
        let id = frameworkID
        framework = info
        if let id { framework.id = id }
    }

    // MARK: Subscription

    /// Keeps the subscription until the task is cancelled, the master ends it for good (`unsubscribed`) or cannot be
    /// reached for too long (`unreachable`; see `Options.heartbeatInterval`).
    public func run() async throws(MesosClientError) {
        defer { continuation.finish() }
        let locator = MasterLocator(options.masters)
        do {
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask { await locator.run() }
                group.addTask { try await self.keepSubscribed(locator) }
                if let patience = options.masterPatience, locator.isElected {
                    group.addTask { try await self.watchMaster(patience) }
                }
                defer { group.cancelAll() }
                try await group.next()
            }
        } catch let error as MesosClientError {
            throw error
        } catch {
            // Only cancellation ends it otherwise.
        }
    }

    private func keepSubscribed(_ locator: MasterLocator) async throws(MesosClientError) {
        var pause = options.backoffMin
        var former: MasterPlace?
        while let place = await nextMaster(locator, after: former), !Task.isCancelled {
            former = place
            var reason = "the stream ended"
            do throws(MesosClientError) {
                if try await subscribe(at: place, locator) { reason = "the leading master is another" }
            } catch {
                if error.code == .unsubscribed { throw error }
                reason = error.description
            }
            if let lost = connection {
                connection = nil
                unheardSince = lost.lastRecord
                pause = options.backoffMin
                continuation.yield(.disconnected(reason: reason))
            }
            if Task.isCancelled { return }
            logger.info("subscription lost", metadata: ["reason": "\(reason)", "master": "\(place.address)"])
            let length = pause
            pause = min(pause * 2, options.backoffMax)
            // A new leader is no reason to wait for.
            _ = try? await withDeadline(length) { await locator.untilMoved(from: place) }
        }
    }

    /// Nobody is waited for while nobody leads; a new leader has all the time again.
    private func nextMaster(_ locator: MasterLocator, after former: MasterPlace?) async -> MasterPlace? {
        let start = unheardSince
        unheardSince = nil
        let place = await locator.next()
        unheardSince = place == former ? start ?? .now : .now
        return place
    }

    private func watchMaster(_ patience: Duration) async throws {
        while true {
            if let unheardSince, ContinuousClock.now - unheardSince > patience {
                throw MesosClientError(.unreachable, "The elected master could not be reached for \(patience)")
            }
            try await Task.sleep(for: min(patience / 10, .milliseconds(500)))
        }
    }

    /// One subscription from its call to its end; true when it ended because the leader is another.
    private func subscribe(at place: MasterPlace, _ locator: MasterLocator) async throws(MesosClientError) -> Bool {
        do {
            return try await withThrowingTaskGroup(of: Bool.self) { group in
                group.addTask {
                    try await self.subscribe(at: place.address, isElected: locator.isElected)
                    return false
                }
                group.addTask {
                    await locator.untilMoved(from: place)
                    return true
                }
                defer { group.cancelAll() }
                return try await group.next() ?? false
            }
        } catch let error as MesosClientError {
            throw error
        } catch {
            throw MesosClientError(.unreachable, "The subscription at \(place.address) broke", cause: error)
        }
    }

    /// - Parameter isElected: an election named this master. It redirects only because it does not know yet that it
    ///   leads, and to a predecessor that may be dead: so this attempt ends.
    private func subscribe(at start: HTTPAddress, isElected: Bool) async throws(MesosClientError) {
        var call = SchedulerCall()
        call.type = .subscribe
        if let id = frameworkID { call.frameworkID = id }
        call.subscribe.frameworkInfo = framework
        call.subscribe.suppressedRoles = options.suppressedRoles
        let body = options.mediaType.encode(call)
        var master = start
        for _ in 0..<5 {
            let response: HTTPStreamReply
            do {
                response = try await caller.openStream(.POST, master, "/api/v1/scheduler", body: body)
            } catch {
                throw MesosClientError(.unreachable, "The master at \(master) gave no subscription", cause: error)
            }
            if response.status == 307, let location = response.headers.first(name: "location"),
                let leader = redirectTarget(location)
            {
                guard !isElected else {
                    throw MesosClientError(.unreachable, "The master at \(master) does not know yet that it leads")
                }
                master = leader
                continue
            }
            guard response.status == 200 else {
                let text = await response.text(limit: 4096)
                let code: MesosClientError.Code =
                    response.status == 503 || response.status == 429 ? .unreachable : .refused
                throw MesosClientError(
                    code, "The master at \(master) refused the subscription: \(text)", status: response.status)
            }
            try await follow(response, master: master)
            return
        }
        throw MesosClientError(.unreachable, "The masters redirect to each other")
    }

    private func follow(_ response: HTTPStreamReply, master: HTTPAddress) async throws(MesosClientError) {
        connection = Connection(
            master: master, streamID: response.headers.first(name: "mesos-stream-id") ?? "", lastRecord: .now)
        if let patience = options.masterPatience { connection?.silenceMax = patience }
        unheardSince = nil
        do {
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask { try await self.read(response) }
                group.addTask { try await self.watchSilence() }
                if let interval = options.heartbeatInterval {
                    group.addTask { try await self.askForLife(every: interval) }
                }
                defer { group.cancelAll() }
                try await group.next()
            }
        } catch let error as MesosClientError {
            throw error
        } catch {
            throw MesosClientError(.unreachable, "The subscription at \(master) broke", cause: error)
        }
    }

    private func read(_ response: HTTPStreamReply) async throws {
        var decoder = RecordIO.Decoder()
        for try await chunk in response.chunks {
            for record in try decoder.append(chunk) {
                let event: SchedulerEvent
                do {
                    event = try options.mediaType.decode(SchedulerEvent.self, from: record)
                } catch {
                    throw MesosClientError(.malformed, "The master sent an event that cannot be read", cause: error)
                }
                try take(event)
            }
        }
    }

    private func watchSilence() async throws {
        while let connection {
            if ContinuousClock.now - connection.lastRecord > connection.silenceMax {
                throw MesosClientError(.unreachable, "The master at \(connection.master) fell silent")
            }
            try await Task.sleep(for: .milliseconds(500))
        }
    }

    /// Asks about a task that nobody has: the master answers at once that it does not know it.
    private func askForLife(every interval: Duration) async throws {
        var call = SchedulerCall()
        call.type = .reconcile
        var task = SchedulerCall.Reconcile.Task()
        task.taskID = SchedulerClient.heartbeatTask
        // With an agent that nobody has either: about tasks without one, a fresh master keeps silent until all agents
        // are back.
        task.agentID.value = SchedulerClient.heartbeatTask.value
        call.reconcile.tasks = [task]
        while true {
            try await Task.sleep(for: interval)
            guard let connection, ContinuousClock.now - connection.lastRecord >= interval else { continue }
            do throws(MesosClientError) {
                try await self.call(call, deadline: interval)
            } catch {
                if error.code == .refused { throw error }
                logger.info(
                    "no answer to a heartbeat", metadata: ["master": "\(connection.master)", "error": "\(error)"])
            }
        }
    }

    private static let heartbeatTask: MesosTaskID = {
        var id = MesosTaskID()
        id.value = "holdfast-heartbeat"
        return id
    }()

    private func take(_ event: SchedulerEvent) throws(MesosClientError) {
        connection?.lastRecord = .now
        switch event.type {
        case .heartbeat, .unknown: return
        case .subscribed:
            let subscribed = event.subscribed
            framework.id = subscribed.frameworkID
            // A duration has bounds, and a master that promises a heartbeat every two weeks promises none.
            if options.heartbeatInterval == nil, subscribed.heartbeatIntervalSeconds > 0,
                subscribed.heartbeatIntervalSeconds < 1e6
            {
                connection?.silenceMax = .seconds(subscribed.heartbeatIntervalSeconds * options.missedHeartbeatsMax)
            }
            try emit(
                .subscribed(
                    frameworkID: subscribed.frameworkID, master: subscribed.hasMasterInfo ? subscribed.masterInfo : nil)
            )
        case .error:
            try emit(.event(event))
            throw MesosClientError(.unsubscribed, event.error.message)
        case .update where event.update.status.taskID == SchedulerClient.heartbeatTask: return
        case .offers, .inverseOffers, .rescind, .rescindInverseOffer, .update, .updateOperationStatus, .message,
            .failure:
            try emit(.event(event))
        }
    }

    private func emit(_ signal: Signal) throws(MesosClientError) {
        if case .dropped = continuation.yield(signal) {
            throw MesosClientError(.unreachable, "The scheduler fell behind its events")
        }
    }

    // MARK: Calls

    /// Makes a call on the present subscription; `framework_id` is filled in.
    public func call(_ call: SchedulerCall) async throws(MesosClientError) {
        try await self.call(call, deadline: options.callDeadline)
    }

    private func call(_ call: SchedulerCall, deadline: Duration) async throws(MesosClientError) {
        guard let connection, let id = frameworkID else {
            throw MesosClientError(.notSubscribed, "The framework is not subscribed")
        }
        var call = call
        call.frameworkID = id
        let reply: HTTPReply
        do {
            reply = try await caller.call(
                .POST, connection.master, "/api/v1/scheduler", headers: ["mesos-stream-id": connection.streamID],
                body: options.mediaType.encode(call), deadline: deadline)
        } catch {
            throw MesosClientError(.unreachable, "The master did not take the call", cause: error)
        }
        guard reply.isSuccess else {
            throw MesosClientError(.refused, "The master refused the call: \(reply.text)", status: reply.status)
        }
    }

    private func call(
        _ type: SchedulerCall.TypeEnum, _ fill: (inout SchedulerCall) -> Void = { _ in }
    ) async throws(MesosClientError) {
        var call = SchedulerCall()
        call.type = type
        fill(&call)
        try await self.call(call)
    }

    /// Takes offers of one agent and role; no operations is a refusal.
    ///
    /// - Parameter refuse: how long not to offer what was not taken, in seconds; nil for the protocol's default (5 s).
    public func accept(
        _ offers: [MesosOfferID], operations: [MesosOffer.Operation], refuse: Double? = nil
    ) async throws(MesosClientError) {
        try await call(.accept) { call in
            call.accept.offerIds = offers
            call.accept.operations = operations
            if let refuse { call.accept.filters.refuseSeconds = refuse }
        }
    }

    /// Launches tasks from offers of one agent and role.
    public func launch(
        _ tasks: [MesosTaskInfo], from offers: [MesosOfferID], refuse: Double? = nil
    ) async throws(MesosClientError) {
        var operation = MesosOffer.Operation()
        operation.type = .launch
        operation.launch.taskInfos = tasks
        try await accept(offers, operations: [operation], refuse: refuse)
    }

    public func decline(_ offers: [MesosOfferID], refuse: Double? = nil) async throws(MesosClientError) {
        try await call(.decline) { call in
            call.decline.offerIds = offers
            if let refuse { call.decline.filters.refuseSeconds = refuse }
        }
    }

    /// Resumes offers and ends all refusals; no roles means all roles.
    public func revive(roles: [String] = []) async throws(MesosClientError) {
        try await call(.revive) { call in if !roles.isEmpty { call.revive.roles = roles } }
    }

    public func suppress(roles: [String] = []) async throws(MesosClientError) {
        try await call(.suppress) { call in if !roles.isEmpty { call.suppress.roles = roles } }
    }

    public func kill(
        _ task: MesosTaskID, agent: MesosAgentID? = nil, gracePeriod: Duration? = nil
    ) async throws(MesosClientError) {
        try await call(.kill) { call in
            call.kill.taskID = task
            if let agent { call.kill.agentID = agent }
            if let gracePeriod { call.kill.killPolicy.gracePeriod.nanoseconds = gracePeriod.wholeNanoseconds }
        }
    }

    /// Acknowledges an update; does nothing for updates that want no acknowledgement.
    public func acknowledge(_ status: MesosTaskStatus) async throws(MesosClientError) {
        guard status.hasUuid, !status.uuid.isEmpty else { return }
        try await call(.acknowledge) { call in
            call.acknowledge.agentID = status.agentID
            call.acknowledge.taskID = status.taskID
            call.acknowledge.uuid = status.uuid
        }
    }

    /// Asks for the states of `tasks`; an empty list asks for all tasks the master knows (implicit reconciliation).
    public func reconcile(
        _ tasks: [(task: MesosTaskID, agent: MesosAgentID?)] = []
    ) async throws(MesosClientError) {
        try await call(.reconcile) { call in
            call.reconcile.tasks = tasks.map { entry in
                var task = SchedulerCall.Reconcile.Task()
                task.taskID = entry.task
                if let agent = entry.agent { task.agentID = agent }
                return task
            }
        }
    }

    public func shutdown(executor: MesosExecutorID, agent: MesosAgentID) async throws(MesosClientError) {
        try await call(.shutdown) { call in
            call.shutdown.executorID = executor
            call.shutdown.agentID = agent
        }
    }

    /// Sends data to an executor; may be lost.
    public func send(
        _ bytes: [UInt8], to executor: MesosExecutorID, agent: MesosAgentID
    ) async throws(MesosClientError) {
        try await call(.message) { call in
            call.message.executorID = executor
            call.message.agentID = agent
            call.message.data = Data(bytes)
        }
    }

    /// Ends the framework with all its tasks.
    public func teardown() async throws(MesosClientError) { try await call(.teardown) }
}

/// `host:port` of a Location header, absolute or protocol-relative.
func redirectTarget(_ location: String) -> HTTPAddress? {
    guard let slashes = location.firstRange(of: "//") else { return nil }
    let rest = location[slashes.upperBound...]
    return HTTPAddress(String(rest.prefix { $0 != "/" && $0 != "?" }))
}
