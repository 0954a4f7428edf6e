/// What names the values of an `IDTable`.
public protocol IDTableKey: Hashable {
    /// Where in the table to look first: keys handed out one after the other are neighbours, others spread in the low bits.
    var place: UInt64 { get }
}

extension UInt64: IDTableKey {
    @inlinable public var place: UInt64 { self }
}

/// A dictionary for what every request touches: found without hashing, changed in place, and kept without allocating memory
/// once the table has grown to what is under way at most.
///
/// Open addressing by the low bits of `place`. The order in the table depends on nothing but what was put in and taken out.
///
/// Everything is open to inlining: unspecialised, every access would look up the metadata of `Value`.
public struct IDTable<Key: IDTableKey, Value> {
    @usableFromInline var names: [Key?] = []
    @usableFromInline var slots: [Value?] = []
    @usableFromInline var filled = 0

    @inlinable public init() {}

    @inlinable public var count: Int { filled }
    @inlinable public var isEmpty: Bool { filled == 0 }
    /// In no particular order.
    @inlinable public var keys: [Key] { gathered(names) }
    /// In the order of `keys`.
    @inlinable public var values: [Value] { gathered(slots) }

    /// The first whose value is wanted, in the order of `keys`.
    @inlinable
    public func firstKey(where isWanted: (Value) -> Bool) -> Key? {
        for position in slots.indices {
            if let value = slots[position], isWanted(value) { return names[position] }
        }
        return nil
    }

    @inlinable
    public subscript(key: Key) -> Value? {
        @inline(__always) get { position(of: key).flatMap { slots[$0] } }
        @inline(__always) _modify {
            let position = reserve(key)
            defer { if slots[position] == nil { erase(position) } }
            yield &slots[position]
        }
    }

    @inlinable
    public subscript(key: Key, default fallback: @autoclosure () -> Value) -> Value {
        @inline(__always) get { self[key] ?? fallback() }
        @inline(__always) _modify {
            let position = reserve(key)
            var value = slots[position].take() ?? fallback()
            defer { slots[position] = value }
            yield &value
        }
    }

    /// Changes the value in place, if there is one, and answers what `body` does. Through `table[key]?.member = ...` the same
    /// takes memory for the accessor's frame: it ends in two places there, and so is not inlined.
    @inlinable @inline(__always) @discardableResult
    public mutating func change<Result>(_ key: Key, _ body: (inout Value) -> Result) -> Result? {
        guard let position = position(of: key), slots[position] != nil else { return nil }
        return body(&slots[position]!)
    }

    @inlinable @discardableResult
    public mutating func removeValue(forKey key: Key) -> Value? {
        guard let position = position(of: key) else { return nil }
        let value = slots[position].take()
        erase(position)
        return value
    }

    @inlinable
    func gathered<Element>(_ places: [Element?]) -> [Element] {
        var found: [Element] = []
        found.reserveCapacity(filled)
        for case let element? in places { found.append(element) }
        return found
    }

    @inlinable
    func position(of key: Key) -> Int? {
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
    @inlinable
    mutating func reserve(_ key: Key) -> Int {
        if let known = position(of: key) { return known }
        if 2 * (filled + 1) > names.count { grow() }
        let mask = names.count - 1
        var position = Int(truncatingIfNeeded: key.place) & mask
        while names[position] != nil { position = (position + 1) & mask }
        names[position] = key
        filled += 1
        return position
    }

    @inlinable
    mutating func grow() {
        let old = (names, slots)
        let capacity = max(16, 2 * names.count)
        names = Array(repeating: nil, count: capacity)
        slots = Array(repeating: nil, count: capacity)
        filled = 0
        for (name, slot) in zip(old.0, old.1) {
            guard let name else { continue }
            slots[reserve(name)] = slot
        }
    }

    /// Empties a place, and closes the gap that it leaves for those that had to give way to it.
    @inlinable
    mutating func erase(_ position: Int) {
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
        filled -= 1
    }
}

extension IDTable: Sendable where Key: Sendable, Value: Sendable {}
