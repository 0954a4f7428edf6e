import AgentCore
import Base
import Containerizer
import HTTPKit
import Hummingbird
import LinuxOS
public import Logging
import MasterLocator
import MesosAPI
import NIOCore
public import ServiceLifecycle

/// A Mesos agent: owns an `AgentCore`, performs its actions in order, and serves the agent's HTTP API.
public actor AgentService: Service {
    /// Work that runs beside the performing of actions.
    enum Work: Sendable {
        case container(AgentCore.LaunchOrder, isAdopted: Bool)
        case stop(String, Duration)
        case link(MasterLink)
        case remove(ContainerSpec, any Containerizer)
    }

    /// One container from its launch to its end.
    struct Runner {
        var spec: ContainerSpec
        var containerizer: any Containerizer
        var launch: StopSignal?
    }

    nonisolated let configuration: AgentConfiguration
    nonisolated let store: AgentStore
    nonisolated let logger: Logger
    nonisolated let caller = HTTPCaller()
    let started: ContinuousClock.Instant
    let unixTimeOfZero: Double
    var core: AgentCore
    var rng = SystemRandomNumberGenerator()
    var port: Int
    var runners: [String: Runner] = [:]
    var subscriptions: [ExecutorKey: Subscription] = [:]
    var counters = AgentCounters()
    private var actions: [AgentCore.Action] = []
    private var link: MasterLink?
    private let locator: MasterLocator
    private let wake: AsyncStream<Void>
    private let wakeContinuation: AsyncStream<Void>.Continuation
    private let work: AsyncStream<Work>
    private let workContinuation: AsyncStream<Work>.Continuation
    private let onServing: @Sendable (Int) async -> Void

    /// - Parameter onServing: called with the port once the agent's API answers.
    public init(
        _ configuration: AgentConfiguration, logger: Logger,
        onServing: @escaping @Sendable (Int) async -> Void = { _ in }
    ) {
        self.configuration = configuration
        self.logger = logger
        self.onServing = onServing
        store = AgentStore(paths: AgentPaths(workDirectory: configuration.workDirectory))
        started = .now
        unixTimeOfZero = unixTime()
        port = configuration.port
        core = AgentCore(
            configuration: configuration.coreConfiguration(port: configuration.port, unixTimeOfZero: unixTimeOfZero))
        locator = MasterLocator(configuration.master)
        (wake, wakeContinuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
        // One element per container and kill that the master ever asks for; drained at once by the task group.
        (work, workContinuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingOldest(1 << 20))
    }

    nonisolated var now: Instant { Instant(nanoseconds: UInt64(max(0, (.now - started).wholeNanoseconds))) }

    // MARK: Running

    public func run() async throws {
        let (ready, readyContinuation) = AsyncStream<Int>.makeStream(bufferingPolicy: .bufferingNewest(1))
        let server = HTTPServer(
            name: "holdfast-agent", address: .tcp(host: configuration.bindIP, port: configuration.port),
            router: AgentRoutes(agent: self).router(), logger: logger,
            onServerRunning: { port in
                readyContinuation.yield(port)
                readyContinuation.finish()
            })
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await server.run() }
            group.addTask {
                for await port in ready {
                    try await self.recover(port: port)
                    await self.onServing(port)
                }
                try await self.perform()
            }
            group.addTask { try await self.keepTime() }
            group.addTask { await self.runWork() }
            group.addTask { await self.locator.run() }
            group.addTask { await self.watchLeader() }
            // Whichever ends first, the server by a shutdown or another by an error, ends all. Containers live on.
            defer { group.cancelAll() }
            try await group.next()
        }
    }

    private func runWork() async {
        await withDiscardingTaskGroup { group in
            for await item in work {
                group.addTask {
                    switch item {
                    case .container(let order, let isAdopted): await self.runContainer(order, isAdopted: isAdopted)
                    case .stop(let id, let grace): await self.stopContainer(id, grace: grace)
                    case .link(let link): await self.runLink(link)
                    case .remove(let spec, let containerizer): await self.removeLater(spec, containerizer)
                    }
                }
            }
            group.cancelAll()
        }
    }

    private func keepTime() async throws {
        while !Task.isCancelled {
            if let deadline = core.nextDeadline, deadline <= now { handle(.tick) }
            try await Task.sleep(for: .milliseconds(100))
        }
    }

    /// Feeds the core. What it wants done is done in order by `perform`.
    func handle(_ event: AgentCore.Event) {
        let wanted = core.apply(event, now: now, rng: &rng)
        guard !wanted.isEmpty else { return }
        actions += wanted
        wakeContinuation.yield()
    }

    func submit(_ item: Work) { workContinuation.yield(item) }

    // MARK: Performing

    private func perform() async throws {
        for await _ in wake {
            while !actions.isEmpty {
                let batch = actions
                actions = []
                var index = 0
                while index < batch.count {
                    // Checkpoints that follow each other share one trip to a thread that may block.
                    var checkpoints: [AgentCore.Checkpoint] = []
                    while index < batch.count, case .checkpoint(let checkpoint) = batch[index] {
                        checkpoints.append(checkpoint)
                        index += 1
                    }
                    if !checkpoints.isEmpty { try await persist(checkpoints) }
                    guard index < batch.count else { break }
                    try await perform(batch[index])
                    index += 1
                }
            }
        }
    }

    private func persist(_ checkpoints: [AgentCore.Checkpoint]) async throws {
        let store = store
        let agent = core.agentID ?? ""
        do {
            try await offPool { for checkpoint in checkpoints { try store.write(checkpoint, agent: agent) } }
        } catch {
            // Going on would promise what a restart does not keep.
            logger.critical("cannot write to the work directory", metadata: ["error": "\(error)"])
            throw AgentError(.storage, "The work directory cannot be written", cause: error)
        }
    }

    private func perform(_ action: AgentCore.Action) async throws {
        switch action {
        case .checkpoint(let checkpoint): try await persist([checkpoint])
        case .connect(let message):
            let link = MasterLink(first: message)
            self.link?.stop.fire()
            self.link = link
            submit(.link(link))
        case .disconnect:
            link?.stop.fire()
            link = nil
        case .send(let message): link?.send(message)
        case .launch(let order): try await start(order, isAdopted: false)
        case .adopt(let order): try await start(order, isAdopted: true)
        case .stop(let id, let grace): submit(.stop(id, grace))
        case .notify(let key, let event): notify(key, event)
        case .unsubscribe(let key): subscriptions.removeValue(forKey: key)?.feed.finish()
        case .retire(let order): try await retire(order)
        case .retireAgent(let message): try await retireAgent(message)
        }
    }

    private func retire(_ order: AgentCore.LaunchOrder) async throws {
        let store = store
        try await offPool { try store.retire(order) }
        let spec = spec(for: order)
        if let containerizer = containerizer(for: spec) { submit(.remove(spec, containerizer)) }
    }

    /// The id is burnt: what comes next is a new agent in the same process, so that the other roles of the node live
    /// on.
    private func retireAgent(_ message: String) async throws {
        logger.warning("agent id given up", metadata: ["reason": "\(message)"])
        let store = store
        try await offPool { try store.forgetAgent() }
        core = AgentCore(configuration: core.configuration)
        handle(.recovered(RecoveredState()))
    }

    // MARK: The master

    /// Registers at once where a leader appears, instead of after the pause that attempts at its predecessor have led
    /// to.
    private func watchLeader() async {
        for await case let leader? in locator.leaders() {
            logger.info("master leads", metadata: ["leader": "\(leader.address)"])
            handle(.masterFound)
        }
        // Ending would end the agent.
        while !Task.isCancelled { try? await Task.sleep(for: .seconds(3600)) }
    }

    private func runLink(_ link: MasterLink) async {
        await link.stop.run {
            // While nobody leads, tasks go on and this waits.
            guard let place = await self.locator.next() else { return }
            let error = await withTaskGroup(of: (any Error).self) { group in
                group.addTask {
                    await link.run(
                        at: place.address, isElected: self.locator.isElected, caller: self.caller
                    ) { message, address in
                        await self.receive(message, from: address, over: link)
                    }
                }
                group.addTask {
                    await self.locator.untilMoved(from: place)
                    return AgentError(.master, "The master at \(place.address) leads no longer")
                }
                defer { group.cancelAll() }
                return await group.next() ?? CancellationError()
            }
            await self.linkEnded(link, error)
        }
    }

    private func receive(_ message: ClusterMasterMessage, from address: HTTPAddress, over link: MasterLink) {
        guard link === self.link else { return }
        if case .registered(let registered)? = message.kind {
            logger.notice(
                "registered with master",
                metadata: ["agent.id": "\(registered.agentID.value)", "master": "\(address)"])
        }
        handle(.master(message))
    }

    private func linkEnded(_ link: MasterLink, _ error: any Error) {
        guard link === self.link else { return }
        self.link = nil
        logger.warning("no link to master", metadata: ["error": "\(error)"])
        handle((error as? AgentError)?.code == .undecided ? .masterUndecided : .masterLost)
    }

    // MARK: Recovery

    private func recover(port: Int) async throws {
        self.port = port
        core = AgentCore(
            configuration: configuration.coreConfiguration(port: port, unixTimeOfZero: unixTimeOfZero))
        let store = store
        let contents = try await offPool {
            try DurableFile.makeDirectory(store.paths.agents)
            let contents = store.read()
            if let boot = try? readText("/proc/sys/kernel/random/boot_id") {
                try DurableFile.write(Array(boot.utf8), to: store.paths.bootID)
            }
            return contents
        }
        for error in contents.errors { logger.error("checkpoint unreadable", metadata: ["error": "\(error)"]) }
        if configuration.isStrict, let error = contents.errors.first {
            throw AgentError(
                .storage, "The work directory holds unreadable state (--no-strict goes on without it): \(error)")
        }
        var state = RecoveredState(agentID: contents.info?.id.value)
        for framework in contents.frameworks {
            let runs = contents.runs.filter { $0.framework.id == framework.id }
            var executors: [RecoveredState.Executor] = []
            for run in runs { executors.append(await examine(run, agent: state.agentID ?? "")) }
            state.frameworks.append(RecoveredState.Framework(info: framework, executors: executors))
        }
        let count = contents.runs.count
        logger.notice(
            "agent recovered", metadata: ["agent.id": "\(state.agentID ?? "none")", "containers": "\(count)"])
        handle(.recovered(state))
    }

    private func examine(_ run: AgentStore.Run, agent: String) async -> RecoveredState.Executor {
        let order = AgentCore.LaunchOrder(
            container: run.container, agentID: agent, framework: run.framework, executor: run.executor,
            task: run.isCommand ? run.tasks.first?.info : nil)
        let spec = spec(for: order)
        var condition = RecoveredState.Container.neverStarted
        if let containerizer = containerizer(for: spec) {
            condition = .running(ContainerReport())
            // A dockerd that starts together with the agent needs a moment. If it stays away the container counts as
            // running: waiting for its end goes on as soon as dockerd answers.
            for attempt in 0..<40 {
                do {
                    condition = try await containerizer.recover(spec)
                    break
                } catch {
                    if attempt == 0 {
                        logger.warning(
                            "container not found yet",
                            metadata: ["container.id": "\(run.container)", "error": "\(error)"])
                    }
                    try? await Task.sleep(for: .milliseconds(500))
                }
            }
        }
        return RecoveredState.Executor(
            info: run.executor, containerID: run.container, isCommand: run.isCommand, tasks: run.tasks,
            container: condition)
    }
}
