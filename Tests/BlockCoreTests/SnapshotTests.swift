import Base
import Testing

@testable import BlockCore

extension DiskRequest {
    var isRead: Bool {
        switch self {
        case .read, .gather: true
        case .write, .writeThrough, .writeZeros, .writeBytes, .flush, .punch: false
        }
    }
}

@Suite struct ChainTests {
    private let tree = TreeID(rawValue: 9)
    private func unit(_ node: UInt32) -> UnitKey { UnitKey(tree: tree, node: node, index: 0) }

    private func read(
        _ device: inout MemoryDevice, _ node: UInt32, over below: [UInt32], _ range: BlockRange
    ) -> (UnitStore.Start, DiskRequest?) {
        var requests: UnitStore.Requests = []
        let start = device.store.read(70, unit(node), over: below, range, &requests)
        device.carryOut(requests)
        return (start, requests.first?.request)
    }

    @Test func aReadTakesEachBlockFromTheNearestThatHasIt() throws {
        var device = try MemoryDevice()
        _ = device.write(unit(0), BlockRange(start: 0, count: 4), byte: 1)
        _ = device.write(unit(1), BlockRange(start: 1, count: 1), byte: 2)
        _ = device.write(unit(3), BlockRange(start: 3, count: 2), byte: 3)
        let places = [UInt32(0), 1, 3].map { device.store.location(of: unit($0)) ?? 0 }
        let (start, request) = read(&device, 3, over: [1, 0], BlockRange(start: 0, count: 8))
        #expect(start == .started)
        let block: UInt32 = 4096
        let parts: [ReadPart] = [
            ReadPart(at: places[2] + 12288, into: 3 * block..<5 * block),
            ReadPart(at: places[1] + 4096, into: block..<2 * block),
            ReadPart(at: places[0], into: 0..<block),
            ReadPart(at: places[0] + 8192, into: 2 * block..<3 * block),
        ]
        let holes: [Range<UInt32>] = [20480..<32768]
        let gather = DiskRequest.gather(parts, length: 32768, holes: holes)
        #expect(request == gather)
        #expect(device.store.map(of: unit(3), over: [1, 0]).runs() == [BlockRange(start: 0, count: 5)])
    }

    @Test func whatLiesInOneUnitIsOneRead() throws {
        var device = try MemoryDevice()
        _ = device.write(unit(0), BlockRange(start: 0, count: 4), byte: 1)
        _ = device.write(unit(1), BlockRange(start: 8, count: 4), byte: 2)
        let place = try #require(device.store.location(of: unit(0)))
        let request = read(&device, 1, over: [0], BlockRange(start: 2, count: 4)).1
        let holes: [Range<UInt32>] = [8192..<16384]
        let whole = DiskRequest.read(at: place + 8192, length: 16384, holes: holes)
        #expect(request == whole)
        #expect(read(&device, 1, over: [0], BlockRange(start: 100, count: 4)).0 == .nothingThere)
        #expect(read(&device, 1, over: [], BlockRange(start: 2, count: 2)).0 == .nothingThere)
    }

    private func zero(_ device: inout MemoryDevice, _ node: UInt32, over below: [UInt32], _ range: BlockRange) {
        var requests: UnitStore.Requests = []
        _ = device.store.writeZeroes(80, unit(node), over: below, range, combEpoch: 1, &requests)
        device.carryOut(requests)
    }

    @Test func zerosHideWhatAncestorsHaveAlsoAfterACrash() throws {
        var device = try MemoryDevice()
        _ = device.write(unit(0), BlockRange(start: 0, count: 4), byte: 1)
        zero(&device, 1, over: [0], BlockRange(start: 2, count: 4))
        try device.reopen()
        #expect(device.store.map(of: unit(1)).runs() == [BlockRange(start: 2, count: 4)])
        #expect(device.store.map(of: unit(0)).runs() == [BlockRange(start: 0, count: 4)])
        let place = Int(try #require(device.store.location(of: unit(1))))
        let zeroed = device.bytes[place + 8192..<place + 24576]
        #expect(zeroed.allSatisfy { $0 == 0 })
        zero(&device, 1, over: [0], .wholeUnit)
        #expect(device.store.map(of: unit(1)).count == 256)
    }

    private func spoil(_ device: inout MemoryDevice, _ node: UInt32, block: Int) throws {
        device.bytes[Int(try #require(device.store.location(of: unit(node)))) + block * 4096 + 9] ^= 1
    }

    /// Each block is compared with what its own unit knows of it, and what is hidden is nobody's concern.
    @Test func damageIsTheUnitsThatHasTheBlock() throws {
        var device = try MemoryDevice()
        _ = device.write(unit(0), BlockRange(start: 0, count: 4), byte: 1)
        _ = device.write(unit(1), BlockRange(start: 1, count: 1), byte: 2)
        let whole = BlockRange(start: 0, count: 8)
        _ = read(&device, 1, over: [0], whole)
        #expect(device.completions.last?.damagedUnit == nil)
        try spoil(&device, 0, block: 1)
        _ = read(&device, 1, over: [0], whole)
        #expect(device.completions.last?.damagedUnit == nil, "it is hidden")
        try spoil(&device, 0, block: 2)
        _ = read(&device, 1, over: [0], whole)
        #expect(device.completions.last?.damagedUnit == unit(0))
        #expect(device.completions.last?.damaged.runs() == [BlockRange(start: 2, count: 1)])
        _ = read(&device, 1, over: [0], BlockRange(start: 2, count: 2))
        #expect(device.completions.last?.damagedUnit == unit(0), "also where all lies in the ancestor")
        try spoil(&device, 1, block: 1)
        _ = read(&device, 1, over: [0], whole)
        #expect(device.completions.last?.damagedUnit == unit(1), "the nearest first")
        #expect(device.store.damagedBlocks == 2)
    }

    @Test func storedZerosHaveChecksums() throws {
        var device = try MemoryDevice()
        _ = device.write(unit(0), BlockRange(start: 0, count: 4), byte: 1)
        zero(&device, 1, over: [0], BlockRange(start: 2, count: 2))
        #expect(device.store.knowsChecksum(of: unit(1), block: 3))
        _ = read(&device, 1, over: [0], BlockRange(start: 0, count: 4))
        #expect(device.completions.last?.damagedUnit == nil)
        try spoil(&device, 1, block: 3)
        _ = read(&device, 1, over: [0], BlockRange(start: 0, count: 4))
        #expect(device.completions.last?.damagedUnit == unit(1))
    }

    @Test func zerosOverNothingGiveTheUnitBack() throws {
        var device = try MemoryDevice()
        _ = device.write(unit(0), BlockRange(start: 0, count: 4), byte: 1)
        _ = device.write(unit(1), BlockRange(start: 8, count: 4), byte: 2)
        zero(&device, 1, over: [0], BlockRange(start: 8, count: 8))
        #expect(device.store.units { _ in true } == [unit(0)])
    }
}

@Suite struct ServerCutTests {
    private let cut: UInt64 = 5

    private func answers(_ bench: ServerBench) -> [MessageToManager] {
        bench.told.filter { if case .cut = $0 { true } else { false } }
    }

    /// The map after the cut: the volume has a new head.
    private func switched() -> MapUpdate {
        var update = ServerBench.map(secondary: false)
        var tree = VolumeTree(of: TreeID(rawValue: ServerBench.volume.rawValue), pool: ServerBench.pool)
        update.volumes[0].head = tree.grow(from: 0)
        update.trees = [tree]
        update.revision += 1
        return update
    }

    @Test func writesWaitForTheirNewHead() throws {
        var bench = try ServerBench(secondary: false)
        bench.ask(.write)
        bench.feed(.manager(.cut(cut, .hold([ServerBench.volume]))))
        #expect(answers(bench).isEmpty, "one write is under way")
        bench.answerDisk()
        #expect(answers(bench) == [.cut(cut, .held, isIntact: true)])
        bench.feed(.manager(.cut(cut, .seal)))
        bench.ask(.write)
        #expect(bench.disk.isEmpty)
        bench.ask(.read)
        #expect(bench.disk.isEmpty, "a read of these blocks waits for the write before it")
        bench.feed(.manager(.update(switched())))
        bench.answerDisk()
        #expect(bench.core.stores[0].units { _ in true }.map(\.node) == [0, 1])
        bench.feed(.manager(.cut(cut, .conclude)))
        let last: [MessageToManager] = [.cut(cut, .sealed, isIntact: true), .cut(cut, .concluded, isIntact: true)]
        #expect(Array(answers(bench).dropFirst()) == last)
        #expect(bench.core.cut == nil && bench.core.isIdle)
    }

    /// I/O goes on without the manager, and the server owns up to it.
    @Test func aHoldEndsByItselfAndIsToldOf() throws {
        var bench = try ServerBench(secondary: false)
        bench.feed(.manager(.cut(cut, .hold([ServerBench.volume]))))
        bench.feed(.manager(.cut(cut, .seal)))
        bench.ask(.write)
        bench.now = bench.now + .seconds(3)
        bench.feed(.tick)
        bench.answerDisk()
        #expect(bench.lastStatus == .ok)
        #expect(bench.core.stores[0].units { _ in true }.map(\.node) == [0])
        bench.feed(.manager(.update(switched())))
        bench.feed(.manager(.cut(cut, .conclude)))
        #expect(answers(bench).last == .cut(cut, .concluded, isIntact: false))
    }

    @Test func whoHoldsNoLongerDoesNotSealAndWhoDidNotSealIsNotIntact() throws {
        var bench = try ServerBench(secondary: false)
        bench.feed(.manager(.cut(cut, .seal)))
        #expect(answers(bench).last == .cut(cut, .sealed, isIntact: false), "never asked to hold")
        bench.feed(.manager(.cut(cut, .hold([ServerBench.volume]))))
        bench.now = bench.now + .seconds(3)
        bench.feed(.tick)
        bench.feed(.manager(.cut(cut, .seal)))
        #expect(answers(bench).last == .cut(cut, .sealed, isIntact: false), "the hold had ended")
        bench.feed(.manager(.update(switched())))
        bench.feed(.manager(.cut(cut, .conclude)))
        #expect(answers(bench).last == .cut(cut, .concluded, isIntact: false))
        bench.feed(.manager(.cut(cut + 1, .hold([ServerBench.volume, VolumeID(rawValue: 404)]))))
        bench.feed(.manager(.cut(cut + 1, .seal)))
        #expect(answers(bench).last == .cut(cut + 1, .sealed, isIntact: false), "a volume that it does not know")
    }

    @Test func aManagerThatIsGoneHoldsNothingUp() throws {
        var bench = try ServerBench(secondary: false)
        bench.feed(.manager(.cut(cut, .hold([ServerBench.volume]))))
        bench.ask(.write)
        #expect(bench.disk.isEmpty)
        bench.feed(.managerClosed)
        bench.answerDisk()
        #expect(bench.lastStatus == .ok)
    }

    @Test func aCutThatIsGivenUpLetsWritesGoOnToTheOldHead() throws {
        var bench = try ServerBench(secondary: false)
        bench.feed(.manager(.cut(cut, .hold([ServerBench.volume]))))
        bench.ask(.write)
        bench.feed(.manager(.cut(cut + 7, .release)))
        #expect(bench.disk.isEmpty, "another cut")
        bench.feed(.manager(.cut(cut, .release)))
        bench.answerDisk()
        #expect(bench.lastStatus == .ok && bench.core.stores[0].units { _ in true }.map(\.node) == [0])
    }
}

/// What servers do where an ancestor of a unit has data.
@Suite struct ServerChainTests {
    private let link = LinkID(rawValue: 9)

    /// A server with data in the first node, and with a head above it that has nothing.
    private func bench(secondary: Bool) throws -> ServerBench {
        var bench = try ServerBench(secondary: false)
        bench.ask(.write)
        bench.answerDisk(checksum: 5)
        var update = ServerBench.map(secondary: secondary)
        var tree = VolumeTree(of: TreeID(rawValue: ServerBench.volume.rawValue), pool: ServerBench.pool)
        update.volumes[0].head = tree.grow(from: 0)
        update.trees = [tree]
        update.revision += 1
        update.pools[0].entries[0].comb.epoch += 1
        bench.feed(.manager(.update(update)))
        return bench
    }

    private func connect(_ bench: inout ServerBench) throws {
        bench.feed(.peerConnected(PeerChannel(ServerBench.other), link))
        bench.feed(.answer(link, try #require(bench.sent.last { $0.link == link }?.header).reply(.ok), []))
    }

    private func lastQuestion(_ bench: ServerBench) throws -> DataHeader {
        try #require(bench.sent.last { $0.link == link }?.header)
    }

    /// A write that the secondary refuses leaves no zeros behind, which would hide what the volume has there.
    @Test func aRefusedWriteLeavesTheAncestorsDataInSight() throws {
        var bench = try bench(secondary: true)
        bench.ask(.write, epoch: 2)
        try connect(&bench)
        let replicate = try lastQuestion(bench)
        #expect(replicate.opcode == .replicate && replicate.node == 1)
        bench.answerDisk()
        #expect(bench.core.stores[0].usedUnits == 2)
        bench.feed(.answer(link, replicate.reply(.noSpace), []))
        let undo = try lastQuestion(bench)
        #expect(undo.opcode == .replicateZeroes && undo.flags == .hole && undo.node == 1)
        bench.feed(.answer(link, undo.reply(.ok), []))
        bench.answerDisk()
        #expect(bench.lastStatus == .noSpace)
        #expect(bench.core.stores[0].units { _ in true }.map(\.node) == [0])
        bench.ask(.read, epoch: 2)
        bench.answerDisk(checksum: 5)
        #expect(bench.lastStatus == .ok && bench.sent.last?.header.flags.contains(.payload) == true)
        #expect(!bench.told.contains { if case .removeSecondary = $0 { true } else { false } })
    }

    @Test func zerosThatTheSecondaryHasNoRoomForAreUndoneToo() throws {
        var bench = try bench(secondary: true)
        bench.ask(.writeZeroes, epoch: 2)
        try connect(&bench)
        let zeroes = try lastQuestion(bench)
        #expect(zeroes.opcode == .replicateZeroes && zeroes.flags.isEmpty)
        bench.answerDisk()
        bench.feed(.answer(link, zeroes.reply(.noSpace), []))
        let undo = try lastQuestion(bench)
        #expect(undo.flags == .hole)
        bench.feed(.answer(link, undo.reply(.ok), []))
        bench.answerDisk()
        #expect(bench.lastStatus == .noSpace)
        #expect(bench.core.stores[0].units { _ in true }.map(\.node) == [0])
    }

    /// What the ancestor lost is asked for by its own name, and the read then goes on.
    @Test func damageOfAnAncestorIsMendedThere() throws {
        var bench = try bench(secondary: true)
        bench.ask(.read, epoch: 2)
        bench.answerDisk(checksum: 6)
        try connect(&bench)
        let question = try lastQuestion(bench)
        #expect(question.opcode == .verify && question.node == 0)
        var map = BlockMap()
        _ = map.insert(BlockRange(start: 0, count: 1))
        let digest = UnitDigest(
            map: map, UnitStore.Completion(operation: 1, outcome: .done), range: map.extent, seen: BlockChecksums(5))
        bench.feed(.answer(link, question.reply(.ok), digest.encoded))
        let fetch = try lastQuestion(bench)
        #expect(fetch.opcode == .fetch && fetch.node == 0)
        var answer = fetch.reply(.ok)
        answer.flags.insert(.payload)
        bench.feed(.fetched(link, answer, PayloadID(rawValue: 500)))
        bench.answerDisk(checksum: 5)
        #expect(bench.lastStatus == .ok && bench.sent.last?.header.opcode == .read)
        #expect(bench.core.stores[0].damagedBlocks == 0 && bench.core.isIdle)
    }

    /// The device has zeros in all blocks but the first of a unit.
    private func answerDisk(_ bench: inout ServerBench, block0: UInt32) {
        func checksums(_ at: UInt64, _ length: UInt32) -> BlockChecksums {
            let blocks = (0..<UInt64(length / 4096)).map { (at / 4096 + $0) % UInt64(Geometry.blocksPerUnit) }
            return BlockChecksums(blocks.map { $0 == 0 ? block0 : BlockChecksums.ofZeros })
        }
        while !bench.disk.isEmpty {
            let (id, request) = bench.disk.removeFirst()
            let outcome: DiskOutcome =
                switch request {
                case .read(let at, let length, _): .read(PayloadID(rawValue: 77), checksums(at, length))
                case .write(let at, let slice), .writeThrough(let at, let slice): .written(checksums(at, slice.length))
                default: .done
                }
            bench.feed(.disk(ServerBench.device, id, outcome))
        }
    }

    /// Zeros that one copy stored over zeros which the other had forgotten read as the hole there. Over data they do not.
    @Test(arguments: [BlockChecksums.ofZeros, 7]) func zerosAreNoHoleWhereTheyHideSomething(below: UInt32) throws {
        var bench = try ServerBench(secondary: false)
        bench.ask(.write, length: 8192)
        bench.answerDisk(checksum: below)
        var update = ServerBench.map(secondary: false)
        var tree = VolumeTree(of: TreeID(rawValue: ServerBench.volume.rawValue), pool: ServerBench.pool)
        update.volumes[0].head = tree.grow(from: 0)
        _ = tree.grow(from: 0)
        update.trees = [tree]
        update.revision += 1
        bench.feed(.manager(.update(update)))
        bench.ask(.writeZeroes, length: 8192)
        bench.answerDisk(checksum: BlockChecksums.ofZeros)
        bench.ask(.write)
        bench.answerDisk(checksum: 5)
        update.pools[0].entries[0].comb.epoch += 1
        update.pools[0].entries[0].comb.state = ServerBench.map(secondary: true).pools[0].entries[0].comb.state
        update.revision += 1
        bench.feed(.manager(.update(update)))
        // A read finds its block damaged, and has the unit examined. Only the scanner makes equal what differs.
        bench.ask(.read, epoch: 2)
        answerDisk(&bench, block0: 6)
        try connect(&bench)
        let question = try lastQuestion(bench)
        #expect(question.opcode == .verify && question.node == 1)
        let map = BlockMap(BlockRange(start: 0, count: 1))
        let digest = UnitDigest(
            map: map, UnitStore.Completion(operation: 1, outcome: .done), range: map.extent, seen: BlockChecksums(5))
        bench.feed(.answer(link, question.reply(.ok), digest.encoded))
        var answer = try lastQuestion(bench).reply(.ok)
        answer.flags.insert(.payload)
        bench.feed(.fetched(link, answer, PayloadID(rawValue: 500)))
        answerDisk(&bench, block0: 5)
        #expect(bench.lastStatus == .ok && bench.core.isIdle)
        #expect(bench.core.integrity[0].differing == (below == BlockChecksums.ofZeros ? 0 : 1))
    }
}

@Suite struct ManagerCutTests {
    private func steps(_ bench: ManagerBench, from first: Int = 0) -> [CutStep] {
        bench.sent.dropFirst(first).compactMap { if case .cut(_, let step) = $0.1 { step } else { nil } }
    }

    private func answer(_ bench: inout ManagerBench, _ answer: CutAnswer, intact: Bool = true, from servers: [UInt64]) {
        guard let id = bench.core.cut?.id else { return }
        for server in servers {
            bench.feed(.message(ManagerBench.link(server), .cut(id, answer, isIntact: intact)))
        }
    }

    private func takeAll(_ bench: inout ManagerBench) {
        for step in CutAnswer.allCases { answer(&bench, step, from: [1, 2, 3]) }
    }

    @Test func aSnapshotIsShownOnceAllServersWereIntact() throws {
        var bench = ManagerBench()
        let (id, _) = try bench.volume()
        let ticket = bench.submit(.takeSnapshots([SnapshotDefinition(volume: id, name: "snap")], createdAt: 8))
        let holds: [CutStep] = Array(repeating: .hold([id]), count: 3)
        #expect(steps(bench) == holds)
        answer(&bench, .held, from: [1, 2])
        #expect(steps(bench).count == 3)
        answer(&bench, .held, from: [3])
        answer(&bench, .sealed, from: [1, 2, 3])
        let head = bench.core.state.volumes[id]?.head
        #expect(head == 1 && bench.core.state.volumes.count == 1, "switched, and nothing shown yet")
        answer(&bench, .concluded, from: [1, 2])
        #expect(bench.replies[ticket] == nil)
        answer(&bench, .concluded, from: [3])
        guard case .success(.tookSnapshots(let group, let ids)) = bench.replies[ticket] else {
            throw ManagerError(.malformed, "\(String(describing: bench.replies[ticket]))")
        }
        let snapshot = try #require(bench.core.state.volumes[ids[0]])
        #expect(snapshot.name == "snap" && snapshot.ancestor == id)
        #expect(snapshot.snapshotGroup == group && snapshot.createdAt == 8)
        #expect(snapshot.tree == bench.core.state.volumes[id]?.tree)
        #expect(snapshot.head == 2 && snapshot.sizeUnits == 16)
        // The next leader reads the same.
        let list = bench.records.sorted { $0.key < $1.key }.map { (key: $0.key, value: $0.value) }
        let read = try #require(try SystemState.decode(list))
        #expect(read.volumes == bench.core.state.volumes && read.trees == bench.core.state.trees)
    }

    @Test func aDisturbedSnapshotIsTriedAgainAndThenGivenUp() throws {
        var bench = ManagerBench()
        let (id, _) = try bench.volume()
        let ticket = bench.submit(.takeSnapshots([SnapshotDefinition(volume: id, name: "snap")], createdAt: 8))
        for attempt in 1...3 {
            #expect(bench.replies[ticket] == nil, "before attempt \(attempt)")
            answer(&bench, .held, from: [1, 2, 3])
            answer(&bench, .sealed, from: [1, 2, 3])
            answer(&bench, .concluded, intact: false, from: [2])
            #expect(bench.core.cut == nil)
            bench.pass(.milliseconds(300), alive: [1, 2, 3])
        }
        guard case .failure(let error) = bench.replies[ticket] else { throw ManagerError(.malformed, "no failure") }
        #expect(error.code == .snapshotFailed)
        #expect(bench.core.state.volumes.count == 1)
        let tree = try #require(bench.core.state.trees.values.first)
        #expect(tree.nodes.map(\.number) == [0, 1, 3, 5], "what the attempts froze, and no node of a snapshot")
        #expect(bench.core.state.volumes[id]?.head == 5)
    }

    /// No server would hold up what it does not know, and each attempt would wait for all of them.
    @Test func aVolumeThatIsGoneWhenItsTurnComesIsRefusedAtOnce() throws {
        var bench = ManagerBench()
        let (id, _) = try bench.volume()
        let first = bench.submit(.takeSnapshots([SnapshotDefinition(volume: id, name: "one")], createdAt: 8))
        let second = bench.submit(.takeSnapshots([SnapshotDefinition(volume: id, name: "two")], createdAt: 8))
        _ = try bench.run(.removeVolume(id, unmapping: true))
        answer(&bench, .held, from: [1, 2, 3])
        answer(&bench, .sealed, from: [1, 2, 3])
        bench.pass(.milliseconds(300), alive: [1, 2, 3])
        for ticket in [first, second] {
            guard case .failure(let error) = bench.replies[ticket] else { throw ManagerError(.malformed, "no failure") }
            #expect(error.code == .volumeNotFound)
        }
        #expect(steps(bench).count { if case .hold = $0 { true } else { false } } == 3, "the first one's alone")
    }

    @Test func changesOfCopiesAndLostConnectionsEndAnAttempt() throws {
        var bench = ManagerBench()
        let (id, _) = try bench.volume()
        _ = bench.submit(.takeSnapshots([SnapshotDefinition(volume: id, name: "snap")], createdAt: 8))
        answer(&bench, .held, from: [1, 2, 3])
        let first = bench.core.cut?.id
        bench.feed(.message(ManagerBench.link(2), .deviceFailed(DeviceID(rawValue: 2))))
        answer(&bench, .sealed, from: [1, 2, 3])
        bench.feed(.tick)
        #expect(bench.core.state.trees.isEmpty && bench.core.cut == nil)
        bench.pass(.milliseconds(300), alive: [1, 2, 3])
        #expect(bench.core.cut != nil && bench.core.cut?.id != first)
        answer(&bench, .held, from: [1, 2, 3])
        bench.feed(.linkClosed(ManagerBench.link(1)))
        #expect(bench.core.cut == nil && bench.core.state.trees.isEmpty)
    }

    @Test func anUnreachableServerWithACopyEndsAnAttempt() throws {
        var bench = ManagerBench()
        let (id, _) = try bench.volume()
        bench.feed(.linkClosed(ManagerBench.link(3)))
        let ticket = bench.submit(.takeSnapshots([SnapshotDefinition(volume: id, name: "snap")], createdAt: 8))
        #expect(steps(bench).isEmpty)
        bench.now = bench.now + .milliseconds(300)
        bench.feed(.tick)
        bench.now = bench.now + .milliseconds(150)
        bench.feed(.tick)
        bench.now = bench.now + .milliseconds(300)
        bench.feed(.tick)
        guard case .failure(let error) = bench.replies[ticket] else { throw ManagerError(.malformed, "no failure") }
        #expect(error.code == .snapshotFailed && error.message.contains("sds3"))
    }

    @Test func whatALeaderLeftUnfinishedGoesWithTheNext() throws {
        var bench = ManagerBench()
        let (id, _) = try bench.volume()
        _ = bench.submit(.takeSnapshots([SnapshotDefinition(volume: id, name: "snap")], createdAt: 8))
        answer(&bench, .held, from: [1, 2, 3])
        answer(&bench, .sealed, from: [1, 2, 3])
        #expect(bench.core.state.trees.values.first?.nodes.map(\.number) == [0, 1, 2])
        let list = bench.records.sorted { $0.key < $1.key }.map { (key: $0.key, value: $0.value) }
        bench.core = try #require(
            try ManagerCore(records: list, configuration: ManagerConfiguration(), now: bench.now))
        bench.feed(.tick)
        #expect(bench.core.state.trees.values.first?.nodes.map(\.number) == [0, 1])
    }

    /// In any order: what others show through stays, and the tree goes with the last.
    @Test func volumesOfATreeAreRemovedInAnyOrder() throws {
        var bench = ManagerBench()
        let (id, _) = try bench.volume()
        var line = [id]
        for name in ["a", "b"] {
            let ticket = bench.submit(
                .takeSnapshots([SnapshotDefinition(volume: line[line.count - 1], name: name)], createdAt: 8))
            takeAll(&bench)
            guard case .success(.tookSnapshots(_, let ids)) = bench.replies[ticket] else {
                throw ManagerError(.malformed, "not taken")
            }
            line += ids
        }
        // 0 - 1 the volume; 0 - 2 frozen, below it 3 the first snapshot and 4 the second.
        _ = try bench.run(.removeVolume(line[1], unmapping: false))
        #expect(bench.core.state.volumes[line[2]]?.ancestor == id, "it hangs on what its ancestor hung on")
        #expect(bench.core.state.trees.values.first?.nodes.map(\.number) == [0, 1, 2, 4])
        _ = try bench.run(.removeVolume(id, unmapping: false))
        #expect(bench.core.state.volumes[line[2]]?.ancestor == nil)
        #expect(bench.core.state.trees.values.first?.nodes.map(\.number) == [0, 2, 4])
        _ = try bench.run(.removeVolume(line[2], unmapping: false))
        #expect(bench.core.state.trees.isEmpty && !bench.records.keys.contains { $0.hasPrefix("tree/") })
    }

    /// It keeps what others show of it, and what it had itself goes.
    @Test func aVolumeIsOverwrittenFromItsSnapshot() throws {
        var bench = ManagerBench()
        let (id, _) = try bench.volume()
        let pool = try #require(bench.core.state.pools.keys.first)
        let ticket = bench.submit(.takeSnapshots([SnapshotDefinition(volume: id, name: "a")], createdAt: 8))
        takeAll(&bench)
        guard case .success(.tookSnapshots(_, let ids)) = bench.replies[ticket] else {
            throw ManagerError(.malformed, "not taken")
        }
        let restore = SnapshotDefinition(volume: ids[0], name: "", overwriting: id)
        let again = bench.submit(.takeSnapshots([restore], createdAt: 9))
        takeAll(&bench)
        guard case .success(.tookSnapshots(_, let overwritten)) = bench.replies[again] else {
            throw ManagerError(.malformed, "not overwritten")
        }
        #expect(overwritten == [id] && bench.core.state.volumes.count == 2)
        let state = bench.core.state
        let tree = try #require(state.trees.values.first)
        // 0 - 1 the volume, 2 the snapshot; then 2 - 3 the snapshot, 4 the volume.
        #expect(state.volumes[id]?.head == 4 && state.volumes[ids[0]]?.head == 3)
        #expect(tree.nodes.map(\.number) == [0, 2, 3, 4] && tree.ancestors(of: 4) == [2, 0])

        func code(_ source: VolumeID, _ target: VolumeID) -> ManagerError.Code? {
            let definition = SnapshotDefinition(volume: source, name: "", overwriting: target)
            do throws(ManagerError) {
                try ManagerDraft(bench.core.state, rules: .all).checkSnapshots([definition])
                return nil
            } catch {
                return error.code
            }
        }
        #expect(code(ids[0], id) == nil && code(id, id) == .sameVolume)
        guard
            case .createdVolume(let other) = try bench.run(
                .createVolume(pool: pool, name: "other", sizeUnits: 16, provisioning: .thin, createdAt: 1))
        else { throw ManagerError(.malformed, "not created") }
        #expect(code(other, id) == .otherTree)
        _ = try bench.run(.resizeVolume(id, sizeUnits: 24))
        #expect(code(ids[0], id) == .invalidSize)
        #expect(code(ids[0], VolumeID(rawValue: 4)) == .volumeNotFound)
    }

    @Test func limitsAreErrors() throws {
        var bench = ManagerBench()
        let (id, _) = try bench.volume()
        func code(_ definitions: [SnapshotDefinition]) -> ManagerError.Code? {
            do throws(ManagerError) {
                try ManagerDraft(bench.core.state, rules: .all).checkSnapshots(definitions)
                return nil
            } catch {
                return error.code
            }
        }
        let one = SnapshotDefinition(volume: id, name: "")
        #expect(code([one]) == nil)
        #expect(code([]) == .invalidArgument && code([one, one]) == .invalidArgument)
        #expect(code([SnapshotDefinition(volume: id, name: "data")]) == .nameInUse)
        #expect(code([SnapshotDefinition(volume: id, name: "not good")]) == .invalidName)
        #expect(code([SnapshotDefinition(volume: VolumeID(rawValue: 4), name: "")]) == .volumeNotFound)
        for number in 0..<126 {
            let ticket = bench.submit(
                .takeSnapshots([SnapshotDefinition(volume: id, name: "s\(number)")], createdAt: 8))
            takeAll(&bench)
            #expect((try? bench.replies[ticket]?.get()) != nil)
        }
        #expect(bench.core.state.volumes.count == 127)
        #expect(throws: ManagerError.self) { try bench.run(.takeSnapshots([one], createdAt: 8)) }
        #expect(code([one]) == .tooManySnapshots)
        for snapshot in bench.core.state.volumes.keys.shuffled(using: &bench.random) {
            _ = try bench.run(.removeVolume(snapshot, unmapping: false))
        }
        #expect(bench.core.state.trees.isEmpty)
    }
}
