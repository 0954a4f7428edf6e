import Base
import MesosAPI
import Resources

/// What a framework must get right in the tasks it launches, and what the master fills in.
enum TaskValidation {
    /// The task with resources in the new form and allocated to the offer's role, and with what may be left out.
    static func completed(_ task: MesosTaskInfo, framework: MesosFrameworkID, role: String) -> MesosTaskInfo {
        var task = task
        task.resources = task.resources.map { allocated($0, role) }
        if task.hasExecutor { task.executor = completed(task.executor, framework: framework, role: role) }
        if task.hasHealthCheck, !task.healthCheck.hasType {
            if task.healthCheck.hasCommand { task.healthCheck.type = .command }
            if task.healthCheck.hasHTTP { task.healthCheck.type = .http }
        }
        return task
    }

    static func completed(
        _ executor: MesosExecutorInfo, framework: MesosFrameworkID, role: String
    ) -> MesosExecutorInfo {
        var executor = executor
        if !executor.hasFrameworkID { executor.frameworkID = framework }
        if !executor.hasType { executor.type = executor.hasCommand ? .custom : .default }
        executor.resources = executor.resources.map { allocated($0, role) }
        return executor
    }

    private static func allocated(_ resource: MesosResource, _ role: String) -> MesosResource {
        var resource = Resources.normalized(resource)
        if !resource.hasAllocationInfo { resource.allocationInfo.role = role }
        return resource
    }

    /// What is wrong with a task of LAUNCH; nil if nothing.
    static func fault(
        in task: MesosTaskInfo, framework: FrameworkRecord, agent: AgentRecord, remaining: Resources
    ) -> String? {
        if let fault = common(task, framework: framework, agent: agent) { return fault }
        if task.hasExecutor == task.hasCommand {
            return "Task should have at least one (but not both) of CommandInfo or ExecutorInfo present"
        }
        var needed = Resources(task.resources)
        if task.hasExecutor {
            if task.executor.type == .default {
                return "DEFAULT executor can only be used through LAUNCH_GROUP"
            }
            if !task.executor.hasCommand { return "'ExecutorInfo.command' must be set for 'CUSTOM' executor" }
            if let fault = faultOf(task.executor, framework: framework, agent: agent) { return fault }
            let key = ExecutorKey(framework: framework.id, executor: task.executor.executorID)
            if agent.executors[key] == nil { needed += Resources(task.executor.resources) }
        }
        if !remaining.contains(needed) {
            return "Task uses more resources \(needed) than available \(remaining)"
        }
        return nil
    }

    static func fault(
        inGroup tasks: [MesosTaskInfo], executor: MesosExecutorInfo, framework: FrameworkRecord, agent: AgentRecord,
        remaining: Resources
    ) -> String? {
        if tasks.isEmpty { return "Task group is empty" }
        if executor.type == .default {
            if executor.hasCommand { return "'ExecutorInfo.command' must not be set for 'DEFAULT' executor" }
            if executor.hasContainer, executor.container.type != .mesos {
                return "'ExecutorInfo.container.type' must be 'MESOS' for 'DEFAULT' executor"
            }
            if executor.container.mesos.hasImage {
                return "'ExecutorInfo.container.mesos.image' must not be set for 'DEFAULT' executor"
            }
        }
        if let fault = faultOf(executor, framework: framework, agent: agent) { return fault }
        var needed = Resources()
        let key = ExecutorKey(framework: framework.id, executor: executor.executorID)
        if agent.executors[key] == nil {
            let resources = Resources(executor.resources)
            if resources.quantity("cpus") < Quantity(0.01) || resources.quantity("mem") < Quantity(32) {
                return "Executor '\(executor.executorID)' uses less CPUs or memory than the minimum (0.01, 32 MB)"
            }
            needed += resources
        }
        var ids: Set<String> = []
        for task in tasks {
            if let fault = common(task, framework: framework, agent: agent) {
                return "Task '\(task.taskID)' is invalid: \(fault)"
            }
            if task.hasExecutor { return "'TaskInfo.executor' must not be set" }
            if task.container.type == .docker, task.hasContainer {
                return "Docker ContainerInfo is not supported on the task"
            }
            if !ids.insert(task.taskID.value).inserted { return "Task '\(task.taskID)' appears twice in the group" }
            needed += Resources(task.resources)
        }
        if !remaining.contains(needed) {
            return "Task group uses more resources \(needed) than available \(remaining)"
        }
        return nil
    }

    private static func common(
        _ task: MesosTaskInfo, framework: FrameworkRecord, agent: AgentRecord
    ) -> String? {
        if let fault = idFault(task.taskID.value) { return "Task ID is invalid: \(fault)" }
        if framework.tasks[task.taskID] != nil || framework.unreachableTasks[task.taskID] != nil {
            return "Task has duplicate ID: \(task.taskID)"
        }
        if task.agentID != agent.id {
            return "Task uses invalid agent \(task.agentID) while agent \(agent.id) is expected"
        }
        if task.resources.isEmpty { return "Task uses no resources" }
        if let fault = Resources.fault(in: task.resources) { return "Task uses invalid resources: \(fault)" }
        if let fault = faultOfUse(task.resources) { return "Task \(fault)" }
        if task.killPolicy.hasGracePeriod, task.killPolicy.gracePeriod.nanoseconds < 0 {
            return "Task's 'kill_policy.grace_period' must be non-negative"
        }
        if task.hasMaxCompletionTime, task.maxCompletionTime.nanoseconds < 0 {
            return "Task's 'max_completion_time' must be non-negative"
        }
        for (name, limit) in task.limits.sorted(by: { $0.key < $1.key }) {
            if name != "cpus", name != "mem" { return "Limits are not supported for \(name)" }
            if Quantity(limit.value) < Resources(task.resources).quantity(name) {
                return "The \(name) limit is less than the request"
            }
        }
        return nil
    }

    private static func faultOfUse(_ resources: [MesosResource]) -> String? {
        if Set(resources.map(\.allocationInfo.role)).count > 1 {
            return "uses resources that are allocated to different roles"
        }
        if Quantity(Resources(resources).gpus).thousandths % 1000 != 0 { return "uses a fraction of a GPU" }
        return nil
    }

    private static func faultOf(
        _ executor: MesosExecutorInfo, framework: FrameworkRecord, agent: AgentRecord
    ) -> String? {
        if let fault = idFault(executor.executorID.value) { return "Executor ID is invalid: \(fault)" }
        if executor.frameworkID != framework.id {
            return
                "ExecutorInfo has an invalid FrameworkID (Actual: \(executor.frameworkID) vs Expected: \(framework.id))"
        }
        if let fault = Resources.fault(in: executor.resources) { return "Executor uses invalid resources: \(fault)" }
        if let fault = faultOfUse(executor.resources) { return "Executor \(fault)" }
        let key = ExecutorKey(framework: framework.id, executor: executor.executorID)
        if let running = agent.executors[key], running != executor {
            return "ExecutorInfo is not compatible with existing ExecutorInfo with same ExecutorID"
        }
        return nil
    }
}
