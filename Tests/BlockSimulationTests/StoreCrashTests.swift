import Base
import Linearizability
import Testing

@testable import BlockCore
@testable import SimKit

extension UnitStore {
    /// The operations that ended by the outcome.
    mutating func finish(_ id: DiskOperationID, _ outcome: DiskOutcome, _ requests: inout Requests) -> [Completion] {
        var completions: [Completion] = []
        finish(id, outcome, &requests, into: &completions)
        return completions
    }
}

/// One device under writes and zeroings whose power fails again and again: every block must read as one order of what
/// was done to it explains, whatever of the unflushed arrived.
private struct CrashingStore {
    private enum Effort {
        case write(block: Int, value: UInt64)
        case zeroes(Range<Int>, number: UInt64)
        /// A write of a block that holds nothing, which is undone when it has ended: it leaves no trace then.
        case refused(block: Int, value: UInt64, isUndone: Bool)
    }

    private static let units = 3
    /// Of each unit, its first blocks.
    private static let blocks = 4

    private let rules: ProtocolRules
    /// Nodes that show through: then there is one, and it has data in every second block.
    private let below: [UInt32]
    private var random: SeededRandom
    private var disk = FakeDisk()
    private var store: UnitStore
    /// Time is counted in steps.
    private var now: UInt64 = 1
    private var nextValue: UInt64 = 1
    private var requests: [(id: DiskOperationID, request: DiskRequest, flushMark: UInt64)] = []
    private var efforts: [UInt64: (effort: Effort, began: UInt64)] = [:]
    private var histories: [RegisterHistory]
    private(set) var crashes = 0
    private(set) var givenBack = 0
    /// Writes that were stable when they ended.
    private(set) var through = 0
    /// Writes that shared a flush with the record of their unit.
    private(set) var joined = 0
    private(set) var unreadableSeals = 0
    /// Blocks that were read with a known checksum right after a crash.
    private(set) var verified = 0
    private var damaged: String?

    init(seed: UInt64, rules: ProtocolRules, hasAncestor: Bool = false) throws {
        random = SeededRandom(seed: seed)
        self.rules = rules
        below = hasAncestor ? [0] : []
        histories = Array(repeating: RegisterHistory(), count: CrashingStore.units * CrashingStore.blocks)
        let label = DeviceLabel(
            sds: SdsID(rawValue: 1), device: DeviceID(rawValue: 2), capacityUnits: UInt32(CrashingStore.units * 2 + 2),
            logBlocks: 3)
        for (offset, bytes) in UnitStore.format(label) { disk.write(FakeDisk.changes(bytes: bytes, at: offset)) }
        disk.flush(disk.flushMark)
        store = try UnitStore.open(label, metadata: disk.bytes(0..<label.layout.data)) { _ in BlockMap() }.store
        try reopen()
        if hasAncestor { fillAncestor() }
    }

    private static func key(_ unit: Int, node: UInt32) -> UnitKey {
        UnitKey(tree: TreeID(rawValue: 9), node: node, index: UInt32(unit))
    }

    private func head(_ unit: Int) -> UnitKey { CrashingStore.key(unit, node: below.isEmpty ? 0 : 1) }

    private mutating func fillAncestor() {
        for block in stride(from: 0, to: CrashingStore.units * CrashingStore.blocks, by: 2) {
            var new: UnitStore.Requests = []
            let range = BlockRange(start: UInt16(block % CrashingStore.blocks), count: 1)
            let slice = PayloadSlice(payload: PayloadID(rawValue: nextValue), offset: 0, length: 4096)
            let key = CrashingStore.key(block / CrashingStore.blocks, node: 0)
            _ = store.write(nextValue, key, range, slice, combEpoch: 1, &new)
            efforts[nextValue] = (.write(block: block, value: nextValue), now)
            nextValue += 1
            now += 1
            take(new)
            while !requests.isEmpty { carryOut(0) }
        }
    }

    private mutating func reopen() throws {
        let label = try DeviceLabel(device: disk.bytes(0..<(128 << 10)))
        let layout = label.layout
        // Not all of its units can be searched at once.
        var opened = try UnitStore.open(
            label, metadata: disk.bytes(0..<layout.checksums), searchedUnitsMax: CrashingStore.units - 1, rules: rules
        ) { disk.dataOfUnit(at: $0) }
        opened.store.loadChecksums(at: layout.checksums, disk.bytes(layout.checksums..<layout.data))
        unreadableSeals += opened.store.unreadableSeals
        store = opened.store
        disk.write(opened.zeroes.map { .zero(first: $0.offset / 4096, count: UInt64($0.length) / 4096) })
        disk.flush(disk.flushMark)
        for (offset, bytes) in opened.writes {
            disk.write(FakeDisk.changes(bytes: bytes, at: offset))
            disk.flush(disk.flushMark)
        }
        var first: UnitStore.Requests = []
        store.begin(&first)
        take(first)
        while !requests.isEmpty { carryOut(0) }
    }

    private mutating func take(_ new: UnitStore.Requests) {
        for (id, request) in new { requests.append((id, request, disk.flushMark)) }
    }

    /// What is wrong after so many steps, if anything.
    mutating func run(steps: Int) throws -> String? {
        for _ in 0..<steps {
            now += 1
            switch Int.random(in: 0..<100, using: &random) {
            case 0..<2: try crash()
            case 2..<25: begin()
            case 25..<29: cool()
            case 29: recordLeft()
            default: if !requests.isEmpty { carryOut(Int.random(in: requests.indices, using: &random)) }
            }
        }
        while !requests.isEmpty { carryOut(0) }
        readAll()
        if let damaged { return damaged }
        if let problem = store.accountingError() { return problem }
        for (block, history) in histories.enumerated() {
            if let violation = history.violation() { return "block \(block): \(violation)" }
        }
        return nil
    }

    private mutating func begin() {
        let unit = Int.random(in: 0..<CrashingStore.units, using: &random)
        let first = Int.random(in: 0..<CrashingStore.blocks, using: &random)
        let isWrite = Int.random(in: 0..<3, using: &random) > 0
        // What a whole unit has is in the first blocks.
        let isWhole = !isWrite && Bool.random(using: &random)
        let count = isWrite ? 1 : Int.random(in: 1...CrashingStore.blocks - first, using: &random)
        let base = unit * CrashingStore.blocks
        let touched = isWhole ? base..<base + CrashingStore.blocks : base + first..<base + first + count
        let isBusy = efforts.values.contains { touched.overlaps(CrashingStore.touched($0.effort)) }
        if isBusy { return }
        let key = head(unit)
        let value = nextValue
        nextValue += 1
        // Some of what is written is zeros.
        let content = Int.random(in: 0..<5, using: &random) == 0 ? RegisterHistory.blank : value
        let (before, joinedBefore) = (store.usedUnits, store.joined)
        var new: UnitStore.Requests = []
        let start: UnitStore.Start
        if isWrite {
            let slice = PayloadSlice(payload: PayloadID(rawValue: content), offset: 0, length: 4096)
            start = store.write(
                value, key, over: below, BlockRange(start: UInt16(first), count: 1), slice, combEpoch: 1, &new)
            let isRefused = !store.map(of: key)[UInt16(first)] && Int.random(in: 0..<3, using: &random) == 0
            let effort: Effort =
                isRefused
                ? .refused(block: touched.lowerBound, value: content, isUndone: false)
                : .write(block: touched.lowerBound, value: content)
            efforts[value] = (effort, now)
        } else {
            let range = isWhole ? .wholeUnit : BlockRange(start: UInt16(first), count: UInt16(count))
            start = store.writeZeroes(value, key, over: below, range, combEpoch: 1, &new)
            efforts[value] = (.zeroes(touched, number: value), now)
        }
        if store.usedUnits < before { givenBack += 1 }
        if store.joined != joinedBefore { joined += 1 }
        take(new)
        switch start {
        case .started, .held: break
        case .nothingThere: end(value, isCertain: true)
        case .noSpace, .busy, .stopped: efforts[value] = nil
        }
    }

    /// Units on which nothing is under way become cold.
    private mutating func cool() {
        var busy: Set<Int> = []
        for (effort, _) in efforts.values {
            busy.formUnion(CrashingStore.touched(effort).map { $0 / CrashingStore.blocks })
        }
        var new: UnitStore.Requests = []
        store.cool(underPressure: Bool.random(using: &random), &new) { busy.contains(Int($0.index)) ? nil : 1 }
        take(new)
    }

    private mutating func recordLeft() {
        var new: UnitStore.Requests = []
        store.recordLeft(&new)
        take(new)
    }

    /// Reads everything through the store, which nothing has spoilt.
    private mutating func verifyAll() {
        for unit in 0..<CrashingStore.units {
            let key = head(unit)
            let range = BlockRange(start: 0, count: UInt16(CrashingStore.blocks))
            for block in 0..<range.count where store.map(of: key)[block] {
                if store.knowsChecksum(of: key, block: block) { verified += 1 }
            }
            var new: UnitStore.Requests = []
            guard store.read(1 << 40, key, range, &new) == .started, let (id, request) = new.first,
                case .read(let at, _, _) = request
            else { continue }
            let seen = (0..<UInt64(range.count)).map { FakeDisk.checksum(disk.value(at / 4096 + $0)) }
            let outcome = DiskOutcome.read(PayloadID(rawValue: 1), BlockChecksums(seen))
            for completion in store.finish(id, outcome, &new) where !completion.damaged.isEmpty {
                damaged = damaged ?? "unit \(unit): \(completion.damaged.runs()) are called damaged after a crash"
            }
        }
    }

    private static func touched(_ effort: Effort) -> Range<Int> {
        switch effort {
        case .write(let block, _), .refused(let block, _, _): block..<block + 1
        case .zeroes(let blocks, _): blocks
        }
    }

    private mutating func end(_ operation: UInt64, isCertain: Bool) {
        guard let (effort, began) = efforts.removeValue(forKey: operation) else { return }
        let value: UInt64
        switch effort {
        case .write(_, let written): value = written
        case .zeroes: value = RegisterHistory.blank
        case .refused(let block, let written, let isUndone):
            if isCertain, isUndone { return }
            if isCertain { return undo(block, written, began) }
            value = written
        }
        for block in CrashingStore.touched(effort) {
            histories[block].write(value, from: began, to: now, isCertain: isCertain)
        }
    }

    private mutating func undo(_ block: Int, _ value: UInt64, _ began: UInt64) {
        let operation = nextValue
        nextValue += 1
        efforts[operation] = (.refused(block: block, value: value, isUndone: true), began)
        var new: UnitStore.Requests = []
        let range = BlockRange(start: UInt16(block % CrashingStore.blocks), count: 1)
        let start = store.makeHoles(operation, head(block / CrashingStore.blocks), range, combEpoch: 1, &new)
        take(new)
        precondition(start == .started || start == .held, "there is something to be undone")
    }

    private static func changes(_ request: DiskRequest) -> [FakeDisk.Change] {
        switch request {
        case .write(let at, let slice), .writeThrough(let at, let slice):
            [.set(block: at / 4096, .value(slice.payload.rawValue))]
        case .writeZeros(let at, let length), .punch(let at, let length):
            [.zero(first: at / 4096, count: UInt64(length) / 4096)]
        case .writeBytes(let at, let bytes): FakeDisk.changes(bytes: bytes, at: at)
        case .read, .gather, .flush: []
        }
    }

    private mutating func carryOut(_ index: Int) {
        let (id, request, mark) = requests.remove(at: index)
        let before = store.usedUnits
        var new: UnitStore.Requests = []
        var outcome = DiskOutcome.done
        switch request {
        case .flush: disk.flush(mark)
        case .write(_, let slice):
            disk.write(CrashingStore.changes(request))
            outcome = .written(BlockChecksums(FakeDisk.checksum(slice.payload.rawValue)))
        case .writeThrough(_, let slice):
            through += 1
            disk.write(CrashingStore.changes(request), isThrough: true)
            outcome = .written(BlockChecksums(FakeDisk.checksum(slice.payload.rawValue)))
        case .writeZeros, .writeBytes, .read, .gather, .punch: disk.write(CrashingStore.changes(request))
        }
        for completion in store.finish(id, outcome, &new) { end(completion.operation, isCertain: true) }
        if store.usedUnits < before { givenBack += 1 }
        take(new)
    }

    private mutating func crash() throws {
        crashes += 1
        disk.crash(underWay: requests.map { CrashingStore.changes($0.request) }, &random)
        requests = []
        for operation in efforts.keys.sorted() { end(operation, isCertain: false) }
        now += 1
        try reopen()
        readAll()
        verifyAll()
    }

    private mutating func readAll() {
        now += 1
        for unit in 0..<CrashingStore.units {
            for block in 0..<CrashingStore.blocks {
                let shown = ([head(unit)] + below.map { CrashingStore.key(unit, node: $0) }).first {
                    store.map(of: $0)[UInt16(block)]
                }
                let place = shown.flatMap { store.location(of: $0) }.map { $0 / 4096 + UInt64(block) }
                let value = place.map { disk.value($0) } ?? RegisterHistory.blank
                histories[unit * CrashingStore.blocks + block].read(value, from: now, to: now)
            }
        }
        now += 1
    }
}

@Suite struct StoreCrashTests {
    @Test func blocksReadAsTheyWereLeft() throws {
        var (crashes, givenBack, verified, through) = (0, 0, 0, 0)
        for seed in 1...UInt64(150) {
            var store = try CrashingStore(seed: seed, rules: .all)
            if let problem = try store.run(steps: 1500) { Issue.record("seed \(seed): \(problem)") }
            crashes += store.crashes
            givenBack += store.givenBack
            verified += store.verified
            through += store.through
            #expect(store.unreadableSeals == 0, "the disk tears no block")
        }
        #expect(crashes > 2000 && givenBack > 300, "\(crashes) crashes, \(givenBack) units given back")
        #expect(verified > 1000, "\(verified) blocks with a known checksum after a crash")
        #expect(through > 300, "\(through) writes that were stable when they ended")
    }

    /// What an ancestor shows is there until something else is, whole. Short runs: a block is covered only once.
    @Test func ancestorsShowUntilTheyAreCovered() throws {
        var (crashes, through, joined) = (0, 0, 0)
        for seed in 1...UInt64(600) {
            var store = try CrashingStore(seed: seed, rules: .all, hasAncestor: true)
            if let problem = try store.run(steps: 150) { Issue.record("seed \(seed): \(problem)") }
            crashes += store.crashes
            through += store.through
            joined += store.joined
        }
        #expect(crashes > 1000 && through > 300, "\(crashes) crashes, \(through) writes stable when they ended")
        #expect(joined > 300, "\(joined) writes that shared a flush with a record")
    }

    @Test(arguments: [
        ProtocolRules.stableBeforeShown, .zerosHideAncestors, .unrecordedIsFound, .recordedBeforeOverwritten,
        .holesShowAncestors,
    ])
    func aBrokenRuleOfAncestorsIsNoticed(_ rule: ProtocolRules) throws {
        for seed in 1...UInt64(600) {
            var store = try CrashingStore(seed: seed, rules: .all.subtracting(rule), hasAncestor: true)
            if try store.run(steps: 150) != nil { return }
        }
        Issue.record("not noticed within 600 seeds")
    }

    @Test(arguments: [
        ProtocolRules.zerosBeforeHoles, .flushBeforeAcknowledgement, .checksumsBeforeSettled, .tableBeforeLogReuse,
    ])
    func aBrokenRuleIsNoticed(_ rule: ProtocolRules) throws {
        for seed in 1...UInt64(40) {
            var store = try CrashingStore(seed: seed, rules: .all.subtracting(rule))
            do {
                if try store.run(steps: 1500) != nil { return }
            } catch is DeviceError {
                // It was noticed when the device was opened.
                return
            }
        }
        Issue.record("not noticed within 40 seeds")
    }
}
