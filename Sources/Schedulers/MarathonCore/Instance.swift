public import Base
import OrderedCollections

/// One intended copy of an app, from the accepted offer until its task is known to be over.
public struct Instance: Hashable, Sendable {
    public enum Condition: String, Hashable, Sendable {
        /// The offer is accepted, nothing has been heard yet.
        case provisioned = "Provisioned"
        case staging = "Staging"
        case starting = "Starting"
        case running = "Running"
        case killing = "Killing"
        /// The agent is silent; still counted as running.
        case unreachable = "Unreachable"
        /// The agent is silent for longer than the strategy tolerates; replaced, not yet forgotten.
        case unreachableInactive = "UnreachableInactive"
    }
    public enum Goal: String, Hashable, Sendable { case running = "Running", decommissioned = "Decommissioned" }

    /// `a_b.instance-<uuid>`
    public let id: String
    public let appID: AppID
    /// The version of the app that was launched.
    public let appVersion: Timestamp
    /// `lastConfigChangeAt` of that version: the instance is up to date while the app's is the same.
    public let configVersion: Timestamp
    public let agentID: String
    public let host: String
    /// One entry per port definition or mapping; nil for mappings without a host port.
    public let hostPorts: [Int?]
    /// Fields that constraints look at, as they were at placement: `hostname` and the agent's attributes.
    public let placement: [String: String]
    public let stagedAt: Timestamp
    public var startedAt: Timestamp?
    public var condition = Condition.provisioned
    public var goal = Goal.running
    /// The last Mesos state, `TASK_…`.
    public var state = TaskState.staging
    public var addresses: [TaskReport.Address] = []
    public var unreachableSince: Timestamp?
    /// Set when failed health checks are why it is killed; becomes the message of the app's last failure.
    public var healthFailure: String?
    /// Per health check of the app. Not kept across restarts of the scheduler.
    public var health: [HealthState] = []
    var killSentAt: Timestamp?

    public var taskID: String { id + "._app.1" }
    public var ports: [Int] { hostPorts.compactMap { $0 } }

    /// Counted towards the number of instances that the app should have.
    public var isActive: Bool { goal == .running && condition != .unreachableInactive }
}

/// What is known from one health check of one instance.
public struct HealthState: Hashable, Sendable {
    public var consecutiveFailures = 0
    public var firstSuccess: Timestamp?
    public var lastSuccess: Timestamp?
    public var lastFailure: Timestamp?
    public var lastFailureCause: String?
    var nextProbe: Timestamp?
    var isProbing = false

    /// Nil before the first result.
    public var isAlive: Bool? {
        switch (lastSuccess, lastFailure) {
        case (nil, nil): nil
        case (nil, .some): false
        case (.some, nil): true
        case (let success?, let failure?): success > failure
        }
    }
}

/// Mesos task states by their names on the wire.
public enum TaskState: String, Hashable, Sendable {
    case staging = "TASK_STAGING"
    case starting = "TASK_STARTING"
    case running = "TASK_RUNNING"
    case killing = "TASK_KILLING"
    case finished = "TASK_FINISHED"
    case failed = "TASK_FAILED"
    case killed = "TASK_KILLED"
    case error = "TASK_ERROR"
    case lost = "TASK_LOST"
    case dropped = "TASK_DROPPED"
    case unreachable = "TASK_UNREACHABLE"
    case gone = "TASK_GONE"
    case goneByOperator = "TASK_GONE_BY_OPERATOR"
    case unknown = "TASK_UNKNOWN"

    /// True when nothing of the task is left. Unknown counts: the master answers so only when no agent can have it.
    public var isTerminal: Bool {
        switch self {
        case .staging, .starting, .running, .killing, .unreachable: false
        case .finished, .failed, .killed, .error, .lost, .dropped, .gone, .goneByOperator, .unknown: true
        }
    }

    /// The instance condition of terminal states, as events name it.
    var terminalCondition: String {
        switch self {
        case .finished: "Finished"
        case .failed: "Failed"
        case .killed: "Killed"
        case .error: "Error"
        case .lost: "Lost"
        case .dropped: "Dropped"
        case .gone: "Gone"
        case .goneByOperator: "Gone"
        case .unknown: "Unknown"
        case .staging, .starting, .running, .killing, .unreachable: rawValue
        }
    }

    /// True when such an end is remembered as the app's last failure.
    var isFailure: Bool {
        switch self {
        case .failed, .error, .lost, .dropped, .gone, .goneByOperator, .unknown: true
        case .staging, .starting, .running, .killing, .finished, .killed, .unreachable: false
        }
    }
}

/// A task status update from the master.
public struct TaskReport: Hashable, Sendable {
    public struct Address: Hashable, Sendable {
        public var ip: String
        public var version: String

        public init(ip: String, version: String = "IPv4") {
            self.ip = ip
            self.version = version
        }
    }
    public var taskID: String
    public var agentID: String?
    public var state: TaskState
    /// Present when the sender wants an acknowledgement.
    public var uuid: [UInt8]?
    public var message = ""
    /// `REASON_…`
    public var reason: String?
    public var healthy: Bool?
    public var addresses: [Address] = []

    public init(taskID: String, agentID: String? = nil, state: TaskState, uuid: [UInt8]? = nil) {
        self.taskID = taskID
        self.agentID = agentID
        self.state = state
        self.uuid = uuid
    }
}

/// The end of an app's task that the API shows as `lastTaskFailure`.
public struct TaskFailure: Hashable, Sendable {
    public var appID: AppID
    public var host: String
    public var agentID: String
    public var message: String
    public var state: String
    public var taskID: String
    public var timestamp: Timestamp
    public var version: Timestamp

    public var json: JSONValue {
        [
            "appId": .string(appID.description), "host": .string(host), "message": .string(message),
            "state": .string(state), "taskId": .string(taskID), "timestamp": .string(timestamp.description),
            "version": .string(version.description), "slaveId": .string(agentID),
        ]
    }

    init?(_ json: JSONValue) {
        guard let app = json["appId"]?.string, let host = json["host"]?.string, let agent = json["slaveId"]?.string,
            let message = json["message"]?.string, let state = json["state"]?.string, let task = json["taskId"]?.string,
            let timestamp = json["timestamp"]?.string.flatMap({ Timestamp($0) }),
            let version = json["version"]?.string.flatMap({ Timestamp($0) })
        else { return nil }
        self.init(
            appID: AppID(app), host: host, agentID: agent, message: message, state: state, taskID: task,
            timestamp: timestamp, version: version)
    }

    init(
        appID: AppID, host: String, agentID: String, message: String, state: String, taskID: String,
        timestamp: Timestamp, version: Timestamp
    ) {
        self.appID = appID
        self.host = host
        self.agentID = agentID
        self.message = message
        self.state = state
        self.taskID = taskID
        self.timestamp = timestamp
        self.version = version
    }
}

extension Instance {
    /// What the store keeps. Health is left out: it is learnt anew.
    var record: JSONValue {
        var object: JSONValue.Object = [
            "id": .string(id), "appId": .string(appID.description), "appVersion": .string(appVersion.description),
            "configVersion": .string(configVersion.description), "agentId": .string(agentID), "host": .string(host),
            "hostPorts": .array(hostPorts.map { $0.map { .integer(Int64($0)) } ?? .null }),
            "placement": text(map: placement), "stagedAt": .string(stagedAt.description),
            "condition": .string(condition.rawValue), "goal": .string(goal.rawValue), "state": .string(state.rawValue),
            "addresses": .array(addresses.map { ["ip": .string($0.ip), "version": .string($0.version)] }),
        ]
        object["startedAt"] = startedAt.map { .string($0.description) }
        object["unreachableSince"] = unreachableSince.map { .string($0.description) }
        object["healthFailure"] = healthFailure.map(JSONValue.string)
        return .object(object)
    }

    init?(record: JSONValue) {
        func time(_ key: String) -> Timestamp? { record[key]?.string.flatMap { Timestamp($0) } }
        guard let id = record["id"]?.string, let app = record["appId"]?.string, let appVersion = time("appVersion"),
            let configVersion = time("configVersion"), let agent = record["agentId"]?.string,
            let host = record["host"]?.string, let ports = record["hostPorts"]?.array,
            let placement = record["placement"]?.object, let stagedAt = time("stagedAt"),
            let condition = record["condition"]?.string.flatMap(Condition.init(rawValue:)),
            let goal = record["goal"]?.string.flatMap(Goal.init(rawValue:)),
            let state = record["state"]?.string.flatMap(TaskState.init(rawValue:))
        else { return nil }
        self.init(
            id: id, appID: AppID(app), appVersion: appVersion, configVersion: configVersion, agentID: agent, host: host,
            hostPorts: ports.map { $0.integer.map { Int($0) } },
            placement: Dictionary(uniqueKeysWithValues: placement.map { ($0.key, $0.value.string ?? "") }),
            stagedAt: stagedAt)
        self.condition = condition
        self.goal = goal
        self.state = state
        startedAt = time("startedAt")
        unreachableSince = time("unreachableSince")
        healthFailure = record["healthFailure"]?.string
        addresses = (record["addresses"]?.array ?? []).map {
            TaskReport.Address(ip: $0["ip"]?.string ?? "", version: $0["version"]?.string ?? "IPv4")
        }
    }
}
