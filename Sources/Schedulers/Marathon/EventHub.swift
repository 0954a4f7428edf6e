import Base
import HTTPKit
import MarathonCore
import Synchronization

/// The readers of `/v2/events`. A reader that falls behind loses its stream (`BoundedFeed`).
final class EventHub: Sendable {
    private struct Reader {
        var feed: BoundedFeed
        /// Empty: every type.
        var types: Set<String>
        var remote: String
    }

    private struct Readers {
        var nextID = 0
        var list: [Int: Reader] = [:]
        var isClosed = false
    }

    private let readers = Mutex(Readers())
    private let outstandingMax: Int

    init(outstandingMax: Int) { self.outstandingMax = outstandingMax }

    func attach(types: Set<String>, remote: String, at time: Timestamp) -> BoundedFeed {
        let feed = BoundedFeed(limit: outstandingMax)
        let id: Int? = readers.withLock { readers in
            guard !readers.isClosed else { return nil }
            readers.nextID += 1
            readers.list[readers.nextID] = Reader(feed: feed, types: types, remote: remote)
            return readers.nextID
        }
        guard let id else {
            feed.finish()
            return feed
        }
        feed.onEnd { [weak self] in self?.detach(id) }
        publish(.make("event_stream_attached", at: time, ["remoteAddress": .string(remote)]))
        return feed
    }

    private func detach(_ id: Int) { readers.withLock { _ = $0.list.removeValue(forKey: id) } }

    func publish(_ event: Event) {
        let feeds = readers.withLock { readers in
            readers.list.values.filter { $0.types.isEmpty || $0.types.contains(event.type) }.map(\.feed)
        }
        guard !feeds.isEmpty else { return }
        let bytes = ServerSentEvent.encode(event: event.type, data: event.payload.text)
        for feed in feeds { feed.offer(bytes) }
    }

    func heartbeat() {
        for feed in readers.withLock({ $0.list.values.map(\.feed) }) { feed.offer(ServerSentEvent.heartbeat) }
    }

    /// Ends every stream, also those that come later.
    func close() {
        let feeds = readers.withLock { readers in
            readers.isClosed = true
            return readers.list.values.map(\.feed)
        }
        for feed in feeds { feed.finish() }
    }
}
