import Base
import MarathonCore
import OrderedCollections
import Testing

@Suite struct DeploymentTests {
    @Test func createRunsAndFinishes() throws {
        var cluster = Cluster()
        let id = try cluster.create(#"{"id":"/web","cmd":"run","instances":2}"#)
        #expect(cluster.core.deployments.map(\.id) == [id])
        #expect(cluster.core.deployments[0].steps.flatMap { $0 }.map(\.kind) == [.start, .scale])
        cluster.settle()
        #expect(cluster.running.count == 2)
        #expect(cluster.core.deployments.isEmpty)
        #expect(cluster.types().contains("deployment_success"))
        #expect(cluster.core.apps[AppID("/web")]?.servicePorts == [10_000])
    }

    @Test func killedTaskIsReplaced() throws {
        var cluster = Cluster()
        try cluster.create(#"{"id":"/web","cmd":"run"}"#)
        cluster.settle()
        let task = try #require(cluster.running.first?.launch.instance.taskID)
        _ = try cluster.submit(.kill(.task(AppID("/web"), task), scale: false, wipe: false, force: false))
        cluster.settle()
        #expect(cluster.running.count == 1)
        #expect(cluster.running.first?.launch.instance.taskID != task)
        #expect(cluster.core.deployments.isEmpty)
    }

    @Test func killAndScale() throws {
        var cluster = Cluster()
        try cluster.create(#"{"id":"/web","cmd":"run","instances":3}"#)
        cluster.settle()
        let victim = cluster.running[1].launch.instance.taskID
        _ = try cluster.submit(
            .kill(.tasks([victim, "web.instance-none._app.1"]), scale: true, wipe: false, force: false))
        cluster.settle()
        #expect(cluster.running.count == 2)
        #expect(!cluster.running.map(\.launch.instance.taskID).contains(victim))
        #expect(cluster.core.apps[AppID("/web")]?.instances == 2)
    }

    @Test func scaleKeepsTasksAndChangeReplacesThem() throws {
        var cluster = Cluster()
        try cluster.create(#"{"id":"/web","cmd":"run","instances":2}"#)
        cluster.settle()
        let before = Set(cluster.running.map(\.launch.instance.taskID))
        try cluster.update("/web", #"{"instances":4}"#)
        #expect(cluster.core.deployments[0].steps.flatMap { $0 }.map(\.kind) == [.scale])
        cluster.settle()
        #expect(before.isSubset(of: cluster.running.map(\.launch.instance.taskID)))
        #expect(cluster.running.count == 4)
        try cluster.update("/web", #"{"labels":{"a":"b"}}"#)
        #expect(cluster.core.deployments[0].steps.flatMap { $0 }.map(\.kind) == [.restart])
        cluster.settle()
        #expect(cluster.running.count == 4)
        #expect(before.isDisjoint(with: cluster.running.map(\.launch.instance.taskID)))
        #expect(cluster.peak[AppID("/web")] ?? 0 <= 8)
    }

    @Test(arguments: [(1.0, 1.0, 8), (0.5, 0.0, 4), (0.0, 0.0, 4), (1.0, 0.0, 5), (1.0, 0.2, 5)])
    func replacementStaysWithinItsBounds(minimum: Double, over: Double, peak: Int) throws {
        var cluster = Cluster()
        let strategy = #""upgradeStrategy":{"minimumHealthCapacity":\#(minimum),"maximumOverCapacity":\#(over)}"#
        try cluster.create(#"{"id":"/web","cmd":"run","instances":4,\#(strategy)}"#)
        cluster.settle()
        cluster.peak = [:]
        try cluster.update("/web", #"{"cmd":"new"}"#)
        var lowest = 4
        for _ in 0..<60 {
            cluster.settle(rounds: 1)
            lowest = min(lowest, cluster.running.count)
        }
        #expect(cluster.core.deployments.isEmpty)
        #expect(cluster.running.count == 4)
        #expect(cluster.running.allSatisfy { $0.launch.app.cmd == "new" })
        #expect(cluster.peak[AppID("/web")] == peak)
        #expect(lowest >= Int((4 * minimum).rounded(.up)) - (minimum == 0 ? 0 : 0))
    }

    @Test func exclusiveVolumeStopsBeforeItStarts() throws {
        var cluster = Cluster()
        try cluster.create(redis)
        cluster.settle()
        let first = try #require(cluster.running.first?.launch.instance.taskID)
        cluster.peak = [:]
        try cluster.update("/redis", #"{"mem":64}"#)
        cluster.settle()
        #expect(cluster.peak[AppID("/redis")] == 1)
        #expect(cluster.running.count == 1)
        #expect(cluster.running.first?.launch.instance.taskID != first)
        _ = try cluster.deployment(.change([AppChange(.restart, id: AppID("/redis"))], force: false))
        cluster.settle()
        #expect(cluster.peak[AppID("/redis")] == 1)
        #expect(cluster.core.deployments.isEmpty)
    }

    @Test func deleteStopsEverything() throws {
        var cluster = Cluster()
        try cluster.create(#"{"id":"/web","cmd":"run","instances":2}"#)
        cluster.settle()
        _ = try cluster.deployment(.change([AppChange(.delete, id: AppID("/web"))], force: true))
        cluster.settle()
        #expect(cluster.running.isEmpty)
        #expect(cluster.core.apps.isEmpty && cluster.core.deployments.isEmpty && cluster.core.instances.isEmpty)
        #expect(cluster.written.keys.sorted() == ["root"], "nothing is left in the store")
        #expect(cluster.types().contains("app_terminated_event"))
    }

    @Test func lockedUntilForced() throws {
        var cluster = Cluster()
        try cluster.create(#"{"id":"/web","cmd":"run","instances":2}"#)
        let held = cluster.core.deployments[0].id
        #expect(throws: CommandError.locked([held])) { try cluster.update("/web", #"{"instances":1}"#) }
        let forced = try cluster.update("/web", #"{"instances":1}"#, force: true)
        #expect(cluster.core.deployments.map(\.id) == [forced])
        #expect(cluster.types().contains("deployment_failed"))
        cluster.settle()
        #expect(cluster.running.count == 1)
    }

    @Test func forcedRepetitionGoesOnWhereItWas() throws {
        var cluster = Cluster()
        try cluster.create(#"{"id":"/web","cmd":"run","instances":2}"#)
        try cluster.update("/web", #"{"instances":2}"#, force: true)
        #expect(cluster.core.deployments.count == 1, "nothing runs yet")
        cluster.settle()
        #expect(cluster.core.deployments.isEmpty)
        #expect(cluster.running.count == 2)
    }

    @Test func rollbackRestoresAndReplacesOnlyWhatChanged() throws {
        var cluster = Cluster()
        try cluster.create(#"{"id":"/web","cmd":"old","instances":2}"#)
        cluster.settle()
        let before = Set(cluster.running.map(\.launch.instance.taskID))
        let broken = try cluster.update("/web", #"{"cmd":"new","constraints":[["rack","IS","none"]]}"#)
        cluster.settle(rounds: 5)
        #expect(!cluster.core.deployments.isEmpty, "nothing can be placed")
        _ = try cluster.submit(.cancelDeployment(broken, force: false))
        cluster.settle()
        #expect(cluster.core.deployments.isEmpty)
        #expect(Set(cluster.running.map(\.launch.instance.taskID)) == before)
        #expect(cluster.core.apps[AppID("/web")]?.cmd == "old")
    }

    @Test func dependenciesComeFirst() throws {
        var cluster = Cluster()
        let documents: [JSONValue] = [
            ["id": "/shop/web", "cmd": "w", "dependencies": ["/shop/db"]], ["id": "/shop/db", "cmd": "d"],
        ]
        _ = try cluster.deployment(.change(documents.map { AppChange(.create, document: $0) }, force: false))
        let steps = cluster.core.deployments[0].steps.map { $0.map { "\($0.kind.rawValue) \($0.app)" } }
        #expect(
            steps == [
                ["StartApplication /shop/db", "StartApplication /shop/web"], ["ScaleApplication /shop/db"],
                ["ScaleApplication /shop/web"],
            ])
        cluster.settle()
        #expect(cluster.running.map(\.launch.app.id.description) == ["/shop/db", "/shop/web"])
        let cyclic: [AppChange] = [
            AppChange(
                .update(isPartial: true, mustExist: true), id: AppID("/shop/db"),
                document: ["dependencies": ["/shop/web"]])
        ]
        #expect(throws: CommandError.spec(.invalid("/", "Dependency graph has cyclic dependencies."))) {
            try cluster.submit(.change(cyclic, force: true))
        }
    }

    @Test func goesOnAfterARestartOfTheScheduler() throws {
        var cluster = Cluster()
        try cluster.create(
            #"{"id":"/web","cmd":"run","instances":4,"upgradeStrategy":{"minimumHealthCapacity":0.5,"maximumOverCapacity":0}}"#
        )
        cluster.settle()
        try cluster.update("/web", #"{"cmd":"new"}"#)
        cluster.settle(rounds: 1)
        #expect(!cluster.core.deployments.isEmpty)
        var revived = Cluster(records: cluster.written)
        revived.tasks = cluster.tasks
        revived.launchOrder = cluster.launchOrder
        revived.now = cluster.now
        #expect(revived.core.apps == cluster.core.apps)
        #expect(revived.core.deployments == cluster.core.deployments)
        revived.settle()
        #expect(revived.core.deployments.isEmpty)
        #expect(revived.running.count == 4)
        #expect(revived.running.allSatisfy { $0.launch.app.cmd == "new" })
    }

    @Test func versionsAreKeptAndRestored() throws {
        var cluster = Cluster()
        try cluster.create(#"{"id":"/web","cmd":"one"}"#)
        cluster.settle()
        let first = try #require(cluster.core.apps[AppID("/web")]?.version)
        try cluster.update("/web", #"{"cmd":"two"}"#)
        cluster.settle()
        try cluster.update("/web", #"{"version":"\#(first)"}"#)
        cluster.settle()
        #expect(cluster.core.apps[AppID("/web")]?.cmd == "one")
        #expect(cluster.core.versions(of: AppID("/web")).count == 3)
        #expect(throws: CommandError.self) { try cluster.update("/web", #"{"version":"2001-01-01T00:00:00.000Z"}"#) }
    }

    @Test func unchangedUpdateIsOverAtOnce() throws {
        var cluster = Cluster()
        try cluster.create(redis)
        cluster.settle()
        let task = cluster.running.first?.launch.instance.taskID
        try cluster.update("/redis", redis)
        #expect(cluster.core.deployments.isEmpty)
        cluster.settle()
        #expect(cluster.running.first?.launch.instance.taskID == task)
    }

    @Test func volumeNamesAreExclusive() throws {
        var cluster = Cluster()
        func db(_ id: String) -> String {
            #"{"id":"\#(id)","cmd":"x","container":{"type":"MESOS","volumes":[{"containerPath":"d","external":{"name":"v","options":{"dvdi/driver":"rexray"}}}]}}"#
        }
        try cluster.create(db("/a"))
        #expect(throws: CommandError.self) { try cluster.create(db("/b")) }
        #expect(throws: CommandError.conflict("An app with id [/a] already exists.")) { try cluster.create(db("/a")) }
    }
}
