import Base
import MasterCore
import MesosAPI
import Resources
import Testing

@Suite struct AgentTests {
    var master = Harness()

    @Test mutating func registrationIsWrittenFirst() {
        let agent = master.register()
        #expect(agent.id.value == "m-S0")
        let order = master.actions.compactMap { action in
            switch action {
            case .persist: "persist"
            case .message: "message"
            default: nil
            }
        }
        #expect(order == ["persist", "message"])
        #expect(master.register("h2").id.value == "m-S1")
    }

    @Test mutating func pingsKeepAnAgent() {
        let agent = master.register()
        master.pass(200, ponging: [agent.connection])
        #expect(master.core.agents[agent.id]?.isConnected == true)
        #expect(master.messages(agent.connection).filter { $0.ping.hasSequence }.count == 13)
    }

    @Test mutating func silentAgentsBecomeUnreachableAndMayComeBack() {
        let (framework, agent) = master.running()
        master.pass(80)
        #expect(master.core.agents[agent.id] == nil)
        #expect(master.core.unreachableAgents[agent.id] != nil)
        #expect(master.closed(agent.connection))
        let status = master.updates(framework.connection)[0]
        #expect(status.state == .taskUnreachable)
        #expect(status.reason == .agentRemoved)
        #expect(status.unreachableTime.nanoseconds > 0)
        #expect(master.events(framework.connection).contains { $0.type == .failure && $0.failure.agentID == agent.id })
        master.drain()
        let task = master.core.frameworks[framework.id]?.unreachableTasks[MesosTaskID("t")]
        var reported = task ?? MesosTask()
        reported.state = .taskRunning
        reported.statusUpdateState = .taskRunning
        let back = master.reregister(agent.id, tasks: [reported])
        #expect(master.core.agents[back.id]?.isConnected == true)
        #expect(master.updates(framework.connection).map(\.reason) == [.agentReregistered])
        #expect(master.updates(framework.connection).map(\.state) == [.taskRunning])
        #expect(master.core.frameworks[framework.id]?.unreachableTasks.isEmpty == true)
    }

    @Test mutating func othersLoseTheirTasks() {
        let (framework, _) = master.running(capabilities: [])
        master.pass(80)
        #expect(master.updates(framework.connection).map(\.state) == [.taskLost])
    }

    @Test mutating func aBrokenStreamRescindsOffers() {
        let agent = master.register()
        let framework = master.subscribe()
        let offer = master.offers(framework.connection)[0]
        master.apply(.agentGone(agent.connection))
        #expect(master.events(framework.connection).last?.rescind.offerID == offer.id)
        master.drain()
        let back = master.reregister(agent.id)
        #expect(master.offers(framework.connection).count == 1)
        #expect(master.messages(back.connection).first?.registered.agentID == agent.id)
    }

    @Test mutating func tasksTheAgentDoesNotKnowAreAskedFor() {
        let (framework, agent) = master.running()
        master.apply(.agentGone(agent.connection))
        let back = master.reregister(agent.id)
        let reconcile = master.messages(back.connection).map(\.reconcileTasks).first { !$0.tasks.isEmpty }
        #expect(reconcile?.tasks.map(\.taskID.value) == ["t"])
        #expect(reconcile?.tasks.first?.partitionAware == true)
        #expect(master.core.frameworks[framework.id]?.tasks.count == 1)
    }

    @Test mutating func goneAgentsAreRefused() {
        let (framework, agent) = master.running()
        #expect(master.apply(.markAgentGone(agent.id)) == nil)
        #expect(master.updates(framework.connection).map(\.state) == [.taskGoneByOperator])
        #expect(master.messages(agent.connection).contains { $0.shutdownAgent.hasMessage })
        let back = master.reregister(agent.id)
        #expect(master.messages(back.connection).last?.shutdownAgent.message == "Agent has been marked gone")
        #expect(master.apply(.markAgentGone(MesosAgentID("x")))?.status == 404)
    }

    @Test mutating func unregisteringLosesTasks() {
        let (framework, agent) = master.running()
        var message = ClusterAgentMessage()
        message.unregister.agentID = agent.id
        master.apply(.agent(message, agent.connection))
        #expect(master.updates(framework.connection).map(\.state) == [.taskLost])
        #expect(master.registry.last == .removeAgent(agent.id))
    }

    @Test mutating func messagesNeedARegisteredStream() {
        var message = ClusterAgentMessage()
        message.pong = .init()
        #expect(master.apply(.agent(message, ConnectionID("x")))?.status == 403)
    }

    @Test mutating func deactivatedAgentsGetNoOffers() {
        let agent = master.register()
        master.apply(.setAgentActive(agent.id, false))
        let framework = master.subscribe()
        #expect(master.offers(framework.connection).isEmpty)
        master.apply(.setAgentActive(agent.id, true))
        #expect(master.offers(framework.connection).count == 1)
    }

    /// A new master from the registry: the agent, its framework and its task go on.
    @Test mutating func restartedMasterKeepsTasks() throws {
        let (framework, agent) = master.running()
        let info = try #require(master.core.frameworks[framework.id]?.info)
        let task = try #require(master.core.frameworks[framework.id]?.tasks[MesosTaskID("t")])
        var next = Harness(
            agents: [RegistryAgent(info: Harness.agentInfo("h1", id: agent.id), state: .admitted, since: 0)],
            frameworks: [RegistryFramework(info: info, isRemoved: false, since: 0)], id: "n")
        #expect(next.core.recoveredAgents.keys.map(\.value) == [agent.id.value])
        let again = next.subscribe(id: framework.id.value, failover: 3600, capabilities: [.partitionAware])
        #expect(again.id == framework.id)
        // The agent may still know the task: no answer yet.
        next.call(again, .reconcile) { call in
            var asked = SchedulerCall.Reconcile.Task()
            asked.taskID = MesosTaskID("t")
            call.reconcile.tasks = [asked]
        }
        #expect(next.updates(again.connection).isEmpty)
        let back = next.reregister(agent.id, frameworks: [info], tasks: [task])
        #expect(next.messages(back.connection).first?.registered.agentID == agent.id)
        #expect(next.core.frameworks[framework.id]?.tasks[MesosTaskID("t")]?.state == .taskRunning)
        #expect(next.offers(again.connection).map { Resources($0.resources).cpus } == [3])
    }

    @Test mutating func agentsThatDoNotComeBackAreGivenUp() {
        var next = Harness(
            agents: [RegistryAgent(info: Harness.agentInfo("h1", id: MesosAgentID("a")), state: .admitted, since: 0)])
        next.pass(61)
        #expect(next.core.recoveredAgents.isEmpty)
        #expect(next.core.unreachableAgents.keys.map(\.value) == ["a"])
    }
}
