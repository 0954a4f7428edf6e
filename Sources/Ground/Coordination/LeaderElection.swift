public import Base
public import Logging

/// What a candidate learns while it stands.
public enum ElectionEvent: Hashable, Sendable {
    /// This candidate leads, under an epoch higher than any before it.
    case elected(LeaderEpoch)
    /// This candidate leads no longer. It still stands and may be elected again.
    case lost
    /// What the present leader advertises; nil while there is none. Also sent for the candidate's own leadership.
    case leader(JSONValue?)
}

/// One candidate's part in an election.
public struct Candidacy: Sendable {
    /// For one reader. Letting go of it ends the candidacy, and with it a leadership.
    public let events: AsyncStream<ElectionEvent>
    private let giveWay: @Sendable () -> Void
    private let leave: @Sendable () async -> Void

    public init(
        events: AsyncStream<ElectionEvent>, giveWay: @escaping @Sendable () -> Void,
        leave: @escaping @Sendable () async -> Void
    ) {
        self.events = events
        self.giveWay = giveWay
        self.leave = leave
    }

    /// Leads no longer, if it did (`lost` comes), and stands again behind all who stand now.
    public func abdicate() { giveWay() }

    /// Ends the candidacy and returns once others can see it: who stops in good order is succeeded at once.
    public func end() async { await leave() }
}

/// Decides which of several candidates leads.
public protocol LeaderElection: Sendable {
    /// Stands at `path` until nobody holds the candidacy's events any more; `info` is what others see of the leader.
    ///
    /// A leader must write with its epoch (`MetadataStore.commit(_:as:)`): between losing and learning of it, only this
    /// keeps its writes out.
    func stand(at path: String, advertising info: JSONValue) -> Candidacy

    /// What the leader at `path` advertises, now and after every change; nil while there is none.
    func follow(_ path: String) -> AsyncStream<JSONValue?>
}

/// A metadata store and the election that belongs to it.
public struct CoordinationBackend: Sendable {
    public var store: any MetadataStore
    public var election: any LeaderElection

    public init(store: any MetadataStore, election: any LeaderElection) {
        self.store = store
        self.election = election
    }

    /// Opens what a `--store` flag names: `embedded:PATH`, a SQLite file for one machine;
    /// `zk://[user:password@]host:port,.../path`, a ZooKeeper ensemble; or `memory:` for tests.
    ///
    /// Blocks while a file is opened; meant for the start of a role. An ensemble need not be there yet.
    ///
    /// - Parameters:
    ///   - sessionTimeout: after which ZooKeeper gives a silent leader up.
    ///   - candidates: elections by name whose candidates others look for (ZooKeeper only).
    public static func open(
        _ location: String, sessionTimeout: Duration = .seconds(10),
        candidates: [String: ElectionCandidates] = [:], logger: Logger = Logger(label: "coordination")
    ) throws(StoreError) -> CoordinationBackend {
        if location.hasPrefix("zk://") {
            let location = try ZooKeeperLocation(location)
            let layout = ZooKeeperLayout(base: location.path, candidates: candidates)
            return CoordinationBackend(
                store: ZooKeeperStore(location, layout: layout, sessionTimeout: sessionTimeout, logger: logger),
                election: ZooKeeperElection(location, layout: layout, sessionTimeout: sessionTimeout, logger: logger))
        }
        let store: EmbeddedStore
        if location == "memory:" {
            store = try EmbeddedStore(path: nil)
        } else if location.hasPrefix("embedded:"), location.utf8.count > "embedded:".utf8.count {
            store = try EmbeddedStore(path: String(location.dropFirst("embedded:".count)))
        } else {
            throw StoreError(
                .invalid, "\"\(location)\" names no store; use embedded:PATH or zk://host:port,.../path.")
        }
        return CoordinationBackend(store: store, election: EmbeddedElection(store: store))
    }
}
