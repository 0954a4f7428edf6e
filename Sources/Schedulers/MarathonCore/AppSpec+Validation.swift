extension AppSpec {
    /// The rules that concern several members of one app.
    func validate(_ log: ViolationLog, rules: SpecRules) {
        for error in id.violations { log.invalid("/id", error) }
        validateCommand(log)
        validatePorts(log)
        validateVolumes(log)
        if let roles = acceptedResourceRoles {
            if roles.isEmpty { log.invalid("/acceptedResourceRoles", "must not be empty") }
            if !Set(roles).isSubset(of: [role, rules.role, "*"]) {
                log.invalid("/acceptedResourceRoles", "acceptedResourceRoles can only contain *, \(role)")
            }
        }
        if role != rules.role { log.invalid("/role", "got \(role), expected \(rules.role)") }
        if case .replace(let inactive, let expunge) = unreachableStrategy, inactive > expunge {
            log.invalid(
                "/unreachableStrategy",
                "inactiveAfterSeconds (\(inactive)) must be less than expungeAfterSeconds (\(expunge))")
        }
        if labels["MARATHON_SINGLE_INSTANCE_APP"] == "true" {
            if instances > 1 { log.invalid("/instances", "got \(instances), expected 1 or less") }
            if upgradeStrategy != UpgradeStrategy(minimumHealthCapacity: 0, maximumOverCapacity: 0) {
                log.invalid("/upgradeStrategy", "must be 0/0 for a single instance app")
            }
        }
        if dependencies.contains(id) { log.invalid("/", "Dependency graph has cyclic dependencies.") }
    }

    private func validateCommand(_ log: ViolationLog) {
        let hasImage = container?.image != nil
        if cmd == "" { log.invalid("/cmd", "must not be empty") }
        if cmd != nil, !args.isEmpty {
            log.invalid("/", "AppDefinition must either contain one of 'cmd' or 'args', and/or a 'container'.")
        }
        if cmd == nil, args.isEmpty, !hasImage {
            log.invalid("/", "AppDefinition must either contain one of 'cmd' or 'args', and/or a 'container'.")
        }
        if executor != "", executor != "//cmd" { log.invalid("/executor", "custom executors are not implemented") }
        let agentChecks = healthChecks.filter { $0.transport.isRunByAgent && $0.transport != .command }
        if agentChecks.count > 1 {
            log.invalid("/healthChecks", "AppDefinition can contain at most one Mesos health check")
        }
    }

    private func validatePorts(_ log: ViolationLog) {
        let mappings = networkMode == .host ? [] : container?.portMappings ?? []
        let names = networkMode == .host ? portDefinitions.compactMap(\.name) : mappings.compactMap(\.name)
        let portsPath = networkMode == .host ? "/portDefinitions" : "/container/portMappings"
        if Set(names).count != names.count { log.invalid(portsPath, "Port names must be unique.") }
        for (index, name) in names.enumerated() where !isLabel(name) {
            log.invalid(
                "\(portsPath)(\(index))/name", "must fully match regular expression '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'")
        }
        let fixed = portDefinitions.map(\.port).filter { $0 != 0 }
        if networkMode == .host, Set(fixed).count != fixed.count {
            log.invalid("/portDefinitions", "Ports must be unique.")
        }
        let count = networkMode == .host ? portDefinitions.count : mappings.count
        for (index, check) in healthChecks.enumerated() {
            guard check.port == nil, check.transport != .command else { continue }
            guard (check.portIndex ?? 0) < count else {
                log.invalid(
                    "/healthChecks(\(index))",
                    "Health check port indices must address an element of the ports array or container port mappings.")
                continue
            }
        }
        let declared = Set(networks.compactMap(\.name))
        for (index, mapping) in mappings.enumerated() {
            let path = "/container/portMappings(\(index))/networkNames"
            if !Set(mapping.networkNames).isSubset(of: declared) {
                log.invalid(path, "networkNames must be a subset of the declared networks")
            } else if networks.count > 1, mapping.hostPort != nil, mapping.networkNames.count != 1 {
                log.invalid(path, "must name exactly one network")
            }
        }
    }

    private func validateVolumes(_ log: ViolationLog) {
        var names: Set<String> = []
        var drivers: Set<String> = []
        for (index, volume) in (container?.volumes ?? []).enumerated() {
            guard case .external(let external) = volume.source else { continue }
            drivers.insert(external.driver)
            if !names.insert(external.name).inserted {
                log.invalid(
                    "/container/volumes(\(index))",
                    "Requested DVDI volume '\(external.name)' is declared more than once within app \(id)")
            }
        }
        guard !names.isEmpty else { return }
        if instances > 1, holdsExclusiveVolume {
            log.invalid("/", "Number of instances is limited to 1 when declaring DVDI volumes in app [\(id)]")
        }
        if upgradeStrategy.maximumOverCapacity != 0 {
            log.invalid(
                "/upgradeStrategy/maximumOverCapacity", "got \(upgradeStrategy.maximumOverCapacity), expected 0.0")
        }
        if container?.kind == .docker, drivers.count > 1 {
            log.invalid("/container/volumes", "must have only one driver per container")
        }
    }
}
