/// What names the values of an `IDTable`.
protocol IDTableKey: Hashable {
    /// Where in the table to look first: keys handed out one after the other are neighbours, others spread in the low bits.
    var place: UInt64 { get }
}

extension UInt64: IDTableKey {
    var place: UInt64 { self }
}

extension LinkID: IDTableKey {
    var place: UInt64 { rawValue }
}

extension SdsID: IDTableKey {
    var place: UInt64 { rawValue }
}

extension FamilyKey: IDTableKey {
    var place: UInt64 { tree.rawValue &* 0x9E37_79B9_7F4A_7C15 &+ UInt64(index) }
}

/// A dictionary for what every request touches: found without hashing, changed in place, and kept without allocating memory
/// once the table has grown to what is under way at most.
///
/// Open addressing by the low bits of `place`. The order in the table depends on nothing but what was put in and taken out.
struct IDTable<Key: IDTableKey, Value> {
    private var names: [Key?] = []
    private var slots: [Value?] = []
    private(set) var count = 0

    var isEmpty: Bool { count == 0 }
    /// In no particular order.
    var keys: [Key] { names.compactMap { $0 } }
    /// In the order of `keys`.
    var values: [Value] { slots.compactMap { $0 } }

    /// The first whose value is wanted, in the order of `keys`.
    func firstKey(where isWanted: (Value) -> Bool) -> Key? {
        for position in slots.indices {
            if let value = slots[position], isWanted(value) { return names[position] }
        }
        return nil
    }

    // The accessors are inlined because a call of one that changes in place allocates memory for its frame.
    subscript(key: Key) -> Value? {
        @inline(__always) get { position(of: key).flatMap { slots[$0] } }
        @inline(__always) _modify {
            let position = reserve(key)
            defer { if slots[position] == nil { erase(position) } }
            yield &slots[position]
        }
    }

    subscript(key: Key, default fallback: @autoclosure () -> Value) -> Value {
        @inline(__always) get { self[key] ?? fallback() }
        @inline(__always) _modify {
            let position = reserve(key)
            var value = slots[position].take() ?? fallback()
            defer { slots[position] = value }
            yield &value
        }
    }

    @discardableResult
    mutating func removeValue(forKey key: Key) -> Value? {
        guard let position = position(of: key) else { return nil }
        let value = slots[position].take()
        erase(position)
        return value
    }

    private func position(of key: Key) -> Int? {
        guard !names.isEmpty else { return nil }
        let mask = names.count - 1
        var position = Int(truncatingIfNeeded: key.place) & mask
        while let name = names[position] {
            if name == key { return position }
            position = (position + 1) & mask
        }
        return nil
    }

    /// Where the key is, or is to be: then there is no value yet.
    private mutating func reserve(_ key: Key) -> Int {
        if let known = position(of: key) { return known }
        if 2 * (count + 1) > names.count { grow() }
        let mask = names.count - 1
        var position = Int(truncatingIfNeeded: key.place) & mask
        while names[position] != nil { position = (position + 1) & mask }
        names[position] = key
        count += 1
        return position
    }

    private mutating func grow() {
        let old = (names, slots)
        let capacity = max(16, 2 * names.count)
        names = Array(repeating: nil, count: capacity)
        slots = Array(repeating: nil, count: capacity)
        count = 0
        for (name, slot) in zip(old.0, old.1) {
            guard let name else { continue }
            slots[reserve(name)] = slot
        }
    }

    /// Empties a place, and closes the gap that it leaves for those that had to give way to it.
    private mutating func erase(_ position: Int) {
        let mask = names.count - 1
        var hole = position
        var next = (position + 1) & mask
        while let name = names[next] {
            let home = Int(truncatingIfNeeded: name.place) & mask
            if (next - home) & mask >= (next - hole) & mask {
                names[hole] = name
                slots.swapAt(hole, next)
                hole = next
            }
            next = (next + 1) & mask
        }
        names[hole] = nil
        slots[hole] = nil
        count -= 1
    }
}

extension IDTable: Sendable where Key: Sendable, Value: Sendable {}
