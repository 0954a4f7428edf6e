import Base
import Testing

@testable import BlockCore

/// What servers do while one copy of a comb has forgotten a unit that is merged into another, and the other copy has not.
@Suite struct HalfMergedTests {
    private let link = LinkID(rawValue: 9)
    private let inbound = LinkID(rawValue: 40)
    private static let tree = TreeID(rawValue: ServerBench.volume.rawValue)
    private let comb = CombKey(pool: ServerBench.pool, index: 0)

    private func unit(_ node: UInt32) -> UnitKey { UnitKey(tree: Self.tree, node: node, index: 0) }

    private func blocks(_ range: BlockRange...) -> BlockMap {
        var map = BlockMap()
        for run in range { _ = map.insert(run) }
        return map
    }

    /// A line of `count` nodes without volumes below the head.
    private func line(_ count: Int) -> VolumeTree {
        var tree = VolumeTree(of: Self.tree, pool: ServerBench.pool)
        for _ in 0..<count { _ = tree.grow(from: UInt32(tree.nodes.count - 1)) }
        return tree
    }

    private enum Part { case lone, primary, secondary }

    /// Tells the server of the tree, its volume's head being the last node, and of its part in the comb.
    private func become(_ part: Part, _ tree: VolumeTree, revision: UInt64, in bench: inout ServerBench) throws {
        bench.feed(.manager(.update(try update(part, tree, revision: revision))))
    }

    private func update(_ part: Part, _ tree: VolumeTree, revision: UInt64) throws -> MapUpdate {
        var update = ServerBench.map(secondary: part != .lone)
        update.revision = revision
        update.trees = [tree]
        update.volumes[0].head = try #require(tree.nodes.last?.number)
        update.pools[0].entries[0].comb.epoch = revision
        if part == .secondary, let other = update.pools[0].entries[0].comb.secondary {
            let own = update.pools[0].entries[0].comb.primary
            update.pools[0].entries[0].comb.primary = other
            update.pools[0].entries[0].comb.state = .normal(secondary: own)
        }
        return update
    }

    private func write(
        _ bench: inout ServerBench, unit: UInt32 = 0, epoch: UInt64, length: UInt32 = 4096, checksum: UInt32 = 5
    ) {
        bench.ask(.write, unit: unit, epoch: epoch, length: length)
        bench.answerDisk(checksum: checksum)
        #expect(bench.lastStatus == .ok)
    }

    private func lastQuestion(_ bench: ServerBench) throws -> DataHeader {
        try #require(bench.sent.last { $0.link == link && !$0.header.isReply }?.header)
    }

    private func connect(_ bench: inout ServerBench) throws {
        bench.feed(.peerConnected(PeerChannel(ServerBench.other), link))
        bench.feed(.answer(link, try lastQuestion(bench).reply(.ok), []))
    }

    /// The other copy's server connects to this one.
    private func greet(_ bench: inout ServerBench) {
        var hello = DataHeader(opcode: .hello)
        hello.volume = ServerBench.other.rawValue
        hello.offset = PeerKind.server.rawValue
        hello.session = 1
        bench.feed(.request(inbound, hello, nil))
    }

    /// What it asks.
    private func ask(_ bench: inout ServerBench, _ header: DataHeader, _ payload: PayloadID? = nil) -> DataHeader? {
        var header = header
        (header.session, header.volume) = (1, Self.tree.rawValue)
        bench.feed(.request(inbound, header, payload))
        bench.answerDisk(checksum: 5)
        return bench.sent.last { $0.link == inbound }?.header
    }

    private func examine(_ unit: UnitKey, in bench: inout ServerBench, checksum: UInt32) throws {
        bench.core.begin(examining: unit, comb, 0, isComparing: true)
        var actions: [ServerAction] = []
        bench.core.startExaminations(bench.now, &actions)
        bench.take(actions)
        bench.answerDisk(checksum: checksum)
        try connect(&bench)
        #expect(try lastQuestion(bench).opcode == .verify)
    }

    /// The other copy's answer to `verify`: data in `map`, all of it with one checksum.
    private func digest(_ map: BlockMap, damaged: BlockMap = BlockMap(), checksum: UInt32 = 5) -> [UInt8] {
        var completion = UnitStore.Completion(operation: 1, outcome: .done)
        completion.damaged = damaged
        let seen = map.extent.map { BlockChecksums([UInt32](repeating: checksum, count: Int($0.count))) }
        return UnitDigest(map: map, completion, range: map.extent, seen: seen).encoded
    }

    // MARK: Zeros that only one copy has

    /// Over zeros of an ancestor they hide nothing, and need not be merged.
    @Test(arguments: [BlockChecksums.ofZeros, 7]) func zerosOverZerosHideNothing(below: UInt32) throws {
        var bench = try ServerBench(secondary: false)
        write(&bench, epoch: 1, checksum: below)
        // Node 0 has two children, so that only node 1 goes.
        var tree = VolumeTree(of: Self.tree, pool: ServerBench.pool)
        _ = tree.grow(from: 0)
        try become(.lone, tree, revision: 3, in: &bench)
        write(&bench, epoch: 3, checksum: BlockChecksums.ofZeros)
        _ = tree.grow(from: 0)
        _ = tree.grow(from: 1)
        try become(.secondary, tree, revision: 4, in: &bench)
        greet(&bench)
        var drop = DataHeader(opcode: .dropMerged)
        (drop.node, drop.attachEpoch, drop.combEpoch, drop.length) = (1, 3, 4, Geometry.unitBytes)
        drop.request = 1
        #expect(ask(&bench, drop)?.status == (below == BlockChecksums.ofZeros ? .ok : .invalid))
        #expect(bench.core.stores[0].usedUnits == (below == BlockChecksums.ofZeros ? 1 : 2))
    }

    // MARK: Writes without room

    /// The second copy has no unit for the write, and its client had written zeros over what is merged. Holes would show that
    /// where the other copy has forgotten it: then this copy goes on alone. What is merged may be zeros itself.
    @Test(arguments: [(true, 5), (false, 5), (true, BlockChecksums.ofZeros)])
    func aRefusedWriteShowsNothingThatWasForgotten(readsAsZeros: Bool, merged: UInt32) throws {
        var bench = try ServerBench(secondary: false)
        write(&bench, epoch: 1, checksum: merged)
        try become(.lone, line(1), revision: 3, in: &bench)
        bench.ask(.writeZeroes, epoch: 3)
        bench.answerDisk(checksum: BlockChecksums.ofZeros)
        #expect(bench.core.stores[0].usedUnits == 2)
        try become(.primary, line(1), revision: 4, in: &bench)
        bench.ask(.write, epoch: 4)
        try connect(&bench)
        bench.answerDisk(checksum: 6)
        var refusal = try lastQuestion(bench).reply(.noSpace)
        if readsAsZeros { refusal.flags.insert(.zeros) }
        bench.feed(.answer(link, refusal, []))
        let second = CopyPlace(sds: ServerBench.other, device: DeviceID(rawValue: 6))
        let isGivenUp = readsAsZeros && merged != BlockChecksums.ofZeros
        #expect(bench.told.contains(.removeSecondary(comb, epoch: 4, secondary: second)) == isGivenUp)
        if isGivenUp {
            try become(.lone, line(1), revision: 5, in: &bench)
            #expect(bench.lastStatus == .ok)
        } else {
            let undo = try lastQuestion(bench)
            #expect(undo.opcode == .replicateZeroes && undo.flags == .hole && undo.node == 1)
            bench.feed(.answer(link, undo.reply(.ok), []))
            bench.answerDisk(checksum: 6)
            #expect(bench.lastStatus == .noSpace)
        }
        #expect(bench.core.isIdle)
        #expect(bench.core.stores[0].units { _ in true } == (isGivenUp ? [unit(0), unit(1)] : [unit(0)]))
    }

    @Test func aSecondCopyWithoutRoomSaysThatItReadsZeros() throws {
        var bench = try ServerBench(secondary: false)
        for index in 1..<8 as Range<UInt32> { write(&bench, unit: index, epoch: 1) }
        try become(.secondary, line(1), revision: 4, in: &bench)
        greet(&bench)
        var replicate = DataHeader(opcode: .replicate)
        (replicate.node, replicate.combEpoch, replicate.length, replicate.flags) = (1, 4, 4096, .payload)
        for (index, readsAsZeros) in [(1, nil), (0, true), (2, false)] as [(UInt32, Bool?)] {
            (replicate.unit, replicate.request) = (index, replicate.request + 1)
            let answer = try #require(ask(&bench, replicate, PayloadID(rawValue: 600 + UInt64(index))))
            #expect(answer.status == (readsAsZeros == nil ? .ok : .noSpace))
            #expect(answer.flags == (readsAsZeros == true ? [.reply, .zeros] : .reply))
        }
    }

    // MARK: The scanner, while a smaller node is merged first

    /// Node 2 goes after node 0: what one copy has forgotten of it is not to come back.
    @Test func aUnitThatWaitsForItsMergeIsNotSentAgain() throws {
        var bench = try ServerBench(secondary: false)
        try become(.lone, line(2), revision: 3, in: &bench)
        write(&bench, epoch: 3)
        try become(.primary, line(3), revision: 4, in: &bench)
        try examine(unit(2), in: &bench, checksum: 5)
        bench.feed(.answer(link, try lastQuestion(bench).reply(.ok), digest(BlockMap())))
        bench.answerDisk(checksum: 5)
        #expect(try lastQuestion(bench).opcode == .verify, "nothing follows")
        #expect(bench.core.isIdle && bench.core.integrity[0].differing == 0)
    }

    /// Between two merges, of which the first was cut short, the second copy has a block a node further down.
    @Test(arguments: [false, true]) func damageIsMendedFromWhatTheSecondCopyShows(isCovered: Bool) throws {
        var bench = try ServerBench(secondary: false)
        try become(.lone, line(1), revision: 3, in: &bench)
        write(&bench, epoch: 3)
        if isCovered {
            try become(.lone, line(2), revision: 4, in: &bench)
            write(&bench, epoch: 4)
        }
        try become(.primary, line(2), revision: 5, in: &bench)
        try examine(unit(1), in: &bench, checksum: 6)
        bench.feed(.answer(link, try lastQuestion(bench).reply(.ok), digest(BlockMap())))
        let fetch = try lastQuestion(bench)
        #expect(fetch.opcode == (isCovered ? .verify : .fetch) && fetch.node == 1)
        if !isCovered {
            var answer = fetch.reply(.ok)
            answer.flags.insert(.payload)
            bench.feed(.fetched(link, answer, PayloadID(rawValue: 500)))
            bench.answerDisk(checksum: 5)
            #expect(bench.core.stores[0].damagedBlocks == 0)
        }
        #expect(bench.core.isIdle && bench.core.integrity[0].mended == (isCovered ? 0 : 1))
    }

    @Test func aSecondCopyGivesWhatItShowsOfAUnitThatIsMerged() throws {
        var bench = try ServerBench(secondary: false)
        write(&bench, epoch: 1)
        greet(&bench)
        try become(.secondary, line(3), revision: 4, in: &bench)
        for node in 1...3 as ClosedRange<UInt32> {
            var fetch = DataHeader(opcode: .fetch)
            (fetch.node, fetch.combEpoch, fetch.length, fetch.request) = (node, 4, 4096, UInt64(node))
            #expect(ask(&bench, fetch)?.flags == [.reply, .payload])
        }
    }

    /// Damaged zeros of the second copy become zeros again, since it may still have what they hide.
    @Test func zerosOfTheSecondCopyAreNotMendedByAHole() throws {
        var bench = try ServerBench(secondary: false)
        try become(.lone, line(2), revision: 3, in: &bench)
        write(&bench, epoch: 3)
        try become(.primary, line(2), revision: 4, in: &bench)
        try examine(unit(2), in: &bench, checksum: 5)
        let other = blocks(BlockRange(start: 0, count: 3))
        let damaged = blocks(BlockRange(start: 1, count: 2))
        bench.feed(.answer(link, try lastQuestion(bench).reply(.ok), digest(other, damaged: damaged)))
        let mend = try lastQuestion(bench)
        #expect(mend.opcode == .replicateZeroes && mend.flags.isEmpty && mend.node == 2)
        #expect(mend.offset == 4096 && mend.length == 8192)
        bench.feed(.answer(link, mend.reply(.ok), []))
        #expect(bench.core.isIdle && bench.core.integrity[0].mended == 2)
    }

    /// The same at the first copy, where only one of two damaged blocks hides something.
    @Test func zerosOfTheFirstCopyAreNotMendedByAHole() throws {
        var bench = try ServerBench(secondary: false)
        try become(.lone, line(1), revision: 3, in: &bench)
        write(&bench, epoch: 3)
        try become(.lone, line(2), revision: 4, in: &bench)
        write(&bench, epoch: 4, length: 8192, checksum: BlockChecksums.ofZeros)
        try become(.primary, line(2), revision: 5, in: &bench)
        try examine(unit(2), in: &bench, checksum: 6)
        bench.feed(.answer(link, try lastQuestion(bench).reply(.ok), digest(BlockMap())))
        for offset in [0, 4096] as [UInt32] {
            let fetch = try lastQuestion(bench)
            #expect(fetch.opcode == .fetch && fetch.offset == offset && fetch.length == 4096)
            var answer = fetch.reply(.ok)
            answer.flags.insert(.zeros)
            bench.feed(.answer(link, answer, []))
            bench.answerDisk(checksum: BlockChecksums.ofZeros)
        }
        #expect(bench.core.isIdle && bench.core.integrity[0].mended == 2)
        #expect(bench.core.stores[0].map(of: unit(2)) == blocks(BlockRange(start: 0, count: 1)))
        #expect(bench.core.stores[0].damagedBlocks == 0)
    }
}
