/// One server of a real ZooKeeper ensemble as a child process: Debian's package, without its service.
public struct ZooKeeperServer: Codable, Sendable {
    public struct Member: Codable, Hashable, Sendable {
        /// 1 to 255.
        public var id: Int
        public var address: String
        public var clientPort: Int
        public var quorumPort: Int
        public var electionPort: Int

        public init(id: Int, address: String, clientPort: Int = 2181, quorumPort: Int = 2888, electionPort: Int = 3888)
        {
            self.id = id
            self.address = address
            self.clientPort = clientPort
            self.quorumPort = quorumPort
            self.electionPort = electionPort
        }
    }

    public static let program = "/usr/bin/java"
    /// With a logger that writes to standard error; the library alone has none.
    private static let library = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar"

    public let member: Member
    /// All of the ensemble; one alone needs no quorum.
    public let ensemble: [Member]
    /// Keeps the configuration, the log of changes and the snapshots.
    public let directory: String

    public init(_ member: Member, of ensemble: [Member], directory: String) {
        self.member = member
        self.ensemble = ensemble
        self.directory = directory
    }

    var configurationPath: String { "\(directory)/zoo.cfg" }

    /// Every change is synchronised to disk before it counts, as ZooKeeper does by default. Sessions may be as short as
    /// two ticks.
    var configuration: String {
        var lines = [
            "tickTime=500", "initLimit=20", "syncLimit=4", "dataDir=\(directory)/data",
            "clientPortAddress=\(member.address)", "clientPort=\(member.clientPort)", "maxClientCnxns=0",
            "admin.enableServer=false", "autopurge.purgeInterval=1", "snapCount=10000", "preAllocSize=4096",
            "4lw.commands.whitelist=ruok,srvr,mntr,cons,dump",
        ]
        if ensemble.count > 1 {
            lines += ensemble.map { "server.\($0.id)=\($0.address):\($0.quorumPort):\($0.electionPort)" }
        }
        return lines.joined(separator: "\n") + "\n"
    }

    /// Writes what the server reads when it starts.
    public func prepare() async throws {
        try makeDirectories("\(directory)/data")
        try await replaceFile(configurationPath, configuration)
        try await replaceFile("\(directory)/data/myid", "\(member.id)\n")
    }

    /// A small heap, and elections that do not wait for machines that are gone.
    public var command: [String] {
        [
            ZooKeeperServer.program, "-Xms32m", "-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            "-Djava.net.preferIPv4Stack=true", "-Dzookeeper.cnxTimeout=1000",
            "-Dzookeeper.fastleader.maxNotificationInterval=1000", "-Dzookeeper.jmx.log4j.disable=true",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS", "-cp", ZooKeeperServer.library,
            "org.apache.zookeeper.server.quorum.QuorumPeerMain", configurationPath,
        ]
    }
}
