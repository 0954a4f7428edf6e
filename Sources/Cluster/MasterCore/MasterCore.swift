public import Allocator
public import Base
public import MesosAPI
import Resources

/// The master's decisions: frameworks, agents, offers and tasks, without network, disk or clock.
///
/// Invariants: a task in `FrameworkRecord.tasks` names a registered agent whose `tasks` has its key, and the other way
/// round; what the allocator holds as allocated on an agent is the sum of its offers, of its tasks that are not
/// terminal, and of its executors; an offer is known to its framework and its agent.
public struct MasterCore: Sendable {
    public let options: MasterOptions
    /// Seconds since the epoch at `Instant.zero`, so that the core can stamp what it reports.
    public var epochOffset: Double

    public internal(set) var frameworks: [MesosFrameworkID: FrameworkRecord] = [:]
    /// Oldest first.
    public internal(set) var completedFrameworks: [FrameworkRecord] = []
    public internal(set) var agents: [MesosAgentID: AgentRecord] = [:]
    public internal(set) var offers: [MesosOfferID: OfferRecord] = [:]
    /// Known from the registry, not yet back; with the time at which each is given up.
    public internal(set) var recoveredAgents: [MesosAgentID: (info: MesosAgentInfo, deadline: Instant)] = [:]
    public internal(set) var unreachableAgents: [MesosAgentID: UnreachableAgent] = [:]
    public internal(set) var goneAgents: [MesosAgentID: Double] = [:]
    /// Those of registered, recovered and unreachable agents that an operator has deactivated.
    public internal(set) var deactivatedAgents: Set<MesosAgentID> = []
    public internal(set) var allocator: Allocator
    /// Counts by Mesos' metric names without the prefix "master/".
    public internal(set) var counters: [String: UInt64] = [:]

    var actions: [Action] = []
    var now = Instant.zero
    var frameworkByConnection: [ConnectionID: MesosFrameworkID] = [:]
    var agentByConnection: [ConnectionID: MesosAgentID] = [:]
    var writes: [UInt64: PendingWrite] = [:]
    /// Their state is being changed in the registry: they get no tasks and may not re-register for the moment.
    var leavingAgents: Set<MesosAgentID> = []
    /// No agent becomes unreachable before, if that is limited.
    var nextAgentRemoval = Instant.zero
    var nextRegistryCollection: Instant
    /// How many agents the registry had admitted at the beginning, and how many of them were given up since.
    var agentsRecoveredCount = 0
    var agentsNotBackCount = 0
    private var nextFramework: UInt64 = 0
    private var nextAgent: UInt64 = 0
    private var nextOffer: UInt64 = 0
    private var nextWrite: UInt64 = 0
    private var isAllocationRequested = false

    /// What goes on once the registry has a change.
    enum PendingWrite: Sendable {
        case admit(AgentArrival)
        case unreachable(MesosAgentID)
        case gone(MesosAgentID)
        case removeAgent(MesosAgentID, message: String)
        case setAgentActive(MesosAgentID, Bool)
        case removeFramework(MesosFrameworkID)
        case nothing
    }

    /// - Parameters:
    ///   - registry: what an earlier master left.
    ///   - epochOffset: seconds since the epoch at `Instant.zero`.
    public init(
        options: MasterOptions, agents registry: [RegistryAgent] = [], frameworks known: [RegistryFramework] = [],
        now: Instant, epochOffset: Double
    ) {
        self.options = options
        self.epochOffset = epochOffset
        self.now = now
        nextRegistryCollection = now + options.registryCollectionInterval
        allocator = Allocator(options: options.allocator)
        allocator.setWeights(options.weights)
        for agent in registry {
            if agent.isDeactivated, agent.state != .gone { deactivatedAgents.insert(agent.info.id) }
            switch agent.state {
            case .admitted:
                recoveredAgents[agent.info.id] = (agent.info, now + options.agentReregisterTimeout)
            case .unreachable:
                unreachableAgents[agent.info.id] = UnreachableAgent(info: agent.info, since: agent.since)
            case .gone: goneAgents[agent.info.id] = agent.since
            }
        }
        agentsRecoveredCount = recoveredAgents.count
        for framework in known.sorted(by: { ($0.since, $0.info.id) < ($1.since, $1.info.id) }) {
            var record = FrameworkRecord(info: framework.info, isRecovered: true, at: framework.since)
            if framework.isRemoved {
                record.unregisteredTime = framework.since
                completedFrameworks.append(record)
            } else {
                record.failoverDeadline = now + returnTime(of: framework.info)
                frameworks[framework.info.id] = record
            }
        }
        for framework in frameworks.values.sorted(by: { $0.id < $1.id }) {
            allocator.addFramework(framework.info, isActive: false)
        }
    }

    /// Takes one event and answers with what is to be done.
    public mutating func apply(
        _ event: Event, now: Instant, rng: inout some RandomNumberGenerator
    ) -> [Action] {
        self.now = max(self.now, now)
        actions = []
        switch event {
        case .subscribe(let call, let connection, let principal): subscribe(call, connection, principal: principal)
        case .call(let call, let connection, let principal): handle(call, connection, principal: principal)
        case .schedulerGone(let connection): schedulerGone(connection)
        case .agent(let message, let connection): handle(message, connection)
        case .agentGone(let connection): agentGone(connection)
        case .persisted(let number): persisted(number)
        case .allocate:
            isAllocationRequested = false
            offer(allocator.allocate(now: self.now, rng: &rng))
        case .tick: tick()
        case .teardown(let id):
            if frameworks[id] != nil {
                removeFramework(id)
            } else {
                refuse(400, "No framework found with specified ID")
            }
        case .markAgentGone(let id): markGone(id)
        case .setAgentActive(let id, let isActive): setActive(id, isActive)
        }
        if allocator.needsAllocation, !isAllocationRequested {
            isAllocationRequested = true
            actions.append(.allocate)
        }
        return actions
    }

    private mutating func tick() {
        for id in frameworks.keys.sorted() {
            guard let framework = frameworks[id] else { continue }
            if let connection = framework.connection, framework.nextHeartbeat <= now {
                frameworks[id]?.nextHeartbeat = now + options.heartbeatInterval
                var event = SchedulerEvent()
                event.type = .heartbeat
                actions.append(.event(event, connection))
            }
            if let deadline = framework.failoverDeadline, deadline <= now, !framework.isLeaving {
                note("framework failover timed out", ["framework.id": id.value])
                removeFramework(id)
            }
        }
        if options.offerTimeout != nil {
            for offer in offers.values.filter({ $0.deadline.map { $0 <= now } ?? false }).map(\.id).sorted() {
                removeOffer(offer, rescind: true)
            }
        }
        tickAgents()
        collectRegistry()
        allocator.tick(now: now)
    }

    private mutating func persisted(_ number: UInt64) {
        guard let write = writes.removeValue(forKey: number) else { return }
        switch write {
        case .admit(let arrival): admit(arrival)
        case .unreachable(let id): finishUnreachable(id)
        case .gone(let id): finishGone(id)
        case .removeAgent(let id, let message): finishRemoval(of: id, message: message)
        case .setAgentActive(let id, let isActive): finishActivation(of: id, isActive)
        case .removeFramework(let id): finishRemoval(of: id)
        case .nothing: break
        }
    }
}

// MARK: - Small things that every part uses

extension MasterCore {
    /// The time of the last event, in seconds since the epoch.
    public var epochSeconds: Double { time }

    /// Seconds since the epoch.
    var time: Double { epochOffset + Double(now.nanoseconds) / 1e9 }

    var timeInfo: MesosTimeInfo {
        var info = MesosTimeInfo()
        info.nanoseconds = Int64(epochOffset * 1e9) + Int64(clamping: now.nanoseconds)
        return info
    }

    mutating func newFrameworkID() -> MesosFrameworkID {
        defer { nextFramework += 1 }
        let number = String(nextFramework)
        let padding = String(repeating: "0", count: max(0, 4 - number.count))
        return MesosFrameworkID("\(options.info.id)-\(padding)\(number)")
    }

    mutating func newAgentID() -> MesosAgentID {
        defer { nextAgent += 1 }
        return MesosAgentID("\(options.info.id)-S\(nextAgent)")
    }

    mutating func newOfferID() -> MesosOfferID {
        defer { nextOffer += 1 }
        return MesosOfferID("\(options.info.id)-O\(nextOffer)")
    }

    mutating func persist(_ changes: [RegistryChange], then write: PendingWrite) {
        nextWrite += 1
        writes[nextWrite] = write
        actions.append(.persist(changes, nextWrite))
    }

    mutating func refuse(_ status: Int, _ text: String) { actions.append(.refuse(MasterRefusal(status, text))) }

    mutating func note(_ text: String, _ subject: [String: String]) { actions.append(.notice(text, subject)) }

    mutating func count(_ name: String) { counters[name, default: 0] += 1 }

    /// Sends an event to a framework; dropped while it is disconnected.
    mutating func send(_ id: MesosFrameworkID, _ fill: (inout SchedulerEvent) -> Void) {
        guard let connection = frameworks[id]?.connection else { return }
        var event = SchedulerEvent()
        fill(&event)
        actions.append(.event(event, connection))
    }

    /// Sends a message to an agent; dropped while it is disconnected.
    mutating func send(_ id: MesosAgentID, _ kind: ClusterMasterMessage.OneOf_Kind) {
        guard let connection = agents[id]?.connection else { return }
        var message = ClusterMasterMessage()
        message.kind = kind
        actions.append(.message(message, connection))
    }

    mutating func publish(_ type: MasterEvent.TypeEnum, _ fill: (inout MasterEvent) -> Void) {
        var event = MasterEvent()
        event.type = type
        fill(&event)
        actions.append(.publish(event))
    }

    func isCompleted(_ id: MesosFrameworkID) -> Bool { completedFrameworks.contains { $0.id == id } }

    /// Resources as this framework's capabilities let it see them.
    func presented(_ resources: Resources, to info: MesosFrameworkInfo) -> [MesosResource] {
        resources.list.map { resource in
            var resource = info.has(.reservationRefinement) ? resource : Resources.oldForm(resource)
            if !info.has(.multiRole) { resource.clearAllocationInfo() }
            return resource
        }
    }
}
