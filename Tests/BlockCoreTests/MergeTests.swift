import Base
import Testing

@testable import BlockCore

/// A node with one child and no volume gives its units away.
@Suite struct MergeTests {
    private let tree = TreeID(rawValue: 9)
    private let link = LinkID(rawValue: 9)

    @Test func onlyNodesWithOneChildAndNoVolumeAreMerged() {
        var tree = VolumeTree(of: tree, pool: StoragePoolID(rawValue: 3))
        #expect(tree.mergeable(heads: [0]) == nil)
        let first = tree.grow(from: 0)
        let second = tree.grow(from: 0)
        #expect(tree.mergeable(heads: [first, second]) == nil)
        let third = tree.grow(from: second)
        #expect(tree.mergeable(heads: [first, second, third]) == nil, "its volume is there")
        #expect(tree.mergeable(heads: [first, third]) == NodeMerge(node: second, into: third))
        tree.remove(merged: NodeMerge(node: second, into: third))
        #expect(tree.ancestors(of: third) == [0] && !tree.contains(second))
        let hasPruned = tree.prune(keeping: [third])
        #expect(hasPruned)
        let last = tree.mergeable(heads: [third])
        #expect(last == NodeMerge(node: 0, into: third))
        tree.remove(merged: NodeMerge(node: 0, into: third))
        #expect(tree.nodes == [VolumeTree.Node(number: third, parent: nil)])
        #expect(VolumeTree(id: tree.id, pool: tree.pool, nodes: tree.nodes, nextNode: tree.nextNode) == tree)
    }

    /// Blocks 0 of the first node, blocks 0 and 1 of its child: what the child lacks moves, on both copies, before anything goes.
    private func bench(rules: ProtocolRules = .all, checksum: UInt32 = 5) throws -> ServerBench {
        var bench = try ServerBench(secondary: false) { $0.rules = rules }
        bench.ask(.write, length: 8192)
        bench.answerDisk(checksum: checksum)
        var update = ServerBench.map(secondary: false)
        var tree = VolumeTree(of: TreeID(rawValue: ServerBench.volume.rawValue), pool: ServerBench.pool)
        update.volumes[0].head = tree.grow(from: 0)
        update.trees = [tree]
        update.revision += 1
        bench.feed(.manager(.update(update)))
        bench.ask(.write)
        bench.answerDisk(checksum: 5)
        #expect(bench.core.stores[0].usedUnits == 2)
        // What was written over the first node gets its record.
        bench.feed(.tick)
        bench.answerDisk(checksum: 5)
        update.pools[0].entries[0].comb.epoch += 1
        update.pools[0].entries[0].comb.state = ServerBench.map(secondary: true).pools[0].entries[0].comb.state
        update.revision += 1
        bench.feed(.manager(.update(update)))
        bench.now = bench.now + .seconds(2)
        bench.feed(.tick)
        return bench
    }

    private func question(_ bench: ServerBench) throws -> DataHeader {
        try #require(bench.sent.last { $0.link == link && !$0.header.isReply }?.header)
    }

    private func connect(_ bench: inout ServerBench) throws {
        bench.feed(.peerConnected(PeerChannel(ServerBench.other), link))
        bench.feed(.answer(link, try question(bench).reply(.ok), []))
    }

    @Test func whatTheChildLacksMovesAndThenTheUnitGoes() throws {
        var bench = try bench()
        #expect(bench.disk.map(\.request.isRead) == [true], "block 1 of the first node")
        bench.answerDisk(checksum: 5)
        try connect(&bench)
        let copy = try question(bench)
        #expect(copy.opcode == .copy && copy.node == 1 && copy.offset == 4096 && copy.length == 4096)
        // A write of the family waits, a read does not.
        bench.ask(.write, epoch: 2)
        #expect(bench.disk.isEmpty)
        bench.feed(.answer(link, copy.reply(.ok), []))
        let replicate = try question(bench)
        #expect(replicate.opcode == .replicate, "it came before what is still to be done")
        bench.feed(.answer(link, replicate.reply(.ok), []))
        bench.answerDisk(checksum: 5)
        let drop = try question(bench)
        #expect(drop.opcode == .dropMerged && drop.node == 0 && drop.attachEpoch == 1)
        #expect(bench.core.stores[0].usedUnits == 2, "the secondary forgets first")
        bench.feed(.answer(link, drop.reply(.ok), []))
        bench.answerDisk(checksum: 5)
        #expect(bench.core.stores[0].units { _ in true }.map(\.node) == [1])
        let counters = bench.core.counters[0]
        #expect(counters[.rebalanceRead].bytes == 4096 && counters[.rebalanceWrite].bytes == 4096)
        #expect(counters[.rebuildRead].count == 0 && counters[.rebuildWrite].count == 0)
        let head = UnitKey(tree: tree, node: 1, index: 0)
        #expect(bench.core.stores[0].map(of: head).runs() == [BlockRange(start: 0, count: 2)])
        #expect(bench.core.isIdle)
        bench.now = bench.now + .seconds(2)
        bench.feed(.tick)
        #expect(bench.told.contains(.nodeEmpty(tree, node: 0, revision: 4)))
    }

    /// The same server as the second copy's, with a connection of the first one's.
    private func becomeSecondary(_ bench: inout ServerBench, checksum: UInt32 = 5) throws -> LinkID {
        var update = ServerBench.map(secondary: true)
        var tree = VolumeTree(of: tree, pool: ServerBench.pool)
        update.volumes[0].head = tree.grow(from: 0)
        update.trees = [tree]
        update.revision = 50
        let own = update.pools[0].entries[0].comb.primary
        let other = try #require(update.pools[0].entries[0].comb.secondary)
        update.pools[0].entries[0].comb = Comb(epoch: 9, primary: other, state: .normal(secondary: own), revision: 50)
        bench.feed(.manager(.update(update)))
        // The merge that has begun is given up when its read has ended.
        bench.answerDisk(checksum: checksum)
        #expect(bench.core.isIdle)
        let link = LinkID(rawValue: 40)
        var hello = DataHeader(opcode: .hello)
        hello.volume = ServerBench.other.rawValue
        hello.offset = PeerKind.server.rawValue
        hello.session = 1
        bench.feed(.request(link, hello, nil))
        return link
    }

    private func request(_ opcode: Opcode, node: UInt32) -> DataHeader {
        var header = DataHeader(opcode: opcode)
        header.request = 1
        header.session = 1
        header.volume = tree.rawValue
        header.node = node
        header.combEpoch = 9
        header.length = Geometry.unitBytes
        return header
    }

    /// What was merged may have come to the primary alone: a secondary that is asked for it has it in the old unit still.
    @Test func whatIsNotMergedHereYetIsFetchedFromTheOldUnit() throws {
        var bench = try bench()
        let link = try becomeSecondary(&bench)
        var fetch = request(.fetch, node: 1)
        (fetch.offset, fetch.length) = (4096, 4096)
        bench.feed(.request(link, fetch, nil))
        #expect(bench.disk.last?.request.isRead == true)
        bench.answerDisk(checksum: 5)
        let answer = try #require(bench.sent.last { $0.link == link }?.header)
        #expect(answer.status == .ok && answer.flags.contains(.payload) && !answer.flags.contains(.zeros))
    }

    /// Zeros that hide nothing are forgotten without being merged first; other data is not.
    @Test(arguments: [true, false]) func zerosThatHideNothingAreForgotten(isZeros: Bool) throws {
        let checksum = isZeros ? BlockChecksums.ofZeros : 5
        var bench = try bench(checksum: checksum)
        let link = try becomeSecondary(&bench, checksum: checksum)
        var drop = request(.dropMerged, node: 0)
        drop.attachEpoch = 1
        bench.feed(.request(link, drop, nil))
        bench.answerDisk(checksum: 5)
        #expect(bench.sent.last { $0.link == link }?.header.status == (isZeros ? .ok : .invalid))
        #expect(bench.core.stores[0].usedUnits == (isZeros ? 1 : 2))
    }

    /// The first copy may have no such unit, and asks for nothing.
    @Test(arguments: [true, false]) func aSecondCopyForgetsAUnitOfZerosByItself(isZeros: Bool) throws {
        let checksum = isZeros ? BlockChecksums.ofZeros : 5
        var bench = try bench(checksum: checksum)
        _ = try becomeSecondary(&bench, checksum: checksum)
        for _ in 0..<2 {
            bench.now = bench.now + .seconds(2)
            bench.feed(.tick)
            bench.answerDisk(checksum: 5)
        }
        #expect(bench.core.stores[0].usedUnits == (isZeros ? 1 : 2))
        #expect(bench.told.contains(.nodeEmpty(tree, node: 0, revision: 50)) == isZeros)
    }

    /// It keeps its unit, and gets everything once more.
    @Test func aSecondaryThatLacksSomethingGetsAll() throws {
        var bench = try bench()
        bench.answerDisk(checksum: 5)
        try connect(&bench)
        bench.feed(.answer(link, try question(bench).reply(.ok), []))
        bench.feed(.answer(link, try question(bench).reply(.invalid), []))
        #expect(bench.core.stores[0].usedUnits == 2 && bench.core.isIdle)
        bench.now = bench.now + .seconds(2)
        bench.feed(.tick)
        bench.answerDisk(checksum: 5)
        let copy = try question(bench)
        #expect(copy.opcode == .copy && copy.offset == 0 && copy.length == 8192)
        bench.feed(.answer(link, copy.reply(.ok), []))
        bench.feed(.answer(link, try question(bench).reply(.ok), []))
        bench.answerDisk(checksum: 5)
        #expect(bench.core.stores[0].units { _ in true }.map(\.node) == [1])
        #expect(bench.core.isIdle)
    }

    @Test func aChangeOfTheCombEndsAMerge() throws {
        var bench = try bench()
        bench.answerDisk(checksum: 5)
        try connect(&bench)
        var update = ServerBench.map(secondary: false)
        var tree = VolumeTree(of: TreeID(rawValue: ServerBench.volume.rawValue), pool: ServerBench.pool)
        update.volumes[0].head = tree.grow(from: 0)
        update.trees = [tree]
        update.revision = 9
        update.pools[0].entries[0].comb.epoch = 7
        bench.feed(.manager(.update(update)))
        #expect(bench.core.isIdle && bench.core.stores[0].usedUnits == 2)
        // The record of what was written.
        bench.feed(.tick)
        bench.answerDisk(checksum: 5)
        bench.now = bench.now + .seconds(2)
        bench.feed(.tick)
        #expect(bench.disk.isEmpty, "not with one copy")
    }

    /// Everything is merged here; then another server leads the comb for a while.
    private func exchanged(rules: ProtocolRules = .all) throws -> ServerBench {
        var bench = try bench(rules: rules)
        bench.answerDisk(checksum: 5)
        try connect(&bench)
        for _ in 0..<2 {
            bench.feed(.answer(link, try question(bench).reply(.ok), []))
            bench.answerDisk(checksum: 5)
        }
        #expect(bench.core.stores[0].units { _ in true }.map(\.node) == [1])
        var update = ServerBench.map(secondary: true)
        var tree = VolumeTree(of: tree, pool: ServerBench.pool)
        update.volumes[0].head = tree.grow(from: 0)
        update.trees = [tree]
        let (own, other) = (update.pools[0].entries[0].comb.primary, update.pools[0].entries[0].comb.secondary)
        for (epoch, primary, secondary) in [(7, other, own), (8, own, other)] as [(UInt64, CopyPlace?, CopyPlace?)] {
            update.revision = 10 + epoch
            update.pools[0].entries[0].comb.epoch = epoch
            update.pools[0].entries[0].comb.primary = try #require(primary)
            update.pools[0].entries[0].comb.state = .normal(secondary: try #require(secondary))
            bench.feed(.manager(.update(update)))
        }
        bench.now = bench.now + .seconds(2)
        bench.feed(.tick)
        return bench
    }

    /// The simulator notices it about once in two hundred runs with snapshots: two copies have to exchange their parts between
    /// two moments.
    @Test func withoutTheRuleNobodyAsksTheSecondCopy() throws {
        for rules in [ProtocolRules.all, .all.subtracting(.remnantsAreAskedFor)] {
            let bench = try exchanged(rules: rules)
            let asks = bench.sent.contains { $0.header.opcode == .listUnits }
            #expect(asks == rules.contains(.remnantsAreAskedFor))
        }
    }

    @Test func whatOnlyTheSecondCopyHasIsForgottenThere() throws {
        var bench = try exchanged()
        func list(_ units: [UnitKey]) -> [UInt8] {
            UnitList.encode(units.map { UnitList.Entry(unit: $0, isHot: false) }[...])
        }
        let remnant = UnitKey(tree: tree, node: 0, index: 0)
        let head = UnitKey(tree: tree, node: 1, index: 0)
        var question = try question(bench)
        #expect(question.opcode == .listUnits && question.combEpoch == 8)
        bench.feed(.answer(link, question.reply(.ok), list([remnant, head])))
        bench.feed(.tick)
        question = try self.question(bench)
        #expect(question.opcode == .dropMerged && question.node == 0 && question.attachEpoch == 1)
        // The secondary lacks something of what it is to forget: it gets all that the other unit has.
        bench.feed(.answer(link, question.reply(.invalid), []))
        bench.now = bench.now + .seconds(2)
        bench.feed(.tick)
        question = try self.question(bench)
        #expect(question.opcode == .listUnits)
        bench.feed(.answer(link, question.reply(.ok), list([remnant, head])))
        bench.feed(.tick)
        bench.answerDisk(checksum: 5)
        question = try self.question(bench)
        #expect(question.opcode == .copy && question.node == 1 && question.length == 8192)
        bench.feed(.answer(link, question.reply(.ok), []))
        bench.answerDisk(checksum: 5)
        question = try self.question(bench)
        #expect(question.opcode == .dropMerged)
        bench.feed(.answer(link, question.reply(.ok), []))
        bench.answerDisk(checksum: 5)
        #expect(bench.core.isIdle && bench.core.stores[0].units { _ in true }.map(\.node) == [1])
        bench.now = bench.now + .seconds(2)
        bench.feed(.tick)
        bench.feed(.answer(link, try self.question(bench).reply(.ok), list([head])))
        // Asked once for all.
        let asked = bench.sent.count
        bench.now = bench.now + .seconds(2)
        bench.feed(.tick)
        #expect(bench.sent.count == asked && bench.core.merging.inherited.isEmpty)
    }

    @Test func aSecondCopyTellsItsPrimaryAloneWhatItHas() throws {
        var bench = try ServerBench(secondary: false)
        bench.ask(.write)
        bench.answerDisk(checksum: 5)
        var update = ServerBench.map(secondary: true)
        let (own, other) = (update.pools[0].entries[0].comb.primary, update.pools[0].entries[0].comb.secondary)
        update.revision = 5
        update.pools[0].entries[0].comb.epoch = 4
        update.pools[0].entries[0].comb.primary = try #require(other)
        update.pools[0].entries[0].comb.state = .normal(secondary: own)
        bench.feed(.manager(.update(update)))
        func list(from sender: SdsID, epoch: UInt64, on link: LinkID) -> DataStatus? {
            var hello = DataHeader(opcode: .hello)
            hello.volume = sender.rawValue
            hello.offset = PeerKind.server.rawValue
            hello.session = 1
            bench.feed(.request(link, hello, nil))
            var question = DataHeader(opcode: .listUnits)
            (question.session, question.request) = (1, 1)
            (question.volume, question.unit, question.combEpoch) = (ServerBench.pool.rawValue, 0, epoch)
            bench.feed(.request(link, question, nil))
            return bench.lastStatus
        }
        #expect(list(from: SdsID(rawValue: 77), epoch: 4, on: LinkID(rawValue: 20)) == .staleComb)
        #expect(list(from: ServerBench.other, epoch: 4, on: LinkID(rawValue: 21)) == .ok)
        let unit = UnitKey(volume: ServerBench.volume, index: 0)
        #expect(try UnitList.decode(try #require(bench.sentBytes.last)).map(\.unit) == [unit])
    }

    @Test func aNodeGoesWhenNoServerHasAnythingOfIt() throws {
        var bench = ManagerBench()
        let (id, _) = try bench.volume()
        let ticket = bench.submit(.takeSnapshots([SnapshotDefinition(volume: id, name: "s")], createdAt: 8))
        for answer in CutAnswer.allCases {
            let cut = try #require(bench.core.cut?.id)
            for server in 1...3 as ClosedRange<UInt64> {
                bench.feed(.message(ManagerBench.link(server), .cut(cut, answer, isIntact: true)))
            }
        }
        guard case .success(.tookSnapshots(_, let ids)) = bench.replies[ticket] else {
            throw ManagerError(.malformed, "not taken")
        }
        _ = try bench.run(.removeVolume(ids[0], unmapping: false))
        let tree = try #require(bench.core.state.trees.keys.first)
        func numbers() -> [UInt32]? { bench.core.state.trees[tree]?.nodes.map(\.number) }
        #expect(numbers() == [0, 1])
        func tell(_ server: UInt64, revision: UInt64) {
            bench.feed(.message(ManagerBench.link(server), .nodeEmpty(tree, node: 0, revision: revision)))
        }
        let revision = bench.core.state.revision
        tell(1, revision: revision)
        tell(2, revision: revision)
        tell(3, revision: revision - 1)
        #expect(numbers() == [0, 1], "the third spoke of before")
        tell(3, revision: revision + 1)
        #expect(numbers() == [0, 1], "of what does not exist")
        tell(3, revision: revision)
        #expect(numbers() == [1])
    }
}
