import Allocator
import Base
import MasterCore
import MesosAPI
import OrderedCollections
import Resources

/// The v0 read endpoints' documents, from a state of the core.
struct StateViews {
    let core: MasterCore
    let configuration: MasterConfiguration
    let times: MasterTimes

    static let version: JSONValue = [
        "version": .string(MasterConfiguration.version), "build_date": "", "build_time": 0.0, "build_user": "",
    ]

    static func flags(_ configuration: MasterConfiguration) -> JSONValue {
        .object(JSONValue.Object(configuration.flags.map { ($0.name, .string($0.value)) }) { _, last in last })
    }

    private var options: MasterOptions { core.options }

    // MARK: /state, /state-summary

    var state: JSONValue {
        var result = StateViews.version
        result["start_time"] = .number(times.start)
        result["elected_time"] = .number(times.elected ?? times.start)
        result["id"] = .string(options.info.id)
        result["pid"] = .string(options.info.pid)
        result["hostname"] = .string(options.info.hostname)
        result["capabilities"] = .array(options.info.capabilities.map { .string(jsonEncode($0)["type"]?.string ?? "") })
        let agents = core.sortedAgents
        result["activated_slaves"] = .number(Double(agents.count { $0.isConnected && $0.isActive }))
        result["deactivated_slaves"] = .number(Double(agents.count { !($0.isConnected && $0.isActive) }))
        result["unreachable_slaves"] = .number(Double(core.unreachableAgents.count))
        result["leader"] = .string(options.info.pid)
        result["leader_info"] = [
            "id": .string(options.info.id), "pid": .string(options.info.pid),
            "port": .integer(Int64(options.info.port)), "hostname": .string(options.info.hostname),
        ]
        if let cluster = configuration.cluster { result["cluster"] = .string(cluster) }
        result["flags"] = StateViews.flags(configuration)
        for (key, value) in slaves(only: nil).object ?? [:] { result[key] = value }
        for (key, value) in frameworks(only: nil).object ?? [:] { result[key] = value }
        result["orphan_tasks"] = []
        return result
    }

    var summary: JSONValue {
        var result: JSONValue = ["hostname": .string(options.info.hostname)]
        if let cluster = configuration.cluster { result["cluster"] = .string(cluster) }
        var taskCounts: [MesosAgentID: [MesosTaskState: Int]] = [:]
        var frameworksOn: [MesosAgentID: [MesosFrameworkID]] = [:]
        var frameworks: [JSONValue] = []
        for framework in core.sortedFrameworks {
            var counts: [MesosTaskState: Int] = [:]
            let all = Array(framework.tasks.values) + framework.unreachableTasks.values + framework.completedTasks
            for task in all {
                counts[task.state, default: 0] += 1
                taskCounts[task.agentID, default: [:]][task.state, default: 0] += 1
                if frameworksOn[task.agentID, default: []].last != framework.id {
                    frameworksOn[task.agentID, default: []].append(framework.id)
                }
            }
            var entry = summary(of: framework)
            add(counts, to: &entry)
            entry["slave_ids"] = .array(Set(all.map(\.agentID)).sorted().map { .string($0.value) })
            frameworks.append(entry)
        }
        result["slaves"] = .array(
            core.sortedAgents.map { agent in
                var entry = slave(agent, isFull: false)
                add(taskCounts[agent.id] ?? [:], to: &entry)
                entry["framework_ids"] = .array((frameworksOn[agent.id] ?? []).map { .string($0.value) })
                return entry
            })
        result["frameworks"] = .array(frameworks)
        return result
    }

    private func add(_ counts: [MesosTaskState: Int], to entry: inout JSONValue) {
        let states: [(String, MesosTaskState)] = [
            ("TASK_STAGING", .taskStaging), ("TASK_STARTING", .taskStarting), ("TASK_RUNNING", .taskRunning),
            ("TASK_KILLING", .taskKilling), ("TASK_FINISHED", .taskFinished), ("TASK_KILLED", .taskKilled),
            ("TASK_FAILED", .taskFailed), ("TASK_LOST", .taskLost), ("TASK_ERROR", .taskError),
            ("TASK_UNREACHABLE", .taskUnreachable),
        ]
        for (name, state) in states { entry[name] = .integer(Int64(counts[state] ?? 0)) }
    }

    // MARK: /slaves

    func slaves(only id: String?) -> JSONValue {
        let agents = core.sortedAgents.filter { id == nil || $0.id.value == id }
        let recovered = core.recoveredAgents.values.map(\.info).sorted { $0.id < $1.id }
        return [
            "slaves": .array(agents.map { slave($0, isFull: true) }),
            "recovered_slaves": .array(
                recovered.filter { id == nil || $0.id.value == id }.map { info in
                    [
                        "id": .string(info.id.value), "hostname": .string(info.hostname),
                        "port": .integer(Int64(info.port)), "attributes": attributes(info.attributes),
                        "resources": object(Resources(info.resources)),
                    ]
                }),
        ]
    }

    private func slave(_ agent: AgentRecord, isFull: Bool) -> JSONValue {
        let (offered, used) = core.use(of: agent.id)
        var result: JSONValue = [
            "id": .string(agent.id.value), "hostname": .string(agent.info.hostname),
            "port": .integer(Int64(agent.info.port)), "attributes": attributes(agent.info.attributes),
        ]
        if agent.info.hasDomain { result["domain"] = jsonEncode(agent.info.domain) }
        result["pid"] = .string(agent.pid)
        result["registered_time"] = .number(agent.registeredTime)
        if let time = agent.reregisteredTime { result["reregistered_time"] = .number(time) }
        result["resources"] = object(agent.total)
        result["used_resources"] = object(used)
        result["offered_resources"] = object(offered)
        var reserved = JSONValue.object([:])
        for role in Set(agent.total.reserved().list.compactMap(\.reservations.last?.role)).sorted() {
            reserved[role] = object(agent.total.reserved(to: role))
        }
        result["reserved_resources"] = reserved
        result["unreserved_resources"] = object(agent.total.unreserved)
        result["active"] = .bool(agent.isConnected && agent.isActive)
        result["deactivated"] = .bool(!agent.isActive)
        result["version"] = .string(agent.version)
        result["capabilities"] = .array(agent.capabilities.map { .string(jsonEncode($0)["type"]?.string ?? "") })
        guard isFull else { return result }
        var reservedFull = JSONValue.object([:])
        for role in Set(agent.total.reserved().list.compactMap(\.reservations.last?.role)).sorted() {
            reservedFull[role] = list(agent.total.reserved(to: role))
        }
        result["reserved_resources_full"] = reservedFull
        result["unreserved_resources_full"] = list(agent.total.unreserved)
        result["used_resources_full"] = list(used)
        result["offered_resources_full"] = list(offered)
        return result
    }

    private func attributes(_ attributes: [MesosAttribute]) -> JSONValue {
        var result = JSONValue.object([:])
        for attribute in attributes {
            switch attribute.type {
            case .scalar: result[attribute.name] = .number(attribute.scalar.value)
            case .ranges: result[attribute.name] = .string(IntegerRanges(attribute.ranges).description)
            case .set: result[attribute.name] = .string("{" + attribute.set.item.joined(separator: ", ") + "}")
            case .text: result[attribute.name] = .string(attribute.text.value)
            }
        }
        return result
    }

    // MARK: /frameworks

    func frameworks(only id: String?) -> JSONValue {
        let active = core.sortedFrameworks.filter { id == nil || $0.id.value == id }
        let completed = core.completedFrameworks.filter { id == nil || $0.id.value == id }
        return [
            "frameworks": .array(active.map(framework)),
            "completed_frameworks": .array(completed.map(framework)),
            "unregistered_frameworks": [],
        ]
    }

    private func summary(of framework: FrameworkRecord) -> JSONValue {
        let info = framework.info
        let (offered, used) = core.use(by: framework)
        return [
            "id": .string(framework.id.value), "name": .string(info.name),
            "used_resources": object(used), "offered_resources": object(offered),
            "capabilities": .array(info.capabilities.compactMap { jsonEncode($0)["type"] }),
            "hostname": .string(info.hostname), "webui_url": .string(info.webuiURL),
            "active": .bool(framework.isConnected), "connected": .bool(framework.isConnected),
            "recovered": .bool(framework.isRecovered),
        ]
    }

    private func framework(_ framework: FrameworkRecord) -> JSONValue {
        let info = framework.info
        let (offered, used) = core.use(by: framework)
        var result = summary(of: framework)
        result["user"] = .string(info.user)
        result["failover_timeout"] = .number(info.failoverTimeout)
        result["checkpoint"] = .bool(info.checkpoint)
        result["registered_time"] = .number(framework.registeredTime)
        result["unregistered_time"] = .number(framework.unregisteredTime ?? 0)
        if info.hasPrincipal { result["principal"] = .string(info.principal) }
        result["resources"] = object(used + offered)
        if let time = framework.reregisteredTime { result["reregistered_time"] = .number(time) }
        if info.has(.multiRole) {
            result["roles"] = .array(info.roles.map { .string($0) })
        } else {
            result["role"] = .string(info.role)
        }
        result["tasks"] = .array(framework.tasks.values.sorted { $0.taskID < $1.taskID }.map(task))
        result["unreachable_tasks"] = .array(
            framework.unreachableTasks.values.sorted { $0.taskID < $1.taskID }.map(task))
        result["completed_tasks"] = .array(framework.completedTasks.map(task))
        result["offers"] = .array(framework.offers.sorted().compactMap(offer))
        result["executors"] = .array(executors(of: framework))
        if info.hasLabels { result["labels"] = labels(info.labels) }
        return result
    }

    private func offer(_ id: MesosOfferID) -> JSONValue? {
        guard let offer = core.offers[id] else { return nil }
        return [
            "id": .string(id.value), "framework_id": .string(offer.framework.value),
            "allocation_info": ["role": .string(offer.role)], "slave_id": .string(offer.agent.value),
            "resources": object(offer.resources),
        ]
    }

    private func executors(of framework: FrameworkRecord) -> [JSONValue] {
        core.sortedAgents.flatMap { agent in
            agent.executors.sorted { $0.key < $1.key }.filter { $0.key.framework == framework.id }.map { _, info in
                var entry: JSONValue = [
                    "executor_id": .string(info.executorID.value), "name": .string(info.name),
                    "framework_id": .string(framework.id.value), "command": jsonEncode(info.command),
                    "resources": object(Resources(info.resources)), "slave_id": .string(agent.id.value),
                ]
                if info.hasType { entry["type"] = jsonEncode(info)["type"] }
                if info.hasLabels { entry["labels"] = labels(info.labels) }
                return entry
            }
        }
    }

    // MARK: /tasks

    func tasks(framework: String?, task id: String?, limit: Int?, offset: Int?, isAscending: Bool) -> JSONValue {
        var all: [MesosTask] = []
        for record in core.sortedFrameworks + core.completedFrameworks
        where framework == nil || record.id.value == framework {
            all += record.tasks.values.sorted { $0.taskID < $1.taskID }
            all += record.unreachableTasks.values.sorted { $0.taskID < $1.taskID }
            all += record.completedTasks
        }
        if let id { all = all.filter { $0.taskID.value == id } }
        let keyed = all.map { ($0, $0.statuses.first?.timestamp ?? 0) }
        var sorted = keyed.sorted { isAscending ? $0.1 < $1.1 : $0.1 > $1.1 }.map(\.0)[...]
        sorted = sorted.dropFirst(max(0, offset ?? 0))
        let limit = limit ?? 100
        if limit >= 0 { sorted = sorted.prefix(limit) }
        return ["tasks": .array(sorted.map(task))]
    }

    func task(_ task: MesosTask) -> JSONValue {
        var result: JSONValue = [
            "id": .string(task.taskID.value), "name": .string(task.name),
            "framework_id": .string(task.frameworkID.value),
            "executor_id": .string(task.hasExecutorID ? task.executorID.value : ""),
            "slave_id": .string(task.agentID.value), "state": jsonEncode(task)["state"] ?? .null,
            "resources": object(Resources(task.resources)),
        ]
        if !task.limits.isEmpty { result["limits"] = jsonEncode(task)["limits"] }
        if let role = task.resources.first?.allocationInfo.role { result["role"] = .string(role) }
        result["statuses"] = .array(task.statuses.map(status))
        if task.hasUser { result["user"] = .string(task.user) }
        if task.hasLabels { result["labels"] = labels(task.labels) }
        if task.hasDiscovery { result["discovery"] = jsonEncode(task.discovery) }
        if task.hasContainer { result["container"] = jsonEncode(task.container) }
        if task.hasHealthCheck { result["health_check"] = jsonEncode(task.healthCheck) }
        return result
    }

    private func status(_ status: MesosTaskStatus) -> JSONValue {
        var result: JSONValue = [
            "state": jsonEncode(status)["state"] ?? .null, "timestamp": .number(status.timestamp),
        ]
        if status.hasLabels { result["labels"] = labels(status.labels) }
        if status.hasContainerStatus { result["container_status"] = jsonEncode(status.containerStatus) }
        if status.hasHealthy { result["healthy"] = .bool(status.healthy) }
        return result
    }

    private func labels(_ labels: MesosLabels) -> JSONValue { .array(labels.labels.map(jsonEncode)) }

    // MARK: /roles, /weights

    var roles: JSONValue {
        [
            "roles": .array(
                core.rolesInUse.map { name, frameworks in
                    var offered = Resources()
                    var allocated = Resources()
                    for agent in core.sortedAgents {
                        let part = core.allocator.allocated(on: agent.id).reduce(into: Resources()) {
                            $0 += $1.resources.filter { $0.allocationInfo.role == name }
                        }
                        let offers = agent.offers.sorted().reduce(into: Resources()) { sum, id in
                            if let offer = core.offers[id], offer.role == name { sum += offer.resources }
                        }
                        offered += offers
                        allocated += part - offers
                    }
                    return [
                        "name": .string(name), "weight": .number(core.allocator.weight(of: name)),
                        "quota": ["role": .string(name), "guarantee": [:], "limit": [:], "consumed": [:]],
                        "resources": object(offered + allocated), "allocated": object(allocated),
                        "offered": object(offered), "reserved": [:],
                        "frameworks": .array(frameworks.map { .string($0.value) }),
                    ]
                })
        ]
    }

    var weights: JSONValue {
        .array(
            options.weights.sorted { $0.key < $1.key }.map { ["role": .string($0.key), "weight": .number($0.value)] })
    }

    // MARK: Resources

    /// Sums by name: the four well-known scalars always, ranges and sets as text.
    func object(_ resources: Resources) -> JSONValue {
        let firm = resources.nonRevocable
        var result: JSONValue = [
            "disk": .number(firm.disk), "mem": .number(firm.mem), "gpus": .number(firm.gpus),
            "cpus": .number(firm.cpus),
        ]
        for (suffix, part) in [("", firm), ("_revocable", resources.revocable)] {
            for name in part.names {
                let key = name + suffix
                if !part.ranges(name).isEmpty {
                    result[key] = .string(part.ranges(name).description)
                } else if !part.items(name).isEmpty {
                    result[key] = .string("{" + part.items(name).sorted().joined(separator: ", ") + "}")
                } else {
                    result[key] = .number(part.quantity(name).value)
                }
            }
        }
        return result
    }

    private func list(_ resources: Resources) -> JSONValue {
        .array(resources.list.map { jsonEncode(Resources.bothForms($0)) })
    }
}
