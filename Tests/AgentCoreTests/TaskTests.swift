import AgentCore
import Base
import MesosAPI
import OrderedCollections
import Testing

@Suite struct TaskTests {
    @Test func commandTaskRunsAndFinishes() {
        var agent = AgentFixture()
        agent.register()
        let first = agent.run(.command("t1"))
        #expect(first.launches.count == 1)
        let container = first.launches[0].container
        #expect(first.updates.map(\.state) == [.taskStarting])
        // Running waits for its turn: STARTING is not acknowledged yet.
        #expect(agent.apply(.containerStarted(id: container, ContainerReport(pid: 42))).updates.isEmpty)
        let running = agent.acknowledge(first.updates[0])
        #expect(running.updates.map(\.state) == [.taskRunning])
        let status = running.updates[0]
        #expect(status.source == .executor)
        #expect(status.executorID.value == "t1")
        #expect(status.agentID.value == "S0")
        #expect(status.containerStatus.executorPid == 42)
        #expect(status.containerStatus.networkInfos.first?.ipAddresses.first?.ipAddress == "10.0.0.1")
        #expect(status.timestamp == 1001)
        agent.acknowledge(status)
        let end = agent.apply(.containerExited(id: container, .exited(status: 0)))
        #expect(end.updates.map(\.state) == [.taskFinished])
        #expect(end.updates[0].message == "Command exited with status 0")
        #expect(end.retired == 0)
        #expect(agent.acknowledge(end.updates[0]).retired == 1)
        #expect(agent.core.frameworks.isEmpty)
    }

    @Test func checkpointsComeBeforeWhatDependsOnThem() {
        var agent = AgentFixture()
        agent.register()
        agent.run(.command("t1"))
        var known: Set<[UInt8]> = []
        var hasTask = false
        for action in agent.actions {
            switch action {
            case .checkpoint(.task): hasTask = true
            case .checkpoint(.update(_, _, _, let status)): known.insert(status.uuidBytes)
            case .launch: #expect(hasTask)
            case .send(let message):
                if case .statusUpdate(let update)? = message.kind { #expect(known.contains(update.status.uuidBytes)) }
            default: break
            }
        }
        #expect(known.count == 1)
    }

    @Test(arguments: [
        (ContainerExit.exited(status: 3), MesosTaskState.taskFailed, "Command exited with status 3"),
        (.signaled(9), .taskFailed, "Command terminated with signal Killed"),
        (.unknown(message: "gone"), .taskLost, "gone"),
    ])
    func endsTellWhy(_ exit: ContainerExit, _ state: MesosTaskState, _ message: String) {
        var agent = AgentFixture()
        agent.register()
        let first = agent.run(.command("t1"))
        agent.acknowledge(first.updates[0])
        let container = first.launches[0].container
        let seen = agent.acknowledgeAll(agent.apply(.containerStarted(id: container, ContainerReport())))
        #expect(seen.map(\.state) == [.taskRunning])
        let end = agent.apply(.containerExited(id: container, exit)).updates
        #expect(end.map(\.state) == [state])
        #expect(end.first?.message == message)
    }

    @Test func launchFailureTellsItsReason() {
        var agent = AgentFixture()
        agent.register()
        let first = agent.run(.command("t1"))
        let container = first.launches[0].container
        agent.apply(.containerFailed(id: container, message: "no such image"))
        let seen = agent.acknowledgeAll(first)
        #expect(seen.map(\.state) == [.taskStarting, .taskFailed])
        #expect(seen[1].reason == .containerLaunchFailed)
        #expect(seen[1].source == .agent)
        #expect(seen[1].message == "no such image")
    }

    @Test func killUsesTheShortestGraceGiven() {
        var agent = AgentFixture()
        agent.register()
        var task = MesosTaskInfo.command("t1")
        let first = agent.run(task, framework: .test([.taskKillingState]))
        let container = first.launches[0].container
        agent.apply(.containerStarted(id: container, ContainerReport()))
        #expect(agent.kill("t1").stops.map(\.grace) == [.seconds(3)])
        #expect(agent.kill("t1", graceSeconds: 1).stops.map(\.grace) == [.seconds(1)])
        agent.apply(.containerExited(id: container, .exited(status: 0)))
        let seen = agent.acknowledgeAll(first)
        #expect(seen.map(\.state) == [.taskStarting, .taskRunning, .taskKilling, .taskKilled])

        task.taskID.value = "t2"
        task.killPolicy.gracePeriod.nanoseconds = 7_000_000_000
        let second = agent.run(task)
        agent.apply(.containerStarted(id: second.launches[0].container, ContainerReport()))
        #expect(agent.kill("t2").stops.map(\.grace) == [.seconds(7)])
    }

    @Test func killDuringLaunchEndsAsKilled() {
        var agent = AgentFixture()
        agent.register()
        let first = agent.run(.command("t1"))
        let container = first.launches[0].container
        #expect(agent.kill("t1").stops.count == 1)
        agent.apply(.containerFailed(id: container, message: "cancelled"))
        let seen = agent.acknowledgeAll(first)
        #expect(seen.map(\.state) == [.taskStarting, .taskKilled])
        #expect(seen[1].reason == .taskKilledDuringLaunch)
    }

    @Test func killOfAnUnknownTaskIsAnswered() {
        var agent = AgentFixture()
        agent.register()
        #expect(agent.kill("nothing").updates.map(\.state) == [.taskLost])
    }

    @Test func idsThatAreNoFileNamesAreRefused() {
        var agent = AgentFixture()
        agent.register()
        let wanted = agent.run(.command("../../etc"))
        #expect(wanted.launches.isEmpty)
        #expect(wanted.updates.map(\.state) == [.taskError])
    }

    @Test func unhealthyTaskIsKilled() {
        var agent = AgentFixture()
        agent.register()
        var task = MesosTaskInfo.command("t1")
        task.healthCheck.type = .command
        task.healthCheck.gracePeriodSeconds = 10
        task.healthCheck.consecutiveFailures = 2
        let first = agent.run(task)
        let container = first.launches[0].container
        agent.apply(.containerStarted(id: container, ContainerReport()))
        // Within the grace period nothing counts.
        #expect(agent.apply(.healthChecked(id: container, success: false)).isEmpty)
        agent.apply(.healthChecked(id: container, success: true))
        agent.apply(.healthChecked(id: container, success: false))
        #expect(agent.apply(.healthChecked(id: container, success: false)).stops.count == 1)
        agent.apply(.containerExited(id: container, .signaled(15)))
        let seen = agent.acknowledgeAll(first)
        #expect(
            seen.map(\.state) == [
                .taskStarting, .taskRunning, .taskRunning, .taskRunning, .taskRunning, .taskKilled,
            ])
        #expect(seen.map(\.hasHealthy) == [false, false, true, true, true, true])
        #expect(seen.suffix(4).map(\.healthy) == [true, false, false, false])
        #expect(seen[2].reason == .taskHealthCheckStatusUpdated)
    }

    @Test func completionTimeFailsTheTask() {
        var agent = AgentFixture()
        agent.register()
        var task = MesosTaskInfo.command("t1")
        task.maxCompletionTime.nanoseconds = 5_000_000_000
        let first = agent.run(task)
        let container = first.launches[0].container
        agent.apply(.containerStarted(id: container, ContainerReport()))
        agent.now = agent.now + .seconds(5)
        #expect(agent.core.nextDeadline! <= agent.now)
        #expect(agent.apply(.tick).stops.count == 1)
        agent.apply(.containerExited(id: container, .signaled(15)))
        let last = agent.acknowledgeAll(first).last
        #expect(last?.state == .taskFailed)
        #expect(last?.reason == .maxCompletionTimeReached)
    }

    @Test func shutdownOfAFrameworkEndsItsTasksSilently() {
        var agent = AgentFixture()
        agent.register()
        let first = agent.run(.command("t1"))
        let container = first.launches[0].container
        agent.apply(.containerStarted(id: container, ContainerReport()))
        var shutdown = ClusterMasterMessage.ShutdownFramework()
        shutdown.frameworkID.value = "F"
        #expect(agent.master(.shutdownFramework(shutdown)).stops.count == 1)
        let end = agent.apply(.containerExited(id: container, .signaled(15)))
        #expect(end.updates.isEmpty)
        #expect(end.retired == 1)
        #expect(agent.core.frameworks.isEmpty)
    }

    @Test func shutdownOfTheAgentEndsAllAndForgetsTheID() {
        var agent = AgentFixture()
        agent.register()
        let first = agent.run(.command("t1"))
        let container = first.launches[0].container
        agent.apply(.containerStarted(id: container, ContainerReport()))
        #expect(agent.master(.shutdownAgent(.init())).stops.count == 1)
        let end = agent.apply(.containerExited(id: container, .signaled(15)))
        #expect(end.contains { if case .retireAgent = $0 { true } else { false } })
    }
}
