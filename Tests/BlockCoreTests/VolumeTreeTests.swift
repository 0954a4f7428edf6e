import Base
import Testing

@testable import BlockCore

@Suite struct VolumeTreeTests {
    private let pool = StoragePoolID(rawValue: 3)

    /// 0 - 1 - 3, and 2 beside 1.
    private func tree() -> VolumeTree {
        var tree = VolumeTree(of: TreeID(rawValue: 7), pool: pool)
        let numbers = [tree.grow(from: 0), tree.grow(from: 0), tree.grow(from: 1)]
        #expect(numbers == [1, 2, 3])
        return tree
    }

    @Test func aNodeShowsThroughToThoseBefore() {
        let tree = tree()
        #expect(tree.ancestors(of: 3) == [1, 0] && tree.ancestors(of: 2) == [0] && tree.ancestors(of: 0).isEmpty)
        #expect(tree.ancestors(of: 9).isEmpty && !tree.contains(9))
        #expect(tree.hasChildren(1) && !tree.hasChildren(3))
    }

    @Test func whatNobodySeesGoesAndNumbersAreNotUsedAgain() {
        var tree = tree()
        let all = tree
        var hasChanged = tree.prune(keeping: [2, 3])
        #expect(!hasChanged && tree == all)
        hasChanged = tree.prune(keeping: [2])
        #expect(hasChanged && tree.nodes.map(\.number) == [0, 2])
        let next = tree.grow(from: 2)
        #expect(next == 4)
        hasChanged = tree.prune(keeping: [])
        #expect(hasChanged && tree.nodes.isEmpty)
    }

    @Test func recordsThatCannotBeTreesAreRefused() {
        typealias Node = VolumeTree.Node
        func tree(_ nodes: [Node], next: UInt32 = 9) -> VolumeTree? {
            VolumeTree(id: TreeID(rawValue: 7), pool: pool, nodes: nodes, nextNode: next)
        }
        #expect(tree([Node(number: 0, parent: nil), Node(number: 4, parent: 0)]) != nil)
        #expect(tree([]) == nil)
        #expect(tree([Node(number: 4, parent: 0)]) == nil, "a parent that is not there")
        #expect(tree([Node(number: 4, parent: 4)]) == nil, "its own parent")
        #expect(tree([Node(number: 0, parent: nil), Node(number: 0, parent: nil)]) == nil, "a number twice")
        #expect(tree([Node(number: 9, parent: nil)]) == nil, "a number that is still to come")
        #expect(tree((0...UInt32(VolumeTree.nodesMax)).map { Node(number: $0, parent: nil) }, next: 4000) == nil)
    }

    @Test func treesSurviveTheWireAndGoToServersOnly() throws {
        var update = MapUpdate(revision: 4, isFull: false)
        update.trees = [tree()]
        update.removedTrees = [TreeID(rawValue: 8)]
        let frame = ControlFrame.encode(.update(update))
        #expect(try ControlFrame.decodeFromManager(Array(frame[4...])) == .update(update))
        var bench = ManagerBench()
        let (volume, _) = try bench.volume()
        var state = bench.core.state
        state.trees[TreeID(rawValue: volume.rawValue)] = tree()
        #expect(state.fullUpdate(for: nil).trees.count == 1)
        #expect(state.fullUpdate(for: SdcID(rawValue: 1)).trees.isEmpty)
    }

    /// A volume that is not in a snapshot any more than before: no record beside its own.
    @Test func treesAreStoredAndAVolumeWithoutItsNodeIsAnError() throws {
        var bench = ManagerBench()
        let (id, _) = try bench.volume()
        #expect(!bench.records.keys.contains { $0.hasPrefix("tree/") })
        var state = bench.core.state
        let tree = TreeID(rawValue: id.rawValue)
        var grown = VolumeTree(of: tree, pool: try #require(state.volumes[id]?.pool))
        let head = grown.grow(from: 0)
        _ = state.volumes.modify(id) {
            $0.head = head
            $0.ancestor = VolumeID(rawValue: 99)
            $0.snapshotGroup = SnapshotGroupID(rawValue: 98)
        }
        state.trees[tree] = grown
        var records = bench.records
        records[RecordKey.volume(id).path] = state.encode(.volume(id))
        #expect(throws: ManagerError.self) { try decode(records) }
        records[RecordKey.tree(tree).path] = state.encode(.tree(tree))
        let read = try #require(try decode(records))
        #expect(read.trees == state.trees && read.volumes == state.volumes)
    }

    private func decode(_ records: [String: [UInt8]]) throws(ManagerError) -> SystemState? {
        try SystemState.decode(records.sorted { $0.key < $1.key }.map { (key: $0.key, value: $0.value) })
    }

    /// Of two copies the one that has not heard of a node takes nothing for it: its next sweep would free it.
    @Test func unitsOfUnknownNodesAreNotTaken() throws {
        var bench = try ServerBench(secondary: false)
        var update = ServerBench.map(secondary: false)
        update.revision += 1
        let primary = CopyPlace(sds: ServerBench.other, device: DeviceID(rawValue: 6))
        update.pools[0].entries[0].comb = Comb(
            epoch: 2, primary: primary,
            state: .normal(secondary: CopyPlace(sds: ServerBench.own, device: ServerBench.device)), revision: 3)
        bench.feed(.manager(.update(update)))
        var hello = DataHeader(opcode: .hello)
        hello.volume = ServerBench.other.rawValue
        hello.offset = PeerKind.server.rawValue
        hello.session = 1
        let link = LinkID(rawValue: 99)
        bench.feed(.request(link, hello, nil))
        func replicate(node: UInt32, request: UInt64) {
            var header = DataHeader(opcode: .replicate)
            header.flags = .payload
            header.request = request
            header.session = 1
            header.volume = ServerBench.volume.rawValue
            header.node = node
            header.length = 4096
            header.combEpoch = 2
            bench.feed(.request(link, header, PayloadID(rawValue: 500 + request)))
            bench.answerDisk()
        }
        replicate(node: 1, request: 1)
        #expect(bench.lastStatus == .notReady)
        var tree = VolumeTree(of: TreeID(rawValue: ServerBench.volume.rawValue), pool: ServerBench.pool)
        let head = tree.grow(from: 0)
        update.trees = [tree]
        update.volumes[0].head = head
        update.revision += 1
        bench.feed(.manager(.update(update)))
        replicate(node: head, request: 2)
        #expect(bench.lastStatus == .ok)
        #expect(bench.core.stores[0].units { _ in true }.map(\.node) == [head])
    }

    /// The units of a node go with it, and those of the others stay.
    @Test func unitsOfNodesThatAreGoneAreFreed() throws {
        var bench = try ServerBench(secondary: false)
        var tree = VolumeTree(of: TreeID(rawValue: ServerBench.volume.rawValue), pool: ServerBench.pool)
        let head = tree.grow(from: 0)
        var update = ServerBench.map(secondary: false)
        bench.ask(.write)
        bench.answerDisk()
        update.trees = [tree]
        update.volumes[0].head = head
        update.revision += 1
        bench.feed(.manager(.update(update)))
        bench.ask(.write)
        bench.answerDisk()
        #expect(bench.core.stores[0].units { _ in true }.map(\.node) == [0, head])
        update.volumes = [
            VolumeRecord(
                id: VolumeID(rawValue: 0x77), pool: ServerBench.pool, name: "kept", sizeUnits: 8, attachEpoch: 0,
                mappings: [], tree: tree.id, head: 0)
        ]
        _ = tree.prune(keeping: [0])
        update.trees = [tree]
        update.revision += 1
        bench.feed(.manager(.update(update)))
        bench.now = bench.now + .seconds(2)
        bench.feed(.tick)
        bench.answerDisk()
        #expect(bench.core.stores[0].units { _ in true }.map(\.node) == [0], "although the first volume is gone")
    }
}
