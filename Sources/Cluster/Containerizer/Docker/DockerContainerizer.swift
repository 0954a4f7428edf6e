public import AgentCore
import Base
import Glibc
public import HTTPKit
import LinuxOS
public import Logging
public import MesosAPI
import OrderedCollections

/// Runs containers of type DOCKER by a dockerd on the same host.
public struct DockerContainerizer: Containerizer {
    public struct Configuration: Sendable {
        public var socket: HTTPAddress = .unix(path: "/var/run/docker.sock")
        /// Limit CPU time to what is allotted, not only weigh it.
        public var limitsCPU = false
        /// What `docker login` has left: registry -> content of X-Registry-Auth.
        public var registryAuthorizations: [String: String] = [:]

        public init() {}
    }

    public let name = "docker"
    private let configuration: Configuration
    private let docker: DockerClient
    private let logger: Logger

    public init(_ configuration: Configuration, logger: Logger) {
        self.configuration = configuration
        docker = DockerClient(address: configuration.socket)
        self.logger = logger
    }

    public func supports(_ container: MesosContainerInfo?) -> Bool { container?.type == .docker }

    private func dockerName(_ spec: ContainerSpec) -> String { DockerTask.containerName(spec.id) }

    // MARK: Life

    public func launch(_ spec: ContainerSpec) async throws(ContainerizerError) -> ContainerReport {
        let body = try DockerTask(spec: spec, limitsCPU: configuration.limitsCPU).creation().json
        let image = spec.container?.docker.image ?? ""
        try await provide(image, force: spec.container?.docker.forcePullImage ?? false)
        do {
            let id = try await create(spec, body)
            if !Task.isCancelled { try await docker.start(id) }
        } catch {
            // A container that could not be started would go on claiming its volumes.
            await clean(spec)
            throw ContainerizerError(error.code, "Failed to run docker container: \(error.message)", cause: error.cause)
        }
        guard !Task.isCancelled, let inspection = try await docker.inspect(dockerName(spec)) else {
            await clean(spec)
            throw ContainerizerError(.launchFailed, "The container was ended while it was launched.")
        }
        return report(inspection)
    }

    /// Makes the container. Not interrupted by cancellation: dockerd would go on making what was cleaned up already.
    private func create(_ spec: ContainerSpec, _ body: JSONValue) async throws(ContainerizerError) -> String {
        let docker = docker
        let name = dockerName(spec)
        // SAFETY: unstructured so that a cancelled launch still learns of its container; awaited here, and bounded by
        // the call's deadline.
        let creation = Task { () -> Result<String, ContainerizerError> in
            do throws(ContainerizerError) {
                return .success(try await docker.create(name: name, body))
            } catch {
                return .failure(error)
            }
        }
        return try await creation.value.get()
    }

    /// Removes a container whatever its state. Runs to its end also in a cancelled task.
    private func clean(_ spec: ContainerSpec) async {
        let docker = docker
        let name = dockerName(spec)
        let logger = logger
        // SAFETY: unstructured so that the cancellation of a launch does not also cancel its cleaning up; awaited here.
        await Task {
            do {
                try await docker.remove(name, force: true)
            } catch {
                logger.warning(
                    "container not removed", metadata: ["container.name": "\(name)", "error": "\(error)"])
            }
        }.value
    }

    private func provide(_ image: String, force: Bool) async throws(ContainerizerError) {
        let isThere = try await docker.hasImage(image)
        if isThere, !force { return }
        let (name, _) = DockerClient.splitReference(image)
        let first = name.split(separator: "/").first.map(String.init) ?? ""
        let isRegistry = name.contains("/") && (first.contains(".") || first.contains(":") || first == "localhost")
        let registry = isRegistry ? first : "https://index.docker.io/v1/"
        do {
            try await docker.pull(image, authorization: configuration.registryAuthorizations[registry])
        } catch {
            let reason =
                error.message.hasPrefix("Failed to pull")
                ? error.message : "Failed to pull the image '\(image)': \(error.message)"
            throw ContainerizerError(.launchFailed, reason, cause: error.cause)
        }
    }

    private func report(_ inspection: JSONValue) -> ContainerReport {
        var report = ContainerReport()
        if let pid = inspection["State"]?["Pid"]?.integer, pid > 0 { report.pid = UInt32(exactly: pid) }
        let networks = inspection["NetworkSettings"]?["Networks"]?.object ?? [:]
        for network in networks.values {
            for member in ["IPAddress", "GlobalIPv6Address"] {
                if let address = network[member]?.string, !address.isEmpty { report.addresses.append(address) }
            }
        }
        report.inspection = JSONValue.array([inspection]).bytes
        return report
    }

    public func recover(_ spec: ContainerSpec) async throws(ContainerizerError) -> RecoveredState.Container {
        guard let inspection = try await docker.inspect(dockerName(spec)) else { return .neverStarted }
        switch inspection["State"]?["Status"]?.string {
        case "created"?:
            await clean(spec)
            return .neverStarted
        case "running"?, "paused"?, "restarting"?: return .running(report(inspection))
        default: return .exited(exit(inspection))
        }
    }

    private func exit(_ inspection: JSONValue) -> ContainerExit {
        let state = inspection["State"]
        if state?["OOMKilled"]?.bool == true { return .outOfMemory }
        return .exited(status: Int32(clamping: state?["ExitCode"]?.integer ?? -1))
    }

    /// dockerd may be restarted meanwhile: as long as it does not answer, nothing is known and the question is
    /// repeated.
    public func wait(_ spec: ContainerSpec) async throws(ContainerizerError) -> ContainerExit {
        while true {
            do {
                guard try await docker.wait(dockerName(spec)) != nil,
                    let inspection = try await docker.inspect(dockerName(spec))
                else { return .unknown(message: "The container was removed") }
                let status = inspection["State"]?["Status"]?.string
                if status == "exited" || status == "dead" { return exit(inspection) }
            } catch {
                if Task.isCancelled { throw error }
                logger.warning(
                    "cannot wait for container",
                    metadata: ["container.id": "\(spec.id)", "error": "\(error)"])
            }
            do {
                try await Task.sleep(for: .milliseconds(500))
            } catch {
                throw ContainerizerError(.unavailable, "The agent stops", cause: error)
            }
        }
    }

    public func stop(_ spec: ContainerSpec, grace: Duration) async throws(ContainerizerError) {
        if grace <= .zero {
            try await docker.kill(dockerName(spec), signal: "KILL")
        } else {
            try await docker.stop(dockerName(spec), grace: grace)
        }
    }

    public func remove(_ spec: ContainerSpec) async throws(ContainerizerError) {
        try await docker.remove(dockerName(spec))
    }

    public func execute(_ spec: ContainerSpec, _ command: MesosCommandInfo, deadline: Duration) async throws -> Int? {
        let words =
            command.shell
            ? ["/bin/sh", "-c", command.value] : (command.hasValue ? [command.value] : []) + command.arguments
        let environment = command.environment.variables.map { "\($0.name)=\($0.value)" }
        return try await docker.execute(
            dockerName(spec), command: words, environment: environment, deadline: deadline)
    }

    // MARK: Output

    /// dockerd keeps all that the container has written; what the sandbox already has of it is skipped, so that a
    /// restarted agent goes on where the last one was ended.
    public func followOutput(_ spec: ContainerSpec) async {
        var output: OutputFile
        var errors: OutputFile
        do {
            output = try OutputFile("\(spec.sandbox)/stdout")
            errors = try OutputFile("\(spec.sandbox)/stderr")
        } catch {
            logger.error("sandbox cannot be written", metadata: ["container.id": "\(spec.id)", "error": "\(error)"])
            return
        }
        while !Task.isCancelled {
            output.rewind()
            errors.rewind()
            var isOver = true
            do {
                let inspection = try await docker.inspect(dockerName(spec))
                guard let inspection else { return }
                isOver = inspection["State"]?["Running"]?.bool != true
                let isTerminal = inspection["Config"]?["Tty"]?.bool == true
                try await docker.followLogs(dockerName(spec), isTerminal: isTerminal) { piece in
                    if piece.isError { try errors.append(piece.bytes) } else { try output.append(piece.bytes) }
                }
            } catch {
                logger.debug("output interrupted", metadata: ["container.id": "\(spec.id)", "error": "\(error)"])
            }
            if isOver { return }
            do { try await Task.sleep(for: .milliseconds(200)) } catch { return }
        }
    }

    // MARK: Statistics

    public func statistics(_ spec: ContainerSpec) async -> MesosResourceStatistics? {
        guard let sample = try? await docker.statistics(dockerName(spec)) else { return nil }
        var statistics = MesosResourceStatistics()
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        statistics.timestamp = Double(now.tv_sec) + Double(now.tv_nsec) / 1e9
        if let cpus = spec.scalar("cpus") { statistics.cpusLimit = cpus }
        if let cpu = sample["cpu_stats"]?["cpu_usage"] {
            statistics.cpusUserTimeSecs = (cpu["usage_in_usermode"]?.double ?? 0) / 1e9
            statistics.cpusSystemTimeSecs = (cpu["usage_in_kernelmode"]?.double ?? 0) / 1e9
        }
        if let memory = sample["memory_stats"] {
            if let limit = memory["limit"]?.integer, limit > 0 { statistics.memLimitBytes = UInt64(limit) }
            let cache = memory["stats"]?["cache"]?.integer ?? memory["stats"]?["file"]?.integer ?? 0
            let usage = memory["usage"]?.integer ?? 0
            statistics.memTotalBytes = UInt64(clamping: usage)
            statistics.memRssBytes = UInt64(clamping: usage - cache)
            statistics.memCacheBytes = UInt64(clamping: cache)
        }
        if let pids = sample["pids_stats"]?["current"]?.integer { statistics.processes = UInt32(clamping: pids) }
        return statistics
    }
}

/// A file that takes up a stream which may be delivered again from its beginning.
private struct OutputFile {
    private let file: Descriptor
    private var length: Int
    private var position = 0

    init(_ path: String) throws {
        file = try Descriptor.open(path, O_WRONLY | O_CREAT | O_APPEND)
        var status = stat()
        guard fstat(file.raw, &status) == 0 else { throw LinuxError(errno: errno, "\(path) cannot be read") }
        length = Int(status.st_size)
    }

    mutating func rewind() { position = 0 }

    /// Goes to the page cache only: as quick as a copy, so it may be done in place.
    mutating func append(_ bytes: [UInt8]) throws {
        let known = max(0, min(bytes.count, length - position))
        position += bytes.count
        var rest = bytes[known...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { write(file.raw, $0.baseAddress, $0.count) }
            guard count > 0 else {
                if errno == EINTR { continue }
                throw LinuxError(errno: errno, "The sandbox cannot be written")
            }
            rest.removeFirst(count)
            length += count
        }
    }
}
