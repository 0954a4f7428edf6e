/// One part of an atomic change of nodes. `version` is the node's data version.
enum NodeChange: Hashable, Sendable {
    case check(String, version: Int32)
    case create(String, [UInt8])
    case set(String, [UInt8], version: Int32?)
    case delete(String, version: Int32)

    var path: String {
        switch self {
        case .check(let path, _), .create(let path, _), .set(let path, _, _), .delete(let path, _): path
        }
    }

    /// What it adds to the request, roughly.
    var size: Int {
        switch self {
        case .check(let path, _), .delete(let path, _): path.utf8.count + 64
        case .create(let path, let bytes), .set(let path, let bytes, _): path.utf8.count + bytes.count + 128
        }
    }
}

/// What the ensemble is asked.
enum NodeRequest: Hashable, Sendable {
    /// A node that stays.
    case create(String)
    /// A node that goes with the session. A sequential one gets ten digits behind its name.
    case createEphemeral(String, [UInt8], isSequential: Bool)
    /// With `isFresh`, no earlier state than that of now.
    case get(String, watch: Bool, isFresh: Bool)
    case children(String, watch: Bool, isFresh: Bool)
    case delete(String)
    /// The data versions of several nodes.
    case versions([String])
    /// Several nodes. Not of one moment.
    case values([String])
    case multi([NodeChange])
}

struct NodeValue: Hashable, Sendable {
    var bytes: [UInt8]
    var version: Int32
    /// The session whose end removes the node; 0 for none.
    var owner: Int64
}

enum NodeReply: Hashable, Sendable {
    case done
    case created(String)
    case value(NodeValue)
    case children([String])
    /// Nil for a node that does not exist.
    case versions([Int32?])
    case values([NodeValue?])
    /// `part` is the first of a multi that could not be done.
    case failed(NodeFailure, part: Int?)
}

/// Why the ensemble did not do something.
enum NodeFailure: Error, Hashable, CustomStringConvertible {
    case noNode
    case exists
    case badVersion
    /// No answer came; what became of the request is unknown.
    case connectionLoss
    /// The session has ended; what became of the request is unknown.
    case sessionExpired
    /// The credentials do not suffice.
    case notAllowed
    case other(code: Int32, text: String)

    var description: String {
        switch self {
        case .noNode: "no such node"
        case .exists: "the node exists"
        case .badVersion: "the node has another version"
        case .connectionLoss: "the connection was lost"
        case .sessionExpired: "the session has ended"
        case .notAllowed: "the credentials do not suffice"
        case .other(let code, let text): "\(text) (\(code))"
        }
    }
}

/// What becomes of the connection to the ensemble.
enum SessionEvent: Hashable, Sendable {
    /// To this session, which lives for `timeout` without a word from us. A number other than before means that the
    /// earlier one has ended with its ephemeral nodes.
    case connected(session: Int64, timeout: Duration)
    case disconnected
    /// The session has ended; another is being opened.
    case expired
    /// The node, or the list of its children, is no longer as it was read with a watch.
    case changed(String)
}
