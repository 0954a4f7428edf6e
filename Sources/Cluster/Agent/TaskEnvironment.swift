import AgentCore
import Base
import MesosAPI

/// The variables that an executor or a task finds in its environment, as a Mesos agent sets them.
struct TaskEnvironment {
    let configuration: AgentConfiguration
    let port: Int

    func variables(for order: AgentCore.LaunchOrder, sandbox: String) -> [(name: String, value: String)] {
        let endpoint = "\(configuration.advertisedIP):\(port)"
        let checkpoint = order.framework.checkpoint
        var variables: [(name: String, value: String)] = [
            ("MESOS_FRAMEWORK_ID", order.framework.id.value),
            ("MESOS_EXECUTOR_ID", order.executor.executorID.value),
            ("MESOS_DIRECTORY", sandbox),
            ("MESOS_SANDBOX", sandbox),
            ("MESOS_SLAVE_ID", order.agentID),
            ("MESOS_AGENT_ID", order.agentID),
            ("MESOS_SLAVE_PID", "slave(1)@\(endpoint)"),
            ("MESOS_AGENT_ENDPOINT", endpoint),
            ("MESOS_CHECKPOINT", checkpoint ? "1" : "0"),
            ("MESOS_HTTP_COMMAND_EXECUTOR", "0"),
            (
                "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD",
                mesosDuration(
                    order.executor.hasShutdownGracePeriod
                        ? .nanoseconds(order.executor.shutdownGracePeriod.nanoseconds)
                        : configuration.executorShutdownGracePeriod)
            ),
            ("LIBPROCESS_PORT", "0"),
            ("LIBPROCESS_IP", configuration.advertisedIP),
        ]
        if checkpoint {
            variables.append(("MESOS_RECOVERY_TIMEOUT", "15mins"))
            variables.append(("MESOS_SUBSCRIPTION_BACKOFF_MAX", "2secs"))
        }
        if let role = order.task?.resources.first(where: { $0.hasAllocationInfo })?.allocationInfo.role {
            variables.append(("MESOS_ALLOCATION_ROLE", role))
        }
        if let task = order.task {
            variables.append(("MESOS_TASK_ID", task.taskID.value))
            variables.append(("MESOS_CONTAINER_ID", order.container))
        }
        variables += configuration.executorEnvironment
        for variable in command(of: order).environment.variables where variable.type != .secret {
            variables.append((variable.name, variable.value))
        }
        return variables
    }

    private func command(of order: AgentCore.LaunchOrder) -> MesosCommandInfo {
        order.task?.command ?? order.executor.command
    }
}

/// `duration` in the notation of Mesos' flags and variables (`5secs`).
func mesosDuration(_ duration: Duration) -> String {
    let nanoseconds = duration.wholeNanoseconds
    let units: [(Int64, String)] = [
        (604_800_000_000_000, "weeks"), (86_400_000_000_000, "days"), (3_600_000_000_000, "hrs"),
        (60_000_000_000, "mins"), (1_000_000_000, "secs"), (1_000_000, "ms"), (1_000, "us"),
    ]
    for (unit, name) in units where nanoseconds >= unit && nanoseconds % unit == 0 {
        return "\(nanoseconds / unit)\(name)"
    }
    return "\(nanoseconds)ns"
}
