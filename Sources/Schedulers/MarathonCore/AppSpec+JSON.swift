public import Base
import OrderedCollections

extension AppSpec {
    /// The canonical form (1.5+) that the REST API gives and the store keeps: defaults filled in, absent members
    /// omitted.
    public var json: JSONValue {
        var object: JSONValue.Object = [:]
        object["id"] = .string(id.description)
        object["cmd"] = cmd.map(JSONValue.string)
        if !args.isEmpty { object["args"] = .array(args.map(JSONValue.string)) }
        object["user"] = user.map(JSONValue.string)
        object["env"] = text(map: env)
        object["instances"] = .integer(Int64(instances))
        object["cpus"] = .number(cpus)
        object["mem"] = .number(mem)
        object["disk"] = .number(disk)
        object["gpus"] = .integer(Int64(gpus))
        object["resourceLimits"] = resourceLimits?.json
        object["executor"] = .string(executor)
        if !constraints.isEmpty { object["constraints"] = .array(constraints.map(\.json)) }
        object["acceptedResourceRoles"] = acceptedResourceRoles.map { .array($0.map(JSONValue.string)) }
        if !fetch.isEmpty { object["fetch"] = .array(fetch.map(\.json)) }
        object["backoffSeconds"] = .integer(Int64(backoffSeconds))
        object["backoffFactor"] = .number(backoffFactor)
        object["maxLaunchDelaySeconds"] = .integer(Int64(maxLaunchDelaySeconds))
        object["container"] = container?.json(networkMode)
        if !healthChecks.isEmpty { object["healthChecks"] = .array(healthChecks.map(\.json)) }
        if !dependencies.isEmpty { object["dependencies"] = .array(dependencies.map { .string($0.description) }) }
        object["upgradeStrategy"] = [
            "minimumHealthCapacity": .number(upgradeStrategy.minimumHealthCapacity),
            "maximumOverCapacity": .number(upgradeStrategy.maximumOverCapacity),
        ]
        object["unreachableStrategy"] = unreachableStrategy.json
        object["killSelection"] = .string(killSelection.rawValue)
        object["labels"] = text(map: labels)
        object["networks"] = .array(networks.map(\.json))
        if networkMode == .host {
            object["portDefinitions"] = .array(portDefinitions.map(\.json))
            object["requirePorts"] = .bool(requirePorts)
        } else {
            object["requirePorts"] = false
        }
        object["taskKillGracePeriodSeconds"] = taskKillGracePeriodSeconds.map { .integer(Int64($0)) }
        object["tty"] = tty.map(JSONValue.bool)
        object["role"] = .string(role)
        object["version"] = .string(version.description)
        object["versionInfo"] = [
            "lastScalingAt": .string(lastScalingAt.description),
            "lastConfigChangeAt": .string(lastConfigChangeAt.description),
        ]
        return .object(object)
    }
}

/// A map of text with its names sorted, so that equal maps give equal documents.
func text(map: [String: String]) -> JSONValue {
    .object(JSONValue.Object(uniqueKeysWithValues: map.sorted { $0.key < $1.key }.map { ($0.key, .string($0.value)) }))
}

extension ResourceLimits {
    fileprivate var json: JSONValue {
        var object: JSONValue.Object = [:]
        object["cpus"] = cpus.map(ResourceLimits.json)
        object["mem"] = mem.map(ResourceLimits.json)
        return .object(object)
    }

    private static func json(_ limit: Limit) -> JSONValue {
        switch limit {
        case .amount(let amount): .number(amount)
        case .unlimited: "unlimited"
        }
    }
}

extension Constraint {
    fileprivate var json: JSONValue {
        .array(([field, relation.rawValue] + (value.map { [$0] } ?? [])).map(JSONValue.string))
    }
}

extension Fetch {
    fileprivate var json: JSONValue {
        var object: JSONValue.Object = [
            "uri": .string(uri), "extract": .bool(extract), "executable": .bool(executable), "cache": .bool(cache),
        ]
        object["destPath"] = destPath.map(JSONValue.string)
        return .object(object)
    }
}

extension Network {
    fileprivate var json: JSONValue {
        var object: JSONValue.Object = ["mode": .string(mode.rawValue)]
        object["name"] = name.map(JSONValue.string)
        if !labels.isEmpty { object["labels"] = text(map: labels) }
        return .object(object)
    }
}

extension PortDefinition {
    fileprivate var json: JSONValue {
        var object: JSONValue.Object = ["port": .integer(Int64(port)), "protocol": .string(transport)]
        object["name"] = name.map(JSONValue.string)
        object["labels"] = text(map: labels)
        return .object(object)
    }
}

extension PortMapping {
    fileprivate var json: JSONValue {
        var object: JSONValue.Object = ["containerPort": .integer(Int64(containerPort))]
        object["hostPort"] = hostPort.map { .integer(Int64($0)) }
        object["labels"] = text(map: labels)
        object["name"] = name.map(JSONValue.string)
        object["protocol"] = .string(transport)
        object["servicePort"] = .integer(Int64(servicePort))
        if !networkNames.isEmpty { object["networkNames"] = .array(networkNames.map(JSONValue.string)) }
        return .object(object)
    }
}

extension Container {
    fileprivate func json(_ mode: Network.Mode) -> JSONValue {
        var object: JSONValue.Object = ["type": .string(kind.rawValue)]
        if let image {
            var docker: JSONValue.Object = ["forcePullImage": .bool(forcePullImage), "image": .string(image)]
            if kind == .docker {
                docker["parameters"] = .array(
                    parameters.map { ["key": .string($0.key), "value": .string($0.value)] })
                docker["privileged"] = .bool(privileged)
            }
            object["docker"] = .object(docker)
        }
        object["volumes"] = .array(volumes.map(\.json))
        if mode != .host { object["portMappings"] = .array((portMappings ?? []).map(\.json)) }
        return .object(object)
    }
}

extension Volume {
    fileprivate var json: JSONValue {
        var object: JSONValue.Object = ["containerPath": .string(containerPath), "mode": .string(mode.rawValue)]
        switch source {
        case .host(let path): object["hostPath"] = .string(path)
        case .external(let external):
            var member: JSONValue.Object = ["name": .string(external.name), "provider": .string(external.provider)]
            member["size"] = external.size.map { .integer(Int64($0)) }
            member["options"] = text(map: external.options)
            if external.shared { member["shared"] = true }
            object["external"] = .object(member)
        }
        return .object(object)
    }
}

extension UnreachableStrategy {
    fileprivate var json: JSONValue {
        switch self {
        case .disabled: "disabled"
        case .replace(let inactive, let expunge):
            ["inactiveAfterSeconds": .integer(Int64(inactive)), "expungeAfterSeconds": .integer(Int64(expunge))]
        }
    }
}

extension HealthCheck {
    var json: JSONValue {
        var object: JSONValue.Object = [
            "gracePeriodSeconds": .integer(Int64(gracePeriodSeconds)),
            "intervalSeconds": .integer(Int64(intervalSeconds)),
            "maxConsecutiveFailures": .integer(Int64(maxConsecutiveFailures)),
            "timeoutSeconds": .integer(Int64(timeoutSeconds)),
            "delaySeconds": .integer(Int64(delaySeconds)),
            "protocol": .string(transport.rawValue),
            "ipProtocol": .string(ipProtocol),
        ]
        object["path"] = path.map(JSONValue.string)
        object["port"] = port.map { .integer(Int64($0)) }
        object["portIndex"] = portIndex.map { .integer(Int64($0)) }
        if let command { object["command"] = ["value": .string(command)] }
        if transport == .http || transport == .https { object["ignoreHttp1xx"] = .bool(ignoreHttp1xx) }
        return .object(object)
    }
}
