public import Base
import FoundationEssentials
public import LinuxOS

/// Why the lab could not do what it was asked.
public struct LabError: CodedError {
    public enum Code: Hashable, Sendable {
        /// No lab lives in the directory, or one does already, or a node has not that name or state.
        case state
        /// A machine did not come up in time.
        case timedOut
        case system
    }

    public var code: Code
    public var message: String
    public var cause: (any Error)?

    public init(_ code: Code, _ message: String, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }
}

/// What a lab is, as its directory keeps it (`lab.json`) between invocations.
public struct LabState: Codable, Sendable {
    public static let version = 2

    public struct Node: Codable, Sendable {
        /// Counted from 1.
        public var number: Int
        /// The process whose death is the machine's, as this machine's processes are numbered: the init of its pid
        /// namespace. Nil while the power is off.
        public var initProcess: ProcessIdentity?
    }

    /// Packets from one node to another that are dropped.
    public struct Cut: Codable, Hashable, Sendable {
        public var from: Int
        public var to: Int
        /// Only connections to one of these ports, of either node; empty for all packets.
        public var ports: [Int] = []
    }

    /// A flag of a role, on every machine that runs the role.
    public struct Setting: Codable, Hashable, Sendable {
        public var role: String
        public var flag: String
        public var value: String

        public init(role: String, flag: String, value: String) {
            self.role = role
            self.flag = flag
            self.value = value
        }
    }

    public var version = LabState.version
    /// Which of the labs that may run side by side: bridge hf0 and 10.71.0.0/24, hf1 and 10.72.0.0/24, and so on.
    public var index: Int
    public var executable: String
    public var runsDocker: Bool
    /// Name to tarball: imported into every node's Docker.
    public var images: [String: String]
    /// The file that the operator gave with --node-config.
    public var nodeTemplate: String?
    /// Flags of roles that differ from the template.
    public var settings: [Setting] = []
    /// The first three machines run ZooKeeper and stand for leadership.
    public var usesZooKeeper = false
    /// Every role is a process of its own.
    public var separatesRoles = false
    /// The storage servers' devices lose at a power loss what was not flushed.
    public var hasVolatileDisks = false
    public var nodes: [Node]
    public var cuts: [Cut] = []
}

extension LabState {
    public var bridge: String { "hf\(index)" }
    public var network: String { "10.\(71 + index).0" }
    public var gateway: String { "\(network).1" }

    /// The nodes that lead or stand for it.
    public var leaders: [Int] { usesZooKeeper ? nodes.prefix(3).map(\.number) : [1] }

    /// The ZooKeeper servers, as locations of stores name them; empty for a lab without.
    public var zooKeeperServers: String {
        usesZooKeeper ? leaders.map { "\(address(of: $0)):2181" }.joined(separator: ",") : ""
    }

    /// The ZooKeeper server of a node.
    func zooKeeper(of number: Int, directory: String) -> ZooKeeperServer? {
        guard usesZooKeeper, leaders.contains(number) else { return nil }
        let ensemble = leaders.map { ZooKeeperServer.Member(id: $0, address: address(of: $0)) }
        return ensemble.first { $0.id == number }.map {
            ZooKeeperServer($0, of: ensemble, directory: "\(directory)/zookeeper")
        }
    }

    public func address(of number: Int) -> String { "\(network).\(10 + number)" }

    /// The end of the node's cable that is plugged into the bridge.
    public func cable(of number: Int) -> String { "hf\(index)-\(number)" }

    public func name(of number: Int) -> String { "node\(number)" }

    /// "node2", "2" or the node's address.
    public func node(named name: String) throws(LabError) -> Node {
        for node in nodes where [self.name(of: node.number), "\(node.number)", address(of: node.number)].contains(name)
        {
            return node
        }
        let names = nodes.map { self.name(of: $0.number) }.joined(separator: ", ")
        throw LabError(.state, "There is no node \"\(name)\"; there are \(names).")
    }

    public func isRunning(_ number: Int) -> Bool {
        nodes.contains { $0.number == number && $0.initProcess?.isAlive == true }
    }

    static func read(from path: String) throws(LabError) -> LabState {
        do {
            let state = try JSONDecoder().decode(LabState.self, from: Data(readFile(path)))
            guard state.version == version else {
                throw LabError(.state, "\(path) has version \(state.version), not \(version).")
            }
            return state
        } catch let error as LabError {
            throw error
        } catch {
            throw LabError(.state, "No lab can be read from \(path)", cause: error)
        }
    }

    /// Replaces the file as a whole, so that a reader never sees half of it.
    func write(to path: String) throws(LabError) {
        do {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
            try encoder.encode(self).write(to: URL(filePath: path), options: .atomic)
        } catch {
            throw LabError(.system, "\(path) could not be written", cause: error)
        }
    }
}
