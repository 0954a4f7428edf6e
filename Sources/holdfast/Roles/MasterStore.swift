import ArgumentParser
import Coordination
import FoundationEssentials
import LinuxOS
import Logging
import Master

/// Where a master keeps its registry and stands for election, as --zk, --store, --work_dir and --registry say.
enum MasterStore {
    /// Blocks while files are read.
    static func open(_ flags: MesosFlags, logger: Logger) throws -> CoordinationBackend {
        guard let zk = flags["zk"] else {
            return try CoordinationBackend.open(try alone(flags), logger: logger)
        }
        let place = try ZooKeeperLocation(try url(zk))
        var registry = place
        registry.path = "/mesos-registry" + place.path
        if let store = flags["store"] {
            guard store.hasPrefix("zk://") else {
                throw ValidationError("--store must be in the ZooKeeper of --zk, where all masters find it")
            }
            registry = try ZooKeeperLocation(store)
        }
        guard registry.servers == place.servers, registry.user == place.user else {
            throw ValidationError("--store and --zk must name the same ZooKeeper servers and user")
        }
        // Frameworks take the lowest child of the path for the leading master.
        guard !(registry.path + "/").hasPrefix(place.path + "/") || place.path.isEmpty else {
            throw ValidationError("--store must not lie below the path of --zk, where only masters may stand")
        }
        let timeout = try flags.duration("zk_session_timeout", default: .seconds(10))
        let candidates = ElectionCandidates(directory: place.path, prefix: ElectionCandidates.masterPrefix)
        return try CoordinationBackend.open(
            registry.description, sessionTimeout: timeout,
            candidates: [MasterService.electionPath: candidates], logger: logger)
    }

    /// zk://..., or what a file:///... holds.
    private static func url(_ text: String) throws -> String {
        guard text.hasPrefix("file://") else { return text }
        let content = try readText(String(text.dropFirst("file://".count)))
        return content.split(whereSeparator: \.isWhitespace).first.map(String.init) ?? ""
    }

    private static func alone(_ flags: MesosFlags) throws -> String {
        if let store = flags["store"] { return store }
        if flags["registry"] == "in_memory" { return "memory:" }
        guard let directory = flags["work_dir"] else {
            throw ValidationError("Flag 'work_dir' is required, but it was not provided")
        }
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        return "embedded:\(directory)/registry.sqlite"
    }
}
