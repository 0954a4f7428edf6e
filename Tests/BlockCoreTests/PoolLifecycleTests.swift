import Base
import Testing

@testable import BlockCore

extension ManagerBench {
    /// Introduces a server with devices of these capacities (MiB) in these pools; devices are numbered server * 10 + position.
    mutating func introduce(
        _ server: UInt64, faultSet: String = "", devices: [(pool: String, units: UInt32)] = [("pool1", 1000)],
        incarnation: UInt64 = 1
    ) {
        let offers = devices.enumerated().map { index, device in
            DeviceOffer(
                id: DeviceID(rawValue: server * 10 + UInt64(index)), poolName: device.pool, path: "/d\(index)",
                capacityUnits: device.units, mountCounter: incarnation)
        }
        feed(
            .message(
                LinkID(rawValue: server * 100 + incarnation),
                .serverHello(
                    ServerHello(
                        system: nil, sds: SdsID(rawValue: server), name: "sds\(server)", domainName: "domain1",
                        address: "10.0.0.\(server):7072", incarnation: incarnation, devices: offers,
                        faultSetName: faultSet))))
        acknowledge(server, link: server * 100 + incarnation)
    }

    func pool(_ name: String = "pool1") throws -> StoragePool {
        try #require(core.state.pools.values.first { $0.name == name })
    }

    mutating func use(_ device: UInt64, _ units: UInt32, thick: UInt32 = 0, of server: UInt64) {
        feed(
            .message(
                LinkID(rawValue: server * 100 + 1),
                .keepAlive([
                    DeviceUsage(device: DeviceID(rawValue: device), usedUnits: units, thickUnits: thick)
                ])))
    }

    func refusal(_ body: () throws -> ManagerReply) -> ManagerError.Code? {
        do {
            let reply = try body()
            Issue.record("answered \(reply)")
            return nil
        } catch {
            return (error as? ManagerError)?.code
        }
    }

    mutating func refusal(of command: ManagerCommand) -> ManagerError.Code? {
        let ticket = submit(command)
        if case .failure(let error) = replies[ticket] { return error.code }
        Issue.record("not refused: \(command)")
        return nil
    }
}

@Suite struct FaultSetTests {
    /// Two racks of two servers: each comb has one copy in each.
    @Test func copiesNeverShareAFaultSet() throws {
        var bench = ManagerBench()
        for server: UInt64 in 1...4 { bench.introduce(server, faultSet: server <= 2 ? "rack1" : "rack2") }
        let pool = try bench.pool().id
        _ = try bench.run(.createVolume(pool: pool, name: "v", sizeUnits: 8, provisioning: .thin, createdAt: 1))
        func rack(_ place: CopyPlace) -> FaultSetID? { bench.core.state.servers[place.sds]?.faultSet }
        for comb in bench.combs { #expect(Set(comb.inSync.map(rack)).count == 2) }
        for server: UInt64 in 1...4 {
            let copies = bench.combs.filter { $0.inSync.contains { $0.sds.rawValue == server } }.count
            #expect((30...34).contains(copies), "server \(server) has \(copies) of 128 copies")
        }
        // A server of the first rack dies: what it had is rebuilt within its rack only.
        bench.pass(.seconds(3), alive: [])
        bench.introduce(2, faultSet: "rack1", incarnation: 2)
        bench.introduce(3, faultSet: "rack2", incarnation: 2)
        bench.introduce(4, faultSet: "rack2", incarnation: 2)
        bench.feed(.tick)
        let rebuilt = bench.combs.filter { $0.target != nil }
        #expect(!rebuilt.isEmpty)
        for comb in rebuilt {
            let target = try #require(comb.target)
            #expect(rack(target) != rack(comb.primary))
        }
    }

    @Test func oneFaultSetCannotHoldTwoCopies() throws {
        var bench = ManagerBench()
        for server: UInt64 in 1...3 { bench.introduce(server, faultSet: "rack1") }
        let pool = try bench.pool().id
        #expect(
            bench.refusal(of: .createVolume(pool: pool, name: "v", sizeUnits: 8, provisioning: .thin, createdAt: 1))
                == .insufficientServers)
    }

    @Test func aServerKeepsTheFaultSetOfItsFirstIntroduction() throws {
        var bench = ManagerBench()
        bench.introduce(1, faultSet: "rack1")
        bench.introduce(1, faultSet: "rack2", incarnation: 2)
        let domain = try #require(bench.core.state.domains.values.first?.id)
        let rack = try #require(bench.core.state.faultSet(named: "rack1", in: domain))
        #expect(bench.core.state.servers[SdsID(rawValue: 1)]?.faultSet == rack.id)
        #expect(bench.core.state.faultSet(named: "rack2", in: domain) == nil)
    }

    @Test func faultSetsAreMadeRenamedAndRemoved() throws {
        var bench = ManagerBench()
        bench.introduce(1, faultSet: "rack1")
        let domain = try #require(bench.core.state.domains.values.first?.id)
        let rack1 = try #require(bench.core.state.faultSets.values.first?.id)
        guard case .createdFaultSet(let rack2) = try bench.run(.configure(.createFaultSet(domain, name: "rack2")))
        else { throw ManagerError(.malformed, "not a fault set") }
        #expect(bench.refusal(of: .configure(.createFaultSet(domain, name: "rack2"))) == .nameInUse)
        #expect(bench.refusal(of: .configure(.renameFaultSet(rack2, name: "rack1"))) == .nameInUse)
        #expect(bench.refusal(of: .configure(.renameFaultSet(rack2, name: "a b"))) == .invalidName)
        #expect(bench.refusal(of: .configure(.removeFaultSet(rack1))) == .inUse)
        #expect(try bench.run(.configure(.renameFaultSet(rack2, name: "row2"))) == .done)
        #expect(bench.core.state.faultSets[rack2]?.name == "row2")
        #expect(try bench.run(.configure(.removeFaultSet(rack2))) == .done)
        #expect(bench.refusal(of: .configure(.removeFaultSet(rack2))) == .faultSetNotFound)
    }
}

@Suite struct PoolTests {
    @Test func devicesOfOneServerMayBelongToSeveralPools() throws {
        var bench = ManagerBench()
        for server: UInt64 in 1...3 { bench.introduce(server, devices: [("fast", 100), ("slow", 1000)]) }
        for name in ["fast", "slow"] {
            let pool = try bench.pool(name).id
            _ = try bench.run(
                .createVolume(pool: pool, name: name, sizeUnits: 8, provisioning: .thin, createdAt: 1))
            for comb in try bench.pool(name).combs {
                for place in comb.inSync { #expect(bench.core.state.devices[place.device]?.pool == pool) }
            }
        }
    }

    /// With as many pools as there may be, a server that dies while much is being copied.
    @Test func aDeathFitsIntoOneCommit() throws {
        var bench = ManagerBench()
        bench.introduce(9)
        let domain = try #require(bench.core.state.domains.keys.first)
        var names: [String] = []
        var refused: ManagerError?
        while refused == nil, names.count < 100 {
            let name = "pool\(names.count + 2)"
            do {
                _ = try bench.run(.createStoragePool(domain: domain, name: name, combCount: 1024))
                names.append(name)
            } catch let error as ManagerError {
                refused = error
            }
        }
        #expect(names.count == 9 && refused?.code == .invalidArgument)
        for server: UInt64 in 1...3 { bench.introduce(server, devices: names.map { ($0, 1000) }) }
        for name in names {
            let pool = try bench.pool(name).id
            _ = try bench.run(
                .createVolume(pool: pool, name: name, sizeUnits: 1, provisioning: .thin, createdAt: 1))
        }
        bench.largestCommit = 0
        bench.feed(.linkClosed(LinkID(rawValue: 101)))
        bench.pass(.seconds(7), alive: [201, 301, 901])
        #expect(bench.core.state.servers[SdsID(rawValue: 1)]?.status == .down)
        bench.feed(.linkClosed(LinkID(rawValue: 201)))
        bench.pass(.seconds(3), alive: [301, 901])
        #expect(bench.core.state.servers[SdsID(rawValue: 2)]?.status == .down)
        #expect(bench.largestCommit > 300_000 && bench.largestCommit < 900_000, "\(bench.largestCommit)")
    }

    /// The pool that would be one too many is refused with the server that names it, and nothing of either is kept.
    @Test func aServerThatNamesOnePoolTooManyIsRefused() throws {
        var bench = ManagerBench(combCount: 1024)
        let names = (1...10).map { "pool\($0)" }
        bench.introduce(1, devices: names.map { ($0, 1000) })
        try #require(bench.core.state.pools.count == names.count)
        bench.introduce(2, faultSet: "rack2", devices: [("pool10", 1000), ("pool11", 1000)])
        let answers = bench.sent.filter { $0.0 == LinkID(rawValue: 201) }.map(\.1)
        #expect(answers.contains { if case .refused("invalidArgument", _) = $0 { true } else { false } })
        #expect(bench.core.state.servers[SdsID(rawValue: 2)] == nil && bench.core.state.faultSets.isEmpty)
        #expect(bench.core.state.pools.count == names.count && bench.core.state.devices.count == names.count)
        bench.introduce(2, devices: [("pool10", 1000)], incarnation: 2)
        #expect(bench.core.state.servers[SdsID(rawValue: 2)]?.status == .up)
    }

    /// A device twice as large gets twice as much, as far as the other copies allow.
    @Test func placementGoesByCapacity() throws {
        var bench = ManagerBench()
        for server: UInt64 in 1...4 { bench.introduce(server, devices: [("pool1", server == 1 ? 2000 : 1000)]) }
        let pool = try bench.pool().id
        _ = try bench.run(.createVolume(pool: pool, name: "v", sizeUnits: 8, provisioning: .thin, createdAt: 1))
        let copies = (1...4).map { server in
            bench.combs.filter { $0.inSync.contains { $0.sds.rawValue == UInt64(server) } }.count
        }
        #expect((49...53).contains(copies[0]), "\(copies)")
        #expect(copies[1...].allSatisfy { (24...27).contains($0) }, "\(copies)")
    }

    @Test func emptyThingsAreRemovedAndFullOnesAreNot() throws {
        var bench = ManagerBench()
        let (volume, _) = try bench.volume()
        let pool = try bench.pool()
        #expect(bench.refusal(of: .configure(.removeStoragePool(pool.id))) == .hasVolumes)
        _ = try bench.run(.removeVolume(volume, unmapping: true))
        #expect(bench.refusal(of: .configure(.removeStoragePool(pool.id))) == .hasDevices)
        #expect(bench.refusal(of: .configure(.removeProtectionDomain(pool.domain))) == .hasServers)
        guard
            case .createdProtectionDomain(let domain) = try bench.run(.createProtectionDomain(name: "domain2")),
            case .createdStoragePool(let empty) = try bench.run(.createStoragePool(domain: domain, name: "pool2"))
        else { throw ManagerError(.malformed, "not created") }
        #expect(bench.refusal(of: .configure(.removeProtectionDomain(domain))) == .hasPools)
        #expect(try bench.run(.configure(.renameStoragePool(empty, name: "pool3"))) == .done)
        #expect(try bench.run(.configure(.renameProtectionDomain(domain, name: "domain3"))) == .done)
        #expect(bench.refusal(of: .configure(.renameProtectionDomain(domain, name: "domain1"))) == .nameInUse)
        #expect(try bench.run(.configure(.removeStoragePool(empty))) == .done)
        #expect(!bench.records.keys.contains { $0.contains(empty.description) })
        #expect(try bench.run(.configure(.removeProtectionDomain(domain))) == .done)
        #expect(bench.core.state.domains.count == 1)
    }

    @Test func settingsOutliveTheLeader() throws {
        var bench = ManagerBench()
        bench.introduce(1, faultSet: "rack1")
        let pool = try bench.pool().id
        var policy = IoPriorityPolicy(.dynamicBwThrottling)
        policy.appIopsThreshold = 77
        for command: ConfigurationCommand in [
            .setSparePercentage(pool, 34), .setCapacityAlertThresholds(pool, high: 50, critical: nil),
            .setCopying(pool, .rebalance, isEnabled: false), .setIoPriorityPolicy(pool, .rebuild, policy),
            .renameDevice(DeviceID(rawValue: 10), name: "nvme0"),
        ] { _ = try bench.run(.configure(command)) }
        let records = bench.records.sorted { $0.key < $1.key }.map { (key: $0.key, value: $0.value) }
        let next = try #require(
            try ManagerCore(records: records, configuration: ManagerConfiguration(), now: bench.now))
        let read = try #require(next.state.pools[pool])
        #expect(read == (try bench.pool()))
        #expect(read.sparePercentage == 34 && read.settings.capacityAlertHigh == 50)
        #expect(read.settings.capacityAlertCritical == 90 && !read.settings.rebalanceEnabled)
        #expect(read.settings.rebuildPolicy == policy)
        #expect(next.state.faultSets == bench.core.state.faultSets)
        #expect(next.state.servers == bench.core.state.servers)
        #expect(next.state.devices[DeviceID(rawValue: 10)]?.name == "nvme0")
        var bad = policy
        bad.concurrentIosPerDevice = 0
        #expect(bench.refusal(of: .configure(.setIoPriorityPolicy(pool, .rebuild, bad))) == .invalidArgument)
        #expect(
            bench.refusal(of: .configure(.setCapacityAlertThresholds(pool, high: 95, critical: nil)))
                == .invalidArgument)
    }

    @Test func withRebuildDisabledNothingIsRebuilt() throws {
        var bench = ManagerBench()
        _ = try bench.volume()
        let pool = try bench.pool().id
        _ = try bench.run(.configure(.setCopying(pool, .rebuild, isEnabled: false)))
        bench.pass(.seconds(3), alive: [2, 3])
        #expect(bench.combs.contains { $0.state == .degraded })
        #expect(!bench.combs.contains { $0.target != nil })
        _ = try bench.run(.configure(.setCopying(pool, .rebuild, isEnabled: true)))
        bench.pass(ManagerConfiguration().absenceGrace, alive: [2, 3])
        #expect(bench.combs.contains { $0.target != nil })
    }
}

@Suite struct CapacityTests {
    /// Three devices of 1000 MiB, 10 % spare: 2700 raw MiB for volumes.
    private func bench() throws -> (ManagerBench, StoragePoolID) {
        var bench = ManagerBench()
        for server: UInt64 in 1...3 { bench.introduce(server) }
        return (bench, try bench.pool().id)
    }

    @Test func thickVolumesTakeWhatIsFree() throws {
        var (bench, pool) = try bench()
        func create(_ name: String, _ units: UInt32) -> ManagerCommand {
            .createVolume(pool: pool, name: name, sizeUnits: units, provisioning: .thick, createdAt: 1)
        }
        #expect(bench.refusal(of: create("a", 1351)) == .insufficientCapacity)
        _ = try bench.run(create("a", 1000))
        #expect(bench.refusal(of: create("b", 351)) == .insufficientCapacity)
        _ = try bench.run(create("b", 350))
        #expect(bench.refusal(of: .configure(.setSparePercentage(pool, 11))) == .insufficientCapacity)
        #expect(try bench.pool().sparePercentage == 10)
    }

    /// What thin volumes use is not there for thick ones, and what a thick one uses of its own is not counted twice.
    @Test func thickVolumesDoNotShareWithWhatIsUsed() throws {
        var (bench, pool) = try bench()
        func create(_ name: String, _ units: UInt32) -> ManagerCommand {
            .createVolume(pool: pool, name: name, sizeUnits: units, provisioning: .thick, createdAt: 1)
        }
        _ = try bench.run(create("a", 500))
        for server: UInt64 in 1...3 { bench.use(server * 10, 400, thick: 200, of: server) }
        #expect(bench.core.state.capacity(of: pool).committed == 1600)
        #expect(bench.refusal(of: create("b", 551)) == .insufficientCapacity)
        _ = try bench.run(create("b", 550))
    }

    @Test func thinVolumesPromiseFiveTimesAsMuch() throws {
        var (bench, pool) = try bench()
        func create(_ name: String, _ units: UInt32, _ provisioning: Volume.Provisioning) -> ManagerCommand {
            .createVolume(pool: pool, name: name, sizeUnits: units, provisioning: provisioning, createdAt: 1)
        }
        _ = try bench.run(create("thick", 350, .thick))
        #expect(bench.refusal(of: create("thin", 5001, .thin)) == .insufficientCapacity)
        _ = try bench.run(create("thin", 5000, .thin))
    }

    @Test func aFillingPoolRaisesAlertsAndRefusesMore() throws {
        var (bench, pool) = try bench()
        _ = try bench.run(.configure(.setSparePercentage(pool, 34)))
        #expect(bench.core.state.alerts.isEmpty)
        let create = ManagerCommand.createVolume(
            pool: pool, name: "v", sizeUnits: 8, provisioning: .thin, createdAt: 1)
        func kinds() -> [Alert.Kind] { bench.core.state.alerts.map(\.kind) }
        // 1980 MiB may be used.
        for server: UInt64 in 1...3 { bench.use(server * 10, 527, of: server) }
        #expect(kinds() == [])
        bench.use(10, 530, of: 1)
        #expect(kinds() == [.capacityUtilizationAboveHighThreshold])
        bench.use(10, 728, of: 1)
        #expect(kinds() == [.capacityUtilizationAboveCriticalThreshold, .deviceFull])
        #expect(bench.refusal(of: create) == .poolCritical)
        bench.use(10, 500, of: 1)
        #expect(try bench.run(create) != .done)
    }

    @Test func nothingIsRebuiltOntoAFullDevice() throws {
        var (bench, pool) = try bench()
        bench.introduce(4)
        _ = try bench.run(.createVolume(pool: pool, name: "v", sizeUnits: 8, provisioning: .thin, createdAt: 1))
        let isOnFirst = bench.combs.map { $0.inSync.contains { $0.sds.rawValue == 1 } }
        bench.use(20, 1000, of: 2)
        bench.use(30, 900, of: 3)
        bench.use(40, 899, of: 4)
        // The spare is 10 %.
        let full = bench.core.state.alerts.filter { $0.kind == .deviceFull }
        #expect(full.map(\.object) == [.device(DeviceID(rawValue: 20)), .device(DeviceID(rawValue: 30))])
        bench.feed(.message(LinkID(rawValue: 101), .deviceFailed(DeviceID(rawValue: 10))))
        bench.feed(.tick)
        let targets = bench.combs.enumerated().filter { isOnFirst[$0.offset] }.compactMap { $0.element.target }
        #expect(!targets.isEmpty && !targets.contains { $0.sds.rawValue == 2 })
    }

    @Test func aSpareBelowOneFaultUnitIsWarnedOf() throws {
        var (bench, pool) = try bench()
        #expect(bench.core.state.alerts.map(\.kind) == [.spareSmallerThanLargestFaultUnit])
        guard case .doneWithWarning = try bench.run(.configure(.setSparePercentage(pool, 33))) else {
            Issue.record("no warning")
            return
        }
        #expect(try bench.run(.configure(.setSparePercentage(pool, 34))) == .done)
        #expect(bench.core.state.alerts.isEmpty)
        #expect(bench.refusal(of: .configure(.setSparePercentage(pool, 91))) == .invalidArgument)
        // Alone in its fault set it could be rebuilt; with another one it could not.
        bench.introduce(4, faultSet: "rack1")
        bench.introduce(5, faultSet: "rack1")
        #expect(bench.core.state.alerts.map(\.kind) == [.spareSmallerThanLargestFaultUnit])
    }
}

@Suite struct OldRecordTests {
    /// Pools of version 3 knew no scanner; they get one as new pools do.
    @Test func poolsOfVersionThreeGetAScanner() throws {
        var bench = ManagerBench()
        _ = try bench.volume()
        let pool = try #require(bench.core.state.pools.values.first)
        _ = try bench.run(.configure(.setBackgroundScanner(pool.id, .deviceOnly, kibibytesPerSecond: 512)))
        var records = bench.records
        let path = RecordKey.pool(pool.id).path
        func settings() throws -> PoolSettings? {
            let list = records.sorted { $0.key < $1.key }.map { (key: $0.key, value: $0.value) }
            let core = try #require(
                try ManagerCore(records: list, configuration: ManagerConfiguration(), now: bench.now))
            return core.state.pools[pool.id]?.settings
        }
        let stored = try #require(try settings())
        #expect(stored.scannerMode == .deviceOnly && stored.scannerKibibytesPerSecond == 512)
        let record = try #require(records[path])
        records[path] = [3] + record.dropFirst().dropLast(2 + "device_only".utf8.count + 4)
        #expect(try settings() == PoolSettings())
    }

    /// Records as version 1 wrote them: without fault sets, settings and names of devices.
    @Test func versionOneIsRead() throws {
        func record(_ body: (inout ByteWriter) -> Void) -> [UInt8] {
            var writer = ByteWriter()
            writer.put(UInt8(1))
            body(&writer)
            return writer.bytes
        }
        let (pool, sds, device) = (StoragePoolID(rawValue: 3), SdsID(rawValue: 4), DeviceID(rawValue: 5))
        let records: [(key: String, value: [UInt8])] = [
            (
                "system",
                record {
                    $0.put(SystemID(rawValue: 1))
                    $0.put("old")
                    $0.put(UInt64(9))
                    $0.put(UInt64(77))
                }
            ),
            (
                "domain/\(ProtectionDomainID(rawValue: 2))",
                record {
                    $0.put(ProtectionDomainID(rawValue: 2))
                    $0.put("pd1")
                }
            ),
            (
                "pool/\(pool)",
                record {
                    $0.put(pool)
                    $0.put(ProtectionDomainID(rawValue: 2))
                    $0.put("default")
                    $0.put(UInt32(2))
                    $0.put(UInt32(10))
                }
            ),
            (
                "combs/\(pool)/0000",
                record {
                    $0.put(pool)
                    $0.put(UInt32(0))
                    $0.put(UInt32(1))
                    $0.put(UInt64(6))
                    $0.put(UInt64(70))
                    $0.put(CopyPlace(sds: sds, device: device))
                    $0.put(UInt8(2))
                }
            ),
            (
                "sds/\(sds)",
                record {
                    $0.put(sds)
                    $0.put(ProtectionDomainID(rawValue: 2))
                    $0.put("sds1")
                    $0.put("10.0.0.1:7072")
                    $0.put("up")
                    $0.put(UInt64(11))
                    $0.put(UInt32(12))
                    $0.put(UInt64(13))
                }
            ),
            (
                "device/\(device)",
                record {
                    $0.put(device)
                    $0.put(sds)
                    $0.put(pool)
                    $0.put("/dev/sdb")
                    $0.put(UInt32(1000))
                    $0.put("normal")
                    $0.put(UInt64(14))
                }
            ),
        ]
        let core = try #require(try ManagerCore(records: records, configuration: ManagerConfiguration(), now: .zero))
        let read = try #require(core.state.pools[pool])
        #expect(read.settings == PoolSettings() && read.sparePercentage == 10)
        #expect(read.combs[0].state == .degraded && read.combs[0].epoch == 6 && read.combs[1].state == .unplaced)
        let server = try #require(core.state.servers[sds])
        #expect(server.faultSet == nil && server.downRevision == 13)
        #expect(core.state.devices[device]?.mountCounter == 14 && core.state.devices[device]?.name == "")
        var newer = records
        newer[0].value[0] = 99
        #expect(throws: ManagerError.self) {
            try ManagerCore(records: newer, configuration: ManagerConfiguration(), now: .zero)
        }
    }
}
