import Base
import MasterCore
import MesosAPI
import Resources
import Testing

/// What a new leader knows, and what an old one must not do before the registry has it.
@Suite struct FailoverTests {
    var master = Harness()

    private static func agent(_ id: String, isDeactivated: Bool = false) -> RegistryAgent {
        RegistryAgent(
            info: Harness.agentInfo(id, id: MesosAgentID(id)), state: .admitted, since: 0, isDeactivated: isDeactivated)
    }

    private func framework(_ id: String, failover: Double) -> RegistryFramework {
        var info = MesosFrameworkInfo()
        info.user = "u"
        info.name = "f"
        info.id = MesosFrameworkID(id)
        info.failoverTimeout = failover
        return RegistryFramework(info: info, isRemoved: false, since: 0)
    }

    private mutating func ask(
        _ framework: (id: MesosFrameworkID, connection: ConnectionID), _ task: String, agent: MesosAgentID? = nil
    ) -> [MesosTaskState] {
        master.drain()
        master.call(framework, .reconcile) { call in
            var asked = SchedulerCall.Reconcile.Task()
            asked.taskID = MesosTaskID(task)
            if let agent { asked.agentID = agent }
            call.reconcile.tasks = [asked]
        }
        return master.updates(framework.connection).map(\.state)
    }

    // MARK: Not before it is written

    @Test mutating func aFrameworkEndsWhenTheRegistryHasIt() {
        let (framework, agent) = master.running()
        master.holdsWrites = true
        master.apply(.teardown(framework.id))
        #expect(!master.messages(agent.connection).contains { $0.shutdownFramework.hasFrameworkID })
        #expect(master.core.frameworks[framework.id]?.tasks.count == 1)
        #expect(master.call(framework, .revive)?.status == 400)
        let again = master.subscribe(id: framework.id.value)
        #expect(master.events(again.connection).first?.error.message == "Framework has been removed")
        master.persist()
        #expect(master.messages(agent.connection).contains { $0.shutdownFramework.frameworkID == framework.id })
        #expect(master.core.frameworks[framework.id] == nil)
        #expect(master.core.completedFrameworks.map(\.id) == [framework.id])
    }

    @Test mutating func anAgentIsRemovedWhenTheRegistryHasIt() {
        let (framework, agent) = master.running()
        master.holdsWrites = true
        var message = ClusterAgentMessage()
        message.unregister.agentID = agent.id
        master.apply(.agent(message, agent.connection))
        #expect(master.updates(framework.connection).isEmpty)
        master.persist()
        #expect(master.updates(framework.connection).map(\.state) == [.taskLost])
    }

    // MARK: Frameworks

    @Test mutating func frameworksHaveAsLongAsAgentsToComeBack() {
        master = Harness(frameworks: [framework("short", failover: 0), framework("long", failover: 100)])
        master.pass(59)
        #expect(master.core.frameworks.count == 2)
        master.pass(2)
        #expect(master.core.frameworks.keys.map(\.value) == ["long"])
        master.pass(40)
        #expect(master.core.frameworks.isEmpty)
        #expect(master.core.completedFrameworks.count == 2)
    }

    @Test mutating func aFrameworkThatCameBackIsKept() {
        master = Harness(frameworks: [framework("f", failover: 10)])
        _ = master.subscribe(id: "f", failover: 10)
        master.pass(100)
        #expect(master.core.frameworks.count == 1)
    }

    @Test mutating func aFrameworkKnownOnlyFromAnAgentIsKeptForItsTime() throws {
        let (framework, agent) = master.running(failover: 0)
        let info = try #require(master.core.frameworks[framework.id]?.info)
        let task = try #require(master.core.frameworks[framework.id]?.tasks[MesosTaskID("t")])
        master = Harness(id: "n")
        let back = master.reregister(agent.id, frameworks: [info], tasks: [task])
        master.pass(59, ponging: [back.connection])
        #expect(master.core.frameworks[framework.id]?.tasks.count == 1)
        master.pass(2, ponging: [back.connection])
        #expect(master.messages(back.connection).contains { $0.shutdownFramework.frameworkID == framework.id })
    }

    // MARK: Reconciliation

    @Test mutating func aTaskIsNotGivenUpWhileItsAgentArrives() throws {
        let (framework, agent) = master.running()
        let info = try #require(master.core.frameworks[framework.id]?.info)
        let task = try #require(master.core.frameworks[framework.id]?.tasks[MesosTaskID("t")])
        // The registry does not know the agent: it must be written before it counts.
        master = Harness(id: "n")
        let again = master.subscribe(id: framework.id.value, failover: 3600, capabilities: [.partitionAware])
        #expect(ask(again, "t", agent: agent.id) == [.taskUnknown])
        master.holdsWrites = true
        _ = master.reregister(agent.id, frameworks: [info], tasks: [task])
        #expect(ask(again, "t", agent: agent.id).isEmpty)
        #expect(ask(again, "t").isEmpty)
        master.persist()
        #expect(ask(again, "t", agent: agent.id) == [.taskRunning])
    }

    @Test mutating func anAgentThatIsGivenUpMayComeBackOnlyAfterwards() {
        master = Harness(agents: [Self.agent("a")])
        let framework = master.subscribe(capabilities: [.partitionAware])
        master.holdsWrites = true
        master.pass(61)
        let early = master.reregister(MesosAgentID("a"), "a")
        #expect(master.closed(early.connection))
        #expect(master.core.agents.isEmpty)
        #expect(ask(framework, "t", agent: early.id).isEmpty)
        master.persist()
        #expect(master.events(framework.connection).contains { $0.failure.agentID == early.id })
        #expect(ask(framework, "t", agent: early.id) == [.taskUnreachable])
        let back = master.reregister(MesosAgentID("a"), "a")
        #expect(master.core.agents[back.id]?.isConnected == true)
        #expect(ask(framework, "t", agent: early.id) == [.taskGone])
    }

    @Test mutating func aKillAndAnAcknowledgementGoThroughTheNewLeader() throws {
        let (framework, agent) = master.running()
        let info = try #require(master.core.frameworks[framework.id]?.info)
        var task = try #require(master.core.frameworks[framework.id]?.tasks[MesosTaskID("t")])
        master = Harness(
            agents: [
                RegistryAgent(info: Harness.agentInfo("h1", id: agent.id), state: .admitted, since: 0)
            ], frameworks: [RegistryFramework(info: info, isRemoved: false, since: 0)], id: "n")
        let again = master.subscribe(id: framework.id.value, failover: 3600, capabilities: [.partitionAware])
        master.call(again, .kill) { $0.kill.taskID = MesosTaskID("t") }
        #expect(master.updates(again.connection).isEmpty)
        // The task ended while nobody led; its last update was not acknowledged.
        task.state = .taskFinished
        let back = master.reregister(agent.id, frameworks: [info], tasks: [task])
        master.call(again, .kill) { $0.kill.taskID = MesosTaskID("t") }
        #expect(master.messages(back.connection).contains { $0.killTask.taskID.value == "t" })
        master.update(framework.id, back, "t", .taskFinished)
        #expect(master.updates(again.connection).map(\.state) == [.taskFinished])
        master.acknowledge(again, agent.id, "t")
        #expect(master.messages(back.connection).last?.statusUpdateAcknowledgement.uuid == Harness.uuid)
        #expect(master.core.frameworks[framework.id]?.tasks.isEmpty == true)
        #expect(master.core.taken(agent.id).isEmpty || master.core.frameworks[framework.id]?.offers.isEmpty == false)
    }

    // MARK: Agents

    @Test mutating func deactivationOutlivesTheLeader() {
        let agent = master.register()
        master.apply(.setAgentActive(agent.id, false))
        guard case .agent(let entry)? = master.registry.last else {
            Issue.record("nothing was written")
            return
        }
        #expect(entry.isDeactivated)
        master = Harness(agents: [entry], id: "n")
        let framework = master.subscribe()
        _ = master.reregister(agent.id)
        #expect(master.offers(framework.connection).isEmpty)
        #expect(master.apply(.setAgentActive(agent.id, true)) == nil)
        #expect(master.offers(framework.connection).count == 1)
        #expect(master.apply(.setAgentActive(agent.id, true))?.status == 400)
    }

    @Test mutating func tooManyMissingAgentsAreTheMastersFault() {
        master = Harness(agents: ["a", "b", "c"].map { Self.agent($0) }) { $0.recoveryAgentRemovalLimit = 0.5 }
        _ = master.reregister(MesosAgentID("a"), "a")
        master.drain()
        master.pass(61)
        #expect(master.actions.contains { if case .stepDown = $0 { true } else { false } })
        #expect(master.core.unreachableAgents.isEmpty)
    }

    @Test mutating func removalsAreLimitedInTime() {
        master = Harness(agents: ["a", "b", "c"].map { Self.agent($0) }) { $0.agentRemovalInterval = .seconds(10) }
        master.pass(60)
        #expect(master.core.unreachableAgents.count == 1)
        master.pass(9)
        #expect(master.core.unreachableAgents.count == 1)
        _ = master.reregister(MesosAgentID("b"), "b")
        master.pass(1)
        #expect(master.core.unreachableAgents.keys.map(\.value).sorted() == ["a", "c"])
    }

    @Test mutating func theRegistryForgetsTheOldestAgents() {
        let info = { Harness.agentInfo($0, id: MesosAgentID($0)) }
        master = Harness(agents: [
            RegistryAgent(info: info("old"), state: .gone, since: 0),
            RegistryAgent(info: info("older"), state: .unreachable, since: 1_000_000 - 15 * 86400),
            RegistryAgent(info: info("new"), state: .unreachable, since: 999_999),
        ]) { $0.registryCollectionInterval = .seconds(5) }
        master.pass(4)
        #expect(master.registry.isEmpty)
        master.pass(1)
        #expect(master.core.unreachableAgents.keys.map(\.value) == ["new"])
        // A million seconds after its beginning the world is not two weeks old.
        #expect(master.core.goneAgents.count == 1)
        #expect(master.registry == [.removeAgent(MesosAgentID("older"))])
    }
}
