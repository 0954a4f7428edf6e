import Base
import BlockCore
import BlockIO
import BlockManager
import Coordination
import Glibc
import Logging
import Synchronization
import TestKit
import Testing

/// A store whose next commit of a leader ends as it is told.
final class UncertainStore: MetadataStore {
    enum Fault: CaseIterable {
        /// The outcome stays unknown, and the change is stored or not.
        case stored, notStored
    }

    private let store: any MetadataStore
    private let next = Mutex<Fault?>(nil)

    init(_ store: any MetadataStore) { self.store = store }

    func failNext(_ fault: Fault) { next.withLock { $0 = fault } }

    func get(_ key: String) async throws(StoreError) -> VersionedValue? { try await store.get(key) }
    func list(prefix: String) async throws(StoreError) -> [(key: String, value: VersionedValue)] {
        try await store.list(prefix: prefix)
    }
    func watch(prefix: String) async throws(StoreError) -> AsyncStream<StoreEvent> {
        try await store.watch(prefix: prefix)
    }

    func commit(_ changes: [StoreChange], as leader: LeaderEpoch?) async throws(StoreError) -> [UInt64] {
        let isDecision = leader != nil && changes.contains { $0.key.hasPrefix("/block/") }
        let fault = isDecision ? next.withLock { $0.take() } : nil
        if fault == .notStored { throw StoreError(.unavailable, "a test keeps it") }
        let versions = try await store.commit(changes, as: leader)
        if fault == .stored { throw StoreError(.unavailable, "a test hides the outcome") }
        return versions
    }
}

/// Where the managers of a test keep what they know.
enum Engine: String, CaseIterable {
    case memory, zooKeeper

    /// One for all tests; it ends with their process.
    private static let ensemble = Task { try await ZooKeeperEnsemble() }

    func open() async throws -> CoordinationBackend {
        switch self {
        case .memory: return try .open("memory:")
        case .zooKeeper:
            let servers = try await Engine.ensemble.value.servers
            let path = "/managers/\(UInt64.random(in: 0 ... .max))"
            return try .open("zk://\(servers)\(path)", sessionTimeout: .seconds(4))
        }
    }
}

/// Several managers on one store, each of which may be ended.
actor Managers {
    private(set) var all: [ManagerService] = []
    private var tasks: [Task<Void, any Error>] = []

    func start(_ backend: CoordinationBackend, count: Int = 3) async throws {
        var logger = Logger(label: "managers")
        logger.logLevel = .critical
        for _ in 0..<count {
            var configuration = ManagerService.Configuration(listen: .inet(host: "127.0.0.1", port: 0))
            configuration.name = "mdm\(all.count + 1)"
            let manager = try ManagerService(configuration, backend: backend, logger: logger)
            all.append(manager)
            tasks.append(Task { try await manager.run() })
            // In this order they lead.
            #expect(await eventually { manager.leadership() != .nowhere })
        }
        // Each has heard of all.
        for manager in all { #expect(await eventually { (try? await manager.members().count) == count }) }
    }

    func end(_ index: Int) async {
        tasks[index].cancel()
        _ = await tasks[index].result
    }

    func end() async {
        for index in tasks.indices { await end(index) }
    }
}

extension ManagerService {
    var leads: Bool { if case .here = leadership() { true } else { false } }
}

/// Waits for exactly one of them to lead.
func leader(of managers: [ManagerService], butNot former: ManagerService? = nil) async throws -> ManagerService {
    var found: ManagerService?
    #expect(
        await eventually {
            let leaders = managers.filter(\.leads)
            found = leaders.count == 1 && leaders[0] !== former ? leaders[0] : nil
            return found != nil
        })
    return try #require(found)
}

@Suite struct ManagerClusterTests {
    func withManagers(
        _ backend: CoordinationBackend, count: Int = 3, _ body: (Managers, [ManagerService]) async throws -> Void
    ) async throws {
        let managers = Managers()
        do {
            try await managers.start(backend, count: count)
            try await body(managers, await managers.all)
        } catch {
            await managers.end()
            throw error
        }
        await managers.end()
    }

    func domains(_ manager: ManagerService) async throws -> [String] {
        try await manager.state().domains.values.map(\.name)
    }

    @Test func followersSendOthersToTheLeader() async throws {
        try await withManagers(try .open("memory:")) { managers, all in
            let first = try await leader(of: all)
            let reactor = try Reactor(name: "peers")
            reactor.start()
            defer { reactor.stop() }
            let follower = try #require(all.first { $0 !== first })
            #expect(await eventually { follower.leadership() == .elsewhere(gateway: nil) })
            let peer = FakePeer(reactor, to: follower.address, saying: .requestMap)
            #expect(await eventually { peer.isClosed })
            #expect(peer.messages == [.redirect(leader: first.address.description)])
            await #expect(throws: ManagerError.self) { try await follower.state() }
            await #expect(throws: ManagerError.self) {
                try await follower.submit(.createProtectionDomain(name: "x"))
            }
            let someone = try await first.members()[0].id
            await #expect(throws: ManagerError.self) { try await follower.giveLeadership(to: someone) }
        }
    }

    /// A dead manager, one that lets connect and is silent, and a follower come first.
    @Test func aLinkFindsTheLeader() async throws {
        try await withManagers(try .open("memory:")) { managers, all in
            let first = try await leader(of: all)
            let follower = try #require(all.first { $0 !== first })
            let (silent, silentAddress) = try SocketAddress.inet(host: "127.0.0.1", port: 0).listen()
            defer { close(silent) }
            let (dead, deadAddress) = try SocketAddress.inet(host: "127.0.0.1", port: 0).listen()
            close(dead)
            let reactor = try Reactor(name: "link")
            reactor.start()
            defer { reactor.stop() }
            let heard = Mutex((opened: 0, welcomes: 0))
            // SAFETY: used on the reactor's thread only.
            nonisolated(unsafe) var link: ManagerLink?
            let hello = ManagerServiceTests().serverHello(1)
            reactor.perform {
                let made = ManagerLink(
                    [deadAddress, silentAddress, follower.address], on: reactor, logger: Logger(label: "link"))
                made.opened = { [weak made] in
                    heard.withLock { $0.opened += 1 }
                    made?.send(hello)
                }
                made.received = { message in
                    if case .welcomeServer = message { heard.withLock { $0.welcomes += 1 } }
                }
                made.start()
                link = made
            }
            #expect(await eventually { heard.withLock { $0.welcomes } == 1 })
            // And again, when that one goes.
            await managers.end(all.firstIndex { $0 === first } ?? 0)
            #expect(await eventually { heard.withLock { $0.welcomes } == 2 })
            reactor.perform {
                link?.stop()
                link = nil
            }
        }
    }

    @Test(arguments: UncertainStore.Fault.allCases, Engine.allCases)
    func whatIsStoredDecidesAboutAnUncertainChange(_ fault: UncertainStore.Fault, _ engine: Engine) async throws {
        var backend = try await engine.open()
        let store = UncertainStore(backend.store)
        backend.store = store
        try await withManagers(backend) { _, all in
            let first = try await leader(of: all)
            _ = try await first.submit(.createProtectionDomain(name: "before"))
            store.failNext(fault)
            let error = await #expect(throws: ManagerError.self) {
                try await first.submit(.createProtectionDomain(name: "uncertain"))
            }
            #expect(error?.code == .storeFailed)
            let second = try await leader(of: all, butNot: first)
            #expect(!first.leads)
            let expected = fault == .stored ? ["before", "uncertain"] : ["before"]
            #expect(try await domains(second).sorted() == expected)
            // It stands again, behind the others.
            _ = try await second.submit(.createProtectionDomain(name: "after"))
            store.failNext(.notStored)
            _ = try? await second.submit(.createProtectionDomain(name: "lost"))
            let third = try await leader(of: all, butNot: second)
            store.failNext(.notStored)
            _ = try? await third.submit(.createProtectionDomain(name: "lost"))
            let again = try await leader(of: all, butNot: third)
            #expect(again === first)
            #expect(try await domains(again).sorted() == ["after"] + expected)
        }
    }

    /// Another process has been elected, and this one has not heard of it.
    @Test func aDeposedLeaderDecidesNothing() async throws {
        let store = try EmbeddedStore(path: nil)
        func backend() -> CoordinationBackend {
            CoordinationBackend(store: store, election: EmbeddedElection(store: store))
        }
        let former = Managers()
        try await former.start(backend(), count: 1)
        let old = await former.all[0]
        #expect(await eventually { old.leads })
        _ = try await old.submit(.createProtectionDomain(name: "old"))
        try await withManagers(backend(), count: 1) { _, all in
            #expect(await eventually { all[0].leads })
            _ = try await all[0].submit(.createProtectionDomain(name: "new"))
            let error = await #expect(throws: ManagerError.self) {
                try await old.submit(.createProtectionDomain(name: "fenced"))
            }
            #expect(error?.code == .storeFailed)
            // Being alone in its election it leads once more, with what the other one decided.
            #expect(await eventually { (try? await domains(old).sorted()) == ["new", "old"] })
        }
        await former.end()
    }

    @Test(arguments: Engine.allCases) func ownershipIsHandedOver(_ engine: Engine) async throws {
        try await withManagers(try await engine.open()) { _, all in
            let first = try await leader(of: all)
            _ = try await first.submit(.createProtectionDomain(name: "pd"))
            let members = try await first.members()
            #expect(members.map(\.name) == ["mdm1", "mdm2", "mdm3"])
            #expect(members.map(\.isLeader) == [true, false, false])
            #expect(members.allSatisfy { $0.isPresent })
            // Not the next in turn, but the one after it.
            try await first.giveLeadership(to: members[2].id)
            let third = try await leader(of: all, butNot: first)
            #expect(third === all[2])
            #expect(try await domains(third) == ["pd"])
            try await third.giveLeadership(to: members[2].id)
            #expect(third.leads)
            let unknown = await #expect(throws: ManagerError.self) {
                try await third.giveLeadership(to: ManagerID(rawValue: 7))
            }
            #expect(unknown?.code == .managerNotFound)
        }
    }

    /// The preferred one died a moment ago and nobody knows.
    @Test(arguments: Engine.allCases) func aDeadPreferredManagerBlocksNobody(_ engine: Engine) async throws {
        try await withManagers(try await engine.open()) { managers, all in
            let first = try await leader(of: all)
            guard case .here(let term) = first.leadership() else { return }
            let dead = try #require(try await first.members().last)
            await managers.end(2)
            let handing = Task { try await first.giveLeadership(to: dead.id) }
            let isDecided = await eventually {
                all.contains { if case .here(let later) = $0.leadership() { later > term + 1 } else { false } }
            }
            #expect(isDecided)
            handing.cancel()
            await #expect(throws: ManagerError.self) { try await handing.value }
            let next = try await leader(of: Array(all[..<2]))
            _ = try await next.submit(.createProtectionDomain(name: "pd"))
        }
    }
}
