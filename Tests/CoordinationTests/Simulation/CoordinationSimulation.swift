import Base

@testable import Coordination

/// Candidates that count in a shared key while they lead, on a model of ZooKeeper, under a seed's faults: cut links,
/// broken connections, standing processes, lost replies, servers that are cut off from the others.
///
/// Checked at every step: at most one candidate that runs believes to lead, and epochs only rise. At the end: every
/// acknowledged commit was applied exactly once, every refused one never, the counter counts what was applied, and
/// with the faults over somebody leads and commits.
struct CoordinationSimulation {
    struct Failure: Error, CustomStringConvertible {
        var description: String
    }

    struct Tally {
        var elections = 0
        var acknowledged = 0
        var refused = 0
        var unknown = 0
        var faults = 0
    }

    private struct Process {
        var election: ElectionCore
        var electionClient = ModelClient()
        var storeClient = ModelClient()
        var leading: UInt64?
        var commit: CommitCore?
        var commitRequest: UInt64 = 0
        var isReading = false
        var awaitsConnection = false
        var token: [UInt8] = []
        var standsUntil = 0
        var lastTick = 0
    }

    private static let layout = ZooKeeperLayout(base: "/base")
    private static let key = "/counter"
    private static let step = 10

    private var random: SeededRandom
    private var ensemble = ModelEnsemble(timeout: 4000)
    private var processes: [Process]
    private var now = 0
    private var highestEpoch: UInt64 = 0
    private var tokens: [(token: [UInt8], isAcknowledged: Bool?)] = []
    private(set) var tally = Tally()

    init(seed: UInt64) {
        random = SeededRandom(seed: seed)
        processes = (0..<3).map { index in
            Process(
                election: ElectionCore(
                    place: CoordinationSimulation.layout.place(of: "/leader"), info: Array("\"\(index)\"".utf8)))
        }
    }

    mutating func run(milliseconds: Int) throws -> Tally {
        while now < milliseconds {
            injectFaults()
            try advance()
        }
        for index in processes.indices {
            processes[index].standsUntil = 0
            processes[index].electionClient.hasLink = true
            processes[index].storeClient.hasLink = true
        }
        let before = tally.acknowledged
        let end = now + 30_000
        while now < end { try advance() }
        guard tally.acknowledged > before else { throw Failure(description: "nothing is committed after the faults") }
        try checkCommits()
        return tally
    }

    // MARK: Time

    private mutating func injectFaults() {
        guard Int.random(in: 0..<120, using: &random) == 0 else { return }
        tally.faults += 1
        let index = Int.random(in: processes.indices, using: &random)
        switch Int.random(in: 0..<7, using: &random) {
        case 0: processes[index].electionClient.breakConnection()
        case 1: processes[index].storeClient.breakConnection()
        case 2: processes[index].standsUntil = now + Int.random(in: 100...12_000, using: &random)
        case 3: processes[index].electionClient.hasLink.toggle()
        case 4: processes[index].storeClient.hasLink.toggle()
        case 5:
            processes[index].electionClient.cutServerOff(
                ensemble, now: now, duration: Int.random(in: 100...12_000, using: &random))
        default:
            // All servers restart: sessions live on, every connection breaks.
            for index in processes.indices {
                processes[index].electionClient.breakConnection()
                processes[index].storeClient.breakConnection()
            }
        }
    }

    private mutating func advance() throws {
        now += CoordinationSimulation.step
        ensemble.expire(now: now)
        for index in processes.indices.shuffled(using: &random) {
            processes[index].electionClient.travel(&ensemble, now: now, random: &random)
            processes[index].storeClient.travel(&ensemble, now: now, random: &random)
            deliverWatches()
            guard processes[index].standsUntil <= now else { continue }
            processes[index].electionClient.run(&ensemble, now: now, random: &random)
            processes[index].storeClient.run(&ensemble, now: now, random: &random)
            for news in processes[index].electionClient.takeNews() { try electionNews(news, of: index) }
            for news in processes[index].storeClient.takeNews() { storeNews(news, of: index) }
            if now - processes[index].lastTick >= 100 {
                processes[index].lastTick = now
                try elect(.tick, index)
            }
            work(index)
        }
        let leaders = processes.filter { $0.election.leading != nil && $0.standsUntil <= now }
        guard leaders.count <= 1 else { throw Failure(description: "\(leaders.count) lead at \(now) ms") }
    }

    private mutating func deliverWatches() {
        for (session, path) in ensemble.takeFired() {
            for index in processes.indices where processes[index].electionClient.session == session {
                processes[index].electionClient.notify(
                    path, now: now, delay: Int.random(in: 0...200, using: &random))
            }
        }
    }

    // MARK: The election

    private mutating func electionNews(_ news: ModelClient.News, of index: Int) throws {
        switch news {
        case .event(let event): try elect(.session(event), index)
        case .reply(let id, let reply): try elect(.reply(id, reply), index)
        }
    }

    private mutating func elect(_ input: ElectionCore.Input, _ index: Int) throws {
        for action in processes[index].election.apply(input, now: Instant(nanoseconds: UInt64(now) * 1_000_000)) {
            switch action {
            case .request(let id, let request):
                processes[index].electionClient.send(
                    id, request, now: now, delay: Int.random(in: 0...40, using: &random))
            case .elected(let epoch):
                tally.elections += 1
                guard epoch > highestEpoch else {
                    throw Failure(description: "epoch \(epoch) after \(highestEpoch) at \(now) ms")
                }
                highestEpoch = epoch
                processes[index].leading = epoch
            case .lost: processes[index].leading = nil
            case .leader, .complain: break
            }
        }
        if processes[index].leading != nil, Int.random(in: 0..<20_000, using: &random) == 0 {
            try elect(.abdicate, index)
        }
    }

    // MARK: Commits

    /// Counts one further, again and again, while it leads.
    private mutating func work(_ index: Int) {
        guard processes[index].leading != nil, processes[index].commit == nil, !processes[index].isReading,
            processes[index].storeClient.isConnected
        else { return }
        processes[index].isReading = true
        let node = CoordinationSimulation.layout.node(of: CoordinationSimulation.key)
        ask(.get(node, watch: false, isFresh: true), index)
    }

    private mutating func ask(_ request: NodeRequest, _ index: Int) {
        processes[index].commitRequest += 1
        let id = processes[index].commitRequest
        processes[index].storeClient.send(id, request, now: now, delay: Int.random(in: 0...40, using: &random))
    }

    private mutating func storeNews(_ news: ModelClient.News, of index: Int) {
        switch news {
        case .reply(let id, let reply):
            guard id == processes[index].commitRequest else { return }
            if processes[index].isReading {
                begin(after: reply, index)
            } else if let action = processes[index].commit?.apply(reply) {
                perform(action, index)
            }
        case .event(.connected(let session, _)):
            guard processes[index].awaitsConnection, let action = processes[index].commit?.reconnected(session: session)
            else { return }
            processes[index].awaitsConnection = false
            perform(action, index)
        case .event: break
        }
    }

    private mutating func begin(after reply: NodeReply, _ index: Int) {
        processes[index].isReading = false
        let count: Int
        let expected: Expectation
        switch reply {
        case .value(let node):
            count = Int(String(decoding: node.bytes, as: UTF8.self)) ?? 0
            expected = .version(UInt64(node.version) + 1)
        case .failed(.noNode, _): (count, expected) = (0, .absent)
        default: return
        }
        guard let epoch = processes[index].leading, let session = processes[index].storeClient.session else { return }
        let token = "\(index) \(tokens.count)"
        tokens.append((Array(token.utf8), nil))
        processes[index].token = Array(token.utf8)
        let changes: [StoreChange] = [
            .put(key: CoordinationSimulation.key, bytes: Array("\(count + 1)".utf8), expected: expected),
            .put(key: "/writer", bytes: [UInt8(index)], expected: .any),
        ]
        var core = CommitCore(
            changes, as: LeaderEpoch(path: "/leader", epoch: epoch), token: token, session: session,
            layout: CoordinationSimulation.layout, hints: [:])
        let action = core.start()
        processes[index].commit = core
        perform(action, index)
    }

    private mutating func perform(_ action: CommitCore.Action, _ index: Int) {
        switch action {
        case .request(let request): ask(request, index)
        case .awaitConnection:
            processes[index].awaitsConnection = true
            if processes[index].storeClient.isConnected, let session = processes[index].storeClient.session,
                let action = processes[index].commit?.reconnected(session: session)
            {
                processes[index].awaitsConnection = false
                perform(action, index)
            }
        case .finish(let result):
            processes[index].commit = nil
            guard let place = tokens.firstIndex(where: { $0.token == processes[index].token }) else { return }
            switch result {
            case .success:
                tokens[place].isAcknowledged = true
                tally.acknowledged += 1
            case .failure(let error) where error.code == .unavailable: tally.unknown += 1
            case .failure:
                tokens[place].isAcknowledged = false
                tally.refused += 1
            }
        }
    }

    private func checkCommits() throws {
        var applied = 0
        for (token, isAcknowledged) in tokens {
            let count = ensemble.applied[token] ?? 0
            applied += count
            let text = String(decoding: token, as: UTF8.self)
            guard count <= 1 else { throw Failure(description: "commit \(text) was applied \(count) times") }
            if isAcknowledged == true, count == 0 { throw Failure(description: "commit \(text) was lost") }
            if isAcknowledged == false, count == 1 {
                throw Failure(description: "commit \(text) was refused and applied")
            }
        }
        let node = CoordinationSimulation.layout.node(of: CoordinationSimulation.key)
        let counter = ensemble.nodes[node].map { String(decoding: $0.bytes, as: UTF8.self) } ?? "0"
        guard counter == "\(applied)" else {
            throw Failure(description: "the counter says \(counter) after \(applied) commits")
        }
    }
}
