import Base
import BlockCore
import BlockIO
import BlockManager
import Coordination
import Glibc
import Logging
import Synchronization
import Testing

/// A server or client as the manager sees one: a control connection and what came over it.
final class FakePeer: ControlLinkOwner, @unchecked Sendable {
    // SAFETY: `link` is used on the reactor's thread only; the rest is behind the mutex.
    private let reactor: Reactor
    private var link: ControlLink?
    private let heard = Mutex((messages: [MessageFromManager](), isClosed: false))

    init(_ reactor: Reactor, to address: SocketAddress, saying hello: MessageToManager) {
        self.reactor = reactor
        reactor.perform { [self] in
            link = try? ControlLink(
                to: address, id: LinkID(rawValue: 1), on: reactor, owner: self, logger: Logger(label: "peer"))
            link?.send(hello)
        }
    }

    func send(_ message: MessageToManager) { reactor.perform { [self] in link?.send(message) } }
    func close() { reactor.perform { [self] in link?.close(reason: "test") } }

    func connected(_ link: ControlLink) {}
    func arrived(_ frame: [UInt8], on link: ControlLink) throws(WireError) {
        let message = try ControlFrame.decodeFromManager(frame)
        // Answered as real peers do: who is silent for two seconds is declared down, and a busy machine's tests take longer.
        if message == .keepAlive {
            link.send(.keepAlive([]))
        } else {
            heard.withLock { $0.messages.append(message) }
        }
    }
    func closed(_ link: ControlLink, reason: String) { heard.withLock { $0.isClosed = true } }

    var messages: [MessageFromManager] { heard.withLock { $0.messages } }
    var isClosed: Bool { heard.withLock { $0.isClosed } }
}

/// Polls `condition` for at most a minute.
func eventually(_ condition: @escaping () async -> Bool) async -> Bool {
    let deadline = Reactor.now + .seconds(60)
    while Reactor.now < deadline {
        if await condition() { return true }
        try? await Task.sleep(for: .milliseconds(5))
    }
    return false
}

@Suite struct ManagerServiceTests {
    func serverHello(_ number: UInt64) -> MessageToManager {
        .serverHello(
            ServerHello(
                system: nil, sds: SdsID(rawValue: number), name: "node\(number)", domainName: "pd1",
                address: "127.0.0.1:\(7000 + number)", incarnation: number + 100,
                devices: [
                    DeviceOffer(
                        id: DeviceID(rawValue: number + 10), poolName: "hdd", path: "/d\(number)", capacityUnits: 1000,
                        mountCounter: 1)
                ]))
    }

    /// Runs a manager on a store while `body` uses it.
    func withManager(
        _ backend: CoordinationBackend, _ body: @escaping @Sendable (ManagerService, Reactor) async throws -> Void
    ) async throws {
        var logger = Logger(label: "manager-test")
        logger.logLevel = .critical
        let manager = try ManagerService(
            .init(listen: .inet(host: "127.0.0.1", port: 0)), backend: backend, logger: logger)
        let reactor = try Reactor(name: "peers")
        reactor.start()
        defer { reactor.stop() }
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await manager.run() }
            #expect(await eventually { (try? await manager.state()) != nil })
            try await body(manager, reactor)
            group.cancelAll()
            try? await group.waitForAll()
        }
    }

    @Test func keepsObjectsOverARestart() async throws {
        let backend = try CoordinationBackend.open("memory:")
        let system = Mutex<SystemID?>(nil)
        try await withManager(backend) { manager, reactor in
            let peers = (1...2).map { FakePeer(reactor, to: manager.address, saying: self.serverHello(UInt64($0))) }
            #expect(await eventually { peers.allSatisfy { $0.messages.count >= 2 } })
            guard case .welcomeServer(let id, let sds, _) = peers[0].messages.first else {
                Issue.record("no welcome: \(peers[0].messages)")
                return
            }
            #expect(sds == SdsID(rawValue: 1))
            system.withLock { $0 = id }
            let pool = try #require(try await manager.state().pools.values.first)
            #expect(pool.name == "hdd")
            let reply = try await manager.submit(
                .createVolume(pool: pool.id, name: "v", sizeUnits: 100, provisioning: .thin, createdAt: 0))
            guard case .createdVolume = reply else {
                Issue.record("unexpected \(reply)")
                return
            }
            await #expect(throws: ManagerError.self) {
                try await manager.submit(
                    .createVolume(pool: pool.id, name: "v", sizeUnits: 100, provisioning: .thin, createdAt: 0))
            }
        }
        try await withManager(backend) { manager, _ in
            let state = try await manager.state()
            #expect(state.system.id == system.withLock { $0 })
            #expect(state.volume(named: "v")?.sizeUnits == 100)
            #expect(state.servers.values.map(\.name) == ["node1", "node2"])
        }
    }

    @Test func declaresAServerDownWhoseConnectionBroke() async throws {
        try await withManager(try CoordinationBackend.open("memory:")) { manager, reactor in
            let peer = FakePeer(reactor, to: manager.address, saying: self.serverHello(1))
            #expect(await eventually { (try? await manager.state().servers.values.first?.status) == .up })
            peer.close()
            #expect(await eventually { (try? await manager.state().servers.values.first?.status) == .down })
            #expect(await eventually { (try? await manager.events(after: 0))?.last?.name == "SDS_DECOUPLED" })
            let events = try await manager.events(after: 0)
            #expect(events.map(\.number) == Array(1...UInt64(events.count)))
            #expect(events.first?.name == "SDS_ADDED" && events.last?.object == "Sds::\(SdsID(rawValue: 1))")
        }
    }

    @Test func hangsUpOnWhoSpeaksSomethingElse() async throws {
        try await withManager(try CoordinationBackend.open("memory:")) { manager, reactor in
            let early = FakePeer(reactor, to: manager.address, saying: .keepAlive([]))
            #expect(await eventually { early.isClosed })
            guard case .inet(_, let port) = manager.address else { return }
            var random = SeededRandom(seed: 3)
            for _ in 0..<100 {
                let connection = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
                defer { close(connection) }
                var address = sockaddr_in()
                address.sin_family = sa_family_t(AF_INET)
                address.sin_port = port.bigEndian
                address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
                let connected = withUnsafePointer(to: &address) {
                    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                        connect(connection, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                    }
                }
                try #require(connected == 0)
                let bytes = (0..<Int.random(in: 1...200, using: &random)).map { _ in
                    UInt8.random(in: 0...255, using: &random)
                }
                _ = send(connection, bytes, bytes.count, Int32(MSG_NOSIGNAL))
            }
            let peer = FakePeer(reactor, to: manager.address, saying: self.serverHello(1))
            #expect(await eventually { peer.messages.count >= 2 })
        }
    }
}
