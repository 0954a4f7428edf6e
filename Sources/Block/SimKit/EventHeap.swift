import Base

/// Events in the order of their time; those of the same moment in the order in which they were added.
struct EventHeap<Event> {
    private var entries: [(at: UInt64, number: UInt64, event: Event)] = []
    private var nextNumber: UInt64 = 0

    var isEmpty: Bool { entries.isEmpty }

    mutating func add(_ event: Event, at: Instant) {
        entries.append((at.nanoseconds, nextNumber, event))
        nextNumber += 1
        var child = entries.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard precedes(child, parent) else { return }
            entries.swapAt(child, parent)
            child = parent
        }
    }

    mutating func next() -> (at: Instant, event: Event)? {
        guard let first = entries.first else { return nil }
        let last = entries.removeLast()
        if !entries.isEmpty {
            entries[0] = last
            var parent = 0
            while true {
                var least = parent
                for child in [2 * parent + 1, 2 * parent + 2] where child < entries.count && precedes(child, least) {
                    least = child
                }
                if least == parent { break }
                entries.swapAt(parent, least)
                parent = least
            }
        }
        return (Instant(nanoseconds: first.at), first.event)
    }

    private func precedes(_ one: Int, _ other: Int) -> Bool {
        (entries[one].at, entries[one].number) < (entries[other].at, entries[other].number)
    }
}
