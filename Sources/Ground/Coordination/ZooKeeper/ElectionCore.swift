import Base

/// Where candidates put their nodes, and where the epoch is counted.
struct ElectionPlace: Hashable, Sendable {
    /// "" is the root.
    var directory: String
    /// Candidates are `<directory>/<prefix><ten digits>`; the lowest digits lead.
    var prefix: String
    /// The node whose data version is the epoch of the present leadership; nil where one only looks on.
    var epochPath: String?

    var listPath: String { directory.isEmpty ? "/" : directory }

    /// The place of a name in the queue; nil when it is no candidate's.
    func number(of name: String) -> Int? {
        guard name.hasPrefix(prefix) else { return nil }
        let digits = name.dropFirst(prefix.count)
        guard !digits.isEmpty, digits.allSatisfy({ $0.isASCII && $0.isNumber }) else { return nil }
        return Int(digits)
    }
}

/// One candidate's, or onlooker's, part in an election among the children of one node.
///
/// A candidate makes an ephemeral sequential node and waits until it is the lowest. Then it raises the version of the
/// epoch node in one transaction with a check that its own node still exists: from then on every commit under an
/// earlier epoch fails at the ensemble. Candidates ask for their own nodes again and again, and a leader gives up by
/// itself when no answer has proven for too long that its session lives, before another can be elected.
///
/// One request is under way at a time; its reply carries its number.
struct ElectionCore: Sendable {
    enum Input: Hashable, Sendable {
        case session(SessionEvent)
        case reply(UInt64, NodeReply)
        case abdicate
        case tick
    }

    enum Action: Hashable, Sendable {
        case request(UInt64, NodeRequest)
        /// This candidate leads under `epoch`.
        case elected(epoch: UInt64)
        case lost(String)
        /// What the first in the queue advertises.
        case leader([UInt8]?)
        /// A failure that retrying alone may not mend.
        case complain(String)
    }

    private enum Step: Hashable, Sendable {
        case idle
        case listing
        case makingDirectories([String])
        case creating
        case discarding
        /// Which of these is ours? An earlier creation's reply was lost.
        case searching([String])
        case readingLeader(String)
        case readingEpoch
        case electing(version: Int32)
        /// Does the ensemble still hear us?
        case renewing
    }

    let place: ElectionPlace
    /// What a candidate advertises; nil for an onlooker.
    let info: [UInt8]?

    /// The session's.
    private var timeout = Duration.seconds(4)
    private var step = Step.idle
    private var request: UInt64 = 0
    private var retryAt: Instant?
    /// Whether the queue has to be looked at (again).
    private var isStale = false
    private var session: Int64?
    private var isConnected = false
    /// When the request under way was sent.
    private var sentAt = Instant.zero
    /// When requests were sent that the ensemble's leader had a part in answering, oldest first: it reached the server then
    /// or later, and the server us. Those from which it may not count yet.
    private var proofs: [Instant] = []
    /// The ensemble's leader counts our silence from then or later.
    private var countedFrom = Instant.zero
    private var awokeAt: Instant?
    /// Of the input that is being taken.
    private var now = Instant.zero
    private var lastTick: Instant?
    private var own: String?
    /// A creation may have succeeded without our knowing.
    private var mayHaveNode = false
    private var wantsNewPlace = false
    /// The first in the queue that may not lead, because its session may be about to end.
    private var waitsForProof = false
    private var attempts: UInt64 = 0
    /// What an attempt to raise the epoch whose outcome is unknown has written.
    private var pendingToken: [UInt8]?
    private(set) var leading: UInt64?
    private var announced: [UInt8]??

    init(place: ElectionPlace, info: [UInt8]?) {
        precondition(info == nil || place.epochPath != nil, "candidates need an epoch")
        self.place = place
        self.info = info
    }

    mutating func apply(_ input: Input, now: Instant) -> [Action] {
        self.now = now
        var actions: [Action] = []
        noticeStandstill(&actions)
        switch input {
        case .session(let event): take(event, &actions)
        case .reply(let number, let reply):
            guard number == request, step != .idle else { break }
            take(reply, &actions)
        case .abdicate:
            guard info != nil else { break }
            stepDown("it gave way", &actions)
            wantsNewPlace = true
            isStale = true
        case .tick: tick(&actions)
        }
        proceed(&actions)
        return actions
    }

    // MARK: The session

    /// How long one leads after the last moment from which the ensemble's leader surely counts. With the longest standstill
    /// that goes unnoticed it is the session's timeout.
    private var leaseMax: Duration { timeout * 7 / 8 }
    private var standstillMax: Duration { timeout / 8 }
    private var renewAfter: Duration { timeout / 16 }
    /// In which a server that hears us tells the ensemble's leader: half a tick, and a session lives for two at least.
    private var tellsWithin: Duration { timeout / 4 }

    private mutating func take(_ event: SessionEvent, _ actions: inout [Action]) {
        switch event {
        case .connected(let number, let timeout):
            self.timeout = timeout
            if session != number { forgetSession("the session ended", &actions) }
            session = number
            // Connections are made by the ensemble's leader. This one may have waited for a process that stood still.
            if awokeAt.map({ now - $0 > standstillMax }) ?? true {
                proofs = []
                countedFrom = now
            }
            isConnected = true
            retryAt = nil
            isStale = true
        case .disconnected:
            isConnected = false
        case .expired:
            forgetSession("the session expired", &actions)
            isConnected = false
        case .changed: isStale = true
        }
    }

    private mutating func forgetSession(_ reason: String, _ actions: inout [Action]) {
        stepDown(reason, &actions)
        session = nil
        own = nil
        mayHaveNode = false
        wantsNewPlace = false
        step = .idle
    }

    private mutating func stepDown(_ reason: String, _ actions: inout [Action]) {
        pendingToken = nil
        guard leading != nil else { return }
        leading = nil
        actions.append(.lost(reason))
        announce(nil, &actions)
    }

    /// What a process that stood still hears first may be an old reply that has waited for it.
    private mutating func noticeStandstill(_ actions: inout [Action]) {
        guard let lastTick, now - lastTick > standstillMax else { return }
        // We did not run: whatever was decided meanwhile has not reached us yet.
        stepDown("this process stood still", &actions)
        if case .electing = step { step = .idle }
        isStale = true
        self.lastTick = now
        awokeAt = now
    }

    private mutating func tick(_ actions: inout [Action]) {
        lastTick = now
        if leading != nil, now - countedFrom > leaseMax {
            stepDown("ZooKeeper is out of reach", &actions)
            isStale = true
        }
        if let retryAt, now >= retryAt {
            self.retryAt = nil
            isStale = true
        }
    }

    // MARK: Requests

    private mutating func ask(_ step: Step, _ node: NodeRequest, _ actions: inout [Action]) {
        self.step = step
        sentAt = now
        request += 1
        actions.append(.request(request, node))
    }

    /// When nothing is under way, looks at the queue if there is reason to, and lets a candidate be heard.
    private mutating func proceed(_ actions: inout [Action]) {
        guard step == .idle, retryAt == nil, session != nil, isConnected else { return }
        guard isStale else {
            guard let own, now - sentAt > renewAfter else { return }
            ask(.renewing, .get("\(place.directory)/\(own)", watch: false, isFresh: true), &actions)
            return
        }
        isStale = false
        if wantsNewPlace, let own {
            ask(.discarding, .delete("\(place.directory)/\(own)"), &actions)
        } else {
            ask(.listing, .children(place.listPath, watch: true, isFresh: true), &actions)
        }
    }

    private mutating func take(_ reply: NodeReply, _ actions: inout [Action]) {
        let step = step
        self.step = .idle
        prove(step, reply)
        switch (step, reply) {
        case (.listing, .children(let names)): look(at: names, &actions)
        case (.listing, .failed(.noNode, _)): makeDirectories(for: place.directory + "/", &actions)
        case (.makingDirectories(let rest), .done), (.makingDirectories(let rest), .failed(.exists, _)):
            makeDirectories(rest, &actions)
        case (.creating, .created(let path)):
            own = String(path.dropFirst(place.directory.count + 1))
            isStale = true
        case (.discarding, .done), (.discarding, .failed(.noNode, _)):
            own = nil
            wantsNewPlace = false
            isStale = true
        case (.searching(let names), .values(let values)): search(names, values, &actions)
        case (.readingLeader, .value(let value)): announce(value.bytes, &actions)
        case (.renewing, .value):
            if waitsForProof, now - countedFrom <= leaseMax { (waitsForProof, isStale) = (false, true) }
        case (.readingLeader, .failed(.noNode, _)), (.renewing, .failed(.noNode, _)): isStale = true
        case (.readingEpoch, .value(let value)): readEpoch(value, &actions)
        case (.readingEpoch, .failed(.noNode, _)): makeDirectories(for: place.epochPath ?? "", &actions)
        case (.electing(let version), .versions):
            pendingToken = nil
            win(version + 1, &actions)
        // Our node is gone, or somebody else has raised the epoch: look again.
        case (.electing, .failed(.noNode, _)), (.electing, .failed(.badVersion, _)):
            pendingToken = nil
            isStale = true
        case (_, .failed(let failure, _)): fail(failure, in: step, &actions)
        default: preconditionFailure("\(reply) does not answer \(step)")
        }
    }

    private mutating func prove(_ step: Step, _ reply: NodeReply) {
        switch (step, reply) {
        case (_, .failed(.connectionLoss, _)), (_, .failed(.sessionExpired, _)): return
        // A server answers these by itself, also when it is cut off from its leader.
        case (.readingLeader, _), (.searching, _): return
        default: break
        }
        if let told = proofs.lastIndex(where: { sentAt - $0 >= tellsWithin }) {
            countedFrom = max(countedFrom, proofs[told])
            proofs.removeFirst(told + 1)
        }
        // Few suffice.
        if let last = proofs.last, sentAt - last < renewAfter / 2 { return }
        proofs.append(sentAt)
    }

    private mutating func fail(_ failure: NodeFailure, in step: Step, _ actions: inout [Action]) {
        if step == .creating { mayHaveNode = true }
        switch failure {
        case .connectionLoss, .sessionExpired: break
        default:
            actions.append(.complain("\(place.directory): \(failure)"))
            // What was lost in between must not be taken for ours.
            stepDown("ZooKeeper refused: \(failure)", &actions)
        }
        retryAt = now + .milliseconds(failure == .connectionLoss || failure == .sessionExpired ? 100 : 2000)
    }

    /// Makes the ancestors of a path, and the path itself unless it ends with a slash.
    private mutating func makeDirectories(for path: String, _ actions: inout [Action]) {
        var paths: [String] = []
        var made = ""
        for part in path.split(separator: "/") {
            made += "/\(part)"
            paths.append(made)
        }
        makeDirectories(paths, &actions)
    }

    private mutating func makeDirectories(_ paths: [String], _ actions: inout [Action]) {
        guard let first = paths.first else {
            isStale = true
            return
        }
        ask(.makingDirectories(Array(paths.dropFirst())), .create(first), &actions)
    }

    // MARK: The queue

    private mutating func look(at names: [String], _ actions: inout [Action]) {
        let queue = names.compactMap { name in place.number(of: name).map { (name: name, number: $0) } }
            .sorted { ($0.number, $0.name) < ($1.number, $1.name) }.map(\.name)
        if let own, !queue.contains(own) {
            stepDown("its place in the queue was removed", &actions)
            self.own = nil
        }
        if let info, own == nil {
            if mayHaveNode, !queue.isEmpty {
                ask(.searching(queue), .values(queue.map { "\(place.directory)/\($0)" }), &actions)
            } else {
                ask(
                    .creating,
                    .createEphemeral("\(place.directory)/\(place.prefix)", info, isSequential: true), &actions)
            }
            return
        }
        guard let first = queue.first else { return announce(nil, &actions) }
        guard first == own else {
            stepDown("another stands before it", &actions)
            ask(.readingLeader(first), .get("\(place.directory)/\(first)", watch: false, isFresh: false), &actions)
            return
        }
        waitsForProof = leading == nil && now - countedFrom > leaseMax
        if leading == nil, !waitsForProof, let path = place.epochPath {
            ask(.readingEpoch, .get(path, watch: false, isFresh: true), &actions)
        }
    }

    private mutating func search(_ names: [String], _ values: [NodeValue?], _ actions: inout [Action]) {
        own = zip(names, values).first { $1 != nil && $1?.owner == session }?.0
        mayHaveNode = false
        isStale = true
    }

    private mutating func readEpoch(_ value: NodeValue, _ actions: inout [Action]) {
        guard let own, let path = place.epochPath, !wantsNewPlace else {
            isStale = true
            return
        }
        if let pendingToken, pendingToken == value.bytes {
            self.pendingToken = nil
            return win(value.version, &actions)
        }
        attempts += 1
        let token = Array("\(own) \(String(session ?? 0, radix: 16)) \(attempts)".utf8)
        pendingToken = token
        ask(
            .electing(version: value.version),
            .multi([
                .check("\(place.directory)/\(own)", version: 0), .set(path, token, version: value.version),
            ]), &actions)
    }

    private mutating func win(_ version: Int32, _ actions: inout [Action]) {
        guard !wantsNewPlace, isConnected, now - countedFrom <= leaseMax else {
            isStale = true
            return
        }
        leading = UInt64(version)
        actions.append(.elected(epoch: UInt64(version)))
        announce(info, &actions)
    }

    private mutating func announce(_ leader: [UInt8]?, _ actions: inout [Action]) {
        guard announced != .some(leader) else { return }
        announced = .some(leader)
        actions.append(.leader(leader))
    }
}
