import Base
import FoundationEssentials
import MasterCore
import MesosAPI
import Resources
import Testing

@Suite struct TaskTests {
    var master = Harness()

    @Test mutating func aTaskFromOfferToAcknowledgement() throws {
        let agent = master.register()
        let framework = master.subscribe()
        let offer = try #require(master.offers(framework.connection).first)
        #expect(offer.hostname == "h1")
        #expect(offer.url.address.port == 5051)
        #expect(offer.resources.allSatisfy { $0.role == "*" && !$0.hasAllocationInfo })
        #expect(!offer.hasAllocationInfo)
        master.drain()
        master.launch(framework, [Harness.task("t", agent: agent.id)], offers: [offer.id], refuse: 600)
        let run = try #require(master.messages(agent.connection).first?.runTask)
        #expect(run.task.taskID.value == "t")
        #expect(run.task.resources.allSatisfy { $0.allocationInfo.role == "*" })
        #expect(master.core.frameworks[framework.id]?.tasks[MesosTaskID("t")]?.state == .taskStaging)
        #expect(master.core.taken(agent.id).cpus == 1)
        #expect(master.offers(framework.connection).isEmpty)

        master.update(framework.id, agent, "t", .taskRunning)
        #expect(master.updates(framework.connection).map(\.state) == [.taskRunning])
        #expect(master.updates(framework.connection)[0].uuid == Harness.uuid)
        master.acknowledge(framework, agent.id, "t")
        #expect(master.messages(agent.connection).last?.statusUpdateAcknowledgement.uuid == Harness.uuid)

        master.call(framework, .kill) { $0.kill.taskID = MesosTaskID("t") }
        #expect(master.messages(agent.connection).last?.killTask.taskID.value == "t")
        let last = Data([UInt8](repeating: 7, count: 16))
        master.update(framework.id, agent, "t", .taskKilled, uuid: last)
        #expect(master.core.taken(agent.id).isEmpty || !master.offers(framework.connection).isEmpty)
        master.acknowledge(framework, agent.id, "t", uuid: last)
        #expect(master.core.frameworks[framework.id]?.tasks.isEmpty == true)
        #expect(master.core.frameworks[framework.id]?.completedTasks.map(\.state) == [.taskKilled])
    }

    @Test mutating func unusedResourcesAreOfferedAgainAtOnce() {
        let agent = master.register()
        let framework = master.subscribe()
        let offer = master.offers(framework.connection)[0]
        master.drain()
        master.launch(framework, [Harness.task("t", agent: agent.id)], offers: [offer.id], refuse: 0)
        #expect(master.offers(framework.connection).map { Resources($0.resources).cpus } == [3])
    }

    @Test mutating func declinedResourcesStayAwayForTheTime() {
        _ = master.register()
        let framework = master.subscribe()
        let offer = master.offers(framework.connection)[0]
        master.drain()
        master.call(framework, .decline) { call in
            call.decline.offerIds = [offer.id]
            call.decline.filters.refuseSeconds = 5
        }
        master.pass(4)
        #expect(master.offers(framework.connection).isEmpty)
        master.pass(2)
        #expect(master.offers(framework.connection).count == 1)
    }

    @Test mutating func invalidOffersLoseTheTasks() {
        let agent = master.register()
        let framework = master.subscribe(capabilities: [.partitionAware])
        master.launch(framework, [Harness.task("t", agent: agent.id)], offers: [MesosOfferID("stale")])
        let status = master.updates(framework.connection)[0]
        #expect(status.state == .taskDropped)
        #expect(status.reason == .invalidOffers)
        #expect(status.message == "Task launched with invalid offers: Offer stale is no longer valid")
        #expect(!status.hasUuid)
    }

    @Test mutating func invalidTasksAreErrors() {
        let agent = master.register()
        let framework = master.subscribe()
        let offer = master.offers(framework.connection)[0]
        var both = Harness.task("both", agent: agent.id)
        both.executor.executorID = MesosExecutorID("e")
        var empty = Harness.task("empty", agent: agent.id)
        empty.resources = []
        var slash = Harness.task("a/b", agent: agent.id)
        slash.name = "slash"
        let tasks = [
            both, empty, slash, Harness.task("big", agent: agent.id, cpus: 5),
            Harness.task("elsewhere", agent: MesosAgentID("x")), Harness.task("good", agent: agent.id),
            Harness.task("good", agent: agent.id),
        ]
        master.launch(framework, tasks, offers: [offer.id])
        #expect(master.updates(framework.connection).map(\.state) == Array(repeating: .taskError, count: 6))
        #expect(master.updates(framework.connection).allSatisfy { $0.reason == .taskInvalid })
        #expect(master.messages(agent.connection).filter { $0.runTask.hasTask }.count == 1)
    }

    @Test mutating func aTaskMayBeKilledBeforeItsAgentIsBack() {
        let (framework, agent) = master.running()
        master.apply(.agentGone(agent.connection))
        master.call(framework, .kill) { $0.kill.taskID = MesosTaskID("t") }
        #expect(master.messages(agent.connection).isEmpty)
        let task = master.core.frameworks[framework.id]?.tasks[MesosTaskID("t")] ?? MesosTask()
        let back = master.reregister(agent.id, tasks: [task])
        #expect(master.messages(back.connection).contains { $0.killTask.taskID.value == "t" })
    }

    @Test mutating func newestStateFreesResourcesBeforeItsUpdate() {
        let (framework, agent) = master.running()
        master.update(framework.id, agent, "t", .taskRunning, latest: .taskFinished)
        let free = master.offers(framework.connection).map { Resources($0.resources).cpus }
        #expect(free.contains(4) || master.core.taken(agent.id).cpus < 4)
        #expect(master.core.frameworks[framework.id]?.tasks[MesosTaskID("t")]?.state == .taskFinished)
        #expect(master.updates(framework.connection).last?.state == .taskRunning)
    }

    @Test mutating func executorsAreChargedOnce() {
        let agent = master.register()
        let framework = master.subscribe()
        let offer = master.offers(framework.connection)[0]
        var tasks = [Harness.task("t1", agent: agent.id), Harness.task("t2", agent: agent.id)]
        for index in tasks.indices {
            tasks[index].clearCommand()
            tasks[index].executor.executorID = MesosExecutorID("e")
            tasks[index].executor.command.value = "run"
            tasks[index].executor.resources = [MesosResource("cpus", 0.5)]
        }
        master.launch(framework, tasks, offers: [offer.id], refuse: 600)
        #expect(master.core.taken(agent.id).cpus == 2.5)
        master.drain()
        for name in ["t1", "t2"] {
            master.update(framework.id, agent, name, .taskFinished)
            master.acknowledge(framework, agent.id, name)
        }
        var exited = ClusterAgentMessage()
        exited.exitedExecutor.frameworkID = framework.id
        exited.exitedExecutor.executorID = MesosExecutorID("e")
        exited.exitedExecutor.status = 0
        master.apply(.agent(exited, agent.connection))
        let failure = master.events(framework.connection).first { $0.type == .failure }
        #expect(failure?.failure.executorID.value == "e")
        #expect(master.core.agents[agent.id]?.executors.isEmpty == true)
    }

    @Test mutating func taskGroupsAreAllOrNothing() {
        let agent = master.register()
        let framework = master.subscribe()
        let offer = master.offers(framework.connection)[0]
        var operation = MesosOffer.Operation()
        operation.type = .launchGroup
        operation.launchGroup.executor.type = .default
        operation.launchGroup.executor.executorID = MesosExecutorID("e")
        operation.launchGroup.executor.resources = [MesosResource("cpus", 0.1), MesosResource("mem", 32)]
        operation.launchGroup.taskGroup.tasks = [
            Harness.task("t1", agent: agent.id), Harness.task("t2", agent: agent.id, cpus: 9),
        ]
        let bad = operation
        master.call(framework, .accept) { call in
            call.accept.offerIds = [offer.id]
            call.accept.operations = [bad]
            call.accept.filters.refuseSeconds = 0
        }
        #expect(master.updates(framework.connection).map(\.reason) == [.taskGroupInvalid, .taskGroupInvalid])
        operation.launchGroup.taskGroup.tasks[1] = Harness.task("t2", agent: agent.id)
        let next = master.offers(framework.connection).last?.id ?? MesosOfferID("")
        master.call(framework, .accept) { call in
            call.accept.offerIds = [next]
            call.accept.operations = [operation]
        }
        let run = master.messages(agent.connection).last?.runTask
        #expect(run?.taskGroup.tasks.map(\.taskID.value) == ["t1", "t2"])
        #expect(run?.launchExecutor == true)
    }

    @Test mutating func reconciliation() {
        let (framework, agent) = master.running()
        master.call(framework, .reconcile) { $0.reconcile = .init() }
        let implicit = master.updates(framework.connection)
        #expect(implicit.map(\.state) == [.taskRunning])
        #expect(implicit[0].reason == .reconciliation)
        #expect(!implicit[0].hasUuid)
        master.drain()
        master.call(framework, .reconcile) { call in
            for (id, agent) in [("t", nil), ("x", agent.id), ("y", MesosAgentID("nobody"))] {
                var task = SchedulerCall.Reconcile.Task()
                task.taskID = MesosTaskID(id)
                if let agent { task.agentID = agent }
                call.reconcile.tasks.append(task)
            }
        }
        #expect(master.updates(framework.connection).map(\.state) == [.taskRunning, .taskGone, .taskUnknown])
    }

    @Test mutating func operationsWithAnIdAreDropped() {
        _ = master.register()
        let framework = master.subscribe()
        let offer = master.offers(framework.connection)[0]
        master.call(framework, .accept) { call in
            var operation = MesosOffer.Operation()
            operation.type = .reserve
            operation.id = MesosOperationID("o")
            call.accept.offerIds = [offer.id]
            call.accept.operations = [operation]
        }
        let status = master.events(framework.connection).last { $0.type == .updateOperationStatus }
        #expect(status?.updateOperationStatus.status.state == .operationDropped)
    }
}
