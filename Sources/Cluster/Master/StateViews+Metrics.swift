import Allocator
import Base
import MasterCore
import MesosAPI
import OrderedCollections
import Resources

extension StateViews {
    /// `/metrics/snapshot`: flat names and numbers, as Mesos' tools read them.
    func metrics(isLeading: Bool) -> JSONValue {
        var result: [(String, Double)] = []
        let agents = core.sortedAgents
        let frameworks = core.sortedFrameworks
        let now = core.epochSeconds
        result.append(("master/elected", isLeading ? 1 : 0))
        result.append(("master/uptime_secs", max(0, now - times.start)))
        let connectedFrameworks = Double(frameworks.count(where: \.isConnected))
        result.append(("master/frameworks_connected", connectedFrameworks))
        result.append(("master/frameworks_disconnected", Double(frameworks.count) - connectedFrameworks))
        result.append(("master/frameworks_active", connectedFrameworks))
        result.append(("master/frameworks_inactive", Double(frameworks.count) - connectedFrameworks))
        let connected = Double(agents.count(where: \.isConnected))
        let active = Double(agents.count { $0.isConnected && $0.isActive })
        result.append(("master/slaves_connected", connected))
        result.append(("master/slaves_disconnected", Double(agents.count) - connected))
        result.append(("master/slaves_active", active))
        result.append(("master/slaves_inactive", Double(agents.count) - active))
        result.append(("master/slaves_unreachable", Double(core.unreachableAgents.count)))
        result.append(("master/outstanding_offers", Double(core.offers.count)))
        var states: [MesosTaskState: Int] = [:]
        for framework in frameworks {
            for task in framework.tasks.values where !task.state.isTerminal { states[task.state, default: 0] += 1 }
            states[.taskUnreachable, default: 0] += framework.unreachableTasks.count
        }
        let gauges: [(String, MesosTaskState)] = [
            ("staging", .taskStaging), ("starting", .taskStarting), ("running", .taskRunning),
            ("killing", .taskKilling), ("unreachable", .taskUnreachable),
        ]
        for (name, state) in gauges { result.append(("master/tasks_\(name)", Double(states[state] ?? 0))) }
        var total = Resources()
        var used = Resources()
        for agent in agents where agent.isConnected {
            total += agent.total.flattened
            used += core.use(of: agent.id).used.flattened
        }
        for name in ["cpus", "mem", "disk", "gpus"] {
            let all = total.nonRevocable.quantity(name).value
            let taken = used.nonRevocable.quantity(name).value
            result.append(("master/\(name)_total", all))
            result.append(("master/\(name)_used", taken))
            result.append(("master/\(name)_percent", all > 0 ? taken / all : 0))
        }
        let gaugeNames = Set(result.map(\.0))
        for name in StateViews.counters where core.counters[name] == nil { result.append(("master/\(name)", 0)) }
        for (name, count) in core.counters.sorted(by: { $0.key < $1.key }) where !gaugeNames.contains("master/\(name)")
        {
            result.append(("master/\(name)", Double(count)))
        }
        for (role, _) in core.rolesInUse {
            result.append(("allocator/mesos/roles/\(role)/shares/dominant", core.allocator.dominantShare(ofRole: role)))
            result.append(
                ("allocator/mesos/offer_filters/roles/\(role)/active", Double(core.allocator.filterCount(ofRole: role)))
            )
        }
        return .object(JSONValue.Object(result.map { ($0.0, JSONValue.number($0.1)) }) { _, last in last })
    }

    /// Counters that tools expect to see also while they are zero.
    private static let counters = [
        "tasks_finished", "tasks_failed", "tasks_killed", "tasks_lost", "tasks_error", "tasks_dropped", "tasks_gone",
        "tasks_gone_by_operator", "slave_registrations", "slave_reregistrations", "slave_removals",
        "slave_unreachable_completed", "recovery_slave_removals", "valid_status_updates", "invalid_status_updates",
        "dropped_messages", "messages_kill_task", "messages_decline_offers", "messages_revive_offers",
        "messages_suppress_offers", "messages_reconcile_tasks", "messages_status_update",
        "messages_status_update_acknowledgement",
    ]
}
