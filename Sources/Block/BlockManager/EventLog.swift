import Base
import BlockCore
import Coordination
import Logging

/// The events of a system, numbered, in the store: whoever leads goes on with them. The last `kept` at least are there, in
/// documents of `perDocument` (docs/formats/manager-store.md).
///
/// An event is written after what it tells was committed; what a leader that died had no time to write is missing.
actor EventLog {
    static let kept: UInt64 = 1024
    static let perDocument: UInt64 = 64
    private static let keyPrefix = "/block-events/"

    private let store: any MetadataStore
    /// The newest document as this leader wrote it last; nil before it was read under this epoch.
    private var tail: (epoch: LeaderEpoch, document: UInt64, events: [StorageEvent])?

    init(store: any MetadataStore) { self.store = store }

    /// Gives the events their numbers and stores them.
    func append(_ events: [StorageEvent], as epoch: LeaderEpoch) async throws(StoreError) {
        var current = try await open(epoch)
        for event in events {
            var event = event
            event.number = current.document * EventLog.perDocument + UInt64(current.events.count) + 1
            current.events.append(event)
            guard current.events.count == Int(EventLog.perDocument) else { continue }
            try await write(current, as: epoch)
            current.document += 1
            current.events = []
            tail = current
        }
        guard !current.events.isEmpty else { return }
        try await write(current, as: epoch)
        tail = current
    }

    /// Those with higher numbers, in order.
    func events(after number: UInt64) async throws(StoreError) -> [StorageEvent] {
        try await store.list(prefix: EventLog.keyPrefix).flatMap { EventLog.events($0.value) }
            .filter { $0.number > number }
    }

    private func open(
        _ epoch: LeaderEpoch
    ) async throws(StoreError) -> (epoch: LeaderEpoch, document: UInt64, events: [StorageEvent]) {
        if let tail, tail.epoch == epoch { return tail }
        let stored = try await store.list(prefix: EventLog.keyPrefix)
        guard let last = stored.last, let number = UInt64(last.key.dropFirst(EventLog.keyPrefix.count), radix: 16)
        else {
            return (epoch, 0, [])
        }
        let events = EventLog.events(last.value)
        // A document that cannot be read, or is full, is left as it is.
        if events.isEmpty || events.count >= Int(EventLog.perDocument) { return (epoch, number + 1, []) }
        return (epoch, number, events)
    }

    private func write(
        _ current: (epoch: LeaderEpoch, document: UInt64, events: [StorageEvent]), as epoch: LeaderEpoch
    ) async throws(StoreError) {
        let document = JSONValue.array(current.events.map(EventLog.json))
        var changes = [StoreChange.put(key: EventLog.key(current.document), bytes: document.bytes, expected: .any)]
        let documents = EventLog.kept / EventLog.perDocument + 1
        if current.document >= documents {
            changes.append(.delete(key: EventLog.key(current.document - documents), expected: .any))
        }
        try await store.commit(changes, as: epoch)
    }

    private static func key(_ document: UInt64) -> String { keyPrefix + document.hex }

    private static func json(_ event: StorageEvent) -> JSONValue {
        [
            "number": .integer(Int64(clamping: event.number)),
            "timeMilliseconds": .integer(Int64(clamping: event.milliseconds)),
            "severity": .string(event.severity.rawValue), "name": .string(event.name),
            "object": .string(event.object), "text": .string(event.text),
        ]
    }

    private static func events(_ stored: VersionedValue) -> [StorageEvent] {
        ((try? JSONValue(parsing: stored.bytes))?.array ?? []).compactMap { json in
            guard let number = json["number"]?.integer, let time = json["timeMilliseconds"]?.integer,
                let severity = json["severity"]?.string.flatMap(StorageEvent.Severity.init), number > 0, time >= 0,
                let name = json["name"]?.string, let object = json["object"]?.string, let text = json["text"]?.string
            else { return nil }
            return StorageEvent(
                number: UInt64(number), milliseconds: UInt64(time), severity: severity, name: name, object: object,
                text: text)
        }
    }
}
