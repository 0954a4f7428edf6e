public import BlockCore

/// The buffers that a core names by `PayloadID`. Owned by one reactor thread.
public struct PayloadTable {
    private var slots: [IOBuffer?] = []
    private var generations: [UInt32] = []
    private var free: [Int] = []

    public init() {}

    /// Buffers that are named now.
    public var count: Int { slots.count - free.count }

    public mutating func insert(_ buffer: IOBuffer) -> PayloadID {
        let slot: Int
        if let reused = free.popLast() {
            slot = reused
            slots[slot] = buffer
        } else {
            slot = slots.count
            slots.append(buffer)
            generations.append(0)
        }
        return PayloadID(rawValue: UInt64(generations[slot]) << 32 | UInt64(slot + 1))
    }

    public subscript(id: PayloadID) -> IOBuffer {
        guard let slot = slot(of: id), let buffer = slots[slot] else { preconditionFailure("unknown payload \(id)") }
        return buffer
    }

    public mutating func remove(_ id: PayloadID) {
        guard let slot = slot(of: id), slots[slot] != nil else { preconditionFailure("payload \(id) released twice") }
        slots[slot] = nil
        generations[slot] &+= 1
        free.append(slot)
    }

    private func slot(of id: PayloadID) -> Int? {
        let slot = Int(UInt32(truncatingIfNeeded: id.rawValue)) - 1
        guard slot >= 0, slot < slots.count, generations[slot] == UInt32(truncatingIfNeeded: id.rawValue >> 32) else {
            return nil
        }
        return slot
    }
}
