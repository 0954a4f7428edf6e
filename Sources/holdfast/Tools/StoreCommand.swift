import ArgumentParser
import Coordination
import LinuxOS

struct StoreCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "store", abstract: "Looks after metadata stores.", subcommands: [Copy.self])

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
}
