import AsyncHTTPClient
import Base
import Coordination
import HTTPKit
import HTTPTypes
import Hummingbird
import Marathon
import MasterLocator
import NIOCore
import NIOHTTP1
import Synchronization
import TestKit
import Testing

/// Marathons that do not lead.
@Suite(.timeLimit(.minutes(2))) struct LeaderProxyTests {
    private let caller = HTTPCaller()

    /// A follower without master or leader.
    private func follower(_ configure: (inout MarathonConfiguration) -> Void = { _ in }) throws -> Member {
        Member(on: try EmbeddedStore(path: nil), master: .addresses([]), configure)
    }

    private func message(_ reply: HTTPReply) throws -> String? { try reply.json()["message"]?.string }

    @Test func aFollowerAnswersThroughTheLeader() async throws {
        let base = try EmbeddedStore(path: nil)
        let election = EmbeddedElection(store: base)
        let master = FakeMaster()
        try await withServer(master.router()) { address in
            let leader = Member(on: base, master: .addresses([address]), shared: election)
            let name = try await leader.name
            try await eventually("registration") { master.state.withLock { $0.subscriptions } == 1 }
            let follower = Member(on: base, master: .addresses([address]), shared: election)
            let door = try await follower.address
            let app: JSONValue = ["id": "/web", "cmd": "run", "cpus": 0.1, "mem": 32]
            let created = try await caller.call(.POST, door, "/v2/apps", json: app)
            #expect(created.status == 201)
            #expect(created.headers["location"] == ["/v2/apps/web"])
            #expect(created.headers["x-marathon-leader"] == ["http://\(name)"])
            #expect(created.headers["date"].count == 1)
            #expect(try await caller.call(.POST, door, "/v2/apps", json: app).status == 409)
            #expect(try await caller.call(.GET, door, "/v2/apps//none?embed=apps.tasks").status == 404)
            let head = try await caller.call(.HEAD, door, "/v2/apps")
            #expect(head.status == 200)
            #expect(head.body.isEmpty)
            let info = try await caller.call(.GET, door, "/v2/info").json()
            #expect(info["elected"] == true)
            #expect(info["leader"]?.string == name)
            #expect(try await caller.call(.GET, door, "/v2/leader").json() == ["leader": .string(name)])
            let events = try await caller.call(
                .GET, door, "/v2/events?event_type=x", headers: ["accept": "text/event-stream"])
            #expect(events.status == 302)
            #expect(events.headers["location"] == ["http://\(name)/v2/events?event_type=x"])
            let ping = try await caller.call(.GET, door, "/ping")
            #expect(ping.text == "pong")
            #expect(ping.headers["x-marathon-leader"].isEmpty)
            await follower.end()
            await leader.end()
        }
    }

    @Test func aLeaderAbdicatesWhenAsked() async throws {
        let base = try EmbeddedStore(path: nil)
        let election = EmbeddedElection(store: base)
        let master = FakeMaster()
        try await withServer(master.router()) { address in
            let first = Member(on: base, master: .addresses([address]), shared: election)
            let firstName = try await first.name
            try await eventually("registration") { master.state.withLock { $0.subscriptions } == 1 }
            let second = Member(on: base, master: .addresses([address]), shared: election)
            let secondName = try await second.name
            let backup = try await caller.call(.DELETE, try await first.address, "/v2/leader?backup=file:///x")
            #expect(backup.status == 501)
            let reply = try await caller.call(.DELETE, try await second.address, "/v2/leader")
            #expect(reply.status == 200)
            #expect(try message(reply) == "Leadership abdicated")
            for member in [first, second] {
                try await eventually("the new leader") {
                    try await caller.call(.GET, try await member.address, "/v2/leader").json()["leader"]?.string
                        == secondName
                }
            }
            // And back again.
            #expect(try await caller.call(.DELETE, try await first.address, "/v2/leader").status == 200)
            try await eventually("the old leader") {
                try await caller.call(.GET, try await second.address, "/v2/leader").json()["leader"]?.string
                    == firstName
            }
            try await eventually("registration") { master.state.withLock { $0.subscriptions } == 3 }
            await first.end()
            await second.end()
        }
    }

    @Test func requestsArriveAsTheyWereSentAndAnswersStreamThrough() async throws {
        let seen = Mutex<[HTTPFields]>([])
        let bodies = Mutex<[String]>([])
        let feed = BoundedFeed()
        let router = HTTPRouter(context: HTTPContext.self)
        router.post("/v2/**") { request, _ in
            seen.withLock { $0.append(request.headers) }
            let body = String(decoding: try await request.bytes(), as: UTF8.self)
            bodies.withLock { $0.append(request.uri.string + " " + body) }
            return Response(
                status: .accepted, headers: [HTTPField.Name("X-Own")!: "kept"],
                body: .init(byteBuffer: ByteBuffer(string: "done")))
        }
        router.get("/v2/**") { request, _ in Response.stream(feed, request: request, headers: [:]) }
        try await withServer(router) { [self] leader in
            let member = try follower()
            let door = try await member.address
            let name = try await member.name
            try await member.election.awaitCandidate()
            member.election.send(.leader(["address": .string(leader.description)]))
            let path = "/v2/apps//a%2Fb/restart?force=true&x=%20y"
            let reply = try await caller.call(
                .POST, door, path, headers: ["x-forwarded-for": "10.1.1.1", "x-marathon-via": "1.1 other:8080"],
                body: Array("{}".utf8))
            #expect(reply.status == 202)
            #expect(reply.text == "done")
            #expect(reply.headers["x-own"] == ["kept"])
            #expect(bodies.withLock { $0 } == [path + " {}"])
            let headers = try #require(seen.withLock { $0.first })
            let via = headers[values: HTTPField.Name("X-Marathon-Via")!]
            #expect(via == ["1.1 other:8080", "1.1 \(name)"])
            #expect(headers[values: HTTPField.Name("X-Forwarded-For")!] == ["10.1.1.1, 127.0.0.1"])

            let answer = try await caller.stream(.GET, door, "/v2/apps")
            var chunks = answer.body.makeAsyncIterator()
            for word in ["first", "second"] {
                feed.offer(ByteBuffer(string: word))
                #expect(try await chunks.next().map { String(buffer: $0) } == word)
            }
            feed.finish()
            #expect(try await chunks.next() == nil)
            await member.end()
        }
    }

    @Test func refusals() async throws {
        let member = try follower { $0.leaderWait = .milliseconds(100) }
        let door = try await member.address
        let unknown = try await caller.call(.GET, door, "/v2/apps")
        #expect(unknown.status == 502)
        #expect(try message(unknown) == "Could not determine the current leader")
        let none = try await caller.call(.GET, door, "/v2/leader")
        #expect(none.status == 404)
        #expect(try message(none) == "There is no leader")
        #expect(try await caller.call(.GET, door, "/v2/plugins").json() == ["plugins": []])
        #expect(try await caller.call(.GET, door, "/metrics").status == 200)

        try await member.election.awaitCandidate()
        member.election.send(.leader(["address": .string("127.0.0.1:\(try freePort())")]))
        try await eventually("refusal") {
            let refused = try await caller.call(.GET, door, "/v2/apps")
            return try refused.status == 502 && message(refused) == "Connection to leader refused."
        }
        let loop = try await caller.call(
            .GET, door, "/v2/apps", headers: ["x-marathon-via": "1.1 other:8080, 1.1 \(try await member.name)"])
        #expect(loop.status == 502)
        #expect(try message(loop) == "Detected proxying loop.")
        await member.end()
    }

    @Test func aSilentLeaderTimesOut() async throws {
        let directory = try TemporaryDirectory()
        let listener = try RawListener(path: directory.file("leader"))
        let member = try follower { $0.leaderProxyReadTimeout = .milliseconds(200) }
        let door = try await member.address
        try await member.election.awaitCandidate()
        member.election.send(.leader(["address": .string(directory.file("leader"))]))
        try await eventually("the news") {
            let reply = try await caller.call(.GET, door, "/v2/apps")
            return try reply.status == 504 && message(reply) == "Connection to leader timed out."
        }
        _ = listener
        await member.end()
    }
}
