import Base
import BlockCore
import BlockIO
import BlockManager
import Coordination
import HTTPKit
import Hummingbird
import Logging
import NIOHTTP1
import ServiceLifecycle
import StorageTools
import Synchronization
import TestKit
import Testing

@testable import Gateway

/// Three managers on one store, each with its gateway.
actor ServedManagers {
    let managers: [ManagerService]
    let addresses: [HTTPAddress]
    private let bodies: [[@Sendable () async throws -> Void]]
    private var tasks: [Int: [Task<Void, any Error>]] = [:]

    init() async throws {
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        let backend = try CoordinationBackend.open("memory:")
        var managers: [ManagerService] = []
        var addresses: [HTTPAddress] = []
        var bodies: [[@Sendable () async throws -> Void]] = []
        for number in 1...3 {
            let address = HTTPAddress.tcp(host: "127.0.0.1", port: try freePort())
            var configuration = ManagerService.Configuration(listen: .inet(host: "127.0.0.1", port: 0))
            configuration.name = "mdm\(number)"
            configuration.gateway = address.description
            let manager = try ManagerService(configuration, backend: backend, logger: logger)
            let gateway = Gateway(
                configuration: GatewayConfiguration(password: "secret"), manager: manager, cluster: manager,
                store: backend.store, logger: logger)
            let endpoints = GatewayEndpoints(plain: address, secure: nil, directory: "/nonexistent")
            let servers = try await gateway.servers(endpoints)
            var parts: [@Sendable () async throws -> Void] = [{ try await manager.run() }]
            for server in servers { parts.append { try await server.run() } }
            bodies.append(parts)
            managers.append(manager)
            addresses.append(address)
        }
        self.managers = managers
        self.addresses = addresses
        self.bodies = bodies
    }

    func start() async throws {
        for index in managers.indices {
            tasks[index] = bodies[index].map { body in Task { try await body() } }
            let address = addresses[index]
            // In this order they lead.
            try await eventually("gateway \(index)") {
                try await HTTPCaller(client: HTTPCaller.promptClient).call(.GET, address, "/api/login").status == 401
            }
        }
        let managers = managers
        try await eventually("all managers") { try await managers[0].members().count == 3 }
    }

    func end(_ index: Int) async {
        for task in tasks.removeValue(forKey: index) ?? [] {
            task.cancel()
            _ = await task.result
        }
    }

    func end() async {
        for index in managers.indices { await end(index) }
    }
}

@Suite struct GatewayClusterTests {
    func withManagers(_ body: (ServedManagers) async throws -> Void) async throws {
        let served = try await ServedManagers()
        do {
            try await served.start()
            try await body(served)
        } catch {
            await served.end()
            throw error
        }
        await served.end()
    }

    func login(_ address: HTTPAddress) async throws -> HTTPCaller {
        let reply = try await HTTPCaller().call(
            .GET, address, "/api/login", headers: ["authorization": Bench.basic("admin", "secret")])
        #expect(reply.status == 200)
        return HTTPCaller(headers: ["authorization": Bench.basic("", try reply.json().string ?? "")])
    }

    @Test func oneLoginServesAtEveryGatewayAndOutlivesTheLeader() async throws {
        try await withManagers { served in
            let addresses = served.addresses
            // The first leads; the login goes through a follower.
            let session = try await login(addresses[2])
            for address in addresses {
                #expect(try await session.call(.GET, address, "/api/version").text == "\"3.5\"")
            }
            let created = try await session.call(
                .POST, addresses[1], "/api/types/ProtectionDomain/instances", json: ["name": "pd1"])
            #expect(created.status == 200)
            let id = try #require(try created.json()["id"]?.string)
            for address in addresses {
                let found = try await session.call(.GET, address, "/api/instances/ProtectionDomain::\(id)")
                #expect(try found.json()["name"] == "pd1")
            }
            let again = try await session.call(
                .POST, addresses[2], "/api/types/ProtectionDomain/instances", json: ["name": "pd1"])
            #expect(try again.json()["errorCode"] == 141)
            let other = try await login(addresses[0])

            await served.end(0)
            for address in addresses[1...] {
                let found = try await session.call(.GET, address, "/api/instances/ProtectionDomain::\(id)")
                #expect(found.status == 200, "\(found.text)")
            }
            #expect(try await session.call(.GET, addresses[1], "/api/logout").status == 200)
            for address in addresses[1...] {
                #expect(try await session.call(.GET, address, "/api/version").status == 401)
                #expect(try await other.call(.GET, address, "/api/version").status == 200)
            }
            await served.end(1)
            // Ended sessions stay ended under the next leader.
            #expect(try await session.call(.GET, addresses[2], "/api/version").status == 401)
            #expect(try await other.call(.GET, addresses[2], "/api/version").status == 200)
        }
    }

    @Test func scliShowsTheClusterAndSwitchesItsLeader() async throws {
        try await withManagers { served in
            let directory = try TemporaryDirectory()
            let list = served.addresses.map(\.description).joined(separator: ",")
            let dead = "127.0.0.1:\(try freePort())"
            let scli = Scli(environment: ["SCLI_SESSION_FILE": directory.file("session")])
            func run(_ line: String) async -> ToolResult {
                await scli.run(["--mdm_ip", "\(dead),\(list)"] + line.split(separator: " ").map(String.init))
            }
            #expect(await run("--login --username admin --password secret").exitCode == 0)
            let members = try await served.managers[0].members()
            func block(_ index: Int, status: String) -> String {
                let port = members[index].address.split(separator: ":").last ?? ""
                return """
                        Name: mdm\(index + 1), ID: 0x\(members[index].id)
                            IPs: 127.0.0.1, Management IPs: 127.0.0.1, Port: \(port)
                            \(status)Version: R3_5.0.0

                    """
            }
            #expect(
                await run("--query_cluster").output == """
                    Cluster:
                        Mode: 3_node, State: Normal, Active: 3/3, Replicas: 3/3
                    Master MDM:
                    \(block(0, status: ""))Slave MDMs:
                    \(block(1, status: "Status: Normal, "))\(block(2, status: "Status: Normal, "))Tie-Breakers:

                    """)
            let switched = await run("--switch_mdm_ownership --new_master_mdm_name mdm3")
            #expect(switched.output == "Successfully switched MDM ownership.\n", "\(switched)")
            #expect(await run("--query_cluster").output.contains("Master MDM:\n    Name: mdm3,"))
            let byID = await run("--switch_mdm_ownership --new_master_mdm_id 0x\(members[1].id)")
            #expect(byID.exitCode == 0, "\(byID)")
            #expect(await run("--query_cluster").output.contains("Master MDM:\n    Name: mdm2,"))
            #expect(await run("--switch_mdm_ownership --new_master_mdm_name nobody").exitCode == 7)
            #expect(await run("--switch_mdm_ownership").exitCode == 1)
            // Wrong members of the request are answered too.
            let session = try await login(served.addresses[0])
            for body: JSONValue in [[:], ["id": 7], ["id": "x"], ["id": "00000000000000ff"]] {
                let reply = try await session.call(
                    .POST, served.addresses[0], "/api/instances/System/action/changeMdmOwnership", json: body)
                #expect(reply.status == 400 || reply.status == 500)
            }
        }
    }

    /// The gateway that carried out a change is gone; its successor has the proof and the session.
    @Test func proofsAndSessionsAreInTheStore() async throws {
        let backend = try CoordinationBackend.open("memory:")
        let manager = MemoryManager()
        func gateway() -> Gateway {
            Gateway(
                configuration: GatewayConfiguration(password: "secret"), manager: manager, store: backend.store,
                logger: Logger(label: "test"))
        }
        let first = gateway()
        let token = try #require(
            try await first.answer(
                method: .get, path: "/api/login", authorization: Bench.basic("admin", "secret"), body: []
            ).string)
        func post(_ gateway: Gateway, _ path: String, _ body: JSONValue) async throws -> JSONValue {
            try await gateway.answer(
                method: .post, path: path, authorization: Bench.basic("", token), body: body.bytes)
        }
        let created = try await post(
            first, "/api/types/Volume/instances",
            ["volumeSizeInKb": "8388608", "storagePoolId": .string(MemoryManager.pool.description)])
        let volume = try #require(created["id"]?.string)
        let second = gateway()
        for (gateway, guid) in [(first, MemoryManager.guid1), (second, MemoryManager.guid2)] {
            _ = try await post(
                gateway, "/api/instances/Volume::\(volume)/action/addMappedSdc",
                ["guid": .string(guid), "preempt": "TRUE"])
        }
        func history() async throws -> [JSONValue]? {
            try await gateway().answer(
                method: .get, path: "/holdfast/v1/volumes/\(volume)/epochs", authorization: Bench.basic("", token),
                body: [])["history"]?.array
        }
        #expect(try await history()?.map { $0["attachEpoch"] } == [1, 2])
        _ = try await post(second, "/api/instances/Volume::\(volume)/action/removeMappedSdc", ["allSdcs": "TRUE"])
        _ = try await post(second, "/api/instances/Volume::\(volume)/action/removeVolume", [:])
        #expect(try await backend.store.list(prefix: "/block-gateway/fencing/").isEmpty)
    }

    /// Who leads, as a test says.
    final class FixedCluster: ManagerClusterPort {
        private let now: Mutex<(leadership: ManagerLeadership, asked: Int)>
        init(_ leadership: ManagerLeadership) { now = Mutex((leadership, 0)) }
        func leadership() -> ManagerLeadership {
            now.withLock {
                $0.asked += 1
                return $0.leadership
            }
        }
        func change(to leadership: ManagerLeadership) { now.withLock { $0 = (leadership, 0) } }
        var asked: Int { now.withLock { $0.asked } }
        func members() async throws(ManagerError) -> [ManagerMember] { [] }
        func giveLeadership(to member: ManagerID) async throws(ManagerError) {
            throw ManagerError(.notLeader, "never")
        }
    }

    @Test func withoutALeaderRequestsWaitAndForwardedOnesDoNot() async throws {
        let cluster = FixedCluster(.nowhere)
        let gateway = Gateway(
            configuration: GatewayConfiguration(password: "secret"), manager: MemoryManager(), cluster: cluster,
            logger: Logger(label: "test"))
        let router = HTTPRouter(context: HTTPContext.self)
        gateway.addRoutes(to: router)
        try await withServer(router) { address in
            let credentials = Bench.basic("admin", "secret")
            func login(_ headers: HTTPHeaders = [:]) async throws -> HTTPReply {
                var headers = headers
                headers.add(name: "authorization", value: credentials)
                return try await HTTPCaller().call(
                    .GET, address, "/api/login", headers: headers, deadline: .seconds(60))
            }
            let refused = try await login(["x-holdfast-forwarded": "1"])
            #expect(refused.status == 500)
            #expect(try refused.json()["errorCode"] == 105)
            cluster.change(to: .nowhere)
            async let waiting = login()
            try await eventually("a second look for the leader") { cluster.asked > 1 }
            cluster.change(to: .here(term: 1))
            #expect(try await waiting.status == 200)
            // A leader that nobody reaches, and one whose gateway is this one: neither is waited for, nor a loop.
            cluster.change(to: .elsewhere(gateway: nil))
            #expect(try await login().status == 500)
            cluster.change(to: .elsewhere(gateway: address.description))
            async let looping = login()
            try await eventually("the request's return") { cluster.asked > 2 }
            cluster.change(to: .here(term: 2))
            #expect(try await looping.status == 200)
            // A leader that lets connect and is silent is given up once it leads no longer.
            let directory = try TemporaryDirectory()
            let silent = try RawListener(path: directory.file("stopped"))
            let session = try await login().json().string ?? ""
            cluster.change(to: .elsewhere(gateway: silent.address.description))
            async let stuck = login()
            async let change = HTTPCaller().call(
                .POST, address, "/api/types/ProtectionDomain/instances",
                headers: ["authorization": Bench.basic("", session)], body: [UInt8]("{}".utf8), deadline: .seconds(20))
            let held = try await [silent.accept(), silent.accept()]
            cluster.change(to: .here(term: 3))
            #expect(try await stuck.status == 200)
            #expect(try await change.json()["errorCode"] == 69)
            withExtendedLifetime(held) {}
        }
    }
}
