import Allocator
import Base
import MasterCore
import MesosAPI
import OrderedCollections
import Resources

/// When a master began and was elected, in seconds since the epoch.
struct MasterTimes: Sendable {
    var start: Double
    var elected: Double?
}

/// Answers of the v1 operator API from a state of the core.
struct OperatorViews {
    let core: MasterCore

    var state: MasterResponse.GetState {
        var state = MasterResponse.GetState()
        state.getTasks = tasks
        state.getExecutors = executors
        state.getFrameworks = frameworks
        state.getAgents = agents
        return state
    }

    var tasks: MasterResponse.GetTasks {
        var answer = MasterResponse.GetTasks()
        for framework in core.sortedFrameworks {
            answer.tasks += framework.tasks.values.sorted { $0.taskID < $1.taskID }
            answer.unreachableTasks += framework.unreachableTasks.values.sorted { $0.taskID < $1.taskID }
            answer.completedTasks += framework.completedTasks
        }
        for framework in core.completedFrameworks { answer.completedTasks += framework.completedTasks }
        return answer
    }

    var executors: MasterResponse.GetExecutors {
        var answer = MasterResponse.GetExecutors()
        for agent in core.sortedAgents {
            for (_, info) in agent.executors.sorted(by: { $0.key < $1.key }) {
                var executor = MasterResponse.GetExecutors.Executor()
                executor.executorInfo = info
                executor.agentID = agent.id
                answer.executors.append(executor)
            }
        }
        return answer
    }

    var frameworks: MasterResponse.GetFrameworks {
        var answer = MasterResponse.GetFrameworks()
        answer.frameworks = core.sortedFrameworks.map(core.frameworkMessage)
        answer.completedFrameworks = core.completedFrameworks.map(core.frameworkMessage)
        return answer
    }

    var agents: MasterResponse.GetAgents {
        var answer = MasterResponse.GetAgents()
        answer.agents = core.sortedAgents.map(core.agentMessage)
        answer.recoveredAgents = core.recoveredAgents.values.map(\.info).sorted { $0.id < $1.id }
        return answer
    }

    var roles: MasterResponse.GetRoles {
        var answer = MasterResponse.GetRoles()
        for (name, frameworks) in core.rolesInUse {
            var role = MesosRole()
            role.name = name
            role.weight = core.allocator.weight(of: name)
            role.frameworks = frameworks
            var resources = Resources()
            for agent in core.sortedAgents {
                for (_, allocated) in core.allocator.allocated(on: agent.id) {
                    resources += allocated.filter { $0.allocationInfo.role == name }
                }
            }
            role.resources = resources.list
            answer.roles.append(role)
        }
        return answer
    }

    /// The answer of a reader; nil for a call that is none.
    func answer(
        _ type: MasterCall.TypeEnum, configuration: MasterConfiguration, service times: MasterTimes
    ) -> MasterResponse? {
        var response = MasterResponse()
        switch type {
        case .getHealth:
            response.type = .getHealth
            response.getHealth.healthy = true
        case .getFlags:
            response.type = .getFlags
            response.getFlags.flags = flagMessages(configuration)
        case .getVersion:
            response.type = .getVersion
            response.getVersion.versionInfo.version = MasterConfiguration.version
        case .getMetrics:
            response.type = .getMetrics
            let views = StateViews(core: core, configuration: configuration, times: times)
            response.getMetrics.metrics = metricMessages(views)
        case .getLoggingLevel:
            response.type = .getLoggingLevel
            response.getLoggingLevel.level = 0
        case .getState:
            response.type = .getState
            response.getState = state
        case .getAgents:
            response.type = .getAgents
            response.getAgents = agents
        case .getFrameworks:
            response.type = .getFrameworks
            response.getFrameworks = frameworks
        case .getExecutors:
            response.type = .getExecutors
            response.getExecutors = executors
        case .getOperations:
            response.type = .getOperations
            response.getOperations = .init()
        case .getTasks:
            response.type = .getTasks
            response.getTasks = tasks
        case .getRoles:
            response.type = .getRoles
            response.getRoles = roles
        case .getWeights:
            response.type = .getWeights
            response.getWeights.weightInfos = core.options.weights.sorted { $0.key < $1.key }.map { role, weight in
                var info = MesosWeightInfo()
                info.role = role
                info.weight = weight
                return info
            }
        case .getMaster:
            response.type = .getMaster
            response.getMaster.masterInfo = core.options.info
            response.getMaster.startTime = times.start
            if let elected = times.elected { response.getMaster.electedTime = elected }
        case .getMaintenanceStatus:
            response.type = .getMaintenanceStatus
            response.getMaintenanceStatus.status = .init()
        case .getMaintenanceSchedule:
            response.type = .getMaintenanceSchedule
            response.getMaintenanceSchedule.schedule = .init()
        case .getQuota:
            response.type = .getQuota
            response.getQuota.status = .init()
        case .unknown, .setLoggingLevel, .listFiles, .readFile, .updateWeights, .subscribe, .reserveResources,
            .unreserveResources, .createVolumes, .destroyVolumes, .growVolume, .shrinkVolume,
            .updateMaintenanceSchedule, .startMaintenance, .stopMaintenance, .drainAgent, .deactivateAgent,
            .reactivateAgent, .updateQuota, .setQuota, .removeQuota, .teardown, .markAgentGone:
            return nil
        }
        return response
    }

    private func flagMessages(_ configuration: MasterConfiguration) -> [MesosFlag] {
        configuration.flags.map { flag in
            var message = MesosFlag()
            message.name = flag.name
            message.value = flag.value
            return message
        }
    }

    private func metricMessages(_ views: StateViews) -> [MesosMetric] {
        (views.metrics(isLeading: true).object ?? [:]).map { name, value in
            var metric = MesosMetric()
            metric.name = name
            metric.value = value.double ?? 0
            return metric
        }
    }
}

extension MasterCore {
    var sortedFrameworks: [FrameworkRecord] { frameworks.values.sorted { $0.id < $1.id } }
    var sortedAgents: [AgentRecord] { agents.values.sorted { $0.id < $1.id } }

    /// Roles with frameworks or weights, sorted, with their frameworks.
    var rolesInUse: [(name: String, frameworks: [MesosFrameworkID])] {
        var byRole: [String: [MesosFrameworkID]] = ["*": []]
        for role in options.weights.keys { byRole[role] = [] }
        for framework in sortedFrameworks {
            for role in Set(framework.info.subscribedRoles) { byRole[role, default: []].append(framework.id) }
        }
        return byRole.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
    }
}
