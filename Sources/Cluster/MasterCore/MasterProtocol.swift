public import Allocator
import Base
public import MesosAPI

/// One open stream of a scheduler or an agent, named by the shell; for schedulers it is the Mesos-Stream-Id.
public struct ConnectionID: Hashable, Comparable, Sendable, CustomStringConvertible {
    public var value: String

    public init(_ value: String) { self.value = value }

    public static func < (left: ConnectionID, right: ConnectionID) -> Bool { left.value < right.value }
    public var description: String { value }
}

/// What the master is told from outside.
extension MasterCore {
    public enum Event: Sendable {
        /// SUBSCRIBE on a stream that the shell has opened; `principal` is the authenticated one.
        case subscribe(SchedulerCall, ConnectionID, principal: String?)
        /// Any other scheduler call, with the stream id it named.
        case call(SchedulerCall, ConnectionID?, principal: String?)
        case schedulerGone(ConnectionID)
        /// `register` or `reregister` on a stream that the shell has opened, or a message on an open one.
        case agent(ClusterAgentMessage, ConnectionID)
        case agentGone(ConnectionID)
        /// The changes of `Action.persist` with this number are durable.
        case persisted(UInt64)
        /// Answer to `Action.allocate`, sent when the events at hand are done, so that bursts cost one allocation.
        case allocate
        /// Time passes; expected about five times a second.
        case tick
        case teardown(MesosFrameworkID)
        case markAgentGone(MesosAgentID)
        /// Stops (`false`) or resumes offers of an agent.
        case setAgentActive(MesosAgentID, Bool)
    }
}

/// What the master wants done. Actions are in order.
extension MasterCore {
    public enum Action: Sendable, Equatable {
        case event(SchedulerEvent, ConnectionID)
        /// Ends a scheduler's stream after what was sent on it.
        case closeScheduler(ConnectionID)
        case message(ClusterMasterMessage, ConnectionID)
        case closeAgent(ConnectionID)
        /// The call at hand gets this answer instead of 202 (or 200).
        case refuse(MasterRefusal)
        /// Make the changes durable, all or none, then report `persisted` with the number. Batches are in order.
        case persist([RegistryChange], UInt64)
        /// For subscribers of the operator API.
        case publish(MasterEvent)
        /// Report `allocate` soon.
        case allocate
        /// For the log: a static text and what it is about.
        case notice(String, [String: String])
        /// Lead no longer: this master's view of the cluster is in doubt.
        case stepDown(String)
    }
}

public struct MasterRefusal: Error, Hashable, Sendable {
    /// An HTTP status.
    public var status: Int
    public var text: String

    public init(_ status: Int, _ text: String) {
        self.status = status
        self.text = text
    }
}

/// What survives the master.
public enum RegistryChange: Sendable, Equatable {
    case agent(RegistryAgent)
    case removeAgent(MesosAgentID)
    case framework(RegistryFramework)
    case removeFramework(MesosFrameworkID)
}

public struct RegistryAgent: Sendable, Equatable {
    public enum State: String, Sendable {
        case admitted, unreachable, gone
    }

    public var info: MesosAgentInfo
    public var state: State
    /// When the state began, in seconds since the epoch.
    public var since: Double
    /// An operator wants no tasks on it (DEACTIVATE_AGENT).
    public var isDeactivated: Bool

    public init(info: MesosAgentInfo, state: State, since: Double, isDeactivated: Bool = false) {
        self.info = info
        self.state = state
        self.since = since
        self.isDeactivated = isDeactivated
    }
}

public struct RegistryFramework: Sendable, Equatable {
    public var info: MesosFrameworkInfo
    /// A removed framework is remembered so that its tasks cannot come back with an agent.
    public var isRemoved: Bool
    public var since: Double

    public init(info: MesosFrameworkInfo, isRemoved: Bool, since: Double) {
        self.info = info
        self.isRemoved = isRemoved
        self.since = since
    }
}

/// Everything configurable. The defaults are those of Mesos.
public struct MasterOptions: Sendable {
    /// Who this master is; `id` is new for each start.
    public var info: MesosMasterInfo
    public var agentPingInterval = Duration.seconds(15)
    /// An agent without a pong for this many intervals becomes unreachable.
    public var agentPingsMissedMax = 5
    /// How long agents known from the registry have to come back after a failover of the master.
    public var agentReregisterTimeout = Duration.seconds(600)
    /// At most this share of the registry's agents may be given up after a failover; beyond it the master's own view
    /// is in doubt, and it steps down.
    public var recoveryAgentRemovalLimit = 1.0
    /// Agents become unreachable no faster than one in this time; nil for as fast as they fall silent.
    public var agentRemovalInterval: Duration?
    /// The registry forgets unreachable and gone agents that are older, or the oldest beyond so many.
    public var registryAgentAgeMax = Duration.seconds(14 * 86400)
    public var registryAgentCountMax = 102_400
    public var registryCollectionInterval = Duration.seconds(900)
    public var heartbeatInterval = Duration.seconds(15)
    public var completedFrameworksMax = 50
    public var completedTasksMax = 1000
    public var unreachableTasksMax = 1000
    /// Unanswered offers are rescinded after this; nil never.
    public var offerTimeout: Duration?
    /// The only roles frameworks may use; nil for any.
    public var roles: Set<String>?
    public var weights: [String: Double] = [:]
    public var allowsRoot = true
    public var allocator = Allocator.Options()

    public init(info: MesosMasterInfo) { self.info = info }
}
