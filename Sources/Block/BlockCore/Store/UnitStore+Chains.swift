/// What a unit shows of the units below it: where it holds no data, that of the nearest one that does
/// (docs/design/snapshots.md).
extension UnitStore {
    /// The blocks that are data in the unit or in one of its ancestors `below`, nodes of the same tree.
    public func map(of key: UnitKey, over below: [UInt32]) -> BlockMap {
        below.reduce(map(of: key)) { $0.union(map(of: UnitKey(tree: key.tree, node: $1, index: key.index))) }
    }

    /// Reads what the unit shows. With nothing of other nodes in the range this is one piece of the device, as without `below`.
    mutating func read(
        _ operation: UInt64, _ key: UnitKey, over below: [UInt32], _ range: BlockRange, _ requests: inout Requests
    ) -> Start {
        if below.isEmpty { return read(operation, key, range, &requests) }
        if stopReason != nil { return .stopped }
        var missing = BlockMap(range)
        var sources: [(unit: UnitKey, blocks: BlockMap)] = []
        for node in [key.node] + below {
            let unit = UnitKey(tree: key.tree, node: node, index: key.index)
            let blocks = map(of: unit).intersection(missing)
            if blocks.isEmpty { continue }
            sources.append((unit, blocks))
            missing = missing.subtracting(blocks)
            if missing.isEmpty { break }
        }
        guard let first = sources.first else { return .nothingThere }
        if sources.count == 1 { return read(operation, first.unit, range, &requests) }
        func inBuffer(_ part: BlockRange) -> Range<UInt32> {
            part.offset - range.offset..<part.offset - range.offset + part.length
        }
        let parts = sources.flatMap { unit, blocks -> [ReadPart] in
            guard let base = location(of: unit) else { preconditionFailure("a unit with data has a place") }
            return blocks.runs(in: range).map { ReadPart(at: base + UInt64($0.offset), into: inBuffer($0)) }
        }
        let holes = missing.runs(in: range).map(inBuffer)
        let reads = sources.compactMap { unit, blocks in
            bound[unit].map {
                Read(
                    operation: operation, slot: $0, generation: slots[Int($0)]?.generation ?? 0, range: range,
                    blocks: blocks)
            }
        }
        requests.append(
            (issue(.gather(operation: operation, reads)), .gather(parts, length: range.length, holes: holes)))
        return .started
    }

    /// Whether blocks of the range in which the unit has nothing show something of its ancestors.
    func covers(_ key: UnitKey, over below: [UInt32], _ range: BlockRange) -> Bool {
        if below.isEmpty { return false }
        let own = map(of: key)
        return below.contains { node in
            let shown = map(of: UnitKey(tree: key.tree, node: node, index: key.index)).subtracting(own)
            return !shown.runs(in: range).isEmpty
        }
    }

    /// Blocks of the unit that are known to be zeros and hide nothing, or zeros again: without them the same is read.
    func blanks(of key: UnitKey, over below: [UInt32]) -> BlockMap {
        zeros(of: key).subtracting(shown(to: key, by: below))
    }

    /// Blocks of the unit that are data and known to be zeros.
    private func zeros(of key: UnitKey) -> BlockMap {
        guard let slot = bound[key].flatMap({ slots[Int($0)] }) else { return BlockMap() }
        var zeros = slot.map.intersection(slot.checksums.known).subtracting(slot.checksums.damaged)
        for block in 0..<UInt16(Geometry.blocksPerUnit) where zeros[block] {
            if slot.checksums.value(block) != BlockChecksums.ofZeros {
                _ = zeros.remove(BlockRange(start: block, count: 1))
            }
        }
        return zeros
    }

    /// Blocks at which the unit's ancestors show something, other than what is known to be zeros.
    func shown(to key: UnitKey, by below: [UInt32]) -> BlockMap {
        below.reversed().reduce(BlockMap()) { shown, node in
            let unit = UnitKey(tree: key.tree, node: node, index: key.index)
            return shown.union(map(of: unit)).subtracting(zeros(of: unit))
        }
    }

    /// Makes the range read as zeros. Where an ancestor has data the zeros are stored as data: without them it would show.
    mutating func writeZeroes(
        _ operation: UInt64, _ key: UnitKey, over below: [UInt32], _ range: BlockRange, combEpoch: UInt64,
        _ requests: inout Requests
    ) -> Start {
        let isCovering = below.contains {
            !map(of: UnitKey(tree: key.tree, node: $0, index: key.index)).runs(in: range).isEmpty
        }
        guard isCovering, !letsAncestorsShow else {
            return writeZeroes(operation, key, range, combEpoch: combEpoch, &requests)
        }
        if stopReason != nil { return .stopped }
        if location(of: key) == nil, !hasRoom(leaving: 0) { return .noSpace }
        guard let slot = bind(key, combEpoch) else { return .busy }
        var write = Write(operation: operation, slot: slot, range: range, combEpoch: combEpoch, payload: nil)
        write.isData = true
        return begin(write, &requests)
    }
}
