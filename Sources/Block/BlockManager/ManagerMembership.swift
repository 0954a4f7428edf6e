import Base
import BlockCore
import BlockIO
import Coordination

/// What the managers tell each other through the store: each keeps a record of itself, and an operator's wish who shall
/// lead lies beside them. See docs/formats/manager-store.md.
actor ManagerMembership {
    private static let memberPrefix = "/block-cluster/member/"
    private static let wishKey = "/block-cluster/preferred"
    /// How often each manager renews its record.
    static let interval = Duration.seconds(5)
    /// A record that is not renewed for so long is of a manager that is gone. Measured with the observer's own clock.
    private static let absentAfter = Duration.seconds(16)
    /// A manager that nobody has heard for so long was taken out of service.
    private static let forgottenAfter = Duration.seconds(24 * 3600)
    /// How many leaders give way to the preferred one before one of them stays: it may be dead.
    private static let givingWayMax: Int64 = 8

    private let own: ManagerMember
    private let store: any MetadataStore
    /// For each record the version seen last, and since when.
    private var seen: [String: (version: UInt64, since: Instant)] = [:]
    /// In order of their names.
    private var found: [(key: String, member: ManagerMember)] = []
    private var readAt: Instant?

    init(own: ManagerMember, store: any MetadataStore) {
        self.own = own
        self.store = store
    }

    /// A manager as its record and its candidacy describe it.
    static func document(_ member: ManagerMember) -> JSONValue {
        var document: JSONValue = [
            "id": .string(member.id.description), "name": .string(member.name), "control": .string(member.address),
        ]
        document["gateway"] = member.gateway.map(JSONValue.string)
        return document
    }

    static func member(_ document: JSONValue) -> ManagerMember? {
        guard let id = document["id"]?.string.flatMap({ ManagerID($0) }), let name = document["name"]?.string,
            let address = document["control"]?.string
        else { return nil }
        return ManagerMember(id: id, name: name, address: address, gateway: document["gateway"]?.string)
    }

    /// Tells the others that this manager lives.
    func renew() async throws(StoreError) {
        let key = ManagerMembership.memberPrefix + own.id.description
        try await store.commit([.put(key: key, bytes: ManagerMembership.document(own).bytes, expected: .any)])
    }

    /// All managers; up to a second old, since every look at the system shows them.
    func members(leader: ManagerID?) async throws(StoreError) -> [ManagerMember] {
        if readAt.map({ Reactor.now - $0 >= .seconds(1) }) ?? true { try await read() }
        let now = Reactor.now
        return found.map { key, member in
            var member = member
            let isRenewed = seen[key].map { now - $0.since < ManagerMembership.absentAfter } ?? false
            member.isLeader = member.id == leader
            member.isPresent = member.isLeader || member.id == own.id || isRenewed
            return member
        }
    }

    private func read() async throws(StoreError) {
        let records = try await store.list(prefix: ManagerMembership.memberPrefix)
        let now = Reactor.now
        found = []
        var known: [String: (version: UInt64, since: Instant)] = [:]
        for (key, value) in records {
            let since = seen[key].flatMap { $0.version == value.version ? $0.since : nil } ?? now
            known[key] = (value.version, since)
            if let document = try? JSONValue(parsing: value.bytes), let member = ManagerMembership.member(document) {
                found.append((key, member))
            }
        }
        seen = known
        readAt = now
        found.sort { ($0.member.name, $0.member.id) < ($1.member.name, $1.member.id) }
    }

    /// Looks at the others' records, and lets the leader remove those of managers long gone.
    func observe(as leader: LeaderEpoch?) async throws(StoreError) {
        try await read()
        guard let leader else { return }
        let now = Reactor.now
        let gone = seen.filter { now - $0.value.since >= ManagerMembership.forgottenAfter }
        let changes = gone.map { StoreChange.delete(key: $0.key, expected: .version($0.value.version)) }
        if !changes.isEmpty { try await store.commit(changes, as: leader) }
    }

    // MARK: Who shall lead

    /// Notes that `member` shall lead.
    func prefer(_ member: ManagerID, as leader: LeaderEpoch) async throws(StoreError) {
        let wish: JSONValue = [
            "id": .string(member.description), "left": .integer(ManagerMembership.givingWayMax),
        ]
        try await store.commit(
            [.put(key: ManagerMembership.wishKey, bytes: wish.bytes, expected: .any)], as: leader)
    }

    /// Whether this manager, elected just now, has to give way to the one that an operator prefers. Counts how often
    /// that happened, so that it ends.
    func mustGiveWay(as leader: LeaderEpoch) async throws(StoreError) -> Bool {
        guard let stored = try await store.get(ManagerMembership.wishKey) else { return false }
        let wish = try? JSONValue(parsing: stored.bytes)
        let left = wish?["left"]?.integer ?? 0
        let isOther = wish?["id"]?.string.map { $0 != own.id.description } ?? false
        let change: StoreChange
        if isOther, left > 0, var wish {
            wish["left"] = .integer(left - 1)
            change = .put(key: ManagerMembership.wishKey, bytes: wish.bytes, expected: .version(stored.version))
        } else {
            change = .delete(key: ManagerMembership.wishKey, expected: .version(stored.version))
        }
        try await store.commit([change], as: leader)
        return isOther && left > 0
    }
}
