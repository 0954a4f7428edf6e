public import Base
import LinuxOS
import Logging

/// How an election in ZooKeeper stands, as somebody sees it who takes no part; for people.
public struct ElectionStanding: Sendable {
    public struct Candidate: Sendable {
        /// The session whose end removes it.
        public var session: Int64
        /// What it advertises.
        public var info: JSONValue?
    }

    /// The name that its candidates know it by.
    public var election: String
    /// Of the present leadership, or of the last one while nobody leads. It grows with each.
    public var epoch: UInt64
    /// Nil while nobody leads.
    public var leader: Candidate?
    /// The others, in the order in which they would lead.
    public var waiting: [Candidate]
}

extension ElectionStanding {
    /// All elections that were ever held at a location, by name.
    ///
    /// - Parameters:
    ///   - location: as roles name their store, `zk://[user:password@]host:port,.../path`.
    ///   - candidates: elections by name whose candidates stand elsewhere.
    ///   - patience: after which the ensemble counts as unavailable.
    public static func all(
        at location: String, candidates: [String: ElectionCandidates] = [:], patience: Duration = .seconds(10)
    ) async throws(StoreError) -> [ElectionStanding] {
        let location = try ZooKeeperLocation(location)
        let logger = Logger(label: "elections") { _ in SwiftLogNoOpLogHandler() }
        let connection = ZooKeeperConnection(logger: logger)
        let session = ZooKeeperSession(location, timeout: .seconds(4), logger: logger) { connection.take($0) }
        // SAFETY: the session runs for as long as this function asks, and has ended when it returns.
        let running = Task { await session.run() }
        let observer = Observer(
            session: session, connection: connection,
            layout: ZooKeeperLayout(base: location.path, candidates: candidates), end: .now + patience)
        let result = await observer.look()
        running.cancel()
        await running.value
        return try result.get()
    }

    private struct Observer {
        let session: ZooKeeperSession
        let connection: ZooKeeperConnection
        let layout: ZooKeeperLayout
        let end: ContinuousClock.Instant

        func look() async -> Result<[ElectionStanding], StoreError> {
            do throws(StoreError) {
                guard case .children(let names) = try await ask(.children(layout.epochs, watch: false, isFresh: true))
                else { return .success([]) }
                var standings: [ElectionStanding] = []
                for election in names.compactMap(ZooKeeperKeys.key).sorted() {
                    if let standing = try await standing(of: election) { standings.append(standing) }
                }
                return .success(standings)
            } catch {
                return .failure(error)
            }
        }

        private func standing(of election: String) async throws(StoreError) -> ElectionStanding? {
            let place = layout.place(of: election)
            guard
                case .value(let epoch) = try await ask(
                    .get(layout.epochPath(of: election), watch: false, isFresh: true))
            else { return nil }
            var standing = ElectionStanding(election: election, epoch: UInt64(epoch.version), leader: nil, waiting: [])
            guard case .children(let names) = try await ask(.children(place.listPath, watch: false, isFresh: false))
            else { return standing }
            let candidates = names.filter { place.number(of: $0) != nil }
                .sorted { place.number(of: $0) ?? 0 < place.number(of: $1) ?? 0 }
            guard case .values(let values) = try await ask(.values(candidates.map { "\(place.directory)/\($0)" }))
            else { return standing }
            let holder = String(decoding: epoch.bytes, as: UTF8.self).split(separator: " ").prefix(2).map(String.init)
            for case (let name, let node?) in zip(candidates, values) {
                let candidate = Candidate(session: node.owner, info: try? JSONValue(parsing: node.bytes))
                if holder == [name, String(node.owner, radix: 16)] {
                    standing.leader = candidate
                } else {
                    standing.waiting.append(candidate)
                }
            }
            return standing
        }

        private func ask(_ request: NodeRequest) async throws(StoreError) -> NodeReply {
            do throws(NodeFailure) {
                return try await connection.ask(request, through: session, until: end, allowing: [.noNode])
            } catch {
                throw StoreError(.unavailable, "The elections could not be read: \(error)")
            }
        }
    }
}
