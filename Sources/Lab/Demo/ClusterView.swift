import Base
import HTTPKit
import NIOHTTP1

/// An instance of an app as Marathon tells it.
public struct AppInstance: Hashable, Sendable {
    public var id: String
    public var host: String
    public var port: Int
    public var state: String
}

/// What the scenarios ask the cluster's public APIs: Marathon, the master, the block store's gateway.
struct ClusterView: Sendable {
    let control: String
    private let caller = HTTPCaller()
    private let password: String

    init(control: String, password: String) {
        self.control = control
        self.password = password
    }

    private var marathon: HTTPAddress { .tcp(host: control, port: 8080) }
    private var master: HTTPAddress { .tcp(host: control, port: 5050) }
    private var gateway: HTTPAddress { .tcp(host: control, port: 8081) }

    // MARK: Marathon

    func deploy(_ document: [UInt8]) async throws {
        let reply = try await caller.call(
            .POST, marathon, "/v2/apps", headers: ["content-type": "application/json"], body: document)
        guard reply.status == 201 else { throw ScenarioFailure("Marathon answered \(reply.status): \(reply.text)") }
    }

    func instances(of app: String) async throws -> [AppInstance] {
        let reply = try await caller.call(.GET, marathon, "/v2/apps/\(app)/tasks", deadline: .seconds(2))
        guard reply.isSuccess else { throw ScenarioFailure("Marathon answered \(reply.status): \(reply.text)") }
        return (try reply.json()["tasks"]?.array ?? []).compactMap { task in
            guard let id = task["id"]?.string, let host = task["host"]?.string, let state = task["state"]?.string
            else { return nil }
            let port = task["ports"]?[0]?.integer.map(Int.init) ?? 0
            return AppInstance(id: id, host: host, port: port, state: state)
        }
    }

    func scale(_ app: String, to count: Int) async throws {
        let reply = try await caller.call(
            .PUT, marathon, "/v2/apps/\(app)?force=true", json: ["instances": .integer(Int64(count))])
        guard reply.isSuccess else { throw ScenarioFailure("Marathon answered \(reply.status): \(reply.text)") }
    }

    // MARK: Master

    /// The host names of the agents that are registered and reachable.
    func activeAgents() async throws -> [String] {
        var reply = try await caller.call(.GET, master, "/slaves", deadline: .seconds(2))
        // A master that does not lead names the one that does: "//host:port/slaves".
        if reply.status == 307, let location = reply.headers.first(name: "location"), location.hasPrefix("//"),
            let leader = HTTPAddress(String(location.dropFirst(2).prefix { $0 != "/" }))
        {
            reply = try await caller.call(.GET, leader, "/slaves", deadline: .seconds(2))
        }
        return (try reply.json()["slaves"]?.array ?? [])
            .filter { $0["active"]?.bool == true }.compactMap { $0["hostname"]?.string }
    }

    // MARK: Block store

    private func storage(_ path: String) async throws -> JSONValue {
        let login = try await caller.call(
            .GET, gateway, "/api/login",
            headers: ["authorization": basicAuthorization(user: "admin", password: password)])
        guard login.isSuccess, let token = try login.json().string else {
            throw ScenarioFailure("the gateway answered \(login.status): \(login.text)")
        }
        let reply = try await caller.call(
            .GET, gateway, path, headers: ["authorization": basicAuthorization(user: "", password: token)],
            deadline: .seconds(3))
        guard reply.isSuccess else { throw ScenarioFailure("the gateway answered \(reply.status): \(reply.text)") }
        return try reply.json()
    }

    /// Who may write the volume, and the proofs of how it came to be; see the gateway's
    /// `/holdfast/v1/volumes/ID/epochs`.
    func epochs(of volume: String) async throws -> JSONValue {
        try await storage("/holdfast/v1/volumes/\(volume)/epochs")
    }

    /// True when every comb that holds data has two copies.
    func hasTwoCopies() async throws -> Bool {
        let pools = try await storage("/holdfast/v1/pools").array ?? []
        guard !pools.isEmpty else { return false }
        return pools.allSatisfy { pool in
            let combs = pool["combs"]
            return ["degraded", "rebuilding", "unavailable"].allSatisfy { combs?[$0]?.integer == 0 }
        }
    }

    /// The servers that the manager counts as connected, by name.
    func connectedServers() async throws -> [String] {
        (try await storage("/api/types/Sds/instances").array ?? [])
            .filter { $0["mdmConnectionState"]?.string == "Connected" }.compactMap { $0["name"]?.string }
    }
}
