import Allocator
public import MesosAPI
public import Resources

/// The operator API's view of agents, frameworks and tasks.
extension MasterCore {
    /// Offered and used on an agent, in that order, with allocation_info.
    public func use(of agent: MesosAgentID) -> (offered: Resources, used: Resources) {
        let offered = (agents[agent]?.offers ?? []).sorted().reduce(into: Resources()) {
            $0 += offers[$1]?.resources ?? Resources()
        }
        let all = allocator.allocated(on: agent).reduce(into: Resources()) { $0 += $1.resources }
        return (offered, all - offered)
    }

    /// Offered to and used by a framework, in that order, with allocation_info.
    public func use(by framework: FrameworkRecord) -> (offered: Resources, used: Resources) {
        let offered = framework.offers.sorted().reduce(into: Resources()) {
            $0 += offers[$1]?.resources ?? Resources()
        }
        var used = Resources()
        for task in framework.tasks.values where !task.state.isTerminal { used += Resources(task.resources) }
        for agent in agents.keys.sorted() {
            for (key, executor) in agents[agent]?.executors ?? [:] where key.framework == framework.id {
                used += Resources(executor.resources)
            }
        }
        return (offered, used)
    }

    public func agentMessage(_ agent: AgentRecord) -> MasterResponse.GetAgents.Agent {
        var message = MasterResponse.GetAgents.Agent()
        let (offered, used) = use(of: agent.id)
        message.agentInfo = agent.info
        message.active = agent.isConnected && agent.isActive
        message.deactivated = !agent.isActive
        message.version = agent.version
        message.pid = agent.pid
        message.registeredTime = MasterCore.timeInfo(agent.registeredTime)
        if let time = agent.reregisteredTime { message.reregisteredTime = MasterCore.timeInfo(time) }
        message.totalResources = agent.total.list
        message.allocatedResources = used.list
        message.offeredResources = offered.list
        message.capabilities = agent.capabilities
        return message
    }

    public func frameworkMessage(_ framework: FrameworkRecord) -> MasterResponse.GetFrameworks.Framework {
        var message = MasterResponse.GetFrameworks.Framework()
        message.frameworkInfo = framework.info
        message.active = framework.isConnected
        message.connected = framework.isConnected
        message.recovered = framework.isRecovered
        message.registeredTime = MasterCore.timeInfo(framework.registeredTime)
        if let time = framework.reregisteredTime { message.reregisteredTime = MasterCore.timeInfo(time) }
        if let time = framework.unregisteredTime { message.unregisteredTime = MasterCore.timeInfo(time) }
        let (offered, used) = use(by: framework)
        message.allocatedResources = used.list
        message.offeredResources = offered.list
        message.offers = framework.offers.sorted().compactMap { id in
            guard let offer = offers[id], let agent = agents[offer.agent] else { return nil }
            return offerMessage(id, framework, agent, offer.role, offer.resources)
        }
        return message
    }

    public static func timeInfo(_ seconds: Double) -> MesosTimeInfo {
        var info = MesosTimeInfo()
        info.nanoseconds = Int64(seconds * 1e9)
        return info
    }
}
