import Base
import MesosAPI

/// How a task becomes a container of Docker: the docker executor's `docker run`, as a body of the Engine API.
struct DockerTask {
    static let namePrefix = "mesos-"
    static let sandboxInContainer = "/mnt/mesos/sandbox"
    static let memoryMin: Double = 32
    /// The shares of one whole CPU, and the least that the kernel takes.
    static let sharesPerCPU = 1024.0
    static let sharesMin = 2.0
    static let quotaPeriodMicroseconds = 100_000.0
    static let quotaMinMicroseconds = 1_000.0

    let spec: ContainerSpec
    /// Limit CPU time to what is allotted (`--cgroups_enable_cfs`).
    let limitsCPU: Bool

    static func containerName(_ id: String) -> String { namePrefix + id }

    func creation() throws(ContainerizerError) -> DockerCreation {
        guard let info = spec.container, info.hasDocker else {
            throw ContainerizerError(.invalidRequest, "The container has no docker part.")
        }
        var creation = DockerCreation(image: info.docker.image)
        for (key, value) in spec.labels { creation.setMember("Labels", key, .string(value)) }
        addLimits(&creation)
        for (name, value) in spec.environment { creation.setEnvironment(name, value) }
        creation.setEnvironment("MESOS_SANDBOX", DockerTask.sandboxInContainer)
        creation.setEnvironment("MESOS_CONTAINER_NAME", DockerTask.containerName(spec.id))
        try addVolumes(info, &creation)
        try addNetwork(info, &creation)
        if info.docker.privileged { creation.setHost("Privileged", true) }
        for parameter in info.docker.parameters { try creation.apply(option: parameter.key, value: parameter.value) }
        try addCommand(&creation)
        return creation
    }

    private func addLimits(_ creation: inout DockerCreation) {
        if let cpus = spec.scalar("cpus") {
            let shares = max(DockerTask.sharesMin, (cpus * DockerTask.sharesPerCPU).rounded(.down))
            creation.setHost("CpuShares", .integer(Int64(shares)))
        }
        if let cpus = spec.limits["cpus"] ?? (limitsCPU ? spec.scalar("cpus") : nil), cpus.isFinite {
            let quota = max(DockerTask.quotaMinMicroseconds, cpus * DockerTask.quotaPeriodMicroseconds)
            creation.setHost("CpuPeriod", .integer(Int64(DockerTask.quotaPeriodMicroseconds)))
            creation.setHost("CpuQuota", .integer(Int64(quota)))
        }
        let mebibytes = { (value: Double) in JSONValue.integer(Int64(max(DockerTask.memoryMin, value) * 1_048_576)) }
        let allotted = spec.scalar("mem")
        if let limit = spec.limits["mem"] {
            if limit.isFinite { creation.setHost("Memory", mebibytes(limit)) }
            if let allotted { creation.setHost("MemoryReservation", mebibytes(allotted)) }
        } else if let allotted {
            creation.setHost("Memory", mebibytes(allotted))
        }
    }

    private func addVolumes(_ info: MesosContainerInfo, _ creation: inout DockerCreation) throws(ContainerizerError) {
        creation.appendHost("Binds", .string("\(spec.sandbox):\(DockerTask.sandboxInContainer)"))
        var driver: String?
        for volume in info.volumes {
            guard volume.containerPath.hasPrefix("/") else {
                throw ContainerizerError(
                    .invalidRequest, "The path '\(volume.containerPath)' of a volume is not absolute.")
            }
            var source: String
            if volume.hasSource {
                switch volume.source.type {
                case .dockerVolume:
                    source = volume.source.dockerVolume.name
                    let wanted = volume.source.dockerVolume.driver
                    // Docker takes one driver for all volumes of a container.
                    guard wanted.isEmpty || driver == nil || driver == wanted else {
                        throw ContainerizerError(
                            .invalidRequest, "Only one volume driver is supported per task: '\(wanted)' differs.")
                    }
                    if !wanted.isEmpty { driver = wanted }
                case .hostPath: source = volume.source.hostPath.path
                case .sandboxPath: source = volume.source.sandboxPath.path
                case .secret, .csiVolume, .unknown:
                    throw ContainerizerError(
                        .invalidRequest, "The docker containerizer does not support this kind of volume source.")
                }
            } else if volume.hasHostPath {
                source = volume.hostPath
            } else {
                throw ContainerizerError(
                    .invalidRequest, "The volume at '\(volume.containerPath)' has neither host path nor source.")
            }
            let isNamed = volume.hasSource && volume.source.type == .dockerVolume
            if !isNamed, !source.hasPrefix("/") {
                guard !source.split(separator: "/").contains("..") else {
                    throw ContainerizerError(.invalidRequest, "The volume path '\(source)' leads out of the sandbox.")
                }
                source = "\(spec.sandbox)/\(source)"
            }
            try creation.addVolume("\(source):\(volume.containerPath):\(volume.mode == .ro ? "ro" : "rw")")
        }
        if let driver { creation.setHost("VolumeDriver", .string(driver)) }
        if info.docker.hasVolumeDriver { creation.setHost("VolumeDriver", .string(info.docker.volumeDriver)) }
    }

    private func addNetwork(_ info: MesosContainerInfo, _ creation: inout DockerCreation) throws(ContainerizerError) {
        let mode: String
        switch info.docker.network {
        case .host: mode = "host"
        case .bridge: mode = "bridge"
        case .none: mode = "none"
        case .user:
            guard let network = info.networkInfos.first, network.hasName, info.networkInfos.count == 1 else {
                throw ContainerizerError(.invalidRequest, "A user network needs exactly one network with a name.")
            }
            mode = network.name
        }
        creation.setHost("NetworkMode", .string(mode))
        if info.hasHostname {
            guard mode != "host" else {
                throw ContainerizerError(.invalidRequest, "A container on the host's network cannot have a hostname.")
            }
            creation.set("Hostname", .string(info.hostname))
        }
        guard !info.docker.portMappings.isEmpty else { return }
        guard mode != "host", mode != "none" else {
            throw ContainerizerError(
                .invalidRequest, "Port mappings are only supported for bridge and user-defined networks")
        }
        let allotted = spec.resources.filter { $0.name == "ports" }.flatMap(\.ranges.range)
        for mapping in info.docker.portMappings {
            guard allotted.contains(where: { $0.begin <= mapping.hostPort && mapping.hostPort <= $0.end }) else {
                throw ContainerizerError(
                    .invalidRequest, "Port [\(mapping.hostPort)] not included in resources")
            }
            creation.publish(
                containerPort: Int(mapping.containerPort), hostPort: String(mapping.hostPort),
                protocol: mapping.hasProtocol ? mapping.protocol.lowercased() : "tcp")
        }
    }

    private func addCommand(_ creation: inout DockerCreation) throws(ContainerizerError) {
        let command = spec.command
        if command.shell {
            guard command.hasValue else {
                throw ContainerizerError(.invalidRequest, "Shell specified but no command value provided")
            }
            creation.set("Entrypoint", ["/bin/sh"])
            creation.set("Cmd", ["-c", .string(command.value)])
        } else {
            let words = (command.hasValue ? [command.value] : []) + command.arguments
            if !words.isEmpty { creation.set("Cmd", .array(words.map(JSONValue.string))) }
        }
        if command.hasUser { creation.set("User", .string(command.user)) }
    }
}
