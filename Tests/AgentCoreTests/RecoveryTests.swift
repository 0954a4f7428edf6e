import AgentCore
import Base
import MesosAPI
import OrderedCollections
import Testing

@Suite struct RecoveryTests {
    /// An agent that has run task t1 up to RUNNING acknowledged.
    private func running(_ framework: MesosFrameworkInfo = .test([.partitionAware])) -> (AgentFixture, String) {
        var agent = AgentFixture()
        agent.register()
        let first = agent.run(.command("t1"), framework: framework)
        agent.apply(.containerStarted(id: first.launches[0].container, ContainerReport(pid: 1)))
        _ = agent.acknowledgeAll(first)
        return (agent, first.launches[0].container)
    }

    @Test func runningTaskIsTakenOverWithoutAWord() {
        let (before, container) = running()
        var agent = AgentFixture(seed: 8)
        let wanted = agent.apply(.recovered(before.actions.recovered(.running(ContainerReport(pid: 1)))))
        #expect(wanted.contains { if case .adopt(let order) = $0 { order.container == container } else { false } })
        #expect(wanted.stops.isEmpty)
        guard case .reregister(let reregister)? = wanted.connections.first?.kind else {
            Issue.record("expected a re-registration")
            return
        }
        #expect(reregister.tasks.map(\.state) == [.taskRunning])
        #expect(agent.registered().updates.isEmpty)
        let end = agent.apply(.containerExited(id: container, .exited(status: 0)))
        #expect(end.updates.map(\.state) == [.taskFinished])
    }

    @Test func endDuringTheAgentsAbsenceIsTold() {
        let (before, _) = running()
        var agent = AgentFixture(seed: 8)
        agent.apply(.recovered(before.actions.recovered(.exited(.exited(status: 5)))))
        let seen = agent.acknowledgeAll(agent.registered())
        #expect(seen.map(\.state) == [.taskFailed])
        #expect(seen[0].message == "Command exited with status 5")
        #expect(agent.core.frameworks.isEmpty)
    }

    @Test func taskOfADeadMachineIsGone() {
        let (before, _) = running()
        var agent = AgentFixture(seed: 8)
        agent.apply(.recovered(before.actions.recovered(.exited(.unknown(message: "no process")))))
        let seen = agent.acknowledgeAll(agent.registered())
        #expect(seen.map(\.state) == [.taskGone])
        #expect(seen[0].reason == .executorReregistrationTimeout)
    }

    @Test func taskThatNeverCameUpIsDropped() {
        var before = AgentFixture()
        before.register()
        before.run(.command("t1"), framework: .test([.partitionAware]))
        var agent = AgentFixture(seed: 8)
        agent.apply(.recovered(before.actions.recovered(.neverStarted)))
        let seen = agent.acknowledgeAll(agent.registered())
        #expect(seen.map(\.state) == [.taskStarting, .taskDropped])
        #expect(seen[1].reason == .agentRestarted)
    }

    @Test func unacknowledgedUpdatesAreSentAgainWithTheirUUIDs() {
        var before = AgentFixture()
        before.register()
        let first = before.run(.command("t1"))
        before.apply(.containerStarted(id: first.launches[0].container, ContainerReport()))
        var agent = AgentFixture(seed: 8)
        agent.apply(.recovered(before.actions.recovered(.running(ContainerReport()))))
        let again = agent.registered()
        #expect(again.updates.map(\.uuid) == [first.updates[0].uuid])
        #expect(agent.acknowledgeAll(again).map(\.state) == [.taskStarting, .taskRunning])
    }

    /// The sequence of updates that the scheduler sees does not depend on where the agent was killed.
    @Test func killedAnywhereTheScheduleSeesTheSameStates() {
        let (before, container) = running()
        for count in 1...before.actions.count {
            let prefix = Array(before.actions.prefix(count))
            guard prefix.launches.count == 1,
                prefix.contains(where: { if case .checkpoint(.update) = $0 { true } else { false } })
            else { continue }
            var agent = AgentFixture(seed: 8)
            agent.apply(.recovered(prefix.recovered(.running(ContainerReport()))))
            var seen = prefix.updates.map(\.state)
            for status in agent.acknowledgeAll(agent.registered()) where seen.last != status.state {
                seen.append(status.state)
            }
            let end = agent.apply(.containerExited(id: container, .exited(status: 0)))
            for status in agent.acknowledgeAll(end) { seen.append(status.state) }
            #expect(seen == [.taskStarting, .taskRunning, .taskFinished], "killed after \(count) actions")
        }
    }

    @Test func customExecutorMustComeBack() {
        var before = AgentFixture()
        before.register()
        let first = before.run(.custom("t1", executor: "e1"), framework: .test([.partitionAware]))
        let container = first.launches[0].container
        let key = ExecutorKey(framework: "F", executor: "e1")
        before.apply(.containerStarted(id: container, ContainerReport()))
        before.apply(.executorSubscribed(key, .init()))

        var agent = AgentFixture(seed: 8)
        agent.apply(.recovered(before.actions.recovered(.running(ContainerReport()))))
        agent.registered()
        agent.now = agent.now + .seconds(2)
        #expect(agent.apply(.tick).stops.map(\.container) == [container])
        let end = agent.apply(.containerExited(id: container, .signaled(9)))
        #expect(end.updates.map(\.state) == [.taskGone])
        #expect(end.updates[0].reason == .executorReregistrationTimeout)
    }
}
