import Base
import LinuxOS
import Logging
import Synchronization

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
            ElectionCore(place: layout.place(of: path), info: info.bytes), location, sessionTimeout, logger)
        // SAFETY: standing is not async; the task ends with the stream.
        let task = Task { [logger] in
            await member.run { action in
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
        }
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
        let member = ElectionMember(ElectionCore(place: place, info: nil), location, sessionTimeout, logger)
        // SAFETY: following is not async; the task ends with the stream.
        let task = Task { [logger] in
            await member.run { action in
                switch action {
                case .leader(let info): continuation.yield(info.flatMap(readInfo))
                case .complain(let text): logger.warning("leader not known", metadata: ["reason": "\(text)"])
                case .elected, .lost, .request: break
                }
            }
        }
        continuation.onTermination = { _ in task.cancel() }
        return stream
    }
}

private func readInfo(_ bytes: [UInt8]) -> JSONValue? { try? JSONValue(parsing: bytes) }

/// Performs the requests of one `ElectionCore` in a session of its own.
private final class ElectionMember: Sendable {
    private let core: ElectionCore
    private let session: ZooKeeperSession
    private let tickInterval: Duration
    private let inputs: AsyncStream<ElectionCore.Input>
    private let sink: AsyncStream<ElectionCore.Input>.Continuation

    init(_ core: ElectionCore, _ location: ZooKeeperLocation, _ timeout: Duration, _ logger: Logger) {
        self.core = core
        // At most one reply and one event of each watch are on their way; ticks are what can pile up, while this
        // process stands still.
        let (inputs, sink) = AsyncStream<ElectionCore.Input>.makeStream(bufferingPolicy: .bufferingNewest(65536))
        self.inputs = inputs
        self.sink = sink
        tickInterval = min(.milliseconds(100), timeout / 20)
        session = ZooKeeperSession(location, timeout: timeout, logger: logger) { sink.yield(.session($0)) }
    }

    func abdicate() { sink.yield(.abdicate) }

    /// Takes part until cancelled; then leaves the queue.
    func run(_ handle: @Sendable (ElectionCore.Action) -> Void) async {
        await withTaskGroup(of: Void.self) { group in
            group.addTask { await self.session.run() }
            group.addTask {
                while (try? await Task.sleep(for: self.tickInterval)) != nil { self.sink.yield(.tick) }
            }
            var core = core
            let origin = ContinuousClock.now
            for await input in inputs {
                for action in core.apply(input, now: Instant.zero + (.now - origin)) {
                    handle(action)
                    guard case .request(let number, let request) = action else { continue }
                    session.send(request) { [sink] in sink.yield(.reply(number, $0)) }
                }
            }
            group.cancelAll()
        }
    }
}
