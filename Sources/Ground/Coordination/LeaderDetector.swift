public import Base
import Logging

/// Tells what the leader of an election in ZooKeeper advertises, without standing in it: the JSON in the lowest child
/// `json.info_<sequence>` of a path, as Mesos masters leave it there.
public struct LeaderDetector: Sendable {
    private let follow: @Sendable () -> AsyncStream<JSONValue?>

    public init(leaders: @escaping @Sendable () -> AsyncStream<JSONValue?>) { follow = leaders }

    /// The leader now and after every change; nil while there is none, or while nobody can tell.
    public func leaders() -> AsyncStream<JSONValue?> { follow() }

    /// - Parameter zkURL: `zk://[user:password@]host:port,host:port/path`.
    public static func open(_ zkURL: String, sessionTimeout: Duration) throws(StoreError) -> LeaderDetector {
        let location = try ZooKeeperLocation(zkURL)
        let layout = ZooKeeperLayout(base: location.path)
        let election = ZooKeeperElection(
            location, layout: layout, sessionTimeout: sessionTimeout, logger: Logger(label: "leader-detector"))
        let place = ElectionPlace(
            directory: location.path, prefix: ElectionCandidates.masterPrefix, epochPath: nil)
        return LeaderDetector { election.follow(place) }
    }
}
