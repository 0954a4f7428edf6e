/// A node that goes, and its only child, which gets what it holds.
public struct NodeMerge: Equatable, Sendable {
    public var node: UInt32
    public var into: UInt32

    public init(node: UInt32, into: UInt32) {
        self.node = node
        self.into = into
    }
}

/// Volumes that came from one another, as a tree of nodes: each node holds what was written while it was the head of one of them,
/// and shows through to its parent where nothing was. See docs/design/snapshots.md.
///
/// A volume that was never in a snapshot has no such record: it is alone in its tree, and its node is 0.
public struct VolumeTree: Equatable, Sendable {
    public struct Node: Equatable, Sendable {
        public var number: UInt32
        /// Nil for the first.
        public var parent: UInt32?

        public init(number: UInt32, parent: UInt32?) {
            self.number = number
            self.parent = parent
        }
    }

    /// Nodes of one tree at most: what a read may have to look through is bounded by it.
    public static let nodesMax = 512

    public let id: TreeID
    public let pool: StoragePoolID
    /// In order of their numbers, at most `nodesMax`.
    public private(set) var nodes: [Node]
    /// Above every number that was ever used: none is used twice.
    public private(set) var nextNode: UInt32

    /// The tree of a volume that had none of its own so far.
    init(of volume: TreeID, pool: StoragePoolID) {
        id = volume
        self.pool = pool
        nodes = [Node(number: 0, parent: nil)]
        nextNode = 1
    }

    /// From a record; nil if it cannot be one: nodes out of order, or with a parent that is not before them.
    init?(id: TreeID, pool: StoragePoolID, nodes: [Node], nextNode: UInt32) {
        var known: Set<UInt32> = []
        var last: UInt32?
        for node in nodes {
            if let last, node.number <= last { return nil }
            if let parent = node.parent, !known.contains(parent) { return nil }
            guard node.number < nextNode, node.number < UnitList.nodesMax else { return nil }
            known.insert(node.number)
            last = node.number
        }
        guard !nodes.isEmpty, nodes.count <= VolumeTree.nodesMax else { return nil }
        self.id = id
        self.pool = pool
        self.nodes = nodes
        self.nextNode = nextNode
    }

    private func position(of number: UInt32) -> Int? {
        var (low, high) = (0, nodes.count)
        while low < high {
            let middle = (low + high) / 2
            if nodes[middle].number < number { low = middle + 1 } else { high = middle }
        }
        return low < nodes.count && nodes[low].number == number ? low : nil
    }

    public func contains(_ number: UInt32) -> Bool { position(of: number) != nil }

    /// The nodes that show through where `number` holds nothing, nearest first.
    public func ancestors(of number: UInt32) -> [UInt32] {
        var chain: [UInt32] = []
        var place = position(of: number)
        while let known = place, let parent = nodes[known].parent {
            chain.append(parent)
            place = position(of: parent)
        }
        return chain
    }

    /// Whether other nodes show through to it.
    public func hasChildren(_ number: UInt32) -> Bool { nodes.contains { $0.parent == number } }

    /// Whether `count` more nodes have room.
    func hasRoom(for count: Int) -> Bool {
        nodes.count + count <= VolumeTree.nodesMax && nextNode < UnitList.nodesMax - UInt32(count)
    }

    /// A new node on top of `parent`, which must be there.
    mutating func grow(from parent: UInt32) -> UInt32 {
        precondition(contains(parent) && hasRoom(for: 1), "grows from a node of its own while there is room")
        defer { nextNode += 1 }
        nodes.append(Node(number: nextNode, parent: parent))
        return nextNode
    }

    /// The first of `merges(heads:)`, which is carried out.
    public func mergeable(heads: Set<UInt32>) -> NodeMerge? { merges(heads: heads).first }

    /// Nodes that only show through to one other, which may take over what they hold. Once that is so it stays so: new nodes
    /// grow on heads only. A smaller number may join later and come first.
    public func merges(heads: Set<UInt32>) -> [NodeMerge] {
        var children: [UInt32: (count: Int, last: UInt32)] = [:]
        for node in nodes {
            if let parent = node.parent { children[parent] = ((children[parent]?.count ?? 0) + 1, node.number) }
        }
        return nodes.compactMap { node in
            guard !heads.contains(node.number), let known = children[node.number], known.count == 1 else { return nil }
            return NodeMerge(node: node.number, into: known.last)
        }
    }

    /// A node whose only child has everything that it held goes.
    mutating func remove(merged: NodeMerge) {
        guard let place = position(of: merged.node), let child = position(of: merged.into),
            nodes[child].parent == merged.node
        else { preconditionFailure("a node is merged into its child") }
        nodes[child].parent = nodes[place].parent
        nodes.remove(at: place)
    }

    /// Takes away every node that nobody can see any more: those that neither are a head nor have children.
    /// - Returns: whether any went.
    mutating func prune(keeping heads: Set<UInt32>) -> Bool {
        var needed: Set<UInt32> = []
        for head in heads where contains(head) {
            needed.insert(head)
            needed.formUnion(ancestors(of: head))
        }
        let before = nodes.count
        nodes.removeAll { !needed.contains($0.number) }
        return nodes.count < before
    }
}
