import Base
import Dispatch
import Logging

/// Elections at a ZooKeeper ensemble. Every candidate and every follower has a session of its own, so that its
/// ephemeral node is unmistakable.
final class ZooKeeperElection: LeaderElection {
    private let location: ZooKeeperLocation
    private let layout: ZooKeeperLayout
    private let sessionTimeout: Duration
    private let logger: Logger

    init(_ location: ZooKeeperLocation, layout: ZooKeeperLayout, sessionTimeout: Duration, logger: Logger) {
        self.location = location
        self.layout = layout
        self.sessionTimeout = sessionTimeout
        self.logger = logger
    }

    func stand(at path: String, advertising info: JSONValue) -> Candidacy {
        let (stream, continuation) = AsyncStream<ElectionEvent>.makeStream(bufferingPolicy: .bufferingNewest(64))
        let member = ElectionMember(
            ElectionCore(place: layout.place(of: path), info: info.bytes), location, sessionTimeout, logger
        ) { [logger] action in
            switch action {
            case .elected(let epoch): continuation.yield(.elected(LeaderEpoch(path: path, epoch: epoch)))
            case .lost(let reason):
                logger.notice("leadership lost", metadata: ["election": "\(path)", "reason": "\(reason)"])
                continuation.yield(.lost)
            case .leader(let info): continuation.yield(.leader(info.flatMap(readInfo)))
            case .complain(let text): logger.warning("election is held up", metadata: ["reason": "\(text)"])
            case .request: break
            }
        }
        // SAFETY: standing is not async; the task ends with the stream.
        let task = Task { await member.run() }
        continuation.onTermination = { _ in task.cancel() }
        return Candidacy(events: stream) {
            member.abdicate()
        } leave: {
            task.cancel()
            await task.value
        }
    }

    func follow(_ path: String) -> AsyncStream<JSONValue?> { follow(layout.place(of: path)) }

    func follow(_ place: ElectionPlace) -> AsyncStream<JSONValue?> {
        let (stream, continuation) = AsyncStream<JSONValue?>.makeStream(bufferingPolicy: .bufferingNewest(1))
        let member = ElectionMember(ElectionCore(place: place, info: nil), location, sessionTimeout, logger) {
            [logger] action in
            switch action {
            case .leader(let info): continuation.yield(info.flatMap(readInfo))
            case .complain(let text): logger.warning("leader not known", metadata: ["reason": "\(text)"])
            case .elected, .lost, .request: break
            }
        }
        // SAFETY: following is not async; the task ends with the stream.
        let task = Task { await member.run() }
        continuation.onTermination = { _ in task.cancel() }
        return stream
    }
}

private func readInfo(_ bytes: [UInt8]) -> JSONValue? { try? JSONValue(parsing: bytes) }

/// Performs the requests of one `ElectionCore` in a session of its own.
///
/// On a queue of its own as well: where a process has so much to do that its tasks wait for their turn, its candidate would take
/// that for having stood still, give up, and be elected to do the same again.
private final class ElectionMember: Sendable {
    private let location: ZooKeeperLocation
    private let timeout: Duration
    private let logger: Logger
    private let handle: @Sendable (ElectionCore.Action) -> Void
    private let queue = DispatchQueue(label: "election")
    private let origin = ContinuousClock.now
    // SAFETY: both are used on the queue only.
    private nonisolated(unsafe) var core: ElectionCore
    /// While the member takes part.
    private nonisolated(unsafe) var session: ZooKeeperSession?

    /// - Parameter handle: called on the queue; must only hand over.
    init(
        _ core: ElectionCore, _ location: ZooKeeperLocation, _ timeout: Duration, _ logger: Logger,
        handle: @escaping @Sendable (ElectionCore.Action) -> Void
    ) {
        self.core = core
        self.location = location
        self.timeout = timeout
        self.logger = logger
        self.handle = handle
    }

    func abdicate() { enter(.abdicate) }

    /// Takes part until cancelled; then leaves the queue of candidates.
    func run() async {
        let session = ZooKeeperSession(location, timeout: timeout, logger: logger) { [weak self] in
            self?.enter(.session($0))
        }
        queue.async { self.session = session }
        // Ticks that it has no turn for become one.
        let timer = DispatchSource.makeTimerSource(queue: queue)
        timer.setEventHandler { [weak self] in self?.take(.tick) }
        let interval = min(.milliseconds(100), timeout / 20).wholeNanoseconds
        timer.schedule(deadline: .now(), repeating: .nanoseconds(Int(interval)))
        timer.resume()
        await withTaskCancellationHandler {
            await session.run()
        } onCancel: {
            queue.async { self.session = nil }
        }
        timer.cancel()
    }

    /// At most one reply and one event of each watch are on their way.
    private func enter(_ input: ElectionCore.Input) { queue.async { self.take(input) } }

    private func take(_ input: ElectionCore.Input) {
        guard let session else { return }
        for action in core.apply(input, now: Instant.zero + (.now - origin)) {
            handle(action)
            guard case .request(let number, let request) = action else { continue }
            session.send(request) { [weak self] in self?.enter(.reply(number, $0)) }
        }
    }
}
