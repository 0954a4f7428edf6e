import Base
import Coordination
import HTTPKit
import LinuxOS
import NIOHTTP1
import TestKit
import Testing

/// What is elected, each kind on its own.
enum Office: String, CaseIterable {
    case master, marathon, mdm

    /// The name of its election.
    var election: String {
        switch self {
        case .master: "/master/election"
        case .marathon: "/marathon/leader"
        case .mdm: "/block-manager"
        }
    }

    /// Ports by which everybody but ZooKeeper reaches the holder.
    var ports: [Int] {
        switch self {
        case .master: [5050, 5051]
        case .marathon: [8080]
        case .mdm: [6611, 8081]
        }
    }
}

/// A lab with three machines that stand for every office, at work: an app whose tasks must never be touched, one that is
/// deployed anew all the time, a file that grows on a volume, and volumes that come and go.
struct ElectedCluster: Sendable {
    struct Leader: Hashable {
        var node: Int
        var epoch: UInt64
    }

    let lab: LabUnderTest

    static let options = [
        "--store", "zookeeper", "--separate-roles", "--without-docker",
        // Agents of a busy machine are not given up while the next master learns of them.
        "--set", "master.agent_reregister_timeout=20secs", "--set", "master.agent_ping_timeout=5secs",
    ]

    static let steady = "sleep 1000001"
    private static let standing = 1...3
    private static let servers = standing.map { "10.80.0.\(10 + $0):2181" }.joined(separator: ",")

    // MARK: Elections

    /// Straight from ZooKeeper; nil while nobody leads.
    func leader(_ office: Office) async throws -> Leader? {
        let (path, candidates): (String, [String: ElectionCandidates]) =
            switch office {
            case .master:
                (
                    "/mesos-registry/mesos",
                    [
                        "/master/election": ElectionCandidates(
                            directory: "/mesos", prefix: ElectionCandidates.masterPrefix)
                    ]
                )
            case .marathon: ("/marathon", [:])
            case .mdm: ("/holdfast/mdm", [:])
            }
        let standings = try await ElectionStanding.all(at: "zk://\(Self.servers)\(path)", candidates: candidates)
        guard let standing = standings.first, let info = standing.leader?.info else { return nil }
        let text = String(decoding: info.bytes, as: UTF8.self)
        guard let node = Self.standing.first(where: { text.contains("10.80.0.\(10 + $0)") }) else { return nil }
        return Leader(node: node, epoch: standing.epoch)
    }

    /// The leader, once there is one since a later epoch.
    func nextLeader(_ office: Office, after epoch: UInt64) async throws -> Leader {
        try await eventually("another \(office) leads", within: .seconds(60)) {
            guard let leader = try await leader(office), leader.epoch > epoch else { return nil }
            return leader
        }
    }

    /// How often a candidate has lost its leadership, by its own log.
    func losses(of office: Office, on node: Int) throws -> Int {
        try readText("\(lab.directory)/node\(node)/node.log").split(separator: "\n").count {
            $0.contains("leadership lost") && $0.contains(office.election)
        }
    }

    // MARK: Apps

    /// Asks one Marathon after the other; those that do not lead ask the one that does.
    func marathon(_ method: HTTPMethod, _ path: String, _ body: JSONValue? = nil) async throws -> JSONValue {
        var failure: any Error = LabFailure("nobody was asked")
        for node in Self.standing {
            do {
                let reply = try await HTTPCaller().call(
                    method, .tcp(host: "10.80.0.\(10 + node)", port: 8080), path,
                    headers: ["content-type": "application/json"], body: body?.bytes, deadline: .seconds(5))
                if reply.isSuccess { return try reply.json() }
                failure = LabFailure("\(method) \(path): \(reply.status) \(reply.text)")
            } catch {
                failure = error
            }
        }
        throw failure
    }

    /// Deploys, until somebody has acknowledged it.
    func deploy(_ app: String, _ command: String) async throws {
        let body: JSONValue = [
            "cmd": .string("exec \(command)"), "instances": 3, "cpus": 0.1, "mem": 16,
            "backoffSeconds": 1,
        ]
        try await eventually("\(app) is accepted", within: .seconds(60)) {
            _ = try await marathon(.PUT, "/v2/apps/\(app)?force=true", body)
            return true
        }
    }

    /// All instances run the command, and nothing of an earlier version is left.
    func runs(_ app: String, _ command: String) async throws -> Bool {
        let tasks = try await marathon(.GET, "/v2/apps/\(app)/tasks")["tasks"]?.array ?? []
        let deployments = try await marathon(.GET, "/v2/deployments").array ?? []
        let isDone =
            tasks.count == 3 && tasks.allSatisfy { $0["state"]?.string == "TASK_RUNNING" } && deployments.isEmpty
        let running = try await processes(command)
        return isDone && running.count == 3
    }

    func taskIDs(_ app: String) async throws -> Set<String> {
        Set((try await marathon(.GET, "/v2/apps/\(app)/tasks")["tasks"]?.array ?? []).compactMap { $0["id"]?.string })
    }

    /// The processes of all machines whose whole command line matches.
    func processes(_ pattern: String) async throws -> Set<String> {
        let result = try await runCommand(["pgrep", "-f", "^\(pattern)$"])
        return Set(result.outputText.split(separator: "\n").map(String.init))
    }

    // MARK: Volumes

    /// Appends one number after the other to a file on a volume, each flushed before the next, until `/run/stop` is
    /// there or a write fails.
    private static let writer = """
        i=0; while [ ! -e /run/stop ]; do i=$((i+1)); \
        printf '%08d\\n' $i | dd of=/run/tank/log oflag=append,dsync conv=notrunc status=none || exit 1; \
        echo $i > /run/written; done
        """

    /// Mounts a volume on the fourth machine and writes to it until `finishWriting`.
    func startWriting() async throws {
        try await lab.execute(on: 4, ["rexray", "volume", "create", "--size=1", "tank"], deadline: .seconds(60))
        try await lab.execute(on: 4, ["rexray", "volume", "mount", "tank"], deadline: .seconds(60))
        let script = "rm -f /run/stop; ln -sfn $(grep '/tank[ /]' /proc/mounts | cut -d' ' -f2) /run/tank; "
        try await lab.execute(on: 4, ["sh", "-c", script + "(\(Self.writer)) > /run/writer.log 2>&1 &"])
    }

    func written() async throws -> Int {
        let text = try await lab.execute(on: 4, ["sh", "-c", "cat /run/written 2>/dev/null || echo 0"])
        return Int(text.filter(\.isNumber)) ?? 0
    }

    /// Ends the writing and compares the file, read back from the medium, with what was acknowledged.
    func finishWriting() async throws {
        try await lab.execute(on: 4, ["touch", "/run/stop"])
        let expected = try await eventually("the writer's end", within: .seconds(60)) {
            let before = try await written()
            return try await written() == before ? before : nil
        }
        #expect(try await lab.execute(on: 4, ["cat", "/run/writer.log"]).isEmpty)
        let check = "sync; echo 3 > /proc/sys/vm/drop_caches; seq -f '%08.0f' $(cat /run/written) | cmp - /run/tank/log"
        try await lab.execute(on: 4, ["sh", "-c", check])
        #expect(expected > 100)
        try await lab.execute(on: 4, ["rexray", "volume", "unmount", "tank"], deadline: .seconds(60))
    }

    /// On behalf of the fourth machine creates a volume and maps it, unmaps the one before, and removes the one before
    /// that. Returns once all of it was acknowledged.
    func comeAndGo(_ number: Int) async throws {
        try await lab.execute(on: 4, ["rexray", "volume", "create", "--size=1", "v\(number)"], deadline: .seconds(90))
        try await lab.execute(on: 4, ["rexray", "volume", "attach", "v\(number)"], deadline: .seconds(90))
        if number > 0 {
            try await lab.execute(on: 4, ["rexray", "volume", "detach", "v\(number - 1)"], deadline: .seconds(90))
        }
        if number > 1 {
            try await lab.execute(on: 4, ["rexray", "volume", "remove", "v\(number - 2)"], deadline: .seconds(90))
        }
    }

    /// The volumes that there must be after `comeAndGo(number)`, and to how many clients each is mapped.
    func expectedVolumes(_ number: Int) -> [String: [Int]] {
        var result = ["tank": [1], "v\(number)": [1]]
        if number > 0 { result["v\(number - 1)"] = [0] }
        return result
    }

    /// The volumes by name, each as often as it exists with the number of clients to which it is mapped.
    func volumes() async throws -> [String: [Int]] {
        var result: [String: [Int]] = [:]
        for volume in try await lab.storage("/api/types/Volume/instances").array ?? [] {
            result[volume["name"]?.string ?? "?", default: []].append(volume["mappedSdcInfo"]?.array?.count ?? 0)
        }
        return result
    }
}
