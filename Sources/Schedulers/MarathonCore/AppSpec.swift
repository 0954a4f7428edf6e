/// The definition of an app in its canonical (1.5+) form, with every default filled in.
public struct AppSpec: Hashable, Sendable {
    public var id: AppID
    public var cmd: String?
    /// Nil and empty mean the same: no arguments.
    public var args: [String] = []
    public var user: String?
    public var env: [String: String] = [:]
    public var instances = 1
    public var cpus = 1.0
    /// MiB.
    public var mem = 128.0
    /// MiB.
    public var disk = 0.0
    public var gpus = 0
    public var resourceLimits: ResourceLimits?
    public var executor = ""
    public var constraints: [Constraint] = []
    /// Nil: offers of any role that we are allowed to use.
    public var acceptedResourceRoles: [String]?
    public var role = "*"
    public var fetch: [Fetch] = []
    public var container: Container?
    public var networks: [Network] = [Network(mode: .host)]
    /// Only meaningful in host mode.
    public var portDefinitions: [PortDefinition] = []
    public var requirePorts = false
    public var healthChecks: [HealthCheck] = []
    public var dependencies: [AppID] = []
    public var labels: [String: String] = [:]
    public var upgradeStrategy = UpgradeStrategy(minimumHealthCapacity: 1, maximumOverCapacity: 1)
    public var backoffSeconds = 1
    public var backoffFactor = 1.15
    public var maxLaunchDelaySeconds = 300
    public var taskKillGracePeriodSeconds: Int?
    public var killSelection = KillSelection.youngestFirst
    public var unreachableStrategy = UnreachableStrategy.replace(inactiveAfterSeconds: 0, expungeAfterSeconds: 0)
    public var tty: Bool?
    public var version = Timestamp(milliseconds: 0)
    public var lastScalingAt = Timestamp(milliseconds: 0)
    public var lastConfigChangeAt = Timestamp(milliseconds: 0)

    public init(id: AppID) { self.id = id }
}

public struct ResourceLimits: Hashable, Sendable {
    public enum Limit: Hashable, Sendable { case amount(Double), unlimited }
    public var cpus: Limit?
    public var mem: Limit?
}

public struct Fetch: Hashable, Sendable {
    public var uri: String
    public var extract = true
    public var executable = false
    public var cache = false
    public var destPath: String?
}

public struct Network: Hashable, Sendable {
    public enum Mode: String, Hashable, Sendable {
        case host
        case bridge = "container/bridge"
        case container
    }
    public var mode: Mode
    public var name: String?
    public var labels: [String: String] = [:]

    public init(mode: Mode, name: String? = nil, labels: [String: String] = [:]) {
        self.mode = mode
        self.name = name
        self.labels = labels
    }
}

/// A port in host mode.
public struct PortDefinition: Hashable, Sendable {
    /// The service port; 0 before one is assigned.
    public var port = 0
    public var transport = "tcp"
    public var name: String?
    public var labels: [String: String] = [:]

    public init(port: Int = 0, transport: String = "tcp", name: String? = nil, labels: [String: String] = [:]) {
        self.port = port
        self.transport = transport
        self.name = name
        self.labels = labels
    }
}

/// A port of a container that has its own network.
public struct PortMapping: Hashable, Sendable {
    /// 0: the same number as the host port.
    public var containerPort = 0
    /// Nil: not reachable through the host. 0: any port of the offer.
    public var hostPort: Int?
    /// 0 before one is assigned.
    public var servicePort = 0
    /// "tcp", "udp" or "udp,tcp".
    public var transport = "tcp"
    public var name: String?
    public var labels: [String: String] = [:]
    public var networkNames: [String] = []
}

public struct Container: Hashable, Sendable {
    public enum Kind: String, Hashable, Sendable {
        case docker = "DOCKER"
        case mesos = "MESOS"
    }
    public struct Parameter: Hashable, Sendable {
        public var key: String
        public var value: String
    }
    public var kind: Kind
    public var image: String?
    public var forcePullImage = false
    public var privileged = false
    /// Options of `docker run`, in order; repeated keys are legal. Never interpreted, except to recognise volumes.
    public var parameters: [Parameter] = []
    public var volumes: [Volume] = []
    /// Nil in host mode.
    public var portMappings: [PortMapping]?
}

public struct Volume: Hashable, Sendable {
    public enum Mode: String, Hashable, Sendable {
        case readOnly = "RO"
        case readWrite = "RW"
    }
    public enum Source: Hashable, Sendable {
        case host(path: String)
        case external(ExternalVolume)
    }
    public var containerPath: String
    public var mode: Mode
    public var source: Source
}

/// A volume of a storage platform outside of Mesos, reached through a Docker volume driver.
public struct ExternalVolume: Hashable, Sendable {
    public var name: String
    public var provider = "dvdi"
    /// GiB.
    public var size: Int?
    public var options: [String: String] = [:]
    public var shared = false

    public var driver: String { options["dvdi/driver"] ?? "" }
}

public struct UpgradeStrategy: Hashable, Sendable {
    /// The share of instances that stays healthy during an upgrade, 0 to 1.
    public var minimumHealthCapacity: Double
    /// The share of instances that may run above the target during an upgrade, 0 to 1.
    public var maximumOverCapacity: Double

    public init(minimumHealthCapacity: Double, maximumOverCapacity: Double) {
        self.minimumHealthCapacity = minimumHealthCapacity
        self.maximumOverCapacity = maximumOverCapacity
    }
}

public enum KillSelection: String, Hashable, Sendable {
    case youngestFirst = "YOUNGEST_FIRST"
    case oldestFirst = "OLDEST_FIRST"
}

public enum UnreachableStrategy: Hashable, Sendable {
    case disabled
    case replace(inactiveAfterSeconds: Int, expungeAfterSeconds: Int)
}

public struct Constraint: Hashable, Sendable {
    public enum Operator: String, Hashable, Sendable {
        case unique = "UNIQUE"
        case cluster = "CLUSTER"
        case groupBy = "GROUP_BY"
        case like = "LIKE"
        case unlike = "UNLIKE"
        case maxPer = "MAX_PER"
        case exactly = "IS"
    }
    public var field: String
    public var relation: Operator
    public var value: String?

    public init(field: String, relation: Operator, value: String? = nil) {
        self.field = field
        self.relation = relation
        self.value = value
    }
}

public struct HealthCheck: Hashable, Sendable {
    public enum Transport: String, Hashable, Sendable {
        case http = "HTTP"
        case https = "HTTPS"
        case tcp = "TCP"
        case command = "COMMAND"
        case mesosHTTP = "MESOS_HTTP"
        case mesosHTTPS = "MESOS_HTTPS"
        case mesosTCP = "MESOS_TCP"

        /// True when the agent's executor runs the check and reports through task status updates.
        public var isRunByAgent: Bool {
            switch self {
            case .http, .https, .tcp: false
            case .command, .mesosHTTP, .mesosHTTPS, .mesosTCP: true
            }
        }
    }
    public var transport = Transport.http
    public var path: String?
    public var port: Int?
    public var portIndex: Int?
    public var command: String?
    public var gracePeriodSeconds = 300
    public var intervalSeconds = 60
    public var timeoutSeconds = 20
    public var maxConsecutiveFailures = 3
    public var delaySeconds = 15
    public var ignoreHttp1xx = false
    public var ipProtocol = "IPv4"
}

extension AppSpec {
    public var networkMode: Network.Mode { networks.first?.mode ?? .host }

    /// The service ports in the order of `Task.servicePorts`.
    public var servicePorts: [Int] {
        networkMode == .host ? portDefinitions.map(\.port) : (container?.portMappings ?? []).map(\.servicePort)
    }

    /// True when the app holds storage that only one task may write at a time: an external volume that is not shared,
    /// or a docker `volume-driver` parameter together with a `volume` (or `mount`). Old tasks then stop before new ones
    /// start.
    public var holdsExclusiveVolume: Bool {
        guard let container else { return false }
        let hasExternal = container.volumes.contains { volume in
            if case .external(let external) = volume.source {
                !external.shared && volume.mode == .readWrite
            } else {
                false
            }
        }
        let keys = Set(container.parameters.map(\.key))
        return hasExternal || (keys.contains("volume-driver") && (keys.contains("volume") || keys.contains("v")))
            || container.parameters.contains { $0.key == "mount" && $0.value.contains("volume-driver=") }
    }

    /// True when running tasks of `other` need not be replaced to become tasks of this: only the number differs.
    public func hasSameConfiguration(as other: AppSpec) -> Bool {
        var left = self
        var right = other
        left.eraseScale()
        right.eraseScale()
        return left == right
    }

    private mutating func eraseScale() {
        instances = 0
        version = Timestamp(milliseconds: 0)
        lastScalingAt = version
        lastConfigChangeAt = version
    }
}
