import Base

/// Events in the order of their time; those of the same moment in the order in which they were added.
struct EventHeap {
    typealias Event = Simulation.Event

    private struct Key {
        var at: UInt64
        var number: UInt64
        /// Where its event is: events stay where they are, since moving them costs more than comparing keys.
        var place: Int

        func isBefore(_ other: Key) -> Bool { at == other.at ? number < other.number : at < other.at }
    }

    private var keys: [Key] = []
    private var events: [Event?] = []
    private var freePlaces: [Int] = []
    private var nextNumber: UInt64 = 0

    var isEmpty: Bool { keys.isEmpty }

    mutating func add(_ event: Event, at: Instant) {
        let place = freePlaces.popLast() ?? events.count
        if place == events.count { events.append(event) } else { events[place] = event }
        let key = Key(at: at.nanoseconds, number: nextNumber, place: place)
        nextNumber += 1
        keys.append(key)
        var child = keys.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard key.isBefore(keys[parent]) else { break }
            keys[child] = keys[parent]
            child = parent
        }
        keys[child] = key
    }

    mutating func next() -> (at: Instant, event: Event)? {
        guard let first = keys.first, let last = keys.popLast() else { return nil }
        if !keys.isEmpty { sink(last) }
        guard let event = events[first.place].take() else { preconditionFailure("a key has an event") }
        freePlaces.append(first.place)
        return (Instant(nanoseconds: first.at), event)
    }

    /// Puts a key into the first place, which is free, and then where it belongs.
    private mutating func sink(_ key: Key) {
        var parent = 0
        while true {
            var least = 2 * parent + 1
            if least + 1 < keys.count, keys[least + 1].isBefore(keys[least]) { least += 1 }
            guard least < keys.count, keys[least].isBefore(key) else { break }
            keys[parent] = keys[least]
            parent = least
        }
        keys[parent] = key
    }
}
