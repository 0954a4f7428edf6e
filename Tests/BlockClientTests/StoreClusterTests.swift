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

/// A whole block store in this process: managers, servers and clients on loopback, devices in a temporary directory.
actor StoreCluster {
    let directory = TemporaryDirectory()
    let managers: [ManagerService]
    private let logger: Logger
    private var tasks: [String: Task<Void, any Error>] = [:]
    private var ports: [Int: UInt16] = [:]

    init(managers count: Int = 1, logger: Logger = quietLogger()) throws {
        self.logger = logger
        let backend = try CoordinationBackend.open("memory:")
        managers = try (1...count).map { number in
            var configuration = ManagerService.Configuration(listen: .inet(host: "127.0.0.1", port: 0))
            configuration.name = "mdm\(number)"
            return try ManagerService(configuration, backend: backend, logger: logger)
        }
    }

    /// The one that leads; any while none does.
    nonisolated var manager: ManagerService { leaders.first ?? managers[0] }

    nonisolated var leaders: [ManagerService] {
        managers.filter { if case .here = $0.leadership() { true } else { false } }
    }

    /// Where the servers serve data.
    var dataPorts: [Int] { ports.values.map(Int.init).sorted() }

    func startManager() async -> Bool {
        for (index, manager) in managers.enumerated() {
            tasks["manager\(index)"] = Task { try await manager.run() }
        }
        return await until { (try? await self.manager.state()) != nil }
    }

    /// Ends the manager that leads; answers it.
    func killLeader() async -> ManagerService {
        let leader = manager
        await kill("manager\(managers.firstIndex { $0 === leader } ?? 0)")
        return leader
    }

    /// Starts server `number`; a restarted one finds its device again and gets its old port.
    func startServer(_ number: Int) async -> Bool {
        var configuration = BlockServerService.Configuration(
            managers: managers.map(\.address), listen: .inet(host: "127.0.0.1", port: ports[number] ?? 0),
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

    func startClient(
        _ name: String, _ frontEnds: BlockClientService.FrontEnd = .nbd,
        driver: BlockClientService.DeviceDriver? = nil
    ) {
        let random = UInt64.random(in: 0...UInt64.max).hex
        var configuration = BlockClientService.Configuration(
            managers: managers.map(\.address), guid: "\(random.prefix(8))-0000-4000-8000-000000000001".uppercased(),
            name: name,
            ip: "127.0.0.1")
        configuration.frontEnds = frontEnds
        configuration.deviceDriver = driver
        configuration.deviceDirectory = "\(directory.path)/\(name)-devices"
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

    func makeVolume(
        _ name: String, units: UInt32 = 64, _ provisioning: Volume.Provisioning = .thin
    ) async throws -> VolumeID {
        let state = try await manager.state()
        let pool = try #require(state.domain(named: "pd1").flatMap { state.pool(named: "hdd", in: $0.id) })
        let reply = try await manager.submit(
            .createVolume(pool: pool.id, name: name, sizeUnits: units, provisioning: provisioning, createdAt: 0))
        guard case .createdVolume(let id) = reply else { throw ManagerError(.malformed, "unexpected \(reply)") }
        return id
    }

    func client(_ name: String) async throws -> SdcID {
        let manager = manager
        #expect(await until { (try? await manager.state().clients.values.contains { $0.name == name }) ?? false })
        return try #require(try await manager.state().clients.values.first { $0.name == name }).id
    }

    func map(
        _ volume: VolumeID, to name: String, preempt: Bool = false, sharing isShared: Bool = false
    ) async throws -> String {
        let sdc = try await client(name)
        _ = try await manager.submit(.map(volume, sdc, mode: .readWrite, allowMultiple: isShared, preempt: preempt))
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
                // As a process of a session of its own it would outlive the patience of `runTool`.
                "--thread",
            ] + arguments
        return await withCheckedContinuation { continuation in
            startThread(name: "fio") { continuation.resume(returning: runTool("fio", words)) }
        }
    }

    func withCluster(
        managers: Int = 1, servers: Int = 3, _ body: (StoreCluster) async throws -> Void
    ) async throws {
        let cluster = try StoreCluster(managers: managers)
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
            // Not at a rate: where it waits for its turn, fio takes no notice of a connection that has ended.
            async let zombie = fio(
                first, "--rw=randwrite", "--size=4m", "--time_based", "--runtime=50", "--do_verify=0")
            try await Task.sleep(for: .milliseconds(500))
            let second = try await cluster.map(volume, to: "c2", preempt: true)
            let result = await zombie
            // 0: nothing refused it. 124 and 137: it was ended because it did not end.
            #expect(![0, 124, 137].contains(result.status), "status \(result.status): \(result.output.suffix(500))")
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

    /// Every `stride`-th block with data of a server's device is changed behind its back; says how many were.
    private func spoil(_ path: String, stride: Int) -> Int {
        let descriptor = open(path, O_RDWR)
        guard descriptor >= 0 else { return 0 }
        defer { close(descriptor) }
        var (block, offset, seen, spoilt) = ([UInt8](repeating: 0, count: 4096), off_t(8 << 20), 0, 0)
        while pread(descriptor, &block, 4096, offset) == 4096 {
            if block.contains(where: { $0 != 0 }) {
                seen += 1
                if seen % stride == 0 {
                    block[100] ^= 0x40
                    if pwrite(descriptor, block, 4096, offset) == 4096 { spoilt += 1 }
                }
            }
            offset += 4096
        }
        fdatasync(descriptor)
        return spoilt
    }

    /// What a disk returns instead of what was written reaches nobody, and is written again from the other copy, whether
    /// somebody reads it or not.
    @Test func damageOfADeviceIsMendedFromTheOtherCopy() async throws {
        try await withCluster(servers: 2) { cluster in
            await cluster.startClient("c1")
            let volume = try await cluster.makeVolume("v")
            let uri = try await cluster.map(volume, to: "c1")
            #expect(await fio(uri, "--rw=write", "--size=8m", "--do_verify=1", "--randseed=7").status == 0)
            let path = "\(cluster.directory.path)/device1"
            let spoilt = spoil(path, stride: 40)
            #expect(spoilt > 20)
            let verified = await fio(uri, "--rw=write", "--size=8m", "--verify_only=1", "--randseed=7")
            #expect(verified.status == 0, "\(verified.output)")
            // The scanner finds those that are in a secondary's copy once their units rest.
            let manager = cluster.manager
            let isMended = await cluster.until(seconds: 60) {
                guard let known = try? await manager.state().integrity.values else { return false }
                return known.reduce(0) { $0 + $1.found } >= UInt64(spoilt)
                    && known.reduce(0) { $0 + $1.mended } >= UInt64(spoilt)
                    && known.allSatisfy { $0.damagedBlocks == 0 && $0.differing == 0 }
            }
            let state = try await manager.state()
            #expect(isMended, "\(spoilt) blocks were spoilt; \(state.integrity)")
            #expect(state.devices.values.allSatisfy { $0.status == .normal })
        }
    }

    /// I/Os per second that a fio run of some seconds was served.
    func rate(_ uri: String, seconds: Int) async -> Double? {
        let result = await fio(
            uri, "--rw=randread", "--size=16m", "--time_based", "--runtime=\(seconds)", "--verify=0")
        let fields = result.output.split(separator: ";", omittingEmptySubsequences: false)
        #expect(result.status == 0, "\(result.output)")
        return fields.count > 7 ? Double(fields[7]) : nil
    }

    @Test func limitsHoldAndChangeUnderLoad() async throws {
        try await withCluster(servers: 2) { cluster in
            await cluster.startClient("c1")
            let volume = try await cluster.makeVolume("v")
            let uri = try await cluster.map(volume, to: "c1")
            let client = try await cluster.client("c1")
            _ = try await cluster.manager.submit(.setMappingLimits(volume, client, iops: 500, kibibytesPerSecond: 0))
            let slow = try #require(await rate(uri, seconds: 3))
            #expect((475...525).contains(slow), "\(slow)")
            _ = try await cluster.manager.submit(.setMappingLimits(volume, client, iops: 0, kibibytesPerSecond: 1024))
            let narrow = try #require(await rate(uri, seconds: 3))
            #expect((243...269).contains(narrow), "256 of 4 KiB, not \(narrow)")
            // Half the time under the old limit, half under the new one.
            async let running = rate(uri, seconds: 4)
            try await Task.sleep(for: .milliseconds(2200))
            _ = try await cluster.manager.submit(.setMappingLimits(volume, client, iops: 0, kibibytesPerSecond: 4096))
            let mixed = try #require(await running)
            #expect((500...800).contains(mixed), "\(mixed)")
            _ = try await cluster.manager.submit(.setMappingLimits(volume, client, iops: 0, kibibytesPerSecond: 0))
            let free = try #require(await rate(uri, seconds: 2))
            #expect(free > 1500, "\(free)")
        }
    }

    // MARK: Space

    /// Units in use on all devices together.
    func usedUnits(_ cluster: StoreCluster) async -> UInt32? {
        try? await cluster.manager.state().usedUnits.values.reduce(0, +)
    }

    func run(_ tool: String, _ arguments: String...) async -> (status: Int32, output: String) {
        await run(tool, arguments)
    }

    func run(_ tool: String, _ arguments: [String]) async -> (status: Int32, output: String) {
        await withCheckedContinuation { continuation in
            startThread(name: "tool") { continuation.resume(returning: runTool(tool, arguments)) }
        }
    }

    @Test func discardsAndZeroesOverNBDGiveSpaceBack() async throws {
        try await withCluster(servers: 2) { cluster in
            await cluster.startClient("c1")
            let volume = try await cluster.makeVolume("v")
            let uri = try await cluster.map(volume, to: "c1")
            #expect(await run("qemu-io", "-f", "raw", "-c", "write -P 7 1M 16M", uri).status == 0)
            #expect(await cluster.until { await usedUnits(cluster) == 32 })
            let map = await run("nbdinfo", "--map", uri).output.split(separator: "\n").map {
                $0.split(separator: " ").prefix(3).joined(separator: " ")
            }
            #expect(map == ["0 1048576 3", "1048576 16777216 0", "17825792 49283072 3"])
            // Eight whole units, and one in two halves.
            let zeroed = await run(
                "qemu-io", "-f", "raw", "-c", "discard 1M 4M", "-c", "write -z -u 5M 4M", "-c", "discard 9M 512k",
                "-c", "write -z -u 9728k 512k", "-c", "read -P 0 1M 9M", "-c", "read -P 7 10M 7M", uri)
            #expect(zeroed.status == 0 && !zeroed.output.contains("failed"), "\(zeroed.output)")
            #expect(await cluster.until { await usedUnits(cluster) == 14 })
            // Both copies gave it back, and it stays away.
            await cluster.kill("server1")
            await cluster.kill("server2")
            #expect(await cluster.startServer(1))
            #expect(await cluster.startServer(2))
            let again = await run("qemu-io", "-f", "raw", "-c", "read -P 0 1M 9M", "-c", "read -P 7 10M 7M", uri)
            #expect(again.status == 0 && !again.output.contains("failed"), "\(again.output)")
            #expect(await cluster.until { await usedUnits(cluster) == 14 })
            // A removed volume takes nothing either, soon.
            _ = try await cluster.manager.submit(.removeVolume(volume, unmapping: true))
            #expect(await cluster.until(seconds: 5) { await usedUnits(cluster) == 0 })
        }
    }

    /// Two devices of 256 MiB, of which a tenth is spare.
    @Test func aFullPoolRefusesWhatNeedsSpaceAndNothingElse() async throws {
        try await withCluster(servers: 2) { cluster in
            await cluster.startClient("c1")
            let uri = try await cluster.map(try await cluster.makeVolume("v", units: 320), to: "c1")
            let filled = await run(
                "qemu-io", "-f", "raw", "-c", "write -P 1 0 128M", "-c", "write -P 2 128M 64M", "-c",
                "write -P 3 192M 64M", uri)
            #expect(filled.output.contains("No space left on device"), "\(filled.output)")
            let state = try await cluster.manager.state()
            let isTold = await cluster.until {
                let alerts = try? await cluster.manager.state().alerts
                return alerts?.contains { $0.kind == .capacityUtilizationAboveCriticalThreshold } == true
            }
            #expect(isTold)
            #expect(state.pools.values.allSatisfy { state.health(of: $0.id).normal == $0.combs.count })
            let served = await run(
                "qemu-io", "-f", "raw", "-c", "read -P 1 0 128M", "-c", "read -P 2 128M 64M", "-c", "write -P 4 0 64M",
                "-c", "flush", "-c", "discard 64M 32M", "-c", "write -P 5 288M 32M", "-c", "read -P 5 288M 32M", "-c",
                "read -P 4 0 64M", "-c", "read -P 0 64M 32M", uri)
            let isWell = served.status == 0 && !served.output.contains("failed") && !served.output.contains("No space")
            #expect(isWell, "\(served.output)")
        }
    }

    /// A thin volume fills what is not promised, and the thick one finds its room afterwards.
    @Test func aThickVolumeHasRoomForAllOfIt() async throws {
        try await withCluster(servers: 2) { cluster in
            await cluster.startClient("c1")
            let thick = try await cluster.map(try await cluster.makeVolume("thick", units: 128, .thick), to: "c1")
            let thin = try await cluster.map(try await cluster.makeVolume("thin", units: 320), to: "c1")
            let filled = await run("qemu-io", "-f", "raw", "-c", "write -P 1 0 96M", "-c", "write -P 2 96M 64M", thin)
            #expect(filled.output.contains("No space left on device"), "\(filled.output)")
            let written = await run(
                "qemu-io", "-f", "raw", "-c", "write -P 3 0 128M", "-c", "read -P 3 0 128M", thick)
            #expect(written.status == 0 && !written.output.contains("failed"), "\(written.output)")
            let kept = await run("qemu-io", "-f", "raw", "-c", "read -P 1 0 96M", thin)
            #expect(kept.status == 0 && !kept.output.contains("failed"), "\(kept.output)")
            let manager = cluster.manager
            #expect(
                await cluster.until {
                    let state = try? await manager.state()
                    return state?.thickUnits.values.allSatisfy { $0 == 128 } == true
                })
        }
    }

    /// A volume as a block device of this host; the path of the link to it.
    func attach(
        _ volume: VolumeID, _ cluster: StoreCluster, by driver: BlockClientService.DeviceDriver? = nil
    ) async throws -> String {
        await cluster.startClient("c1", [.device, .nbd], driver: driver)
        _ = try await cluster.map(volume, to: "c1")
        let devices = "\(cluster.directory.path)/c1-devices"
        #expect(await cluster.until { await run("ls", devices).output.contains("\(volume)") })
        return devices + "/" + (await run("ls", devices).output.prefix { $0 != "\n" })
    }

    @Test func fstrimGivesSpaceBack() async throws {
        try await withCluster(servers: 2) { cluster in
            let link = try await attach(try await cluster.makeVolume("v"), cluster)
            let mountPoint = "\(cluster.directory.path)/fs"
            #expect(await run("mkfs.ext4", "-q", link).status == 0)
            let fresh = try #require(await usedUnits(cluster))
            mkdir(mountPoint, 0o700)
            try #require(await run("mount", link, mountPoint).status == 0)
            let filled = await run(
                "dd", "if=/dev/urandom", "of=\(mountPoint)/file", "bs=1M", "count=32", "conv=fsync")
            #expect(filled.status == 0, "\(filled.output)")
            #expect(await cluster.until { await usedUnits(cluster) ?? 0 >= fresh + 64 })
            #expect(await run("rm", "\(mountPoint)/file").status == 0)
            _ = await run("sync", "-f", mountPoint)
            let trimmed = await run("fstrim", "-v", mountPoint)
            #expect(trimmed.status == 0, "\(trimmed.output)")
            #expect(await cluster.until { await usedUnits(cluster) ?? .max <= fresh + 16 })
            #expect(await run("umount", mountPoint).status == 0)
            #expect(await run("e2fsck", "-fn", link).status == 0)
        }
    }

    /// xfs, since a kernel lets ext4 grow only for those who have CAP_SYS_RESOURCE.
    @Test func aMountedFilesystemGrows() async throws {
        try await withCluster(servers: 2) { cluster in
            let volume = try await cluster.makeVolume("v", units: 320)
            let link = try await attach(volume, cluster)
            let mountPoint = "\(cluster.directory.path)/fs"
            #expect(await run("mkfs.xfs", "-q", link).status == 0)
            mkdir(mountPoint, 0o700)
            try #require(await run("mount", link, mountPoint).status == 0)
            _ = try await cluster.manager.submit(.resizeVolume(volume, sizeUnits: 400))
            #expect(await cluster.until { await run("blockdev", "--getsize64", link).output == "\(400 << 20)\n" })
            let grown = await run("xfs_growfs", mountPoint)
            #expect(grown.status == 0, "\(grown.output)")
            let size = await run("df", "--output=size", "-m", mountPoint).output.split(separator: "\n").last
            #expect(Int(size?.split(separator: " ").first ?? "") ?? 0 > 320, "\(size ?? "")")
            let more = await run("dd", "if=/dev/urandom", "of=\(mountPoint)/large", "bs=1M", "count=90", "conv=fsync")
            #expect(more.status == 0, "\(more.output)")
            #expect(await run("umount", mountPoint).status == 0)
            #expect(await run("xfs_repair", "-n", link).status == 0)
        }
    }

    // MARK: Three managers

    func generations(_ state: SystemState) -> [SdsID: UInt32] {
        Dictionary(uniqueKeysWithValues: state.servers.values.map { ($0.id, $0.generation) })
    }

    /// The leader dies with a change of rights in its hands, again and again, while a client writes.
    @Test func changesOfRightsOutliveTheirManagers() async throws {
        try await withCluster(managers: 3) { cluster in
            await cluster.startClient("c1")
            let volume = try await cluster.makeVolume("v")
            let other = try await cluster.makeVolume("other")
            let uri = try await cluster.map(volume, to: "c1")
            let client = try await cluster.client("c1")
            let before = try await cluster.manager.state()
            async let running = fio(
                uri, "--rw=randwrite", "--size=32m", "--io_size=32m", "--rate_iops=1500", "--do_verify=1",
                "--randseed=11")
            for round in 0..<2 {
                let old = cluster.manager
                let epoch = try await old.state().volumes[other]?.attachEpoch ?? 0
                let wanted: ManagerCommand =
                    round == 0
                    ? .map(other, client, mode: .readWrite, allowMultiple: false, preempt: false)
                    : .unmap(other, client)
                let change = Task { try await old.submit(wanted) }
                _ = await cluster.killLeader()
                let answer = await change.result
                #expect(await cluster.until { cluster.leaders.count == 1 && cluster.manager !== old })
                let new = cluster.manager
                // What the new leader has read decides; asking again ends in the same place.
                let isMapped = try await new.state().volumes[other]?.mapping(of: client) != nil
                let isDone = isMapped == (round == 0)
                if case .success = answer { #expect(isDone, "an answered change is gone") }
                do {
                    _ = try await new.submit(wanted)
                } catch {
                    // Refused as done already; while its proof is still being gathered it is answered like the first.
                    #expect(isDone, "\(error)")
                }
                #expect(try await new.state().volumes[other]?.attachEpoch == epoch + 1)
            }
            let result = await running
            #expect(result.status == 0, "\(result.output)")
            let after = try await cluster.manager.state()
            #expect(after.volumes.values.map(\.id).sorted() == [volume, other].sorted())
            #expect(after.volumes[volume] == before.volumes[volume])
            // Nobody was declared down, nobody had to begin anew.
            #expect(await cluster.until { (try? await cluster.manager.state().connectedClients) == [client] })
            #expect(after.servers.values.allSatisfy { $0.status == .up && $0.downRevision == 0 })
            #expect(generations(after) == generations(before))
            #expect(after.pools.values.allSatisfy { after.health(of: $0.id).normal == $0.combs.count })
        }
    }

    @Test func dataIsServedWithoutAnyManager() async throws {
        try await withCluster(managers: 2) { cluster in
            await cluster.startClient("c1")
            let volume = try await cluster.makeVolume("v")
            let uri = try await cluster.map(volume, to: "c1")
            _ = await cluster.killLeader()
            #expect(await cluster.until { cluster.leaders.count == 1 })
            _ = await cluster.killLeader()
            #expect(cluster.leaders.isEmpty)
            let result = await fio(uri, "--rw=randwrite", "--size=8m", "--do_verify=1", "--randseed=14")
            #expect(result.status == 0, "\(result.output)")
        }
    }

    @Test func aRebuildOutlivesItsManager() async throws {
        try await withCluster(managers: 3) { cluster in
            await cluster.startClient("c1")
            let volume = try await cluster.makeVolume("v")
            let uri = try await cluster.map(volume, to: "c1")
            let filled = await fio(uri, "--rw=write", "--size=48m", "--bs=64k", "--do_verify=0", "--randseed=12")
            #expect(filled.status == 0, "\(filled.output)")
            let before = try await cluster.manager.state()
            async let running = fio(
                uri, "--rw=randwrite", "--size=32m", "--io_size=32m", "--rate_iops=1500", "--do_verify=1",
                "--randseed=13")
            await cluster.kill("server1")
            #expect(
                await cluster.until {
                    guard let state = try? await cluster.manager.state() else { return false }
                    return state.servers.values.contains { $0.status == .down }
                })
            let old = await cluster.killLeader()
            #expect(await cluster.until { cluster.leaders.count == 1 && cluster.manager !== old })
            #expect(
                await cluster.until(seconds: 60) {
                    guard let state = try? await cluster.manager.state() else { return false }
                    return state.pools.values.allSatisfy { state.health(of: $0.id).normal == $0.combs.count }
                })
            let result = await running
            #expect(result.status == 0, "\(result.output)")
            let after = try await cluster.manager.state()
            #expect(after.servers.values.filter { $0.status == .down }.map(\.name) == ["node1"])
            #expect(generations(after) == generations(before))
            // The copies that the second manager had made are good.
            await cluster.kill("server2")
            let verified = await fio(
                uri, "--rw=randwrite", "--size=32m", "--io_size=32m", "--verify_only=1", "--randseed=13")
            #expect(verified.status == 0, "\(verified.output)")
        }
    }
}
