import Base

extension AppSpec {
    mutating func readContainer(_ reader: ObjectReader, rules: SpecRules) {
        if let member = reader.member("container") {
            container = Container(reading: member, rules: rules)
        } else if reader.value("ipAddress") != nil {
            container = Container(kind: .mesos)
        }
        readUpgradeStrategy(reader)
        readNetworks(reader, rules: rules)
    }

    /// Translates the three generations: `networks`, `container.docker.network`, `ipAddress`.
    private mutating func readNetworks(_ reader: ObjectReader, rules: SpecRules) {
        let docker = reader.value("container")?["docker"]
        let legacy = docker?["network"]?.string?.uppercased()
        let address = reader.member("ipAddress")
        if let members = reader.members("networks"), !members.isEmpty {
            if legacy != nil { reader.log.invalid("", "must not specify both container.docker.network and networks") }
            if address != nil { reader.log.invalid("", "must not specify both networks and ipAddress") }
            networks = members.map { member in
                Network(
                    mode: member.choice("mode", Network.Mode.self) ?? .container, name: member.string("name"),
                    labels: member.stringMap("labels") ?? [:])
            }
        } else if let legacy {
            switch legacy {
            case "BRIDGE": networks = [Network(mode: .bridge)]
            case "HOST": networks = [Network(mode: .host)]
            case "USER": networks = [Network(mode: .container, name: address?.string("networkName"))]
            default: reader.log.invalid("/container/docker/network", "\(legacy) networking is not supported")
            }
        } else if let address {
            let name = address.string("networkName")
            let labels = address.stringMap("labels") ?? [:]
            networks =
                name == rules.bridgeName
                ? [Network(mode: .bridge)] : [Network(mode: .container, name: name, labels: labels)]
        }
        for index in networks.indices where networks[index].mode == .container && networks[index].name == nil {
            networks[index].name = rules.defaultNetworkName
        }
        checkNetworks(reader.log)
    }

    private func checkNetworks(_ log: ViolationLog) {
        for (index, network) in networks.enumerated() {
            let path = "/networks(\(index))"
            switch network.mode {
            case .host, .bridge:
                if network.name != nil {
                    log.invalid(path, "Network name must not be specified for this network mode.")
                }
                if networks.count > 1 {
                    log.invalid(
                        "/networks",
                        "Must specify either a single host network, single bridge network, or else 1-to-n container networks"
                    )
                }
                if network.mode == .host, !network.labels.isEmpty {
                    log.invalid(path, "Network labels must be empty for host mode")
                }
            case .container:
                if network.name == nil {
                    log.invalid(path, "Network name must be specified when container network is selected.")
                }
            }
        }
        let names = networks.compactMap(\.name)
        if Set(names).count != names.count { log.invalid("/networks", "Network names must be unique") }
        if container?.kind == .docker, networks.count > 1 {
            log.invalid("/networks", "Docker containers support a single container network only")
        }
    }

    mutating func readPorts(_ reader: ObjectReader, rules: SpecRules) {
        let explicitMappings = reader.member("container")?.members("portMappings")
        let legacyMappings = reader.member("container")?.member("docker")?.members("portMappings")
        if let explicitMappings, let legacyMappings, !explicitMappings.isEmpty, !legacyMappings.isEmpty {
            reader.log.invalid("/container", "cannot specify both portMappings and docker.portMappings")
        }
        let definitions = reader.members("portDefinitions")
        let legacyPorts = reader.array("ports")
        requirePorts = reader.bool("requirePorts") ?? false
        if networkMode == .host {
            if let explicitMappings, !explicitMappings.isEmpty {
                reader.log.invalid("/container/portMappings", "portMappings are not allowed with host-networking")
            }
            readPortDefinitions(reader, definitions: definitions, ports: legacyPorts)
            return
        }
        requirePorts = false
        if let definitions, !definitions.isEmpty {
            reader.log.invalid("/portDefinitions", "portDefinitions are only allowed with host-networking")
        }
        if container == nil { container = Container(kind: .mesos) }
        guard let mappings = (explicitMappings ?? []).isEmpty ? legacyMappings ?? explicitMappings : explicitMappings
        else {
            let mappings =
                discoveryMappings(reader) ?? [PortMapping(hostPort: networkMode == .bridge ? 0 : nil, name: "default")]
            container?.portMappings = mappings
            return
        }
        let isBridge = networkMode == .bridge
        container?.portMappings = mappings.map { PortMapping(reading: $0, isBridge: isBridge) }
    }

    /// The ports of the legacy `ipAddress.discovery`, which have no host port.
    private func discoveryMappings(_ reader: ObjectReader) -> [PortMapping]? {
        guard let ports = reader.member("ipAddress")?.member("discovery")?.members("ports") else { return nil }
        if container?.kind == .docker {
            reader.log.invalid("/ipAddress/discovery", "ipAddress/discovery is not allowed for Docker containers")
        }
        return ports.map { port in
            PortMapping(
                containerPort: port.integer("number", in: 0...65535) ?? 0, transport: port.string("protocol") ?? "tcp",
                name: port.string("name"), labels: port.stringMap("labels") ?? [:])
        }
    }

    private mutating func readPortDefinitions(_ reader: ObjectReader, definitions: [ObjectReader]?, ports: [JSONValue]?)
    {
        var legacy: [PortDefinition] = []
        for (index, port) in (ports ?? []).enumerated() {
            guard let number = port.integer, (0...65535).contains(number) else {
                reader.log.malformed("/ports(\(index))", "error.expected.jsnumber")
                continue
            }
            legacy.append(PortDefinition(port: Int(number)))
        }
        guard let definitions else {
            portDefinitions = ports == nil ? [PortDefinition(name: "default")] : legacy
            return
        }
        portDefinitions = definitions.map { reader in
            PortDefinition(
                port: reader.integer("port", in: 0...65535) ?? 0, transport: readTransport(reader),
                name: reader.string("name"), labels: reader.stringMap("labels") ?? [:])
        }
        if ports != nil, legacy.map(\.port) != portDefinitions.map(\.port) {
            reader.log.invalid("/ports", "cannot specify both ports and port definitions")
        }
    }
}

/// "tcp", "udp" or both; "tcp,udp" is the same as "udp,tcp".
private func readTransport(_ reader: ObjectReader) -> String {
    guard let text = reader.string("protocol") else { return "tcp" }
    switch text.lowercased() {
    case "tcp": return "tcp"
    case "udp": return "udp"
    case "udp,tcp", "tcp,udp": return "udp,tcp"
    default:
        reader.log.invalid(reader.path("protocol"), "must be one of tcp, udp or udp,tcp")
        return "tcp"
    }
}

extension PortMapping {
    init(reading reader: ObjectReader, isBridge: Bool) {
        containerPort = reader.integer("containerPort", in: 0...65535) ?? 0
        hostPort = reader.integer("hostPort", in: 0...65535) ?? (isBridge ? 0 : nil)
        servicePort = reader.integer("servicePort", in: 0...65535) ?? 0
        transport = readTransport(reader)
        name = reader.string("name")
        labels = reader.stringMap("labels") ?? [:]
        networkNames = reader.strings("networkNames") ?? []
    }
}

extension Container {
    init(reading reader: ObjectReader, rules: SpecRules) {
        kind = reader.choice("type", Kind.self) ?? .docker
        let docker = reader.member("docker")
        image = docker?.string("image")
        forcePullImage = docker?.bool("forcePullImage") ?? false
        privileged = docker?.bool("privileged") ?? false
        parameters = (docker?.members("parameters") ?? []).map { parameter in
            _ = parameter.required("key") && parameter.required("value")
            let key = parameter.string("key") ?? ""
            if parameter.value("key") != nil, key.isEmpty {
                parameter.log.invalid(parameter.path("key"), "must not be empty")
            }
            return Parameter(key: key, value: parameter.string("value") ?? "")
        }
        if docker?.value("pullConfig") != nil {
            reader.log.invalid(
                "/container/docker/pullConfig", "Feature secrets is not enabled. Enable with --enable_features secrets)"
            )
        }
        switch kind {
        case .docker:
            if docker == nil {
                reader.log.invalid("/container/docker", "not defined")
            } else if (image ?? "").isEmpty {
                reader.log.invalid("/container/docker/image", "must not be empty")
            }
        case .mesos:
            if docker != nil, (image ?? "").isEmpty {
                reader.log.invalid("/container/docker/image", "must not be empty")
            }
            for key in ["network", "parameters", "portMappings"]
            where docker?.value(key) != nil && docker?.value(key) != [] {
                reader.log.invalid("/container/docker/\(key)", "must be empty for the Mesos containerizer")
            }
            if privileged {
                reader.log.invalid("/container/docker/privileged", "must be false for the Mesos containerizer")
            }
        }
        if reader.value("appc") != nil { reader.log.invalid("/container/appc", "appc images are not supported") }
        volumes = (reader.members("volumes") ?? []).compactMap { Volume(reading: $0, container: kind, rules: rules) }
    }
}

extension Volume {
    init?(reading reader: ObjectReader, container: Container.Kind, rules: SpecRules) {
        let log = reader.log
        guard reader.required("containerPath") else { return nil }
        containerPath = reader.string("containerPath") ?? ""
        mode = reader.choice("mode", Mode.self) ?? .readWrite
        if containerPath.isEmpty { log.invalid(reader.path("containerPath"), "must not be empty") }
        if reader.value("persistent") != nil {
            log.invalid(reader.path("persistent"), "persistent local volumes are not implemented")
            return nil
        }
        if reader.value("secret") != nil {
            log.invalid(reader.path("secret"), "Feature secrets is not enabled. Enable with --enable_features secrets)")
            return nil
        }
        if let external = reader.member("external") {
            guard let volume = ExternalVolume(reading: external, container: container, rules: rules) else { return nil }
            source = .external(volume)
            if container == .mesos, mode != .readWrite { log.invalid(reader.path("mode"), "must be equal to RW") }
            if containerPath == "." || containerPath == ".." {
                log.invalid(reader.path("containerPath"), "must not be '.' or '..'")
            }
        } else if let path = reader.string("hostPath") {
            source = .host(path: path)
            if path.isEmpty { log.invalid(reader.path("hostPath"), "must not be empty") }
        } else {
            log.malformed(reader.path, "error.path.missing")
            return nil
        }
        if container == .docker, !containerPath.hasPrefix("/") {
            log.invalid(reader.path("containerPath"), "value '\(containerPath)' is not an absolute path")
        }
    }
}

extension ExternalVolume {
    init?(reading reader: ObjectReader, container: Container.Kind, rules: SpecRules) {
        let log = reader.log
        guard rules.features.contains("external_volumes") else {
            log.invalid(
                reader.path, "Feature external_volumes is not enabled. Enable with --enable_features external_volumes)")
            return nil
        }
        name = reader.string("name") ?? ""
        if name.isEmpty { log.invalid(reader.path("name"), "must not be empty") }
        provider = reader.string("provider") ?? "dvdi"
        if provider != "dvdi" { log.invalid(reader.path("provider"), "is unknown provider") }
        size = reader.integer("size")
        options = reader.stringMap("options") ?? [:]
        shared = reader.bool("shared") ?? false
        let optionsPath = reader.path("options")
        guard let driver = options["dvdi/driver"] else {
            log.invalid(optionsPath, "dvdi/driver not defined")
            return
        }
        if !isLabel(driver.lowercased()) { log.invalid(optionsPath + "/dvdi~1driver", "must be a valid label") }
        if driver == "rexray" { checkREXRay(log, optionsPath) }
        if container == .docker {
            if options.count > 1 { log.invalid(optionsPath, "must only contain dvdi/driver") }
            if size != nil { log.invalid(reader.path("size"), "must be undefined for Docker containers") }
        }
    }

    private func checkREXRay(_ log: ViolationLog, _ path: String) {
        for key in ["dvdi/volumetype", "dvdi/newfstype"] {
            if let value = options[key], !isLabel(value) { log.invalid(path, "\(key) must be a valid label") }
        }
        if let value = options["dvdi/iops"], UInt32(value) == nil {
            log.invalid(path, "dvdi/iops must be a natural number")
        }
        if let value = options["dvdi/overwritefs"], value != "true", value != "false" {
            log.invalid(path, "dvdi/overwritefs must be true or false")
        }
    }
}
