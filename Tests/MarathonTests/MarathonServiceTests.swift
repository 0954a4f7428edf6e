import AsyncHTTPClient
import Base
import Coordination
import HTTPKit
import Logging
import Marathon
import MasterLocator
import MesosAPI
import NIOCore
import NIOHTTP1
import Synchronization
import TestKit
import Testing

@Suite struct MarathonServiceTests {
    /// A port that a service binds once it runs.
    final class Port: Sendable {
        private let value = Mutex(0)
        func set(_ port: Int) { value.withLock { $0 = port } }
        func get() async throws -> HTTPAddress {
            let port = try await eventually("the start of the service") {
                let port = value.withLock { $0 }
                return port == 0 ? nil : port
            }
            return .tcp(host: "127.0.0.1", port: port)
        }
    }

    private func quiet() -> Logger {
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        return logger
    }

    /// Runs a fake master and a Marathon beside `body`.
    func withMarathon(
        _ backend: CoordinationBackend, master: FakeMaster,
        _ body: @escaping @Sendable (HTTPAddress) async throws -> Void
    ) async throws {
        try await withServer(master.router()) { [logger = quiet()] address in
            let port = Port()
            let configuration = MarathonConfiguration(
                masters: .addresses([address]), httpAddress: .tcp(host: "127.0.0.1", port: 0))
            let service = MarathonService(
                configuration: configuration, backend: backend, logger: logger, onServerRunning: { port.set($0) })
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask { try await service.run() }
                group.addTask { try await body(try await port.get()) }
                // The body is the only one that ends by itself.
                try await group.next()
                group.cancelAll()
            }
        }
    }

    private let caller = HTTPCaller()
    private let web: JSONValue = ["id": "/web", "cmd": "run", "cpus": 0.1, "mem": 32, "instances": 2]

    @Test(.timeLimit(.minutes(1))) func createKillScaleDelete() async throws {
        let master = FakeMaster()
        try await withMarathon(try CoordinationBackend.open("memory:"), master: master) { [self] address in
            let created = try await caller.call(.POST, address, "/v2/apps", json: web)
            #expect(created.status == 201)
            #expect(
                try created.json()["deployments"]?[0]?["id"]?.string
                    == created.headers.first(name: "marathon-deployment-id"))
            try await eventually("two running") { master.running.count == 2 }
            try await eventually("the end of the deployment") {
                try await caller.call(.GET, address, "/v2/deployments").json() == []
            }
            try await eventually("acknowledgements") { master.state.withLock { $0.acknowledged } >= 2 }
            let victim = master.running[0]
            let killed = try await caller.call(.DELETE, address, "/v2/apps//web/tasks/\(victim)")
            #expect(try killed.json()["task"]?["id"]?.string == victim)
            try await eventually("a replacement") { master.running.count == 2 && !master.running.contains(victim) }
            let scaled = try await caller.call(.PUT, address, "/v2/apps/web?force=true", json: ["instances": 1])
            #expect(scaled.status == 200)
            try await eventually("one running") { master.running.count == 1 }
            try await eventually("one task in the app") {
                let app = try await caller.call(.GET, address, "/v2/apps/web").json()["app"]
                return app?["tasks"]?.array?.count == 1 && app?["tasksRunning"] == 1
            }
            #expect(try await caller.call(.DELETE, address, "/v2/apps/web").status == 200)
            try await eventually("nothing running") { master.running.isEmpty }
            #expect(try await caller.call(.GET, address, "/v2/apps/web").status == 404)
            try await eventually("no more offers") { master.state.withLock { $0.isSuppressed } }
        }
    }

    @Test(.timeLimit(.minutes(1))) func survivesARestartAndALostMaster() async throws {
        let backend = try CoordinationBackend.open("memory:")
        let master = FakeMaster()
        try await withMarathon(backend, master: master) { [self] address in
            _ = try await caller.call(.POST, address, "/v2/apps", json: web)
            try await eventually("two running") { master.running.count == 2 }
            master.disconnect()
            try await eventually("a new subscription") { master.state.withLock { $0.subscriptions } == 2 }
        }
        let before = master.running
        #expect(before.count == 2)
        // A second Marathon on the same store takes over under the same framework id, and notices what died meanwhile.
        master.state.withLock { $0.tasks[before[0]] = .taskFailed }
        let next = FakeMaster()
        next.state.withLock { new in new.tasks = master.state.withLock { $0.tasks } }
        try await withMarathon(backend, master: next) { [self] address in
            try await eventually("the registration") { next.state.withLock { $0.frameworkID } == "framework-1" }
            try await eventually("a replacement") { next.running.count == 2 }
            #expect(next.running.contains(before[1]), "what ran goes on")
            let version = try await caller.call(.GET, address, "/v2/apps/web/versions").json()["versions"]?.array
            #expect(version?.count == 1)
        }
    }

    @Test(.timeLimit(.minutes(1))) func events() async throws {
        let master = FakeMaster()
        try await withMarathon(try CoordinationBackend.open("memory:"), master: master) { [self] address in
            #expect(try await caller.call(.GET, address, "/v2/events").status == 406)
            let stream = try await caller.stream(
                .GET, address, "/v2/events?event_type=status_update_event&event_type=deployment_success",
                headers: ["accept": "text/event-stream"])
            _ = try await caller.call(.POST, address, "/v2/apps", json: web)
            var text = ""
            for try await chunk in stream.body {
                text += String(buffer: chunk)
                if text.contains("event: deployment_success") { break }
            }
            #expect(text.contains("event: status_update_event"))
            #expect(text.contains(#""taskStatus":"TASK_RUNNING""#))
            #expect(!text.contains("deployment_info"))
        }
    }

    @Test(.timeLimit(.minutes(1))) func healthChecksAreMade() async throws {
        let master = FakeMaster()
        try await withMarathon(try CoordinationBackend.open("memory:"), master: master) { [self] address in
            guard case .tcp(_, let port) = address else { return }
            // Marathon checks itself: it is what surely listens.
            let app: JSONValue = [
                "id": "/checked", "cmd": "run", "cpus": 0.1,
                "healthChecks": [
                    ["protocol": "HTTP", "path": "/ping", "port": .integer(Int64(port)), "intervalSeconds": 1],
                    ["protocol": "TCP", "port": .integer(Int64(port)), "intervalSeconds": 1],
                ],
            ]
            #expect(try await caller.call(.POST, address, "/v2/apps", json: app).status == 201)
            try await eventually("health") {
                try await caller.call(.GET, address, "/v2/apps/checked").json()["app"]?["tasksHealthy"] == 1
            }
        }
    }

    @Test(.timeLimit(.minutes(1))) func refusals() async throws {
        let master = FakeMaster()
        try await withMarathon(try CoordinationBackend.open("memory:"), master: master) { [self] address in
            let malformed = try await caller.call(.POST, address, "/v2/apps", body: Array("{\"id\":".utf8))
            #expect(malformed.status == 400)
            #expect(try malformed.json()["message"] == "Invalid JSON")
            let invalid = try await caller.call(.POST, address, "/v2/apps", json: ["id": "UP", "cmd": "x"])
            #expect(invalid.status == 422)
            #expect(try invalid.json()["details"]?[0]?["path"] == "/id")
            #expect(try await caller.call(.PATCH, address, "/v2/apps/none", json: ["instances": 1]).status == 404)
            #expect(try await caller.call(.DELETE, address, "/v2/deployments/none").status == 404)
            #expect(try await caller.call(.DELETE, address, "/v2/queue/none/delay").status == 404)
            #expect(try await caller.call(.GET, address, "/v2/apps?label=a%20in%20(").status == 422)
            let both = try await caller.call(.DELETE, address, "/v2/apps/x/tasks?scale=true&wipe=True")
            #expect(both.status == 400)
            let long: JSONValue = ["id": .string("/" + String(repeating: "a", count: 500)), "cmd": "x"]
            let large: JSONValue = ["id": "/x", "cmd": .string(String(repeating: "x", count: 900_000))]
            for (app, path) in [(long, "/id"), (large, "/")] as [(JSONValue, JSONValue)] {
                let refused = try await caller.call(.POST, address, "/v2/apps", json: app)
                #expect(refused.status == 422)
                #expect(try refused.json()["details"]?[0]?["path"] == path)
            }
            #expect(try await caller.call(.GET, address, "/v2/apps").json() == ["apps": []])
            #expect(try await caller.call(.GET, address, "/v2/deployments").json() == [])
            let ping = try await caller.call(.GET, address, "/ping", headers: ["accept": "application/json"])
            #expect(ping.text == "\"pong\"")
        }
    }
}
