import Base
import Coordination
import HTTPKit
import NIOHTTP1
import TestKit
import Testing

/// What Marathon says to clients that do not ask as they should.
@Suite(.timeLimit(.minutes(2))) struct BadInputTests {
    private static let calls: [(method: HTTPMethod, path: String)] = [
        (.POST, "/v2/apps"), (.PUT, "/v2/apps"), (.PUT, "/v2/apps/x"), (.PATCH, "/v2/apps/web"), (.POST, "/v2/groups"),
        (.PUT, "/v2/groups"), (.POST, "/v2/tasks/delete"),
    ]

    @Test func badBodiesNeverCreateAnything() async throws {
        let master = FakeMaster()
        try await MarathonServiceTests().withMarathon(try CoordinationBackend.open("memory:"), master: master) {
            address in
            let caller = HTTPCaller()
            let web: JSONValue = ["id": "/web", "cmd": "run", "cpus": 0.1, "mem": 32, "instances": 1]
            #expect(try await caller.call(.POST, address, "/v2/apps", json: web).status == 201)
            let before = try await caller.call(.GET, address, "/v2/apps/web").json()["app"]?["version"]
            var random = SeededRandom(seed: 64)
            for (method, path) in BadInputTests.calls {
                let isGroup = path == "/v2/groups"
                // What a group does not know is ignored.
                let bodies =
                    isGroup
                    ? BadInputTests.groups + BadInputTests.bodies.filter { !$0.contains("cmd") } : BadInputTests.bodies
                for body in bodies {
                    let reply = try await caller.call(method, address, path, body: Array(body.utf8))
                    // A collection that this version does not serve says so; what it serves blames the body.
                    let isRefused = (400..<500).contains(reply.status) || reply.status == 501
                    #expect(isRefused, "\(method) \(path) \(body.prefix(60)): \(reply.status) \(reply.text)")
                    #expect(try reply.json()["message"]?.string?.isEmpty == false, "\(reply.text)")
                }
                for _ in 0..<30 {
                    let garbage = (0..<Int.random(in: 1...200, using: &random)).map { _ in
                        UInt8.random(in: 0...255, using: &random)
                    }
                    let reply = try await caller.call(method, address, path, body: garbage)
                    #expect((400..<500).contains(reply.status) || reply.status == 501, "\(method) \(path) \(garbage)")
                }
                let long = [UInt8](repeating: 0x20, count: 8 << 20 + 1)
                let refused = try await caller.call(method, address, path, body: long)
                #expect(refused.status == 413 || refused.status == 501)
            }
            let apps = try await caller.call(.GET, address, "/v2/apps").json()["apps"]?.array
            #expect(apps?.map { $0["id"] } == ["/web"])
            #expect(apps?.first?["version"] == before)
            for path in [
                "/v2/apps/%00", "/v2/apps/%ff%zz", "/v2/apps/..%2f..", "/v2/apps?label=%", "/v2/queue/%/delay",
            ] {
                #expect(try await caller.call(.GET, address, path).status < 500, "\(path)")
            }
            let other: JSONValue = ["id": "/other", "cmd": "run", "cpus": 0.1, "mem": 32]
            #expect(try await caller.call(.POST, address, "/v2/apps", json: other).status == 201)
        }
    }

    private static let groups = [
        "{\"id\":\"/x\",\"apps\":5}", "{\"id\":\"/x\",\"apps\":[5]}", "{\"id\":\"/x\",\"groups\":\"y\"}",
        "{\"id\":\"/x\",\"apps\":[{\"id\":\"y\",\"cmd\":5}]}",
    ]

    private static let bodies = [
        "", "{", "[", "{\"id\":\"/x\"}}", "null", "5", "\"x\"", "{\"id\":5}", "{\"id\":\"/x\",\"cmd\":7}",
        "{\"id\":\"/x\",\"cmd\":\"y\",\"cpus\":\"many\"}", "{\"id\":\"/x\",\"cmd\":\"y\",\"instances\":-1}",
        "{\"id\":\"/x\",\"cmd\":\"y\",\"instances\":1e99}", "{\"id\":\"/x\",\"cmd\":\"y\",\"mem\":[]}",
        "{\"id\":\"/x\",\"cmd\":\"y\",\"env\":[]}", "{\"id\":\"/x\",\"cmd\":\"y\",\"container\":\"docker\"}",
        "{\"id\":\"/x\",\"cmd\":\"y\",\"constraints\":{}}", "{\"id\":[]}",
        "{\"id\":\"/x\",\"cmd\":\"y\",\"healthChecks\":[5]}",
        String(repeating: "{\"a\":", count: 100_000),
    ]
}
