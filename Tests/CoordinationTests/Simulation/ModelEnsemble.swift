@testable import Coordination

/// ZooKeeper as its documentation promises it: one order of all changes, sessions that expire, watches that fire once.
/// Servers may answer a read that does not insist on freshness from the past, but never from before what the session has
/// seen already (its single system image).
struct ModelEnsemble {
    struct Node: Equatable {
        var bytes: [UInt8]
        var version: Int32
        var owner: Int64
        var nextChild = 0
    }

    struct Session {
        var lastHeard: Int
        /// Paths whose next change of content, or of children, is to be told.
        var watches: Set<String> = []
        /// How many changes had been made in the latest state that it was shown.
        var seen = 0
    }

    private(set) var nodes: [String: Node] = ["/": Node(bytes: [], version: 0, owner: 0)]
    /// Earlier states, oldest first.
    private var past: [[String: Node]] = []
    /// How many changes made the present state.
    private var changes = 0
    private(set) var sessions: [Int64: Session] = [:]
    private var nextSession: Int64 = 1
    /// How often the multi with this token was applied.
    private(set) var applied: [[UInt8]: Int] = [:]
    /// What fires now: a session and a path.
    private(set) var fired: [(session: Int64, path: String)] = []
    let timeout: Int

    init(timeout: Int) { self.timeout = timeout }

    // MARK: Sessions

    mutating func open(now: Int) -> Int64 {
        nextSession += 1
        sessions[nextSession] = Session(lastHeard: now)
        return nextSession
    }

    mutating func hear(_ session: Int64, now: Int) { sessions[session]?.lastHeard = now }

    /// Ends the sessions that were silent for too long.
    mutating func expire(now: Int) {
        for (id, session) in sessions.sorted(by: { $0.key < $1.key }) where now - session.lastHeard > timeout {
            sessions[id] = nil
            for path in nodes.keys.sorted() where nodes[path]?.owner == id { change(path, to: nil) }
        }
    }

    mutating func takeFired() -> [(session: Int64, path: String)] {
        defer { fired = [] }
        return fired
    }

    // MARK: Requests

    mutating func answer(
        _ request: NodeRequest, of session: Int64, random: inout some RandomNumberGenerator
    ) -> NodeReply {
        switch request {
        case .get(let path, let watch, let isFresh):
            let state = look(isFresh: isFresh, session, &random)
            guard let node = state[path] else { return .failed(.noNode, part: nil) }
            if watch { sessions[session]?.watches.insert(path) }
            return .value(NodeValue(bytes: node.bytes, version: node.version, owner: node.owner))
        case .children(let path, let watch, let isFresh):
            let state = look(isFresh: isFresh, session, &random)
            guard state[path] != nil else { return .failed(.noNode, part: nil) }
            if watch { sessions[session]?.watches.insert(path) }
            return .children(
                state.keys.sorted().filter { $0 != "/" && ModelEnsemble.parent(of: $0) == path }
                    .map { String($0.dropFirst(path == "/" ? 1 : path.count + 1)) }.shuffled(using: &random))
        case .versions(let paths):
            let state = look(isFresh: true, session, &random)
            return .versions(paths.map { state[$0]?.version })
        case .values(let paths):
            let state = look(isFresh: false, session, &random)
            return .values(
                paths.map { path in
                    state[path].map { NodeValue(bytes: $0.bytes, version: $0.version, owner: $0.owner) }
                })
        case .create, .createEphemeral, .delete, .multi:
            let reply = perform(request, of: session)
            sessions[session]?.seen = changes
            return reply
        }
    }

    private mutating func perform(_ request: NodeRequest, of session: Int64) -> NodeReply {
        switch request {
        case .create(let path):
            if nodes[path] != nil { return .failed(.exists, part: nil) }
            guard nodes[ModelEnsemble.parent(of: path)] != nil else { return .failed(.noNode, part: nil) }
            change(path, to: Node(bytes: [], version: 0, owner: 0))
            return .done
        case .createEphemeral(let path, let bytes, let isSequential):
            return createEphemeral(path, bytes, isSequential, session)
        case .delete(let path):
            guard nodes[path] != nil else { return .failed(.noNode, part: nil) }
            change(path, to: nil)
            return .done
        case .multi(let parts): return multi(parts)
        case .get, .children, .versions, .values: preconditionFailure("\(request) changes nothing")
        }
    }

    private mutating func createEphemeral(
        _ path: String, _ bytes: [UInt8], _ isSequential: Bool, _ session: Int64
    ) -> NodeReply {
        let parent = ModelEnsemble.parent(of: path)
        guard let directory = nodes[parent] else { return .failed(.noNode, part: nil) }
        var path = path
        if isSequential {
            let digits = String(directory.nextChild)
            path += String(repeating: "0", count: 10 - digits.count) + digits
            nodes[parent]?.nextChild += 1
        }
        if nodes[path] != nil { return .failed(.exists, part: nil) }
        change(path, to: Node(bytes: bytes, version: 0, owner: session))
        return .created(path)
    }

    private mutating func multi(_ parts: [NodeChange]) -> NodeReply {
        var versions: [Int32?] = []
        for (index, part) in parts.enumerated() {
            let node = nodes[part.path]
            let failure: NodeFailure?
            switch part {
            case .check(_, let version), .delete(_, let version):
                failure = node == nil ? .noNode : node?.version == version ? nil : .badVersion
            case .set(_, _, let version):
                failure = node == nil ? .noNode : version == nil || node?.version == version ? nil : .badVersion
            case .create(let path, _):
                failure = nodes[ModelEnsemble.parent(of: path)] == nil ? .noNode : node == nil ? nil : .exists
            }
            if let failure { return .failed(failure, part: index) }
            versions.append((node?.version ?? -1) + 1)
        }
        for part in parts {
            switch part {
            case .check: break
            case .create(let path, let bytes): change(path, to: Node(bytes: bytes, version: 0, owner: 0))
            case .set(let path, let bytes, _):
                guard var node = nodes[path] else { preconditionFailure("checked above") }
                node.bytes = bytes
                node.version += 1
                change(path, to: node)
                if path.contains("/sessions/") { applied[bytes, default: 0] += 1 }
            case .delete(let path, _): change(path, to: nil)
            }
        }
        return .versions(versions)
    }

    private mutating func change(_ path: String, to node: Node?) {
        changes += 1
        past.append(nodes)
        if past.count > 8 { past.removeFirst() }
        let isSameSet = (nodes[path] == nil) == (node == nil)
        nodes[path] = node
        fire(path)
        if !isSameSet { fire(ModelEnsemble.parent(of: path)) }
    }

    private mutating func fire(_ path: String) {
        for id in sessions.keys.sorted() where sessions[id]?.watches.remove(path) != nil { fired.append((id, path)) }
    }

    /// A state that the session may be shown.
    private mutating func look(
        isFresh: Bool, _ session: Int64, _ random: inout some RandomNumberGenerator
    ) -> [String: Node] {
        let oldest = changes - past.count
        let seen = max(sessions[session]?.seen ?? 0, oldest)
        let isLate = !isFresh && seen < changes && Int.random(in: 0..<3, using: &random) == 0
        let shown = isLate ? Int.random(in: seen..<changes, using: &random) : changes
        sessions[session]?.seen = shown
        return shown == changes ? nodes : past[shown - oldest]
    }

    static func parent(of path: String) -> String {
        let parts = path.split(separator: "/").dropLast()
        return parts.isEmpty ? "/" : "/" + parts.joined(separator: "/")
    }
}
