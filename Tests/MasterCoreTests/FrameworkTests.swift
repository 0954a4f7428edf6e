import Base
import MasterCore
import MesosAPI
import Resources
import Testing

@Suite struct FrameworkTests {
    var master = Harness()

    @Test mutating func subscriptionBeginsWithIdAndHeartbeat() {
        let framework = master.subscribe()
        #expect(framework.id.value == "m-0000")
        #expect(master.events(framework.connection).map(\.type) == [.subscribed, .heartbeat])
        #expect(master.events(framework.connection)[0].subscribed.heartbeatIntervalSeconds == 15)
        master.drain()
        master.pass(31)
        #expect(master.events(framework.connection).map(\.type) == [.heartbeat, .heartbeat])
    }

    @Test mutating func refusedSubscriptionsAreErrorEvents() {
        let bad = master.subscribe { $0.role = "a//b" }
        #expect(master.events(bad.connection).map(\.type) == [.error])
        #expect(master.closed(bad.connection))
        let roles = master.subscribe { $0.roles = ["a"] }
        #expect(
            master.events(roles.connection)[0].error.message
                == "'FrameworkInfo.roles' must not be set when the framework is not MULTI_ROLE capable")
        #expect(master.core.frameworks.isEmpty)
    }

    @Test mutating func failoverClosesTheOldStream() {
        let first = master.subscribe(failover: 60)
        let second = master.subscribe(id: first.id.value, failover: 60)
        #expect(second.id == first.id)
        #expect(master.events(first.connection).last?.error.message == "Framework failed over")
        #expect(master.closed(first.connection))
        #expect(master.call(first, .revive)?.status == 400)
        #expect(master.call(second, .revive) == nil)
        // The end of the old stream is no disconnection of the new one.
        master.apply(.schedulerGone(first.connection))
        #expect(master.core.frameworks[first.id]?.isConnected == true)
    }

    @Test mutating func callsNeedTheRightStream() {
        let framework = master.subscribe()
        var call = SchedulerCall()
        call.type = .revive
        call.frameworkID = framework.id
        #expect(
            master.apply(.call(call, nil, principal: nil))?.text
                == "All non-subscribe calls should include the 'Mesos-Stream-Id' header")
        #expect(master.apply(.call(call, ConnectionID("x"), principal: nil))?.status == 400)
        call.frameworkID = MesosFrameworkID("nobody")
        #expect(
            master.apply(.call(call, framework.connection, principal: nil))
                == MasterRefusal(400, "Framework cannot be found"))
        master.apply(.schedulerGone(framework.connection))
    }

    @Test mutating func disconnectedFrameworksAreGivenTime() {
        let (framework, agent) = master.running(failover: 10)
        master.apply(.schedulerGone(framework.connection))
        #expect(master.call(framework, .revive) == MasterRefusal(403, "Framework is not subscribed"))
        master.pass(9, ponging: [agent.connection])
        #expect(master.core.frameworks[framework.id] != nil)
        master.pass(2, ponging: [agent.connection])
        #expect(master.core.frameworks[framework.id] == nil)
        #expect(master.core.completedFrameworks.map(\.id) == [framework.id])
        #expect(master.messages(agent.connection).contains { $0.shutdownFramework.frameworkID == framework.id })
        #expect(master.core.taken(agent.id).isEmpty)
        let again = master.subscribe(id: framework.id.value)
        #expect(master.events(again.connection).last?.error.message == "Framework has been removed")
    }

    @Test mutating func teardownKillsTasks() {
        let (framework, agent) = master.running()
        #expect(master.call(framework, .teardown) == nil)
        #expect(master.closed(framework.connection))
        #expect(master.core.completedFrameworks[0].completedTasks.map(\.state) == [.taskKilled])
        #expect(master.core.taken(agent.id).isEmpty)
        // What the agent still reports is acknowledged in the framework's stead.
        master.drain()
        master.update(framework.id, agent, "t", .taskKilled)
        #expect(master.messages(agent.connection).contains { $0.statusUpdateAcknowledgement.hasUuid })
    }

    @Test mutating func principalMayNotChange() {
        let first = master.subscribe(failover: 60) { $0.principal = "p" }
        let second = master.subscribe(id: first.id.value) { $0.principal = "q" }
        #expect(
            master.events(second.connection).map(\.error.message)
                == ["Changing framework's principal is not allowed."])
        #expect(master.core.frameworks[first.id]?.isConnected == true)
    }

    @Test mutating func suppressedFrameworksGetNoOffersUntilRevive() {
        let framework = master.subscribe()
        master.call(framework, .suppress)
        _ = master.register()
        #expect(master.offers(framework.connection).isEmpty)
        master.call(framework, .revive)
        #expect(master.offers(framework.connection).count == 1)
    }
}
