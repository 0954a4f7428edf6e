/// Values named by numbers that are not reused soon, found without hashing. Owned by one thread. Zero is never a name.
public struct SlotTable<Value> {
    // Open to inlining: unspecialised, every access would look up the metadata of `Value`.
    @usableFromInline var slots: [Value?] = []
    @usableFromInline var generations: [UInt32] = []
    @usableFromInline var free: [Int] = []

    @inlinable public init() {}

    @inlinable public var count: Int { slots.count - free.count }

    @inlinable
    public mutating func insert(_ value: Value) -> UInt64 {
        let slot: Int
        if let reused = free.popLast() {
            slot = reused
            slots[slot] = value
        } else {
            slot = slots.count
            slots.append(value)
            generations.append(0)
        }
        return UInt64(generations[slot]) << 32 | UInt64(slot + 1)
    }

    @inlinable
    public subscript(name: UInt64) -> Value? {
        get { slot(of: name).flatMap { slots[$0] } }
        set {
            guard let slot = slot(of: name) else { preconditionFailure("nothing has the name \(name)") }
            precondition(newValue != nil, "values are taken away by `remove`")
            slots[slot] = newValue
        }
    }

    /// Nil when nothing has this name any more.
    @inlinable
    public mutating func remove(_ name: UInt64) -> Value? {
        guard let slot = slot(of: name), let value = slots[slot].take() else { return nil }
        generations[slot] &+= 1
        free.append(slot)
        return value
    }

    @inlinable
    func slot(of name: UInt64) -> Int? {
        let slot = Int(UInt32(truncatingIfNeeded: name)) - 1
        guard slot >= 0, slot < slots.count, generations[slot] == UInt32(truncatingIfNeeded: name >> 32) else {
            return nil
        }
        return slot
    }
}
