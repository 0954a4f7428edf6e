import ArgumentParser
import Base
import Coordination
import LinuxOS
import Master

struct StoreCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "store", abstract: "Looks after metadata stores.", subcommands: [Copy.self, Leaders.self])

    struct Copy: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Copies a store into an empty one, and verifies it, while nothing of the cluster runs.",
            discussion: """
                Moves a cluster from one machine's store to ZooKeeper, or back: stop the role, copy, start it with the new \
                location. A store is named as roles name theirs: embedded:PATH or zk://[USER:PASSWORD@]HOST:PORT,.../PATH.
                """)

        @Argument(help: "The store to read.") var from: String
        @Argument(help: "The store to fill.") var to: String

        func run() async throws {
            let (from, to) = (from, to)
            let source = try await offPool { try CoordinationBackend.open(from) }
            let target = try await offPool { try CoordinationBackend.open(to) }
            let count = try await copyStore(from: source.store, to: target.store)
            print("\(count) keys copied and verified.")
        }
    }

    struct Leaders: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Shows the elections in a ZooKeeper store: who leads, since which epoch, and who stands.",
            discussion:
                "Masters stand below the path of their --zk: --masters /mesos with the store zk://.../mesos-registry/mesos."
        )

        @Argument(help: "zk://[USER:PASSWORD@]HOST:PORT,.../PATH, as the role's --store names it.") var store: String
        @Option(help: "The path where masters stand.") var masters: String?

        func run() async throws {
            let standings = try await StoreCommand.standings(at: store, masters: masters)
            if standings.isEmpty { print("No election was ever held here.") }
            for standing in standings { print(StoreCommand.line(standing.election, standing)) }
        }
    }

    static func standings(at store: String, masters: String? = nil) async throws -> [ElectionStanding] {
        var candidates: [String: ElectionCandidates] = [:]
        if let masters {
            candidates[MasterService.electionPath] = ElectionCandidates(
                directory: masters, prefix: ElectionCandidates.masterPrefix)
        }
        return try await ElectionStanding.all(at: store, candidates: candidates)
    }

    /// Who leads an election, since which epoch, and who stands behind, with their sessions.
    static func line(_ title: String, _ standing: ElectionStanding) -> String {
        let leader = standing.leader.map { "\(text($0)) leads since epoch" } ?? "nobody leads; the last epoch was"
        let waiting =
            standing.waiting.isEmpty ? "" : "; standing: " + standing.waiting.map(text).joined(separator: ", ")
        return "\(title): \(leader) \(standing.epoch)\(waiting)"
    }

    private static func text(_ candidate: ElectionStanding.Candidate) -> String {
        let info = candidate.info
        // Each kind advertises where it answers: managers, Marathons, masters.
        let place =
            info?["control"]?.string ?? info?["address"]?.string
            ?? info?["address"].flatMap { address in
                address["ip"]?.string.map { "\($0):\(address["port"]?.integer ?? 0)" }
            }
        return "\(place ?? "?") (session 0x\(String(candidate.session, radix: 16)))"
    }
}
