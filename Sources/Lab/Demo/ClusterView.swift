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
///
/// Each of them runs on every control node; any that answers will do, since those that do not lead ask the one that
/// does, or send us on.
struct ClusterView: Sendable {
    private let controls: [String]
    private let caller = HTTPCaller()
    private let password: String

    init(controls: [String], password: String) {
        precondition(!controls.isEmpty, "somebody must answer")
        self.controls = controls
        self.password = password
    }

    /// The first success of asking one control node after the other. Dead machines do not even refuse, so each has
    /// little time.
    private func ask(
        _ what: String, _ port: Int, isDone: (HTTPReply) -> Bool = { $0.isSuccess },
        _ call: (HTTPAddress) async throws -> HTTPReply
    ) async throws -> HTTPReply {
        var reason = ""
        for control in controls {
            do {
                let reply = try await call(.tcp(host: control, port: port))
                if isDone(reply) { return reply }
                reason = "\(what) of \(control) answered \(reply.status): \(reply.text)"
            } catch let error as HTTPCallError {
                reason = "\(what) of \(control): \(error)"
            }
        }
        throw ScenarioFailure(reason)
    }

    // MARK: Marathon

    func deploy(_ document: [UInt8]) async throws {
        _ = try await ask("Marathon", 8080) {
            try await caller.call(
                .POST, $0, "/v2/apps", headers: ["content-type": "application/json"], body: document,
                deadline: .seconds(15))
        }
    }

    func instances(of app: String) async throws -> [AppInstance] {
        let reply = try await ask("Marathon", 8080) {
            try await caller.call(.GET, $0, "/v2/apps/\(app)/tasks", deadline: .seconds(1))
        }
        return (try reply.json()["tasks"]?.array ?? []).compactMap { task in
            guard let id = task["id"]?.string, let host = task["host"]?.string, let state = task["state"]?.string
            else { return nil }
            let port = task["ports"]?[0]?.integer.map(Int.init) ?? 0
            return AppInstance(id: id, host: host, port: port, state: state)
        }
    }

    func scale(_ app: String, to count: Int) async throws {
        _ = try await ask("Marathon", 8080) {
            try await caller.call(
                .PUT, $0, "/v2/apps/\(app)?force=true", json: ["instances": .integer(Int64(count))])
        }
    }

    /// The address of the leading Marathon's machine.
    func leadingMarathon() async throws -> String? {
        let reply = try await ask("Marathon", 8080) {
            try await caller.call(.GET, $0, "/v2/leader", deadline: .seconds(1))
        }
        return try reply.json()["leader"]?.string?.split(separator: ":").first.map(String.init)
    }

    func abdicateMarathon() async throws {
        _ = try await ask("Marathon", 8080) {
            try await caller.call(.DELETE, $0, "/v2/leader", deadline: .seconds(3))
        }
    }

    // MARK: Master

    /// The address of the leading master's machine.
    func leadingMaster() async throws -> String? {
        let reply = try await ask("the master", 5050, isDone: { $0.status == 307 }) {
            try await caller.call(.GET, $0, "/redirect", deadline: .seconds(1))
        }
        let place = reply.headers.first(name: "location") ?? ""
        return place.split(separator: "/").first { $0.contains(".") }?.split(separator: ":").first.map(String.init)
    }

    /// The host names of the agents that are registered and reachable.
    func activeAgents() async throws -> [String] {
        let reply = try await ask("the master", 5050) {
            try await caller.call(.GET, $0, "/slaves", deadline: .seconds(2))
        }
        return (try reply.json()["slaves"]?.array ?? [])
            .filter { $0["active"]?.bool == true }.compactMap { $0["hostname"]?.string }
    }

    // MARK: Block store

    /// What a machine's user types before other commands of scli.
    var login: [String] { ["scli", "--login", "--username", "admin", "--password", password] }

    /// The address of the leading manager's machine.
    func leadingManager() async throws -> String? {
        let systems = try await storage("/api/types/System/instances").array ?? []
        return systems.first?["mdmCluster"]?["master"]?["ips"]?[0]?.string
    }

    /// - Parameter body: posted; nil: it is a question.
    @discardableResult
    private func storage(_ path: String, _ body: JSONValue? = nil) async throws -> JSONValue {
        let reply = try await ask("the gateway", 8081) { gateway in
            let login = try await caller.call(
                .GET, gateway, "/api/login",
                headers: ["authorization": basicAuthorization(user: "admin", password: password)],
                deadline: .seconds(2))
            guard login.isSuccess, let token = try login.json().string else { return login }
            let headers: HTTPHeaders = ["authorization": basicAuthorization(user: "", password: token)]
            guard let body else {
                return try await caller.call(.GET, gateway, path, headers: headers, deadline: .seconds(3))
            }
            return try await caller.call(.POST, gateway, path, json: body, headers: headers, deadline: .seconds(5))
        }
        return try reply.json()
    }

    private func poolActions(_ action: String, _ body: JSONValue) async throws {
        for pool in try await storage("/api/types/StoragePool/instances").array ?? [] {
            guard let id = pool["id"]?.string else { continue }
            try await storage("/api/instances/StoragePool::\(id)/action/\(action)", body)
        }
    }

    /// Has all that is stored looked through for damage, at up to this speed for each device.
    func scan(kibibytesPerSecond: Int) async throws {
        try await poolActions(
            "enableBackgroundDeviceScanner",
            ["scannerMode": "DataComparison", "scannerBWLimitKBps": .string("\(kibibytesPerSecond)")])
    }

    /// Of one moment.
    func takeSnapshots(of names: Set<String>) async throws {
        let volumes = try await storage("/api/types/Volume/instances").array ?? []
        let ids = volumes.filter { names.contains($0["name"]?.string ?? "") }.compactMap { $0["id"]?.string }
        guard ids.count == names.count else { throw ScenarioFailure("of \(names) there are \(ids.count)") }
        try await storage(
            "/api/instances/System/action/snapshotVolumes",
            ["snapshotDefs": .array(ids.map { ["volumeId": .string($0)] })])
    }

    /// All that there are.
    func removeSnapshots() async throws {
        for volume in try await storage("/api/types/Volume/instances").array ?? [] {
            guard volume["ancestorVolumeId"]?.string != nil, let id = volume["id"]?.string else { continue }
            try await storage("/api/instances/Volume::\(id)/action/removeVolume", ["removeMode": "ONLY_ME"])
        }
    }

    /// Sets how much of every device clients leave free.
    func keepSpare(percent: Int) async throws {
        try await poolActions("setSparePercentage", ["sparePercentage": .string("\(percent)")])
    }

    /// Blocks of all devices that are damaged now, and those that were found differing since the servers started.
    func damage() async throws -> (now: Int64, differing: Int64) {
        var damage: (now: Int64, differing: Int64) = (0, 0)
        for device in try await storage("/api/types/Device/instances").array ?? [] {
            guard let id = device["id"]?.string else { continue }
            let statistics = try await storage("/api/instances/Device::\(id)/relationships/Statistics")
            damage.now += statistics["damagedBlocks"]?.integer ?? 0
            damage.differing += statistics["backgroundScanCompareCount"]?.integer ?? 0
        }
        return damage
    }

    /// What an operator does when a server has come up with an empty disk: it is another one, by another name; the one that it
    /// was is removed, and it gets that one's name.
    ///
    /// - Returns: true when that is done. It takes until nothing is left of the old one in any comb.
    func replaceServer(named name: String) async throws -> Bool {
        let servers = try await storage("/api/types/Sds/instances").array ?? []
        guard
            let new = servers.first(where: {
                $0["name"]?.string?.hasPrefix(name + "-") == true && $0["mdmConnectionState"]?.string == "Connected"
            }), let id = new["id"]?.string
        else { return false }
        if let old = servers.first(where: { $0["name"]?.string == name })?["id"]?.string {
            try await storage("/api/instances/Sds::\(old)/action/removeSds", [:])
        }
        try await storage("/api/instances/Sds::\(id)/action/setSdsName", ["name": .string(name)])
        return true
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
