public import AgentCore
import Base
public import MesosAPI

/// Everything that a container is made from. The directories exist when it is given to a containerizer.
public struct ContainerSpec: Sendable {
    /// The container's id, a UUID chosen by the agent.
    public var id: String
    public var command: MesosCommandInfo
    public var container: MesosContainerInfo?
    public var resources: [MesosResource]
    /// Upper bounds apart from what is allotted (`TaskInfo.limits`).
    public var limits: [String: Double]
    /// In this order; later ones of the same name count.
    public var environment: [(name: String, value: String)]
    /// The host's directory with `stdout` and `stderr`, mounted into containers with a file system of their own.
    public var sandbox: String
    /// For what the containerizer has to remember across restarts of the agent.
    public var stateDirectory: String
    /// Run as this user unless the command says another; nil for the agent's own.
    public var user: String?
    /// For people: labels of the container.
    public var labels: [(String, String)]

    public init(
        id: String, command: MesosCommandInfo, container: MesosContainerInfo? = nil, resources: [MesosResource] = [],
        limits: [String: Double] = [:], environment: [(name: String, value: String)] = [], sandbox: String,
        stateDirectory: String, user: String? = nil, labels: [(String, String)] = []
    ) {
        self.id = id
        self.command = command
        self.container = container
        self.resources = resources
        self.limits = limits
        self.environment = environment
        self.sandbox = sandbox
        self.stateDirectory = stateDirectory
        self.user = user
        self.labels = labels
    }

    func scalar(_ name: String) -> Double? {
        let amounts = resources.filter { $0.name == name && $0.type == .scalar }.map(\.scalar.value)
        return amounts.isEmpty ? nil : amounts.reduce(0, +)
    }

    /// The words to execute: of a shell command `sh -c`, otherwise the command's own.
    var words: [String] {
        if command.shell { return ["sh", "-c", command.value] }
        return command.arguments.isEmpty ? [command.value] : command.arguments
    }
}

/// A way to run containers that outlive the agent's process.
public protocol Containerizer: Sendable {
    /// As `--containerizers` names it.
    var name: String { get }
    /// Whether it can make such a container; the first containerizer that can does.
    func supports(_ container: MesosContainerInfo?) -> Bool
    /// Returns when the container runs. After an error (or a cancellation) nothing of it is left.
    func launch(_ spec: ContainerSpec) async throws(ContainerizerError) -> ContainerReport
    /// What became of a container that an earlier agent process launched.
    func recover(_ spec: ContainerSpec) async throws(ContainerizerError) -> RecoveredState.Container
    /// Copies what the container writes into the sandbox until it ends; returns at once where it does so by itself.
    func followOutput(_ spec: ContainerSpec) async
    /// Suspends until the container has ended, and tells how.
    func wait(_ spec: ContainerSpec) async throws(ContainerizerError) -> ContainerExit
    /// Ends the container: gently first, by force after `grace`. Returns when that is done or another call has ended
    /// it.
    func stop(_ spec: ContainerSpec, grace: Duration) async throws(ContainerizerError)
    /// Frees what is left of a container that has ended.
    func remove(_ spec: ContainerSpec) async throws(ContainerizerError)
    /// Runs a command where the container's processes run. Answers its status, or nil when the deadline passed first.
    func execute(_ spec: ContainerSpec, _ command: MesosCommandInfo, deadline: Duration) async throws -> Int?
    /// What the container uses now; nil when that is not known.
    func statistics(_ spec: ContainerSpec) async -> MesosResourceStatistics?
}
