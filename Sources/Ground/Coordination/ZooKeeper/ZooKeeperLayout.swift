/// Where a backend keeps what below its path (docs/formats/zookeeper.md).
struct ZooKeeperLayout: Hashable, Sendable {
    /// Begins with a slash and has no other at its end; "" is the root.
    let base: String
    /// Elections whose candidates stand elsewhere, by their names.
    let places: [String: ElectionPlace]

    init(base: String, candidates: [String: ElectionCandidates] = [:]) {
        self.base = base
        places = Dictionary(
            uniqueKeysWithValues: candidates.map { name, candidates in
                (
                    name,
                    ElectionPlace(
                        directory: candidates.directory, prefix: candidates.prefix,
                        epochPath: ZooKeeperLayout.epochPath(of: name, base))
                )
            })
    }

    /// All keys, flat.
    var keys: String { "\(base)/keys" }
    /// Written by every commit, so that its version tells whether anything has changed.
    var revision: String { "\(base)/revision" }

    func node(of key: String) -> String { "\(keys)/\(ZooKeeperKeys.name(of: key))" }

    /// Goes with its session. Each commit of the session writes its token there, so that a commit whose reply was lost
    /// can be looked up.
    func marker(of session: Int64) -> String {
        "\(base)/sessions/\(String(UInt64(bitPattern: session), radix: 16))"
    }

    func epochPath(of election: String) -> String { ZooKeeperLayout.epochPath(of: election, base) }

    /// One node for each election; its version is the epoch.
    var epochs: String { "\(base)/epochs" }

    private static func epochPath(of election: String, _ base: String) -> String {
        "\(base)/epochs/\(ZooKeeperKeys.name(of: election))"
    }

    func place(of election: String) -> ElectionPlace {
        places[election]
            ?? ElectionPlace(
                directory: "\(base)/elections/\(ZooKeeperKeys.name(of: election))", prefix: "candidate_",
                epochPath: epochPath(of: election))
    }

    /// What must exist before the first commit.
    var directories: [String] {
        var paths: [String] = []
        for target in [keys, revision, "\(base)/sessions"] {
            var path = ""
            for part in target.split(separator: "/") {
                path += "/\(part)"
                if !paths.contains(path) { paths.append(path) }
            }
        }
        return paths
    }
}

/// Where the candidates of an election stand when others than Holdfast look there: `<directory>/<prefix><ten digits>`.
public struct ElectionCandidates: Hashable, Sendable {
    public var directory: String
    public var prefix: String

    /// What the nodes of Mesos masters begin with; their content is MasterInfo as JSON.
    public static let masterPrefix = "json.info_"

    public init(directory: String, prefix: String) {
        self.directory = directory
        self.prefix = prefix
    }
}
