import AgentCore
import Base
import MesosAPI
import OrderedCollections
import Testing

@Suite struct ExecutorTests {
    private let key = ExecutorKey(framework: "F", executor: "e1")

    private func call(_ type: ExecutorCall.TypeEnum) -> ExecutorCall {
        var call = ExecutorCall()
        call.type = type
        call.frameworkID.value = "F"
        call.executorID.value = "e1"
        return call
    }

    private func status(_ task: String, _ state: MesosTaskState, uuid: UInt8) -> MesosTaskStatus {
        var status = MesosTaskStatus()
        status.taskID.value = task
        status.state = state
        status.source = .executor
        status.uuidBytes = [UInt8](repeating: uuid, count: 16)
        return status
    }

    @Test func tasksAreDeliveredOnceTheExecutorSubscribes() {
        var agent = AgentFixture()
        agent.register()
        let first = agent.run(.custom("t1", executor: "e1"))
        #expect(first.launches.count == 1)
        #expect(first.updates.isEmpty)
        agent.apply(.containerStarted(id: first.launches[0].container, ContainerReport()))
        // A second task goes to the same executor.
        #expect(agent.run(.custom("t2", executor: "e1")).launches.isEmpty)
        let events = agent.apply(.executorSubscribed(key, .init())).events
        #expect(events.map(\.type) == [.subscribed, .launch, .launch])
        #expect(events[0].subscribed.executorInfo.frameworkID.value == "F")
        #expect(agent.run(.custom("t3", executor: "e1")).events.map(\.type) == [.launch])
    }

    @Test func updatesAreAcknowledgedToTheExecutorAndForwardedOnce() throws {
        var agent = AgentFixture()
        agent.register()
        let first = agent.run(.custom("t1", executor: "e1"))
        agent.apply(.containerStarted(id: first.launches[0].container, ContainerReport()))
        agent.apply(.executorSubscribed(key, .init()))
        var update = call(.update)
        update.update.status = status("t1", .taskRunning, uuid: 1)
        #expect(try agent.core.validate(update) == key)
        let wanted = agent.apply(.executorUpdate(key, update.update.status))
        #expect(wanted.updates.map(\.state) == [.taskRunning])
        #expect(wanted.updates[0].agentID.value == "S0")
        #expect(wanted.events.map(\.type) == [.acknowledged])
        let repeated = agent.apply(.executorUpdate(key, update.update.status))
        #expect(repeated.updates.isEmpty)
        #expect(repeated.events.map(\.type) == [.acknowledged])
    }

    @Test func badCallsAreRefused() {
        var agent = AgentFixture()
        #expect(throws: ExecutorRefusal.recovering) { try agent.core.validate(call(.subscribe)) }
        agent.register()
        #expect(throws: ExecutorRefusal.unknownFramework) { try agent.core.validate(call(.subscribe)) }
        agent.run(.custom("t1", executor: "e1"))
        #expect(throws: ExecutorRefusal.notSubscribed) { try agent.core.validate(call(.update)) }
        agent.apply(.executorSubscribed(key, .init()))
        var update = call(.update)
        update.update.status = status("t1", .taskStaging, uuid: 1)
        #expect(throws: ExecutorRefusal.self) { try agent.core.validate(update) }
        update.update.status = status("t1", .taskRunning, uuid: 1)
        update.update.status.uuidBytes = [1, 2]
        #expect(throws: ExecutorRefusal.self) { try agent.core.validate(update) }
    }

    @Test func executorThatNeverSubscribesIsGivenUp() {
        var agent = AgentFixture { $0.executorRegistrationTimeout = .seconds(5) }
        agent.register()
        let first = agent.run(.custom("t1", executor: "e1"))
        let container = first.launches[0].container
        agent.apply(.containerStarted(id: container, ContainerReport()))
        agent.now = agent.now + .seconds(5)
        #expect(agent.apply(.tick).stops.map(\.container) == [container])
        let end = agent.apply(.containerExited(id: container, .signaled(9)))
        #expect(end.updates.map(\.state) == [.taskFailed])
        #expect(end.updates[0].reason == .executorRegistrationTimeout)
    }

    @Test func endOfTheExecutorFailsItsTasks() {
        var agent = AgentFixture()
        agent.register()
        let first = agent.run(.custom("t1", executor: "e1"))
        let container = first.launches[0].container
        agent.apply(.containerStarted(id: container, ContainerReport()))
        agent.apply(.executorSubscribed(key, .init()))
        let end = agent.apply(.containerExited(id: container, .exited(status: 1)))
        #expect(end.updates.map(\.state) == [.taskFailed])
        #expect(end.updates[0].message == "Executor terminated")
        let told = end.contains { action in
            if case .send(let message) = action, case .exitedExecutor(let exited)? = message.kind {
                exited.status == 1 << 8
            } else {
                false
            }
        }
        #expect(told)
    }

    @Test func killGoesToTheExecutor() {
        var agent = AgentFixture()
        agent.register()
        let first = agent.run(.custom("t1", executor: "e1"))
        agent.apply(.containerStarted(id: first.launches[0].container, ContainerReport()))
        agent.apply(.executorSubscribed(key, .init()))
        #expect(agent.kill("t1").events.map(\.type) == [.kill])
        #expect(agent.actions.stops.isEmpty)
    }

    @Test func acknowledgedEndsAreNotReportedAgain() {
        var agent = AgentFixture()
        agent.register()
        let first = agent.run(.custom("t1", executor: "e1"))
        agent.run(.custom("t2", executor: "e1"))
        agent.apply(.containerStarted(id: first.launches[0].container, ContainerReport()))
        agent.apply(.executorSubscribed(key, .init()))
        let end = agent.apply(.executorUpdate(key, status("t1", .taskFinished, uuid: 1)))
        agent.acknowledge(end.updates[0])
        agent.apply(.masterLost)
        guard case .reregister(let reregister)? = agent.apply(.tick).connections.first?.kind else {
            Issue.record("expected a re-registration")
            return
        }
        #expect(reregister.tasks.map(\.taskID.value) == ["t2"])
        #expect(reregister.executors.count == 1)
    }
}
