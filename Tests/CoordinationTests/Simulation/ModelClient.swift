@testable import Coordination

/// The client library at one session: requests travel in order, replies may get lost with the connection, a silent
/// server is given up after two thirds of the timeout. Its server tells the ensemble every half tick that it has heard
/// the session, and may be cut off from the ensemble. Times are milliseconds.
struct ModelClient {
    enum News {
        case event(SessionEvent)
        case reply(UInt64, NodeReply)
    }

    private(set) var session: Int64?
    private(set) var isConnected = false
    /// Whether packets pass.
    var hasLink = true
    /// What a server that is cut off knows.
    private var cutOff: (ensemble: ModelEnsemble, until: Int)?
    /// What the server has heard and not told.
    private var isHeard = false
    private var lastTold = 0
    private var lastReply = 0
    private var lastPing = 0
    private var requests: [(arrival: Int, id: UInt64, request: NodeRequest)] = []
    private var replies: [(arrival: Int, news: News)] = []
    private var outstanding: [UInt64] = []
    private var news: [News] = []

    mutating func send(_ id: UInt64, _ request: NodeRequest, now: Int, delay: Int) {
        guard isConnected else {
            news.append(.reply(id, .failed(.connectionLoss, part: nil)))
            return
        }
        outstanding.append(id)
        requests.append((max(now + delay, requests.last?.arrival ?? 0), id, request))
    }

    /// What the library hands over now.
    mutating func takeNews() -> [News] {
        defer { news = [] }
        return news
    }

    /// Breaks the connection: what is on its way in either direction is lost, what the ensemble has applied stays.
    mutating func breakConnection() {
        guard isConnected else { return }
        isConnected = false
        cutOff = nil
        isHeard = false
        requests = []
        replies = []
        for id in outstanding { news.append(.reply(id, .failed(.connectionLoss, part: nil))) }
        outstanding = []
        news.append(.event(.disconnected))
    }

    /// The server no longer reaches the ensemble. It goes on answering what need not be fresh, and gives its clients up
    /// after a while.
    mutating func cutServerOff(_ ensemble: ModelEnsemble, now: Int, duration: Int) {
        if isConnected, cutOff == nil { cutOff = (ensemble, now + duration) }
    }

    mutating func notify(_ path: String, now: Int, delay: Int) {
        guard cutOff == nil else { return }
        replies.append((max(now + delay, replies.last?.arrival ?? 0), .event(.changed(path))))
    }

    /// The network's part: what arrives at the server is answered, also while the client's process stands still.
    mutating func travel(
        _ ensemble: inout ModelEnsemble, now: Int, random: inout some RandomNumberGenerator
    ) {
        if let cutOff, cutOff.until <= now { breakConnection() }
        guard let session else { return }
        while hasLink, let first = requests.first, first.arrival <= now {
            guard cutOff == nil || !first.request.needsEnsemble else { break }
            requests.removeFirst()
            guard ensemble.sessions[session] != nil || cutOff != nil else { continue }
            isHeard = true
            let reply =
                cutOff?.ensemble.answer(first.request, of: session, random: &random)
                ?? ensemble.answer(first.request, of: session, random: &random)
            let arrival = max(now + Int.random(in: 0...40, using: &random), replies.last?.arrival ?? 0)
            replies.append((arrival, .reply(first.id, reply)))
        }
        if now - lastTold >= ensemble.timeout / 4 {
            lastTold = now
            if isHeard, cutOff == nil { ensemble.hear(session, now: now) }
            isHeard = false
        }
    }

    /// The library's part; does not run while the process stands still.
    mutating func run(
        _ ensemble: inout ModelEnsemble, now: Int, random: inout some RandomNumberGenerator
    ) {
        guard isConnected, let session else { return connect(&ensemble, now: now, random: &random) }
        if hasLink {
            while let first = replies.first, first.arrival <= now {
                replies.removeFirst()
                lastReply = now
                if case .reply(let id, _) = first.news { outstanding.removeAll { $0 == id } }
                news.append(first.news)
            }
            if cutOff == nil, ensemble.sessions[session] == nil {
                breakConnection()
                return
            }
            if now - lastPing >= ensemble.timeout / 3 {
                lastPing = now
                lastReply = now
                isHeard = true
            }
        }
        if now - lastReply > ensemble.timeout * 2 / 3 { breakConnection() }
    }

    private mutating func connect(
        _ ensemble: inout ModelEnsemble, now: Int, random: inout some RandomNumberGenerator
    ) {
        guard hasLink, Int.random(in: 0..<10, using: &random) == 0 else { return }
        if let session, ensemble.sessions[session] == nil {
            news.append(.event(.expired))
            self.session = nil
            return
        }
        let number = session ?? ensemble.open(now: now)
        session = number
        ensemble.hear(number, now: now)
        lastReply = now
        lastPing = now
        isConnected = true
        // Watches that the client held are set anew; what changed meanwhile is told by looking again.
        news.append(.event(.connected(session: number, timeout: .milliseconds(ensemble.timeout))))
    }
}

extension NodeRequest {
    /// Whether a server cannot answer it by itself.
    fileprivate var needsEnsemble: Bool {
        switch self {
        case .get(_, _, let isFresh), .children(_, _, let isFresh): isFresh
        case .values: false
        case .create, .createEphemeral, .delete, .versions, .multi: true
        }
    }
}
