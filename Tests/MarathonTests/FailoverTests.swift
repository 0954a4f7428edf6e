import Base
import Coordination
import HTTPKit
import Marathon
import MasterLocator
import MesosAPI
import NIOHTTP1
import Synchronization
import TestKit
import Testing

/// Leaders that die, are deposed or lose their store in the middle of work.
@Suite(.timeLimit(.minutes(2))) struct FailoverTests {
    private let caller = HTTPCaller()

    private func app(_ id: String, instances: Int64 = 1, cpus: Double = 0.1) -> JSONValue {
        ["id": .string(id), "cmd": "run", "cpus": .number(cpus), "mem": 32, "instances": .integer(instances)]
    }

    private func deployments(_ member: Member) async throws -> [String] {
        let reply = try await caller.call(.GET, try await member.address, "/v2/deployments")
        return try reply.json().array?.compactMap { $0["id"]?.string } ?? ["none known"]
    }

    private func create(_ app: JSONValue, at member: Member) async throws {
        #expect(try await caller.call(.POST, try await member.address, "/v2/apps", json: app).status == 201)
    }

    /// With the embedded engine's own election: the next in line takes over.
    @Test func aDeploymentGoesOnUnderTheNextLeader() async throws {
        let base = try EmbeddedStore(path: nil)
        let election = EmbeddedElection(store: base)
        let master = FakeMaster()
        // An offer has room for one instance.
        master.state.withLock { $0.offersMax = 0 }
        try await withServer(master.router()) { address in
            let first = Member(on: base, master: .addresses([address]), shared: election)
            _ = try await first.address
            try await eventually("registration") { master.state.withLock { $0.subscriptions } == 1 }
            let second = Member(on: base, master: .addresses([address]), shared: election)
            _ = try await second.address
            try await create(app("/web", instances: 3, cpus: 3), at: first)
            master.state.withLock { $0.offersMax = 1 }
            master.offer()
            try await eventually("one running") { master.running.count == 1 }
            let unfinished = try await deployments(first)
            #expect(unfinished.count == 1)
            await first.end()

            try await eventually("the takeover") { master.state.withLock { $0.subscriptions } == 2 }
            #expect(try await deployments(second) == unfinished)
            #expect(master.state.withLock { $0.frameworkID } == "framework-1")
            master.state.withLock { $0.offersMax = .max }
            try await eventually("the end of the deployment") {
                master.offer()
                return try await deployments(second) == []
            }
            #expect(master.running.count == 3)
            #expect(master.state.withLock { $0.launched.count } == 3, "nothing is started twice")
            await second.end()
        }
    }

    @Test(arguments: [FakeMaster.Launching.silent, .lost])
    func aLaunchInFlightIsFoundOutBeforeAnythingIsStarted(_ launching: FakeMaster.Launching) async throws {
        let base = try EmbeddedStore(path: nil)
        let master = FakeMaster()
        try await withServer(master.router()) { address in
            let first = Member(on: base, master: .addresses([address]))
            let second = Member(on: base, master: .addresses([address]))
            try await first.elect(on: base)
            master.state.withLock { $0.launching = launching }
            try await create(app("/web"), at: first)
            try await eventually("the launch") { master.state.withLock { $0.launched.count } == 1 }
            await first.end()
            master.state.withLock { $0.launching = .running }
            try await second.elect(on: base)
            try await eventually("the end of the deployment") { try await deployments(second) == [] }
            #expect(master.running.count == 1)
            #expect(master.state.withLock { $0.launched.count } == (launching == .silent ? 1 : 2))
            await second.end()
        }
    }

    @Test func anUpdateIsAcknowledgedByWhoStoresIt() async throws {
        let base = try EmbeddedStore(path: nil)
        let master = FakeMaster()
        try await withServer(master.router()) { address in
            let first = Member(on: base, master: .addresses([address]))
            let second = Member(on: base, master: .addresses([address]))
            try await first.elect(on: base)
            try await create(app("/web"), at: first)
            try await eventually("the end of the deployment") { try await deployments(first) == [] }
            let task = master.running[0]
            try await eventually("acknowledgements") { master.state.withLock { $0.unacknowledged.isEmpty } }
            let before = master.state.withLock { $0.acknowledged }

            first.store.hold()
            master.update(task, .taskFailed)
            try await eventually("the leader's commit") { first.store.waiting > 0 }
            #expect(master.state.withLock { $0.acknowledged } == before)
            // Deposed without a word; the next leader gets the update, too.
            try await second.elect(on: base)
            try await eventually("a replacement") { master.running.count == 1 && master.running != [task] }
            try await eventually("acknowledgements") { master.state.withLock { $0.unacknowledged.isEmpty } }
            let acknowledged = master.state.withLock { $0.acknowledged }
            first.store.release()
            try await eventually("stepping down") { first.election.abdications == 1 }
            let failure = try await caller.call(.GET, try await second.address, "/v2/apps/web").json()
            #expect(failure["app"]?["lastTaskFailure"]?["taskId"]?.string == task)
            #expect(master.state.withLock { $0.acknowledged } == acknowledged, "the deposed leader is silent")
            #expect(master.state.withLock { $0.launched.count } == 2)
            await first.end()
            await second.end()
        }
    }

    @Test func aDeposedLeadersLateCommitHasNoEffect() async throws {
        let base = try EmbeddedStore(path: nil)
        let master = FakeMaster()
        try await withServer(master.router()) { address in
            let first = Member(on: base, master: .addresses([address]))
            let second = Member(on: base, master: .addresses([address]))
            try await first.elect(on: base)
            try await create(app("/kept"), at: first)
            first.store.hold()
            let late = app("/late")
            async let answer = caller.call(.POST, try await first.address, "/v2/apps", json: late)
            try await eventually("the late commit") { first.store.waiting > 0 }
            try await second.elect(on: base)
            try await create(app("/other"), at: second)
            first.store.release()
            #expect(try await answer.status == 503)
            try await eventually("stepping down") { first.election.abdications == 1 }
            try await first.learn(leader: second)
            let apps = try await caller.call(.GET, try await first.address, "/v2/apps")
            #expect(try apps.json()["apps"]?.array?.compactMap { $0["id"]?.string } == ["/kept", "/other"])
            #expect(apps.headers["x-marathon-leader"] == ["http://\(try await second.name)"])
            await first.end()
            await second.end()
        }
    }

    @Test func aStoreThatGoesAwayCostsTheLeadershipOnly() async throws {
        let base = try EmbeddedStore(path: nil)
        let master = FakeMaster()
        try await withServer(master.router()) { address in
            let member = Member(on: base, master: .addresses([address]))
            try await member.elect(on: base)
            try await create(app("/web"), at: member)
            try await eventually("the end of the deployment") { try await deployments(member) == [] }
            member.store.fail(true)
            let refused = try await caller.call(
                .POST, try await member.address, "/v2/apps", json: app("/lost"))
            #expect(refused.status == 503)
            try await eventually("stepping down") { member.election.abdications == 1 }
            try await eventually("the end of the subscription") { !master.isSubscribed }

            // Elected again, it loads until it can, and requests wait for that.
            try await member.elect(on: base)
            let path = "/v2/apps?id=web"
            async let answer = caller.call(.GET, try await member.address, path, deadline: .seconds(60))
            try await Task.sleep(for: .milliseconds(300))
            member.store.fail(false)
            #expect(try await answer.json()["apps"]?.array?.count == 1)
            try await eventually("a new registration") { master.state.withLock { $0.subscriptions } == 2 }
            #expect(master.running.count == 1)
            #expect(try await caller.call(.GET, try await member.address, "/v2/apps/lost").status == 404)
            await member.end()
        }
    }

    @Test func anotherSchedulerOfTheFrameworkEndsTheLeadershipOnly() async throws {
        let base = try EmbeddedStore(path: nil)
        let master = FakeMaster()
        try await withServer(master.router()) { address in
            let first = Member(on: base, master: .addresses([address]))
            let second = Member(on: base, master: .addresses([address]))
            try await first.elect(on: base)
            try await eventually("registration") { master.state.withLock { $0.subscriptions } == 1 }
            try await eventually("the framework's id") { try await base.get("/marathon/framework-id") != nil }
            try await second.elect(on: base)
            // It learns of it from the master before the election tells it.
            try await eventually("stepping down") { first.election.abdications == 1 }
            try await first.learn(leader: second)
            #expect(try await caller.call(.GET, try await first.address, "/v2/apps").status == 200)
            await first.end()
            await second.end()
        }
    }

    @Test func anElectionThatEndsIsEnteredAgain() async throws {
        let base = try EmbeddedStore(path: nil)
        let master = FakeMaster()
        try await withServer(master.router()) { address in
            let member = Member(on: base, master: .addresses([address]))
            try await member.elect(on: base)
            try await eventually("registration") { master.state.withLock { $0.subscriptions } == 1 }
            member.election.finish()
            try await eventually("the end of the subscription") { !master.isSubscribed }
            try await member.elect(on: base)
            try await eventually("a new registration") { master.state.withLock { $0.subscriptions } == 2 }
            await member.end()
        }
    }

    @Test func tasksWithoutAFrameworkIDEndTheProcess() async throws {
        let base = try EmbeddedStore(path: nil)
        let master = FakeMaster()
        try await withServer(master.router()) { address in
            let first = Member(on: base, master: .addresses([address]))
            try await first.elect(on: base)
            try await create(app("/web"), at: first)
            try await eventually("one running") { master.running.count == 1 }
            await first.end()
            try await base.commit([.delete(key: "/marathon/framework-id", expected: .any)])
            let second = Member(on: base, master: .addresses([address]))
            try await second.elect(on: base)
            let failure = await #expect(throws: MarathonError.self) { try await second.outcome().get() }
            #expect(failure?.exitCode == 108)
            #expect(master.state.withLock { $0.subscriptions } == 1, "no second framework")
        }
    }

    @Test(arguments: [("Framework has been removed", 110), ("Role 'x' is not present in the master's --roles", 106)])
    func aMasterThatRefusesForGoodEndsTheProcess(_ message: String, _ code: Int32) async throws {
        let base = try EmbeddedStore(path: nil)
        let master = FakeMaster()
        master.state.withLock { $0.fault = message }
        try await withServer(master.router()) { address in
            let member = Member(on: base, master: .addresses([address]))
            try await member.elect(on: base)
            let failure = await #expect(throws: MarathonError.self) { try await member.outcome().get() }
            #expect(failure?.exitCode == code)
        }
    }

    @Test func theSubscriptionFollowsTheLeadingMaster() async throws {
        let base = try EmbeddedStore(path: nil)
        let masters = [FakeMaster(), FakeMaster()]
        let election = MasterElection()
        try await withServer(masters[0].router()) { one in
            try await withServer(masters[1].router()) { two in
                let member = Member(on: base, master: election.location)
                try await member.elect(on: base)
                election.announce(one)
                try await eventually("the first") { masters[0].isSubscribed }
                // The first's stream stays open: only the election tells.
                election.announce(nil)
                try await eventually("the end at the first") { !masters[0].isSubscribed }
                election.announce(two)
                try await eventually("the second") { masters[1].isSubscribed }
                #expect(masters[1].state.withLock { $0.frameworkID } == "framework-1")
                await member.end()
            }
        }
    }

    /// A master that has just been elected may still redirect to its dead predecessor.
    @Test func anElectionCountsMoreThanARedirection() async throws {
        let base = try EmbeddedStore(path: nil)
        let masters = [FakeMaster(), FakeMaster()]
        let election = MasterElection()
        try await withServer(masters[0].router()) { former in
            try await withServer(masters[1].router()) { fresh in
                masters[1].state.withLock { $0.redirection = former }
                let member = Member(on: base, master: election.location)
                try await member.elect(on: base)
                election.announce(fresh)
                try await eventually("being sent away twice") { masters[1].state.withLock { $0.redirected } >= 2 }
                masters[1].state.withLock { $0.redirection = nil }
                try await eventually("registration") { masters[1].isSubscribed }
                #expect(masters[0].state.withLock { $0.subscriptions } == 0)
                await member.end()

                // Without an election, the masters' word is all there is.
                masters[1].state.withLock { $0.redirection = former }
                let other = Member(on: base, master: .addresses([fresh]))
                try await other.elect(on: base)
                try await eventually("registration") { masters[0].isSubscribed }
                await other.end()
            }
        }
    }

    @Test func aLeaderThatCannotReachTheMasterGivesWay() async throws {
        let base = try EmbeddedStore(path: nil)
        let master = FakeMaster()
        let election = MasterElection()
        @Sendable func configure(_ configuration: inout MarathonConfiguration) {
            configuration.heartbeatInterval = .milliseconds(100)
            // Six seconds: other tests leave this one without a processor for a while.
            configuration.heartbeatFailureThreshold = 60
        }
        try await withServer(master.router()) { address in
            let member = Member(on: base, master: election.location, configure)
            try await member.elect(on: base)
            election.announce(address)
            // A quiet master answers when it is asked.
            try await eventually("ten signs of life") { master.state.withLock { $0.heartbeats } >= 10 }
            #expect(member.election.abdications == 0)
            #expect(master.state.withLock { $0.subscriptions } == 1)

            master.state.withLock { $0.isMute = true }
            try await eventually("giving way") { member.election.abdications == 1 }
            // Whoever is elected while the master stays mute gives way as well.
            try await member.elect(on: base)
            try await eventually("giving way again") { member.election.abdications == 2 }

            // Without a master that leads there is nobody whom others could reach.
            election.announce(nil)
            try await member.elect(on: base)
            try await Task.sleep(for: .seconds(1))
            #expect(member.election.abdications == 2)
            master.state.withLock { $0.isMute = false }
            election.announce(address)
            try await eventually("registration") { master.isSubscribed }
            #expect(member.election.abdications == 2)
            await member.end()
        }
    }
}
