public import MesosAPI
import SwiftProtobuf

/// Turns launches into what the master and the agent see.
public struct TaskBuilder: Sendable {
    /// `--env_vars_prefix`: stands before HOST and the PORT variables.
    public var environmentPrefix = ""
    /// `--mesos_user`: nil leaves it to the framework's user.
    public var user: String?

    public init() {}

    /// A port as the task knows it.
    private struct EffectivePort {
        var name: String?
        /// What the definition asked for; 0 when anything was fine.
        var requested: Int
        /// On the host, or in the container when it has no host port.
        var number: Int
        var transports: [String]
        var labels: [String: String]
        var scope: String
        var network: String?
    }

    public func task(_ launch: Launch) -> MesosTaskInfo {
        let app = launch.app
        let ports = effectivePorts(launch)
        var task = MesosTaskInfo()
        task.name = app.id.taskName
        task.taskID.value = launch.instance.taskID
        task.agentID.value = launch.instance.agentID
        task.resources = launch.shares.map { resource($0, allocationRole: launch.allocationRole) }
        task.command = command(app, environment: environment(launch, ports: ports))
        if app.container != nil || app.networkMode != .host { task.container = container(launch) }
        task.labels = labels(app.labels)
        task.discovery = discovery(app, ports: ports)
        if let seconds = app.taskKillGracePeriodSeconds {
            task.killPolicy.gracePeriod.nanoseconds = Int64(seconds) * 1_000_000_000
        }
        if let check = app.healthChecks.first(where: \.transport.isRunByAgent) {
            task.healthCheck = healthCheck(check, launch: launch, ports: ports)
        }
        if let limits = app.resourceLimits {
            task.limits = limit("cpus", limits.cpus).merging(limit("mem", limits.mem)) { $1 }
        }
        return task
    }

    private func limit(_ name: String, _ limit: ResourceLimits.Limit?) -> [String: MesosValue.Scalar] {
        guard let limit else { return [:] }
        var scalar = MesosValue.Scalar()
        switch limit {
        case .amount(let amount): scalar.value = amount
        case .unlimited: scalar.value = .infinity
        }
        return [name: scalar]
    }

    private func labels(_ map: [String: String]) -> MesosLabels {
        var labels = MesosLabels()
        labels.labels = map.sorted { $0.key < $1.key }.map { key, value in
            var label = MesosLabel()
            label.key = key
            label.value = value
            return label
        }
        return labels
    }

    private func resource(_ share: ResourceShare, allocationRole: String) -> MesosResource {
        var resource = MesosResource()
        resource.name = share.name
        resource.role = share.role
        resource.allocationInfo.role = allocationRole
        switch share.amount {
        case .scalar(let value):
            resource.type = .scalar
            resource.scalar.value = value
        case .ranges(let ranges):
            resource.type = .ranges
            resource.ranges.range = ranges.map { range in
                var result = MesosValue.Range()
                result.begin = UInt64(range.lowerBound)
                result.end = UInt64(range.upperBound)
                return result
            }
        case .set(let elements):
            resource.type = .set
            resource.set.item = elements
        }
        return resource
    }

    // MARK: Ports and environment

    private func effectivePorts(_ launch: Launch) -> [EffectivePort] {
        let app = launch.app
        let hostPorts = launch.instance.hostPorts
        if app.networkMode == .host {
            return zip(app.portDefinitions, hostPorts).compactMap { definition, hostPort in
                guard let hostPort else { return nil }
                return EffectivePort(
                    name: definition.name, requested: definition.port, number: hostPort,
                    transports: transports(definition.transport), labels: definition.labels, scope: "host")
            }
        }
        return zip(app.container?.portMappings ?? [], hostPorts).map { mapping, hostPort in
            EffectivePort(
                name: mapping.name, requested: mapping.containerPort,
                number: hostPort ?? containerPort(mapping, hostPort: hostPort),
                transports: transports(mapping.transport), labels: mapping.labels,
                scope: hostPort == nil ? "container" : "host", network: hostPort == nil ? app.networks.first?.name : nil
            )
        }
    }

    private func transports(_ text: String) -> [String] { text.split(separator: ",").map(String.init) }

    /// Container port 0 means the number of the host port.
    private func containerPort(_ mapping: PortMapping, hostPort: Int?) -> Int {
        mapping.containerPort != 0 ? mapping.containerPort : hostPort ?? 0
    }

    private func environment(_ launch: Launch, ports: [EffectivePort]) -> MesosEnvironment {
        let app = launch.app
        var values: [(String, String)] = [
            ("MESOS_TASK_ID", launch.instance.taskID), ("MARATHON_APP_ID", app.id.description),
            ("MARATHON_APP_VERSION", app.version.description),
            ("MARATHON_APP_RESOURCE_CPUS", app.cpus.description), ("MARATHON_APP_RESOURCE_MEM", app.mem.description),
            ("MARATHON_APP_RESOURCE_DISK", app.disk.description),
            ("MARATHON_APP_RESOURCE_GPUS", String(app.gpus)), ("MARATHON_APP_ENFORCE_GROUP_ROLE", "FALSE"),
        ]
        if let image = app.container?.image { values.append(("MARATHON_APP_DOCKER_IMAGE", image)) }
        let labels = app.labels.sorted { $0.key < $1.key }.filter { $0.value.utf8.count < 512 }
        let names = labels.map { TaskBuilder.variableName($0.key) }
        values.append(("MARATHON_APP_LABELS", names.joined(separator: " ")))
        for (name, label) in zip(names, labels) { values.append(("MARATHON_APP_LABEL_" + name, label.value)) }
        values.append((environmentPrefix + "HOST", launch.instance.host))
        values += portVariables(ports)
        for (name, value) in app.env.sorted(by: { $0.key < $1.key }) {
            values.removeAll { $0.0 == name }
            values.append((name, value))
        }
        var environment = MesosEnvironment()
        environment.variables = values.map { name, value in
            var variable = MesosEnvironment.Variable()
            variable.name = name
            variable.type = .value
            variable.value = value
            return variable
        }
        return environment
    }

    /// Upper case, anything but `[A-Z0-9_]` as an underscore.
    private static func variableName(_ key: String) -> String {
        String(
            key.uppercased().unicodeScalars.map { scalar -> Character in
                switch scalar {
                case "A"..."Z", "0"..."9", "_": Character(scalar)
                default: "_"
                }
            })
    }

    private func portVariables(_ ports: [EffectivePort]) -> [(String, String)] {
        guard let first = ports.first else { return [] }
        var values = [("PORT", String(first.number))]
        for (index, port) in ports.enumerated() { values.append(("PORT\(index)", String(port.number))) }
        values.append(("PORTS", ports.map { String($0.number) }.joined(separator: ",")))
        for port in ports {
            values.append(("PORT_\(port.requested == 0 ? port.number : port.requested)", String(port.number)))
            if let name = port.name { values.append(("PORT_" + name.uppercased(), String(port.number))) }
        }
        return values.map { (environmentPrefix + $0.0, $0.1) }
    }

    // MARK: Command, container, discovery

    private func command(_ app: AppSpec, environment: MesosEnvironment) -> MesosCommandInfo {
        var command = MesosCommandInfo()
        command.environment = environment
        if let user = app.user ?? user { command.user = user }
        if let cmd = app.cmd {
            command.shell = true
            command.value = cmd
        } else {
            command.shell = false
            command.arguments = app.args
            if app.container?.image == nil, let program = app.args.first { command.value = program }
        }
        command.uris = app.fetch.map { fetch in
            var uri = MesosCommandInfo.URI()
            uri.value = fetch.uri
            uri.extract = fetch.extract
            uri.executable = fetch.executable
            uri.cache = fetch.cache
            if let path = fetch.destPath { uri.outputFile = path }
            return uri
        }
        return command
    }

    private func container(_ launch: Launch) -> MesosContainerInfo {
        let app = launch.app
        var info = MesosContainerInfo()
        guard let container = app.container else {
            info.type = .mesos
            return info
        }
        info.volumes = container.volumes.map { volume($0) }
        switch container.kind {
        case .docker:
            info.type = .docker
            info.docker = docker(container, launch: launch)
            if app.networkMode == .container { info.networkInfos = networks(app, launch: launch) }
        case .mesos:
            info.type = .mesos
            if let image = container.image {
                info.mesos.image.type = .docker
                info.mesos.image.docker.name = image
                info.mesos.image.cached = !container.forcePullImage
            }
            if app.networkMode != .host { info.networkInfos = networks(app, launch: launch) }
            if app.tty ?? false { info.ttyInfo = MesosTTYInfo() }
        }
        return info
    }

    private func docker(_ container: Container, launch: Launch) -> MesosContainerInfo.DockerInfo {
        var docker = MesosContainerInfo.DockerInfo()
        docker.image = container.image ?? ""
        docker.privileged = container.privileged
        docker.forcePullImage = container.forcePullImage
        switch launch.app.networkMode {
        case .host: docker.network = .host
        case .bridge: docker.network = .bridge
        case .container: docker.network = .user
        }
        for (mapping, hostPort) in zip(container.portMappings ?? [], launch.instance.hostPorts) {
            guard let hostPort else { continue }
            for transport in transports(mapping.transport) {
                var result = MesosContainerInfo.DockerInfo.PortMapping()
                result.hostPort = UInt32(hostPort)
                result.containerPort = UInt32(containerPort(mapping, hostPort: hostPort))
                result.protocol = transport
                docker.portMappings.append(result)
            }
        }
        docker.parameters = container.parameters.map { parameter($0.key, $0.value) }
        docker.parameters.append(parameter("label", "MESOS_TASK_ID=\(launch.instance.taskID)"))
        return docker
    }

    private func parameter(_ key: String, _ value: String) -> MesosParameter {
        var parameter = MesosParameter()
        parameter.key = key
        parameter.value = value
        return parameter
    }

    private func networks(_ app: AppSpec, launch: Launch) -> [MesosNetworkInfo] {
        app.networks.map { network in
            var info = MesosNetworkInfo()
            info.name = network.name ?? "mesos-bridge"
            info.labels = labels(network.labels)
            for (mapping, hostPort) in zip(app.container?.portMappings ?? [], launch.instance.hostPorts) {
                guard let hostPort, mapping.networkNames.isEmpty || mapping.networkNames.contains(info.name) else {
                    continue
                }
                for transport in transports(mapping.transport) {
                    var result = MesosNetworkInfo.PortMapping()
                    result.hostPort = UInt32(hostPort)
                    result.containerPort = UInt32(containerPort(mapping, hostPort: hostPort))
                    result.protocol = transport
                    info.portMappings.append(result)
                }
            }
            return info
        }
    }

    private func volume(_ volume: Volume) -> MesosVolume {
        var result = MesosVolume()
        result.containerPath = volume.containerPath
        result.mode = volume.mode == .readOnly ? .ro : .rw
        switch volume.source {
        case .host(let path): result.hostPath = path
        case .external(let external):
            result.source.type = .dockerVolume
            result.source.dockerVolume.driver = external.driver
            result.source.dockerVolume.name = external.name
            var options = external.options.sorted { $0.key < $1.key }
                .filter { $0.key.hasPrefix("dvdi/") && $0.key != "dvdi/driver" }
                .map { parameter(String($0.key.dropFirst("dvdi/".count)), $0.value) }
            if let size = external.size, !options.contains(where: { $0.key == "size" }) {
                options.append(parameter("size", String(size)))
            }
            if !options.isEmpty { result.source.dockerVolume.driverOptions.parameter = options }
        }
        return result
    }

    private func discovery(_ app: AppSpec, ports: [EffectivePort]) -> MesosDiscoveryInfo {
        var discovery = MesosDiscoveryInfo()
        discovery.visibility = .framework
        discovery.name = app.id.taskName
        discovery.ports.ports = ports.flatMap { port in
            port.transports.map { transport in
                var result = MesosPort()
                result.number = UInt32(port.number)
                if let name = port.name { result.name = name }
                result.protocol = transport
                var map = port.labels
                map["network-scope"] = port.scope
                map["network-name"] = port.network
                result.labels = labels(map)
                return result
            }
        }
        return discovery
    }

    private func healthCheck(_ check: HealthCheck, launch: Launch, ports: [EffectivePort]) -> MesosHealthCheck {
        var result = MesosHealthCheck()
        result.delaySeconds = Double(check.delaySeconds)
        result.intervalSeconds = Double(check.intervalSeconds)
        result.timeoutSeconds = Double(check.timeoutSeconds)
        result.consecutiveFailures = UInt32(check.maxConsecutiveFailures)
        result.gracePeriodSeconds = Double(check.gracePeriodSeconds)
        let index = check.portIndex ?? 0
        var port = check.port ?? 0
        if check.port == nil, ports.indices.contains(index) {
            port = ports[index].number
            if launch.app.networkMode != .host, let mapping = launch.app.container?.portMappings?[index] {
                port = containerPort(mapping, hostPort: launch.instance.hostPorts[index])
            }
        }
        switch check.transport {
        case .command:
            result.type = .command
            result.command.shell = true
            result.command.value = check.command ?? ""
        case .mesosTCP:
            result.type = .tcp
            result.tcp.port = UInt32(port)
        case .mesosHTTP, .mesosHTTPS:
            result.type = .http
            result.http.port = UInt32(port)
            result.http.scheme = check.transport == .mesosHTTPS ? "https" : "http"
            result.http.path = check.path ?? "/"
        case .http, .https, .tcp: preconditionFailure("\(check.transport) is not run by the agent")
        }
        return result
    }
}
