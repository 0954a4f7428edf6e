import Base
import MarathonCore
import OrderedCollections
import Testing

@Suite struct InstanceTests {
    @Test func failuresAreDelayedMoreAndMore() throws {
        var cluster = Cluster(agents: 1)
        try cluster.create(#"{"id":"/web","cmd":"run","backoffSeconds":1,"backoffFactor":2,"maxLaunchDelaySeconds":3}"#)
        cluster.settle()
        var delays: [Double] = []
        for _ in 0..<4 {
            let task = try #require(cluster.running.first?.launch.instance.taskID)
            cluster.report(task, .failed, message: "boom")
            let start = cluster.now
            for _ in 0..<100 where cluster.running.isEmpty { cluster.settle(rounds: 1) }
            delays.append((cluster.now - start).inSeconds)
        }
        for (delay, expected) in zip(delays, [1.0, 2, 3, 3]) { #expect(abs(delay - expected) < 0.7, "\(delays)") }
        #expect(cluster.core.failures[AppID("/web")]?.message == "boom")
    }

    @Test func finishedCountsAsFailureAndQueueTells() throws {
        var cluster = Cluster(agents: 1)
        try cluster.create(#"{"id":"/web","cmd":"run","backoffSeconds":30}"#)
        cluster.settle()
        cluster.report(try #require(cluster.running.first?.launch.instance.taskID), .finished)
        cluster.settle(rounds: 3)
        #expect(cluster.running.isEmpty)
        let item = try #require(
            cluster.core.queueView(embedsOffers: false, time: cluster.core.timestamp(cluster.now))["queue"]?[0])
        #expect(item["delay"]?["overdue"] == false)
        #expect(item["count"] == 1)
        _ = try cluster.submit(.resetDelay(AppID("/web")))
        cluster.settle(rounds: 2)
        #expect(cluster.running.count == 1)
    }

    @Test func whatANewMasterDoesNotConfirmIsAskedForAgain() throws {
        var cluster = Cluster(agents: 1)
        try cluster.create(#"{"id":"/web","cmd":"run"}"#)
        cluster.settle()
        let task = try #require(cluster.running.first?.launch.instance.taskID)
        cluster.apply(.disconnected)
        cluster.apply(.connected)
        #expect(cluster.inquiries.contains(task))
        for _ in 0..<2 {
            cluster.inquiries = []
            cluster.now = cluster.now + .seconds(6)
            cluster.apply(.tick)
            #expect(cluster.inquiries == [task])
        }
        cluster.report(task, .running)
        cluster.inquiries = []
        cluster.now = cluster.now + .seconds(6)
        cluster.apply(.tick)
        #expect(cluster.inquiries.isEmpty)
        cluster.apply(.agentLost("agent-1"))
        #expect(cluster.inquiries == [task])
    }

    @Test func unreachableIsReplacedAtOnceAndKilledOnReturn() throws {
        var cluster = Cluster()
        try cluster.create(redis)
        cluster.settle()
        let old = try #require(cluster.running.first?.launch.instance)
        cluster.silent = [old.agentID]
        let start = cluster.now
        cluster.report(old.taskID, .unreachable)
        for _ in 0..<50 where cluster.running.isEmpty { cluster.settle(rounds: 1) }
        #expect((cluster.now - start) <= .seconds(1))
        let new = try #require(cluster.running.first?.launch.instance)
        #expect(new.agentID != old.agentID)
        // The silent agent comes back with the old task still running.
        cluster.silent = []
        cluster.report(old.taskID, .running)
        cluster.settle()
        #expect(cluster.tasks[old.taskID]?.state == .killed)
        #expect(cluster.running.map(\.launch.instance.id) == [new.id])
    }

    @Test func unreachableStrategyIsObserved() throws {
        var cluster = Cluster()
        try cluster.create(
            #"{"id":"/web","cmd":"run","unreachableStrategy":{"inactiveAfterSeconds":5,"expungeAfterSeconds":60}}"#)
        cluster.settle()
        let old = try #require(cluster.running.first?.launch.instance)
        cluster.silent = [old.agentID]
        cluster.report(old.taskID, .unreachable)
        cluster.settle(rounds: 10)
        #expect(cluster.running.isEmpty, "two seconds are not five")
        cluster.settle(rounds: 30)
        #expect(cluster.running.count == 1)
        #expect(cluster.core.instances[old.id]?.condition == .unreachableInactive)
        // Both are alive for a while when it returns: the surplus one goes.
        cluster.silent = []
        cluster.report(old.taskID, .running)
        cluster.settle()
        #expect(cluster.running.count == 1)
    }

    @Test func disabledStrategyWaits() throws {
        var cluster = Cluster()
        try cluster.create(#"{"id":"/web","cmd":"run","unreachableStrategy":"disabled"}"#)
        cluster.settle()
        let old = try #require(cluster.running.first?.launch.instance)
        cluster.report(old.taskID, .unreachable)
        cluster.settle()
        #expect(cluster.running.isEmpty)
        cluster.report(old.taskID, .running)
        cluster.settle()
        #expect(cluster.running.map(\.launch.instance.id) == [old.id])
    }

    @Test func unknownTasksAreKilled() throws {
        var cluster = Cluster()
        var report = TaskReport(taskID: "web.instance-x._app.1", agentID: "agent-1", state: .running, uuid: [9])
        let actions = cluster.core.apply(.report(report), now: cluster.now, rng: &cluster.rng)
        #expect(actions.contains { if case .kill("web.instance-x._app.1", "agent-1") = $0 { true } else { false } })
        #expect(actions.contains { if case .acknowledge = $0 { true } else { false } })
        report.state = .failed
        cluster.apply(.report(report))
        #expect(cluster.types().last == "unknown_instance_terminated_event")
    }

    @Test func killIsRepeatedUntilItsEnd() throws {
        var cluster = Cluster(agents: 1)
        try cluster.create(#"{"id":"/web","cmd":"run"}"#)
        cluster.settle()
        let task = try #require(cluster.running.first?.launch.instance.taskID)
        cluster.silent = ["agent-1"]
        _ = try cluster.submit(.kill(.tasks([task]), scale: true, wipe: false, force: false))
        cluster.settle(rounds: 3)
        #expect(!cluster.core.deployments.isEmpty)
        cluster.silent = []
        cluster.now = cluster.now + .seconds(31)
        cluster.settle()
        #expect(cluster.core.deployments.isEmpty)
        #expect(cluster.tasks[task]?.state == .killed)
    }

    @Test func healthFailureKillsAndIsRemembered() throws {
        var cluster = Cluster(agents: 1)
        try cluster.create(
            #"{"id":"/web","cmd":"run","healthChecks":[{"protocol":"TCP","gracePeriodSeconds":10,"intervalSeconds":2,"maxConsecutiveFailures":2}]}"#
        )
        cluster.settle(rounds: 20)
        #expect(!cluster.core.deployments.isEmpty, "running alone is not healthy")
        let probe = try #require(cluster.probes.first)
        #expect(probe.host == "agent-1" && probe.kind == .tcp)
        cluster.apply(.probed(instanceID: probe.instanceID, index: 0, failure: "refused"))
        #expect(cluster.core.instances[probe.instanceID]?.health.first?.isAlive == nil, "still in its grace period")
        cluster.apply(.probed(instanceID: probe.instanceID, index: 0, failure: nil))
        cluster.settle(rounds: 1)
        #expect(cluster.core.deployments.isEmpty)
        for _ in 0..<2 {
            cluster.now = cluster.now + .seconds(1)
            cluster.apply(.probed(instanceID: probe.instanceID, index: 0, failure: "refused"))
        }
        cluster.settle(rounds: 2)
        #expect(cluster.core.instances[probe.instanceID] == nil)
        #expect(cluster.core.failures[AppID("/web")]?.message.contains("health check failed. Reason: refused") ?? false)
        #expect(cluster.types().contains("unhealthy_instance_kill_event"))
    }

    @Test func reportsAreAcknowledgedAfterTheyAreStored() throws {
        var cluster = Cluster(agents: 1)
        try cluster.create(#"{"id":"/web","cmd":"run"}"#)
        cluster.offerAll()
        let task = try #require(cluster.launchOrder.first)
        let report = TaskReport(taskID: task, agentID: "agent-1", state: .running, uuid: [1, 2])
        let actions = cluster.core.apply(.report(report), now: cluster.now, rng: &cluster.rng)
        let persist = try #require(actions.firstIndex { if case .persist = $0 { true } else { false } })
        let acknowledge = try #require(actions.firstIndex { if case .acknowledge = $0 { true } else { false } })
        #expect(persist < acknowledge)
    }

    @Test func launchesAreStoredBeforeTheyAreSent() throws {
        var cluster = Cluster(agents: 1)
        try cluster.create(#"{"id":"/web","cmd":"run"}"#)
        let actions = cluster.core.apply(.offers([cluster.offer("agent-1")]), now: cluster.now, rng: &cluster.rng)
        guard case .persist(let writes) = try #require(actions.first) else {
            Issue.record("the first action stores nothing")
            return
        }
        #expect(writes.contains { $0.key.hasPrefix("instances/web.instance-") })
    }
}
