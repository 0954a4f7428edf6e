import AgentCore
import Base
import Containerizer
import LinuxOS
import MesosAPI
import OrderedCollections
import Resources
import Telemetry

/// What the agent shows of itself, in the shapes of Mesos' v0 endpoints.
extension AgentService {
    func stateDocument() -> JSONValue {
        let total = configuration.resources
        let allocated = core.frameworks.values.flatMap { $0.executors.values }.flatMap(AgentService.resources)
        var document: JSONValue = [
            "version": .string(AgentConfiguration.version), "build_date": "2026-01-01 00:00:00",
            "build_time": 1767225600.0, "build_user": "holdfast", "start_time": .number(unixTimeOfZero),
            "id": .string(core.agentID ?? ""), "pid": .string(core.configuration.pid),
            "hostname": .string(configuration.hostname),
        ]
        document["capabilities"] = .array(core.configuration.capabilities.map { .string("\($0.type)".snakeUpper) })
        document["resources"] = resourcesDocument(total)
        document["reserved_resources"] = [:]
        document["unreserved_resources"] = resourcesDocument(total)
        document["reserved_resources_full"] = [:]
        document["unreserved_resources_full"] = .array(total.map { jsonEncode($0) })
        document["reserved_resources_allocated"] = [:]
        document["unreserved_resources_allocated"] = resourcesDocument(allocated)
        document["resource_providers"] = []
        document["attributes"] = AgentService.attributes(configuration.attributes)
        if let master = core.master { document["master_hostname"] = .string(master.hostname) }
        document["flags"] = configuration.flagsDocument
        document["frameworks"] = .array(core.frameworks.values.map(describe))
        document["completed_frameworks"] = .array(core.completedFrameworks.map(describe))
        return document
    }

    private static func resources(_ executor: ExecutorRecord) -> [MesosResource] {
        guard executor.phase != .terminated else { return [] }
        return executor.info.resources
            + executor.tasks.values.filter { !$0.state.isTerminal }.flatMap(\.info.resources)
    }

    private static func attributes(_ attributes: [MesosAttribute]) -> JSONValue {
        var document: JSONValue = [:]
        for attribute in attributes {
            switch attribute.type {
            case .scalar: document[attribute.name] = .number(attribute.scalar.value)
            case .ranges: document[attribute.name] = .string(rangesText(attribute.ranges))
            case .set: document[attribute.name] = .string("{\(attribute.set.item.joined(separator: ", "))}")
            case .text: document[attribute.name] = .string(attribute.text.value)
            }
        }
        return document
    }

    private func describe(_ framework: FrameworkRecord) -> JSONValue {
        let info = framework.info
        var document: JSONValue = [
            "id": .string(info.id.value), "name": .string(info.name), "user": .string(info.user),
            "failover_timeout": .number(info.failoverTimeout), "checkpoint": .bool(info.checkpoint),
            "hostname": .string(info.hostname),
        ]
        if info.hasPrincipal { document["principal"] = .string(info.principal) }
        if info.has(.multiRole) {
            document["roles"] = .array(info.roles.map(JSONValue.string))
        } else {
            document["role"] = .string(info.role)
        }
        let id = info.id.value
        document["executors"] = .array(framework.executors.values.map { describe($0, framework: id) })
        document["completed_executors"] = .array(framework.completed.map { describe($0, framework: id) })
        return document
    }

    private func describe(_ executor: ExecutorRecord, framework: String) -> JSONValue {
        let id = executor.info.executorID.value
        let agentID = executor.tasks.values.first?.info.agentID.value ?? core.agentID ?? ""
        var document: JSONValue = [
            "id": .string(id), "name": .string(executor.info.name), "source": .string(executor.info.source),
            "container": .string(executor.containerID),
            "directory": .string(store.paths.sandbox(agentID, framework, id, executor.containerID)),
            "resources": resourcesDocument(AgentService.resources(executor)),
            "type": .string(executor.kind == .command ? "DEFAULT" : "CUSTOM"),
        ]
        if executor.kind == .command { document["type"] = nil }
        let tasks = { (isIncluded: (TaskRecord) -> Bool) in
            JSONValue.array(
                executor.tasks.values.filter(isIncluded).map { self.describe($0, framework, executor) })
        }
        document["queued_tasks"] = tasks { $0.state == .taskStaging }
        document["tasks"] = tasks { $0.state != .taskStaging && !$0.state.isTerminal }
        document["completed_tasks"] = tasks { $0.state.isTerminal }
        return document
    }

    private func describe(_ record: TaskRecord, _ framework: String, _ executor: ExecutorRecord) -> JSONValue {
        let task = core.describe(record, framework: framework, executor: executor)
        var document = jsonEncode(task)
        document["id"] = .string(task.taskID.value)
        document["framework_id"] = .string(framework)
        document["executor_id"] = .string(task.hasExecutorID ? task.executorID.value : "")
        document["slave_id"] = .string(task.agentID.value)
        document["resources"] = resourcesDocument(task.resources)
        for key in ["task_id", "agent_id", "status_update_uuid", "status_update_state"] { document[key] = nil }
        return document
    }

    // MARK: Containers

    func containersDocument(only wanted: String?) async -> JSONValue {
        var documents: [JSONValue] = []
        for (id, runner) in runners.sorted(by: { $0.key < $1.key }) where wanted == nil || wanted == id {
            guard let (key, executor) = core.executor(ofContainer: id) else { continue }
            let statistics = await runner.containerizer.statistics(runner.spec)
            var document: JSONValue = [
                "container_id": .string(id), "executor_id": .string(key.executor),
                "executor_name": .string(executor.info.name), "framework_id": .string(key.framework),
                "source": .string(executor.info.source),
            ]
            if let statistics { document["statistics"] = jsonEncode(statistics) }
            document["status"] = jsonEncode(containerStatus(executor))
            documents.append(document)
        }
        return .array(documents)
    }

    func containerStatus(_ executor: ExecutorRecord) -> MesosContainerStatus {
        var status = MesosContainerStatus()
        status.containerID.value = executor.containerID
        if let pid = executor.report.pid { status.executorPid = pid }
        var network = MesosNetworkInfo()
        let addresses = executor.report.addresses.isEmpty ? [configuration.advertisedIP] : executor.report.addresses
        network.ipAddresses = addresses.map { address in
            var entry = MesosNetworkInfo.IPAddress()
            entry.ipAddress = address
            return entry
        }
        status.networkInfos = [network]
        return status
    }

    // MARK: Files

    /// Paths as clients may name them: a sandbox by its real path or by framework and executor.
    func realPath(_ path: String) -> String {
        guard path.hasPrefix("/frameworks/"), let agent = core.agentID else { return path }
        return "\(configuration.workDirectory)/slaves/\(agent)\(path)"
    }

    func attachedPaths() -> JSONValue {
        var document: JSONValue = [:]
        for (id, framework) in core.frameworks {
            for (name, executor) in framework.executors {
                let path = store.paths.sandbox(core.agentID ?? "", id, name, executor.containerID)
                document[path] = .string(path)
                document["/frameworks/\(id)/executors/\(name)/runs/latest"] = .string(path)
            }
        }
        return document
    }

    // MARK: Metrics

    func metricsDocument() -> JSONValue {
        var document = ProcessTelemetry.registry.snapshot()
        for (name, value) in gauges() { document[name] = .number(value) }
        return document
    }

    func gauges() -> [(String, Double)] {
        let executors = core.frameworks.values.flatMap { $0.executors.values }
        var states: [MesosTaskState: Int] = [:]
        let completed = core.completedFrameworks.flatMap(\.completed) + core.frameworks.values.flatMap(\.completed)
        for task in (executors + completed).flatMap({ $0.tasks.values }) { states[task.state, default: 0] += 1 }
        var gauges: [(String, Double)] = [
            ("slave/registered", core.isRegistered ? 1 : 0),
            ("slave/uptime_secs", Double(now.nanoseconds) / 1e9),
            ("slave/frameworks_active", Double(core.frameworks.count)),
            ("slave/container_launch_errors", Double(counters.launchErrors)),
            ("slave/valid_status_updates", Double(counters.validStatusUpdates)),
            ("slave/invalid_status_updates", Double(counters.invalidStatusUpdates)),
        ]
        let phases: [(String, (ExecutorRecord.Phase) -> Bool)] = [
            ("registering", { if case .registering = $0 { true } else { $0 == .launching } }),
            ("running", { $0 == .running }),
            ("terminating", { if case .terminating = $0 { true } else { false } }),
            ("terminated", { $0 == .terminated }),
        ]
        for (name, matches) in phases {
            gauges.append(("slave/executors_\(name)", Double(executors.filter { matches($0.phase) }.count)))
        }
        for state in MesosTaskState.allCases {
            let name = "\(state)".snakeUpper.lowercased().dropFirst("task_".count)
            gauges.append(("slave/tasks_\(name)", Double(states[state] ?? 0)))
        }
        let used = executors.flatMap(AgentService.resources)
        for name in ["cpus", "mem", "disk", "gpus"] {
            let sum = { (list: [MesosResource]) in
                list.filter { $0.name == name && $0.type == .scalar }.map(\.scalar.value).reduce(0, +)
            }
            let total = sum(configuration.resources)
            gauges.append(("slave/\(name)_total", total))
            gauges.append(("slave/\(name)_used", sum(used)))
            gauges.append(("slave/\(name)_percent", total > 0 ? sum(used) / total : 0))
        }
        return gauges
    }
}

/// `{"cpus": 2.0, ..., "ports": "[31000-32000]"}`, with the usual ones always there.
func resourcesDocument(_ resources: [MesosResource]) -> JSONValue {
    var scalars: OrderedDictionary<String, Double> = ["cpus": 0, "gpus": 0, "mem": 0, "disk": 0]
    var others: JSONValue.Object = [:]
    var ranges: OrderedDictionary<String, [ClosedRange<UInt64>]> = [:]
    for resource in resources {
        switch resource.type {
        case .scalar: scalars[resource.name, default: 0] += resource.scalar.value
        case .ranges:
            ranges[resource.name, default: []] += resource.ranges.range.filter { $0.begin <= $0.end }
                .map { $0.begin...$0.end }
        case .set: others[resource.name] = .string("{\(resource.set.item.joined(separator: ", "))}")
        case .text: others[resource.name] = .string("")
        }
    }
    var document = JSONValue.object(scalars.mapValues { JSONValue.number(($0 * 1000).rounded() / 1000) })
    for (name, list) in ranges { document[name] = .string(IntegerRanges(list).description) }
    for (name, value) in others { document[name] = value }
    return document
}

private func rangesText(_ ranges: MesosValue.Ranges) -> String {
    "[" + ranges.range.map { "\($0.begin)-\($0.end)" }.joined(separator: ", ") + "]"
}

extension String {
    /// `taskGoneByOperator` as `TASK_GONE_BY_OPERATOR`.
    var snakeUpper: String {
        reduce(into: "") { result, letter in
            if letter.isUppercase, !result.isEmpty { result += "_" }
            result += letter.uppercased()
        }
    }
}
