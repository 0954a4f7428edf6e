import AgentCore
public import Containerizer
public import MasterLocator
public import MesosAPI

/// Everything that an agent is told by its flags (`mesos-agent --help` names them).
public struct AgentConfiguration: Sendable {
    /// `--master`: where to look for the leading master.
    public var master: MasterLocation
    /// `--work_dir`
    public var workDirectory: String
    /// `--ip`, `--port`: where to listen; port 0 takes any.
    public var bindIP: String
    public var port: Int
    /// `--advertise_ip`: where others reach the agent.
    public var advertisedIP: String
    /// `--hostname`
    public var hostname: String
    /// `--resources`, or what the host has.
    public var resources: [MesosResource]
    /// `--attributes`
    public var attributes: [MesosAttribute] = []
    /// `--containerizers`: the first that supports a container makes it.
    public var containerizers: [any Containerizer]
    public var registrationBackoff = Duration.seconds(1)
    public var executorRegistrationTimeout = Duration.seconds(60)
    public var executorReregistrationTimeout = Duration.seconds(2)
    public var executorShutdownGracePeriod = Duration.seconds(5)
    /// `--docker_remove_delay`
    public var removeDelay = Duration.seconds(6 * 3600)
    /// `--gc_delay`: sandboxes of executors that are over are deleted after it.
    public var sandboxDelay = Duration.seconds(7 * 86400)
    /// `--switch_user`: run commands as the framework's user.
    public var switchesUser = true
    /// `--recover=cleanup`
    public var cleansUpOnRecovery = false
    /// `--strict`: unreadable state on disk ends the agent instead of being skipped.
    public var isStrict = true
    /// `--executor_environment_variables`
    public var executorEnvironment: [(name: String, value: String)] = []
    /// Every flag as it was given, for `/flags`.
    public var flags: [(name: String, value: String)] = []

    public static let version = "1.11.0"

    public init(
        master: MasterLocation, workDirectory: String, bindIP: String, port: Int, advertisedIP: String,
        hostname: String, resources: [MesosResource], containerizers: [any Containerizer]
    ) {
        self.master = master
        self.workDirectory = workDirectory
        self.bindIP = bindIP
        self.port = port
        self.advertisedIP = advertisedIP
        self.hostname = hostname
        self.resources = resources
        self.containerizers = containerizers
    }

    func coreConfiguration(port: Int, unixTimeOfZero: Double) -> AgentCore.Configuration {
        var info = MesosAgentInfo()
        info.hostname = hostname
        info.port = Int32(port)
        info.resources = resources
        info.attributes = attributes
        var core = AgentCore.Configuration(
            info: info, version: AgentConfiguration.version, capabilities: AgentConfiguration.capabilities,
            pid: "slave(1)@\(advertisedIP):\(port)", ip: advertisedIP, unixTimeOfZero: unixTimeOfZero)
        core.registrationBackoff = registrationBackoff
        core.executorRegistrationTimeout = executorRegistrationTimeout
        core.executorReregistrationTimeout = executorReregistrationTimeout
        core.executorShutdownGracePeriod = executorShutdownGracePeriod
        core.cleansUpOnRecovery = cleansUpOnRecovery
        return core
    }

    private static let capabilities: [MesosAgentInfo.Capability] = {
        let types: [MesosAgentInfo.Capability.TypeEnum] = [
            .multiRole, .hierarchicalRole, .reservationRefinement, .taskResourceLimits,
        ]
        return types.map { type in
            var capability = MesosAgentInfo.Capability()
            capability.type = type
            return capability
        }
    }()
}
