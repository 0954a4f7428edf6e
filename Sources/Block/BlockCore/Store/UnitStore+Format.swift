extension UnitStore {
    static let tableMagic: UInt32 = 0x4855_5442
    static let logMagic: UInt32 = 0x4855_4C47
    /// Of table and log. In version 1 a record's checksum was its plain CRC32C, and there were no intents: all of its units
    /// count as being written. Before version 3 there were no nodes: all is node 0. Before version 4 holes never held data.
    /// Before version 5 the log had no halves.
    static let formatVersion: UInt16 = 5

    /// What a new device has to contain, as writes in order with a flush after each. All else must read as zeros.
    public static func format(_ label: DeviceLabel) -> [(offset: UInt64, bytes: [UInt8])] {
        var store = UnitStore(empty: label, hotUnitsMax: 0, searchedUnitsMax: 0, rules: .all)
        return [store.nextTable()] + DeviceLabel.copyOffsets.map { ($0, label.encoded()) }
    }

    /// Reads a device: `metadata` are its first `label.layout.checksums` bytes; what follows them up to `label.layout.data` goes
    /// to `loadChecksums`. Also gives what must be written (in order,
    /// with a flush after each) before the device is used: the table of what was found, and the label with its next
    /// mount counter; and what must be zeroed before that. A flush has to come between, also when nothing is zeroed: the table
    /// may name what has been found, and only what is stable.
    ///
    /// The holes of hot units are to be zeroed: a crash may have left the data of a write there whose record was lost. It
    /// reads as zeros, and must not come to light when the record of a later write arrives and its data does not. Units
    /// whose records say so are searched instead: what their holes hold counts as data. `dataOfUnit` has to tell which of the
    /// 256 blocks from this offset of the device on are not zeros, or cannot be read.
    ///
    /// The table ends the log: a write of several log blocks that a crash cut short may have left its later blocks, and
    /// they must never follow on a new one.
    ///
    /// Beyond `hotUnitsMax` units recorded as being written, the caller makes others cold if it can. Of `searchedUnitsMax` units
    /// and hardly more all data is read by the next opening.
    public static func open(
        _ label: DeviceLabel, metadata: [UInt8], hotUnitsMax: Int = 8192, searchedUnitsMax: Int = 1024,
        rules: ProtocolRules = .all, dataOfUnit: (UInt64) -> BlockMap
    ) throws(DeviceError) -> OpenedStore {
        guard metadata.count >= Int(label.layout.checksums) else {
            throw DeviceError(code: .tooSmall, message: "the device is smaller than its label says")
        }
        var store = UnitStore(
            empty: label, hotUnitsMax: hotUnitsMax, searchedUnitsMax: searchedUnitsMax, rules: rules)
        let version = try store.loadTable(metadata)
        try store.replayLog(metadata, tableVersion: version)
        for (number, slot) in store.slots.bound {
            store.bound[slot.key] = number
            if slot.intent != .cold { store.hot.insert(number) }
            store.generation = max(store.generation, slot.generation)
        }
        let isSearching = rules.contains(.unrecordedIsFound)
        let holes = rules.contains(.zerosBeforeHoles) ? store.holes(isSearching: isSearching) : []
        if isSearching { store.searchUnits(dataOfUnit) }
        if store.keepsChecksums { store.unreadableSeals = store.bound.count - store.hot.count }
        store.label.mountCounter += 1
        let table = store.nextTable()
        return OpenedStore(
            store: store, zeroes: holes,
            writes: [table] + DeviceLabel.copyOffsets.map { ($0, store.label.encoded()) })
    }

    public struct OpenedStore: Sendable {
        public var store: UnitStore
        public var zeroes: [(offset: UInt64, length: UInt32)]
        public var writes: [(offset: UInt64, bytes: [UInt8])]
    }

    private func holes(isSearching: Bool) -> [(offset: UInt64, length: UInt32)] {
        var holes: [(offset: UInt64, length: UInt32)] = []
        for number in hot.sorted() where !isSearching || slots[Int(number)]?.isSearched == false {
            for hole in slots[Int(number)]?.map.holes(in: .wholeUnit) ?? [] {
                holes.append((layout.offset(ofSlot: number) + UInt64(hole.offset), hole.length))
            }
        }
        return holes
    }

    /// Zeroes every slot that is not bound: a crash may have left bytes there. They become usable as this ends.
    public mutating func begin(_ requests: inout Requests) {
        punch((0..<label.capacityUnits).filter { slots[Int($0)] == nil }, &requests)
    }

    private init(empty label: DeviceLabel, hotUnitsMax: Int, searchedUnitsMax: Int, rules: ProtocolRules) {
        self.label = label
        layout = label.layout
        slots = SlotPages(count: Int(label.capacityUnits))
        tableGeneration = 0
        logGeneration = 0
        logSequence = 0
        logUsed = 0
        self.hotUnitsMax = hotUnitsMax
        self.searchedUnitsMax = searchedUnitsMax
        acknowledgesUnflushed = !rules.contains(.flushBeforeAcknowledgement)
        isRecordedFirst = rules.contains(.intentBeforeWrite)
        leavesOldBytesInHoles = !rules.contains(.zerosBeforeHoles)
        letsAncestorsShow = !rules.contains(.zerosHideAncestors)
        isStableFirst = rules.contains(.stableBeforeShown)
        isRecordedBeforeOverwritten = rules.contains(.recordedBeforeOverwritten)
        isHoleRecordedFirst = rules.contains(.holesShowAncestors)
        isVerifying = rules.contains(.verifiedReads)
        isSealedFirst = rules.contains(.checksumsBeforeSettled)
        isTableStableFirst = rules.contains(.tableBeforeLogReuse)
    }

    // MARK: Table

    private struct Table {
        var version: UInt16
        var generation: UInt64
        var firstSequence: UInt64
        var slots: [(UInt32, Slot)] = []
    }

    /// Takes the newest table that is whole; answers its version.
    private mutating func loadTable(_ metadata: [UInt8]) throws(DeviceError) -> UInt16 {
        var best: Table?
        for offset in layout.tables {
            let area = Array(metadata[Int(offset)..<Int(offset + layout.tableBytes)])
            guard let table = UnitStore.table(area, capacity: label.capacityUnits) else { continue }
            if best.map({ $0.generation < table.generation }) ?? true { best = table }
        }
        guard let best else {
            throw DeviceError(code: .corrupt, message: "both copies of the unit table are corrupt")
        }
        tableGeneration = best.generation
        logSequence = best.firstSequence
        for (number, slot) in best.slots { slots[Int(number)] = slot }
        return best.version
    }

    private static func table(_ area: [UInt8], capacity: UInt32) -> Table? {
        let header = Array(area.prefix(4096))
        guard ByteReader.isSealed(header) else { return nil }
        var reader = ByteReader(header)
        guard (try? reader.number(UInt32.self)) == tableMagic, let version = try? reader.number(UInt16.self),
            (1...formatVersion).contains(version), (try? reader.number(UInt16.self)) != nil,
            let generation = try? reader.number(UInt64.self),
            let count = try? reader.number(UInt32.self), let checksum = try? reader.number(UInt32.self),
            count <= capacity, let firstSequence = try? reader.number(UInt64.self)
        else { return nil }
        let size = (Int(count) * DeviceLayout.recordBytes + 4095) / 4096 * 4096
        let records = Array(area[4096..<4096 + size])
        guard CRC32C.checksum(records) == checksum else { return nil }
        var body = ByteReader(records)
        var table = Table(version: version, generation: generation, firstSequence: version < 5 ? 0 : firstSequence)
        for _ in 0..<count {
            guard let record = body.record(version: version), record.number < capacity, record.isBound else {
                return nil
            }
            table.slots.append((record.number, record.slot))
        }
        return table
    }
}

extension ByteWriter {
    mutating func put(_ slot: UnitStore.Slot, number: UInt32, isBound: Bool) {
        let start = bytes.count
        put(number)
        put(slot.key.index)
        put(slot.key.tree)
        put(slot.generation)
        put(slot.combEpoch)
        put(slot.map.words.0)
        put(slot.map.words.1)
        put(slot.map.words.2)
        put(slot.map.words.3)
        let isHot = slot.intent != .cold
        put(UInt32(isBound ? 1 : 0) | UInt32(isHot ? 2 : 0) | UInt32(isHot && slot.isSearched ? 4 : 0))
        put(slot.key.node)
        put(UInt32(0))
        put(UnitStore.recordChecksum(bytes[start...], version: UnitStore.formatVersion))
    }
}

extension UnitStore {
    /// The CRC32C of a record, bent. A CRC of something that ends with its own CRC is the same whatever it is: the checksum
    /// of a whole table or log block would not notice records of an older one in the place of its own.
    static func recordChecksum(_ bytes: ArraySlice<UInt8>, version: UInt16) -> UInt32 {
        let plain = bytes.withUnsafeBytes { CRC32C.checksum($0) }
        return version < 2 ? plain : (plain ^ plain >> 16) &* 0x9E37_79B1
    }
}

extension ByteReader {
    /// One 80-byte record, nil if its checksum differs.
    mutating func record(version: UInt16) -> (number: UInt32, slot: UnitStore.Slot, isBound: Bool)? {
        let start = position
        do throws(WireError) {
            let number = try number(UInt32.self)
            let index = try self.number(UInt32.self)
            let tree = try id(TreeID.self)
            let generation = try self.number(UInt64.self)
            var slot = UnitStore.Slot(
                key: UnitKey(tree: tree, node: 0, index: index), generation: generation,
                combEpoch: try self.number(UInt64.self))
            slot.map.words = (
                try self.number(UInt64.self), try self.number(UInt64.self), try self.number(UInt64.self),
                try self.number(UInt64.self)
            )
            let flags = try self.number(UInt32.self)
            slot.intent = version < 2 || flags & 2 == 2 ? .hot : .cold
            slot.isSearched = version > 3 && flags & 6 == 6
            let node = try self.number(UInt32.self)
            if version > 2 { slot.key.node = node }
            _ = try self.number(UInt32.self)
            let covered = UnitStore.recordChecksum(bytes[start..<position], version: version)
            guard try self.number(UInt32.self) == covered else { return nil }
            return (number, slot, flags & 1 == 1)
        } catch {
            return nil
        }
    }
}
