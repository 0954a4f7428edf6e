import AgentCore
import Base
import MesosAPI
import OrderedCollections
import Testing

@Suite struct LinkTests {
    @Test func updatesAreRepeatedWithGrowingPauses() {
        var quiet = AgentFixture()
        quiet.register()
        quiet.run(.command("t1"))
        quiet.now = quiet.now + .seconds(9)
        #expect(quiet.apply(.tick).updates.isEmpty)
        quiet.now = quiet.now + .seconds(1)
        #expect(quiet.apply(.tick).updates.count == 1)
        quiet.now = quiet.now + .seconds(19)
        #expect(quiet.apply(.tick).updates.isEmpty)
        quiet.now = quiet.now + .seconds(1)
        #expect(quiet.apply(.tick).updates.count == 1)
    }

    @Test func updatesWaitWhileTheMasterIsAway() {
        var agent = AgentFixture()
        agent.register()
        let first = agent.run(.command("t1"))
        agent.apply(.masterLost)
        let container = first.launches[0].container
        #expect(agent.apply(.containerStarted(id: container, ContainerReport())).updates.isEmpty)
        #expect(agent.apply(.containerExited(id: container, .exited(status: 0))).updates.isEmpty)
        let message = agent.apply(.tick).connections.first
        guard case .reregister(let reregister)? = message?.kind else {
            Issue.record("expected a re-registration, got \(String(describing: message))")
            return
        }
        #expect(reregister.agentInfo.id.value == "S0")
        #expect(reregister.tasks.map(\.state) == [.taskFinished])
        #expect(reregister.tasks[0].statusUpdateState == .taskStarting)
        let seen = agent.acknowledgeAll(agent.registered())
        #expect(seen.map(\.state) == [.taskStarting, .taskRunning, .taskFinished])
    }

    @Test func lateAcknowledgementsAreIgnored() {
        var agent = AgentFixture()
        agent.register()
        let first = agent.run(.command("t1"))
        agent.apply(.containerStarted(id: first.launches[0].container, ContainerReport()))
        #expect(agent.acknowledge(first.updates[0]).updates.count == 1)
        #expect(agent.acknowledge(first.updates[0]).isEmpty)
    }

    @Test func silenceOfTheMasterBreaksTheLink() {
        var agent = AgentFixture()
        agent.register()
        agent.now = agent.now + .seconds(74)
        #expect(agent.apply(.tick).isEmpty)
        agent.now = agent.now + .seconds(1)
        let wanted = agent.apply(.tick)
        #expect(wanted.contains { if case .disconnect = $0 { true } else { false } })
        #expect(!agent.core.isRegistered)
    }

    @Test func pingIsAnswered() {
        var agent = AgentFixture()
        agent.register()
        var ping = ClusterMasterMessage.Ping()
        ping.sequence = 9
        let wanted = agent.master(.ping(ping))
        guard case .send(let message)? = wanted.first, case .pong(let pong)? = message.kind else {
            Issue.record("expected a pong")
            return
        }
        #expect(pong.sequence == 9)
    }

    @Test func failedRegistrationsBackOff() {
        var agent = AgentFixture()
        agent.apply(.recovered(RecoveredState()))
        #expect(agent.actions.connections.count == 1)
        var attempts = 0
        for _ in 0..<20 {
            agent.apply(.masterLost)
            let deadline = agent.core.nextDeadline
            #expect(deadline != nil)
            #expect((deadline ?? .zero) - agent.now <= .seconds(60))
            agent.now = max(agent.now, deadline ?? agent.now)
            attempts += agent.apply(.tick).connections.count
        }
        #expect(attempts == 20)
    }

    /// The same master may be elected again, of which nobody tells the agent.
    @Test func pausesStayShortWhileNobodyLeads() {
        var agent = AgentFixture()
        agent.register()
        for _ in 0..<10 {
            agent.apply(.masterLost)
            agent.now = agent.now + .seconds(61)
            agent.apply(.tick)
        }
        for _ in 0..<20 {
            agent.apply(.masterUndecided)
            let deadline = agent.core.nextDeadline ?? .zero
            #expect(deadline - agent.now <= .seconds(1))
            agent.now = max(agent.now, deadline)
            #expect(agent.apply(.tick).connections.count == 1)
        }
    }

    @Test func tasksTheMasterMissesAreAnsweredUnlessKnown() {
        var agent = AgentFixture()
        agent.register()
        agent.run(.command("t1"))
        var reconcile = ClusterMasterMessage.ReconcileTasks()
        for (id, isAware) in [("t1", true), ("lost", false), ("dropped", true)] {
            var task = ClusterMasterMessage.ReconcileTasks.Task()
            task.frameworkID.value = "F"
            task.taskID.value = id
            task.partitionAware = isAware
            reconcile.tasks.append(task)
        }
        let updates = agent.master(.reconcileTasks(reconcile)).updates
        #expect(updates.map(\.taskID.value) == ["lost", "dropped"])
        #expect(updates.map(\.state) == [.taskLost, .taskDropped])
        #expect(updates.allSatisfy { $0.reason == .reconciliation })
    }

    /// After many failures the pause is long; a new leader ends it.
    @Test func aNewLeaderIsTriedAtOnce() {
        var agent = AgentFixture()
        agent.register()
        let launched = agent.run(.command("t1"))
        for _ in 0..<10 {
            agent.apply(.masterLost)
            agent.now = agent.now + .seconds(61)
            #expect(agent.apply(.tick).connections.count == 1)
        }
        agent.apply(.masterLost)
        #expect(agent.apply(.masterFound).connections.count == 1)
        #expect(agent.apply(.masterFound).connections.isEmpty)
        let seen = agent.registered().updates.map(\.uuid)
        #expect(seen == [launched.updates[0].uuid])
        #expect(agent.apply(.masterFound).connections.isEmpty)
        #expect(agent.core.isRegistered)
    }
}
