/// Values by numbers that are handed out in ascending order, like those of what is under way: found without hashing, and
/// kept without allocating memory once the table has grown to what is under way at most. Zero is no number.
///
/// Open addressing by the low bits: numbers that follow each other lie side by side. The order in the table depends on
/// nothing but what was put in and taken out.
struct IDTable<Value> {
    /// Zero where nothing is.
    private var numbers: [UInt64] = []
    private var slots: [Value?] = []
    private(set) var count = 0

    var isEmpty: Bool { count == 0 }
    /// In no particular order.
    var keys: [UInt64] { numbers.filter { $0 != 0 } }
    /// In the order of `keys`.
    var values: [Value] { slots.compactMap { $0 } }

    subscript(number: UInt64) -> Value? {
        get { position(of: number).flatMap { slots[$0] } }
        _modify {
            if let position = position(of: number) {
                defer { if slots[position] == nil { erase(position) } }
                yield &slots[position]
            } else {
                var fresh: Value?
                defer { if let fresh { insert(number, fresh) } }
                yield &fresh
            }
        }
    }

    @discardableResult
    mutating func removeValue(forKey number: UInt64) -> Value? {
        guard let position = position(of: number) else { return nil }
        let value = slots[position].take()
        erase(position)
        return value
    }

    private func position(of number: UInt64) -> Int? {
        guard !numbers.isEmpty, number != 0 else { return nil }
        let mask = numbers.count - 1
        var position = Int(truncatingIfNeeded: number) & mask
        while numbers[position] != number {
            if numbers[position] == 0 { return nil }
            position = (position + 1) & mask
        }
        return position
    }

    private mutating func insert(_ number: UInt64, _ value: Value) {
        precondition(number != 0, "zero is no number")
        if 2 * (count + 1) > numbers.count { grow() }
        let mask = numbers.count - 1
        var position = Int(truncatingIfNeeded: number) & mask
        while numbers[position] != 0 { position = (position + 1) & mask }
        numbers[position] = number
        slots[position] = value
        count += 1
    }

    private mutating func grow() {
        let old = (numbers, slots)
        let capacity = max(16, 2 * numbers.count)
        numbers = Array(repeating: 0, count: capacity)
        slots = Array(repeating: nil, count: capacity)
        count = 0
        for (number, slot) in zip(old.0, old.1) { if let slot { insert(number, slot) } }
    }

    /// Empties a place, and closes the gap that it leaves for those that had to give way to it.
    private mutating func erase(_ position: Int) {
        let mask = numbers.count - 1
        var hole = position
        var next = (position + 1) & mask
        while numbers[next] != 0 {
            let home = Int(truncatingIfNeeded: numbers[next]) & mask
            if (next - home) & mask >= (next - hole) & mask {
                numbers[hole] = numbers[next]
                slots.swapAt(hole, next)
                hole = next
            }
            next = (next + 1) & mask
        }
        numbers[hole] = 0
        slots[hole] = nil
        count -= 1
    }
}

extension IDTable: Sendable where Value: Sendable {}
