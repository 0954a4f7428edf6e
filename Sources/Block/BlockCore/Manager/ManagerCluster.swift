/// Names a manager over its restarts.
public struct ManagerID: BlockStoreID {
    public var rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// One of the managers that stand for leadership, as an operator sees it.
public struct ManagerMember: Hashable, Sendable {
    public var id: ManagerID
    public var name: String
    /// Where servers and clients reach it, `host:port`.
    public var address: String
    /// Where the other managers reach its gateway over plain HTTP, `host:port`; nil when they cannot.
    public var gateway: String?
    public var isLeader = false
    /// Whether it gave a sign of life lately.
    public var isPresent = true

    public init(id: ManagerID, name: String, address: String, gateway: String?) {
        self.id = id
        self.name = name
        self.address = address
        self.gateway = gateway
    }
}

/// Who leads, as one manager knows it.
public enum ManagerLeadership: Equatable, Sendable {
    /// This manager. Whoever keeps something of the store in memory reads it anew when the term is another.
    case here(term: UInt64)
    /// Another one, whose gateway is there (nil: not to be reached).
    case elsewhere(gateway: String?)
    case nowhere
}

/// The managers among themselves, for the Gateway.
public protocol ManagerClusterPort: Sendable {
    func leadership() -> ManagerLeadership
    /// All that are known, in order of their names.
    func members() async throws(ManagerError) -> [ManagerMember]
    /// Has another manager lead; returns when it does. Only the leader can do this.
    func giveLeadership(to member: ManagerID) async throws(ManagerError)
}
