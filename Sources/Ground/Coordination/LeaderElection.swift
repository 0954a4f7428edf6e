public import Base

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

    public init(events: AsyncStream<ElectionEvent>, giveWay: @escaping @Sendable () -> Void) {
        self.events = events
        self.giveWay = giveWay
    }

    /// Leads no longer, if it did (`lost` comes), and stands again behind all who stand now.
    public func abdicate() { giveWay() }
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

    /// Opens what a `--store` flag names: `embedded:PATH`, a SQLite file for one machine, or `memory:` for tests.
    ///
    /// Blocks while the file is opened; meant for the start of a role.
    public static func open(_ location: String) throws(StoreError) -> CoordinationBackend {
        let store: EmbeddedStore
        if location == "memory:" {
            store = try EmbeddedStore(path: nil)
        } else if location.hasPrefix("embedded:"), location.utf8.count > "embedded:".utf8.count {
            store = try EmbeddedStore(path: String(location.dropFirst("embedded:".count)))
        } else if location.hasPrefix("zk://") {
            throw StoreError(.invalid, "ZooKeeper (\(location)) is not implemented; use embedded:PATH.")
        } else {
            throw StoreError(.invalid, "\"\(location)\" names no store; use embedded:PATH.")
        }
        return CoordinationBackend(store: store, election: EmbeddedElection(store: store))
    }
}
