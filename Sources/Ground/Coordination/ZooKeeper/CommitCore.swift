import Base

/// One commit as a multi of ZooKeeper: every change names the exact version that it replaces, so that a multi that is
/// sent again cannot be applied twice, and the session's marker tells what became of one whose reply was lost.
struct CommitCore: Sendable {
    enum Action: Sendable {
        case request(NodeRequest)
        /// Tell `reconnected` once there is a connection again.
        case awaitConnection
        case finish(Result<[UInt64], StoreError>)
    }

    private enum Step: Sendable {
        case resolving([String])
        case committing([NodeChange])
        case makingDirectories([String])
        case makingMarker
        case confirming
    }

    /// ZooKeeper takes 1,048,575 bytes for a request (`jute.maxbuffer`) and drops the connection beyond.
    static let sizeMax = 1_040_000

    private let changes: [StoreChange]
    private let leader: LeaderEpoch?
    private let layout: ZooKeeperLayout
    private let token: [UInt8]
    private var session: Int64
    /// Present versions as far as known: nil inside for keys that do not exist.
    private(set) var versions: [String: Int32?]
    private var step: Step
    /// A multi may have been applied without our knowing.
    private var isUncertain = false

    /// - Parameters:
    ///   - token: unlike that of any other commit of the session.
    ///   - hints: versions that are probably still right.
    init(
        _ changes: [StoreChange], as leader: LeaderEpoch?, token: String, session: Int64, layout: ZooKeeperLayout,
        hints: [String: Int32?]
    ) {
        self.changes = changes
        self.leader = leader
        self.layout = layout
        self.token = Array(token.utf8)
        self.session = session
        versions = [:]
        step = .confirming
        for change in changes where change.expected == .any { versions[change.key] = hints[change.key] }
    }

    mutating func start() -> Action { resolve() }

    mutating func reconnected(session: Int64) -> Action {
        guard isUncertain else {
            self.session = session
            return resolve()
        }
        guard session == self.session else { return unknown("the session ended before its reply came") }
        step = .confirming
        return .request(.get(layout.marker(of: session), watch: false, isFresh: true))
    }

    /// The versions of the keys after success, for later hints.
    func hints(after result: [UInt64]) -> [(key: String, version: Int32?)] {
        zip(changes, result).map { ($0.key, $1 == 0 ? nil : Int32(truncatingIfNeeded: $1 - 1)) }
    }

    mutating func apply(_ reply: NodeReply) -> Action {
        if case .failed(let failure, let part) = reply { return fail(failure, part) }
        switch (step, reply) {
        case (.resolving(let keys), .versions(let found)):
            for (key, version) in zip(keys, found) { versions[key] = .some(version) }
            return commit()
        case (.committing, .versions): return succeed()
        case (.makingDirectories(let rest), .done): return makeDirectories(rest)
        case (.makingMarker, .created): return commit()
        case (.confirming, .value(let value)):
            if value.bytes == token { return succeed() }
            isUncertain = false
            return resolve()
        default: preconditionFailure("\(reply) does not answer \(step)")
        }
    }

    private mutating func resolve() -> Action {
        let unknown = changes.filter { $0.expected == .any && versions[$0.key] == nil }.map(\.key)
        guard !unknown.isEmpty else { return commit() }
        step = .resolving(unknown)
        return .request(.versions(unknown.map(layout.node)))
    }

    private mutating func commit() -> Action {
        var parts: [NodeChange] = []
        if let leader {
            parts.append(.check(layout.epochPath(of: leader.path), version: Int32(clamping: leader.epoch)))
        }
        for change in changes {
            if let part = part(for: change) { parts.append(part) }
        }
        parts.append(.set(layout.marker(of: session), token, version: nil))
        parts.append(.set(layout.revision, [], version: nil))
        let size = parts.reduce(0) { $0 + $1.size }
        guard size <= CommitCore.sizeMax else {
            return .finish(
                .failure(
                    StoreError(
                        .invalid, "A commit of \(size) bytes exceeds the \(CommitCore.sizeMax) that ZooKeeper takes.")))
        }
        step = .committing(parts)
        isUncertain = true
        return .request(.multi(parts))
    }

    private func part(for change: StoreChange) -> NodeChange? {
        let node = layout.node(of: change.key)
        let present: Int32? =
            switch change.expected {
            case .any: versions[change.key] ?? nil
            case .absent: nil
            case .version(let version): Int32(clamping: Int64(clamping: version) - 1)
            }
        switch (change, present) {
        case (.put(_, let bytes, _), let present?): return .set(node, bytes, version: present)
        case (.put(_, let bytes, _), nil): return .create(node, bytes)
        case (.delete, let present?): return .delete(node, version: present)
        case (.delete, nil): return nil
        }
    }

    private func succeed() -> Action {
        .finish(
            .success(
                changes.map { change in
                    switch part(for: change) {
                    case .set(_, _, let version)?: UInt64((version ?? 0) + 2)
                    case .create?: 1
                    case .check?, .delete?, nil: 0
                    }
                }))
    }

    private func unknown(_ why: String) -> Action {
        .finish(.failure(StoreError(.unavailable, "Whether the commit happened is unknown: \(why).")))
    }

    // MARK: Failures

    private mutating func fail(_ failure: NodeFailure, _ part: Int?) -> Action {
        switch (step, failure) {
        case (_, .connectionLoss): return .awaitConnection
        case (_, .sessionExpired):
            return isUncertain ? unknown("the session ended") : .awaitConnection
        case (.makingDirectories(let rest), .exists): return makeDirectories(rest)
        case (.makingMarker, .exists): return commit()
        // Somebody else is making the directories just now and has not come to that of the markers.
        case (.makingMarker, .noNode): return makeDirectories(layout.directories)
        case (.confirming, .noNode):
            isUncertain = false
            return resolve()
        case (.committing(let parts), .noNode), (.committing(let parts), .exists),
            (.committing(let parts), .badVersion):
            isUncertain = false
            guard let part, parts.indices.contains(part) else { break }
            return refused(parts[part], at: part, failure)
        default: break
        }
        return .finish(.failure(StoreError(.unavailable, "ZooKeeper refused a commit: \(failure).")))
    }

    private mutating func refused(_ part: NodeChange, at index: Int, _ failure: NodeFailure) -> Action {
        if let leader, index == 0 {
            return .finish(
                .failure(
                    StoreError(.fenced, "Epoch \(leader.epoch) at \(leader.path) has ended; another leads.")))
        }
        if part.path == layout.marker(of: session) {
            step = .makingMarker
            return .request(.createEphemeral(part.path, [], isSequential: false))
        }
        if part.path == layout.revision { return makeDirectories(layout.directories) }
        guard let change = changes.first(where: { layout.node(of: $0.key) == part.path }) else {
            preconditionFailure("\(part) is of no change")
        }
        if case .create = part, failure == .noNode { return makeDirectories(layout.directories) }
        if change.expected == .any {
            versions[change.key] = nil
            return resolve()
        }
        return .finish(.failure(StoreError(.conflict, "\(change.key) is not as expected: \(failure).")))
    }

    private mutating func makeDirectories(_ paths: [String]) -> Action {
        guard let first = paths.first else { return resolve() }
        step = .makingDirectories(Array(paths.dropFirst()))
        return .request(.create(first))
    }
}
