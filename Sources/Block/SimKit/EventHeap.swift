import Base

/// Events in the order of their time; those of the same moment in the order in which they were added.
struct EventHeap<Event> {
    /// When each of `events` is; apart from them, since comparing must not copy them.
    private var keys: [(at: UInt64, number: UInt64)] = []
    private var events: [Event] = []
    private var nextNumber: UInt64 = 0

    var isEmpty: Bool { keys.isEmpty }

    mutating func add(_ event: Event, at: Instant) {
        keys.append((at.nanoseconds, nextNumber))
        events.append(event)
        nextNumber += 1
        var child = keys.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard keys[child] < keys[parent] else { return }
            swap(child, parent)
            child = parent
        }
    }

    mutating func next() -> (at: Instant, event: Event)? {
        guard let first = keys.first else { return nil }
        swap(0, keys.count - 1)
        keys.removeLast()
        let event = events.removeLast()
        var parent = 0
        while true {
            var least = parent
            for child in [2 * parent + 1, 2 * parent + 2] where child < keys.count && keys[child] < keys[least] {
                least = child
            }
            if least == parent { break }
            swap(parent, least)
            parent = least
        }
        return (Instant(nanoseconds: first.at), event)
    }

    private mutating func swap(_ one: Int, _ other: Int) {
        keys.swapAt(one, other)
        events.swapAt(one, other)
    }
}
