import Base
import BlockClient
import BlockCore
import BlockIO
import BlockManager
import BlockServer
import Coordination
import Glibc
import Logging
import Synchronization
import Testing

/// A whole block store in this process: manager, servers and clients on loopback, devices in a temporary directory.
actor StoreCluster {
    let directory = TemporaryDirectory()
    let manager: ManagerService
    private let logger: Logger
    private var tasks: [String: Task<Void, any Error>] = [:]
    private var ports: [Int: UInt16] = [:]

    init(logger: Logger = quietLogger()) throws {
        self.logger = logger
        manager = try ManagerService(
            .init(listen: .inet(host: "127.0.0.1", port: 0)), backend: try CoordinationBackend.open("memory:"),
            logger: logger)
    }

    /// Where the servers serve data.
    var dataPorts: [Int] { ports.values.map(Int.init).sorted() }

    func startManager() async -> Bool {
        let manager = manager
        tasks["manager"] = Task { try await manager.run() }
        return await until { (try? await manager.state()) != nil }
    }

    /// Starts server `number`; a restarted one finds its device again and gets its old port.
    func startServer(_ number: Int) async -> Bool {
        var configuration = BlockServerService.Configuration(
            managers: [manager.address], listen: .inet(host: "127.0.0.1", port: ports[number] ?? 0),
            name: "node\(number)", protectionDomain: "pd1", storagePool: "hdd",
            devices: ["\(directory.path)/device\(number)"])
        configuration.deviceSize = 256 << 20
        let logger = logger
        let deadline = Reactor.now + .seconds(10)
        while Reactor.now < deadline {
            let service = BlockServerService(configuration, logger: logger)
            let task = Task { try await service.run() }
            tasks["server\(number)"] = task
            // The predecessor may hold the device for a moment longer.
            let isUp = await until(seconds: 2) { service.address != nil }
            if isUp, case .inet(_, let port) = service.address {
                ports[number] = port
                return true
            }
            task.cancel()
        }
        return false
    }

    func startClient(_ name: String) {
        let random = UInt64.random(in: 0...UInt64.max).hex
        var configuration = BlockClientService.Configuration(
            managers: [manager.address], guid: "\(random.prefix(8))-0000-4000-8000-000000000001".uppercased(),
            name: name,
            ip: "127.0.0.1")
        configuration.frontEnds = .nbd
        configuration.nbdDirectory = "\(directory.path)/\(name)"
        configuration.controlPath = "\(directory.path)/\(name).sock"
        configuration.workDirectory = "\(directory.path)/\(name)-work"
        configuration.holdTime = .seconds(20)
        let service = BlockClientService(configuration, logger: logger)
        tasks[name] = Task { try await service.run() }
    }

    /// Ends a part at once: its connections break and nothing is said to anybody.
    func kill(_ name: String) async {
        tasks[name]?.cancel()
        _ = await tasks.removeValue(forKey: name)?.result
    }

    func stop() async {
        for name in tasks.keys.sorted() { await kill(name) }
    }

    func until(seconds: Int = 20, _ condition: @escaping @Sendable () async -> Bool) async -> Bool {
        let deadline = Reactor.now + .seconds(seconds)
        while Reactor.now < deadline {
            if await condition() { return true }
            try? await Task.sleep(for: .milliseconds(10))
        }
        return false
    }

    func makeVolume(_ name: String, units: UInt32 = 64) async throws -> VolumeID {
        let state = try await manager.state()
        let pool = try #require(state.domain(named: "pd1").flatMap { state.pool(named: "hdd", in: $0.id) })
        let reply = try await manager.submit(
            .createVolume(pool: pool.id, name: name, sizeUnits: units, provisioning: .thin, createdAt: 0))
        guard case .createdVolume(let id) = reply else { throw ManagerError(.malformed, "unexpected \(reply)") }
        return id
    }

    func client(_ name: String) async throws -> SdcID {
        let manager = manager
        #expect(await until { (try? await manager.state().clients.values.contains { $0.name == name }) ?? false })
        return try #require(try await manager.state().clients.values.first { $0.name == name }).id
    }

    func map(_ volume: VolumeID, to name: String, preempt: Bool = false) async throws -> String {
        let sdc = try await client(name)
        _ = try await manager.submit(.map(volume, sdc, mode: .readWrite, allowMultiple: false, preempt: preempt))
        let path = "\(directory.path)/\(name)/\(volume).sock"
        #expect(await until { access(path, F_OK) == 0 })
        return "nbd+unix:///\(volume)?socket=\(path)"
    }
}

@Suite(.serialized) struct StoreClusterTests {
    func fio(_ uri: String, _ arguments: String...) async -> (status: Int32, output: String) {
        let words =
            [
                "--name=v", "--ioengine=nbd", "--uri=\(uri)", "--bs=4k", "--iodepth=16", "--verify=crc32c",
                "--verify_state_save=0", "--minimal",
            ] + arguments
        return await withCheckedContinuation { continuation in
            startThread(name: "fio") { continuation.resume(returning: runTool("fio", words)) }
        }
    }

    func withCluster(servers: Int = 3, _ body: (StoreCluster) async throws -> Void) async throws {
        let cluster = try StoreCluster()
        #expect(await cluster.startManager())
        for number in 1...servers { #expect(await cluster.startServer(number)) }
        let manager = cluster.manager
        #expect(
            await cluster.until {
                (try? await manager.state().servers.values.filter { $0.status == .up }.count) == servers
            })
        do {
            try await body(cluster)
        } catch {
            await cluster.stop()
            throw error
        }
        await cluster.stop()
    }

    @Test func writesAndReadsBackWhatAServerKilledInBetweenDidNotKeep() async throws {
        try await withCluster { cluster in
            await cluster.startClient("c1")
            let volume = try await cluster.makeVolume("v")
            let uri = try await cluster.map(volume, to: "c1")
            let written = await fio(uri, "--rw=randwrite", "--size=16m", "--do_verify=1", "--randseed=1")
            #expect(written.status == 0, "\(written.output)")
            // The next run writes and verifies while a server goes away in its middle.
            async let running = fio(
                uri, "--rw=randwrite", "--size=32m", "--io_size=32m", "--rate_iops=4000", "--do_verify=1",
                "--randseed=2")
            try await Task.sleep(for: .milliseconds(500))
            await cluster.kill("server1")
            let result = await running
            #expect(result.status == 0, "\(result.output)")
            // Two copies again on the two that remain.
            let manager = cluster.manager
            let isWhole = await cluster.until {
                guard let state = try? await manager.state(), let pool = state.pools.values.first else { return false }
                return state.health(of: pool.id).normal == pool.combs.count
            }
            #expect(isWhole)
            // And the data is there when the other original goes as well.
            await cluster.kill("server2")
            let verified = await fio(
                uri, "--rw=randwrite", "--size=32m", "--io_size=32m", "--verify_only=1", "--randseed=2")
            #expect(verified.status == 0, "\(verified.output)")
        }
    }

    @Test func aRemapFencesTheFirstClient() async throws {
        try await withCluster { cluster in
            await cluster.startClient("c1")
            await cluster.startClient("c2")
            let volume = try await cluster.makeVolume("v")
            let first = try await cluster.map(volume, to: "c1")
            #expect(await fio(first, "--rw=write", "--size=4m", "--do_verify=1", "--randseed=3").status == 0)
            async let zombie = fio(
                first, "--rw=randwrite", "--size=4m", "--io_size=400m", "--rate_iops=2000", "--do_verify=0")
            try await Task.sleep(for: .milliseconds(500))
            let second = try await cluster.map(volume, to: "c2", preempt: true)
            let result = await zombie
            #expect(result.status != 0, "the first client went on writing")
            let written = await fio(second, "--rw=write", "--size=4m", "--do_verify=1", "--randseed=4")
            #expect(written.status == 0, "\(written.output)")
        }
    }

    @Test func restartedServersAndManagerHaveTheData() async throws {
        try await withCluster(servers: 2) { cluster in
            await cluster.startClient("c1")
            let volume = try await cluster.makeVolume("v")
            let uri = try await cluster.map(volume, to: "c1")
            #expect(await fio(uri, "--rw=write", "--size=8m", "--do_verify=1", "--randseed=5").status == 0)
            await cluster.kill("server1")
            await cluster.kill("server2")
            #expect(await cluster.startServer(1))
            #expect(await cluster.startServer(2))
            let verified = await fio(uri, "--rw=write", "--size=8m", "--verify_only=1", "--randseed=5")
            #expect(verified.status == 0, "\(verified.output)")
        }
    }
}
