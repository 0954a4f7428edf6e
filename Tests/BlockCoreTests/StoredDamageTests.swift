import Base
import Testing

@testable import BlockCore

/// Bytes on disk that are not what was written: an error or the truth, never a crash and never a silent loss.
@Suite struct StoredDamageTests {
    private static let volume = VolumeID(rawValue: 9)

    /// What a device holds, unit by unit.
    private static func contents(_ store: UnitStore) -> [Int: [BlockRange]] {
        var found: [Int: [BlockRange]] = [:]
        for index in 0..<4 {
            let runs = store.map(of: UnitKey(volume: volume, index: UInt32(index))).runs()
            if !runs.isEmpty { found[index] = runs }
        }
        return found
    }

    private static func open(_ bytes: [UInt8]) throws(DeviceError) -> UnitStore {
        let label = try DeviceLabel(device: Array(bytes[..<(128 << 10)]))
        let metadata = Array(bytes.prefix(Int(label.layout.data)))
        return try UnitStore.open(label, metadata: metadata) { _ in BlockMap() }.store
    }

    /// A device whose log has overflowed several times, so that both table areas and the log are in use.
    private func usedDevice() throws -> MemoryDevice {
        var device = try MemoryDevice(units: 4, logBlocks: 2)
        for round in 0..<13 {
            let key = UnitKey(volume: StoredDamageTests.volume, index: UInt32(round % 3))
            #expect(device.write(key, BlockRange(start: UInt16(round * 3), count: 1), byte: 7) == .started)
        }
        return device
    }

    /// Where damage is tried in a region of whole blocks: densely where blocks begin and end, here and there between.
    private static func places(_ region: Range<Int>) -> [Int] {
        region.filter { $0 % 4096 < 120 || $0 % 4096 >= 4090 || $0 % 211 == 0 }
    }

    @Test func everyDamagedByteOfLabelsAndTablesIsAnErrorOrHarmless() throws {
        let device = try usedDevice()
        let truth = StoredDamageTests.contents(device.store)
        #expect(truth.count == 3)
        let layout = device.store.label.layout
        let metadata = Array(device.bytes[..<Int(layout.data)])
        let regions = [0..<4096, (64 << 10)..<(68 << 10)] + layout.tables.map { Int($0)..<Int($0 + layout.tableBytes) }
        var random = SeededRandom(seed: 51)
        for region in regions {
            for position in StoredDamageTests.places(region) {
                var bytes = metadata
                bytes[position] ^= 1 << UInt8.random(in: 0...7, using: &random)
                do throws(DeviceError) {
                    #expect(StoredDamageTests.contents(try StoredDamageTests.open(bytes)) == truth, "at \(position)")
                } catch {
                    #expect(error.code == .corrupt, "at \(position): \(error)")
                }
            }
        }
    }

    /// The table before and both halves of the log say the same as the newest table.
    @Test func aLostTableIsMadeUpFor() throws {
        let device = try usedDevice()
        let layout = device.store.label.layout
        let metadata = Array(device.bytes[..<Int(layout.data)])
        let truth = StoredDamageTests.contents(device.store)
        for offset in layout.tables {
            var bytes = metadata
            for position in Int(offset)..<Int(offset) + 4096 { bytes[position] = 0 }
            #expect(try StoredDamageTests.contents(StoredDamageTests.open(bytes)) == truth)
        }
    }

    /// Without the log that leads to it, or when that has begun anew, a lost table is an error.
    @Test func aLostTableIsAnErrorWithoutTheLogBeforeIt() throws {
        var device = try usedDevice()
        let (layout, newest) = (device.store.label.layout, device.store.tableGeneration)
        for position in Int(layout.tables[Int(newest & 1)])..<Int(layout.tables[Int(newest & 1)]) + 4096 {
            device.bytes[position] = 0
        }
        var bytes = Array(device.bytes[..<Int(layout.data)])
        bytes[Int(device.store.logOffset(newest - 1)) + 100] ^= 1
        #expect(throws: DeviceError.self) { try StoredDamageTests.open(bytes) }
        device.holdsTables = true
        #expect(device.write(UnitKey(volume: StoredDamageTests.volume, index: 0), .wholeUnit, byte: 7) == .started)
        #expect(device.heldBack.count == 1, "the next table is on its way")
        #expect(throws: DeviceError.self) { try StoredDamageTests.open(Array(device.bytes[..<Int(layout.data)])) }
    }

    @Test func damageInTheLogDoesNotInventAnything() throws {
        let device = try usedDevice()
        let truth = StoredDamageTests.contents(device.store)
        let layout = device.store.label.layout
        let metadata = Array(device.bytes[..<Int(layout.data)])
        var random = SeededRandom(seed: 52)
        for position in StoredDamageTests.places(Int(layout.log)..<Int(layout.log) + 2 * 4096) {
            var bytes = metadata
            bytes[position] ^= 1 << UInt8.random(in: 0...7, using: &random)
            guard let store = try? StoredDamageTests.open(bytes) else { continue }
            for (index, runs) in StoredDamageTests.contents(store) {
                let known = truth[index] ?? []
                #expect(runs.allSatisfy { run in known.contains { $0.start <= run.start && run.end <= $0.end } })
            }
        }
    }

    @Test func randomDevicesAreRefused() throws {
        var random = SeededRandom(seed: 53)
        let device = try usedDevice()
        let good = Array(device.bytes[..<Int(device.store.label.layout.data)])
        for round in 0..<6 {
            var bytes = (0..<good.count).map { _ in UInt8.random(in: 0...255, using: &random) }
            // Half keep their labels.
            if round % 2 == 0 { bytes.replaceSubrange(0..<(128 << 10), with: good[0..<(128 << 10)]) }
            #expect(throws: DeviceError.self) { try StoredDamageTests.open(bytes) }
        }
    }

    // MARK: The manager's records

    private func bench() throws -> ManagerBench {
        var bench = ManagerBench()
        for server: UInt64 in 1...3 { bench.join(server) }
        _ = try bench.volume()
        return bench
    }

    /// A leader on `records`, made to use all of them; nil when they are refused.
    private func lead(_ records: [String: [UInt8]], bench: ManagerBench) -> ManagerCore? {
        let list = records.sorted { $0.key < $1.key }.map { (key: $0.key, value: $0.value) }
        guard let core = try? ManagerCore(records: list, configuration: ManagerConfiguration(), now: bench.now) else {
            return nil
        }
        var heir = bench
        heir.core = core
        heir.feed(.tick)
        for server: UInt64 in 1...3 { heir.join(server, incarnation: 2) }
        heir.feed(.message(LinkID(rawValue: 1), .requestMap))
        heir.pass(.seconds(3), alive: [1])
        for (_, message) in heir.sent { _ = ControlFrame.encode(message) }
        return heir.core
    }

    @Test func damagedRecordsAreRefusedOrServed() throws {
        let bench = try bench()
        #expect(lead(bench.records, bench: bench) != nil)
        var random = SeededRandom(seed: 54)
        for (key, value) in bench.records.sorted(by: { $0.key < $1.key }) {
            for count in stride(from: 0, to: value.count, by: max(1, value.count / 12)) {
                var records = bench.records
                records[key] = Array(value[..<count])
                #expect(lead(records, bench: bench) == nil, "\(key) cut to \(count)")
            }
            for _ in 0..<12 {
                var records = bench.records
                records[key]?[Int.random(in: value.indices, using: &random)] ^=
                    1 << UInt8.random(in: 0...7, using: &random)
                _ = lead(records, bench: bench)
            }
            var records = bench.records
            records[key] = [99] + value.dropFirst()
            #expect(lead(records, bench: bench) == nil, "a version that nobody knows")
        }
    }

    // MARK: The manager's peers

    @Test func aRevisionThatDoesNotExistIsNotConfirmed() throws {
        var bench = try bench()
        let link = ManagerBench.link(1)
        bench.feed(.message(link, .acknowledge(revision: bench.core.state.revision + 1)))
        #expect(bench.closed.last == link)
        let closed = bench.closed.count
        bench.join(1)
        bench.acknowledge(1)
        #expect(bench.closed.count == closed, "the present is")
    }

    @Test func anyMessageFromAnybodyLeavesTheManagerWhole() throws {
        var bench = try bench()
        var random = SeededRandom(seed: 55)
        func number() -> UInt64 { [0, 1, 2, 3, 100, .max][Int.random(in: 0...5, using: &random)] }
        let pool = bench.core.state.pools.values.first?.id ?? StoragePoolID(rawValue: 0)
        for _ in 0..<5_000 {
            let key = CombKey(
                pool: Bool.random(using: &random) ? pool : StoragePoolID(rawValue: number()),
                index: UInt32(truncatingIfNeeded: number()))
            let place = CopyPlace(sds: SdsID(rawValue: number()), device: DeviceID(rawValue: number()))
            let messages: [MessageToManager] = [
                .keepAlive([DeviceUsage(device: place.device, usedUnits: .max)]), .requestMap,
                .acknowledge(revision: number()), .removeSecondary(key, epoch: number(), secondary: place),
                .rebuildDone(key, epoch: number(), target: place), .rebuildFailed(key, epoch: number(), target: place),
                .deviceFailed(place.device), .cut(number(), .held, isIntact: true),
                .nodeEmpty(TreeID(rawValue: number()), node: key.index, revision: number()),
                .clientHello(ClientHello(guid: "g\(number())", name: "", ip: "", incarnation: number())),
                .serverHello(
                    ServerHello(
                        system: nil, sds: place.sds, name: "", domainName: "domain1", address: "x:1",
                        incarnation: number(),
                        devices: [
                            DeviceOffer(
                                id: place.device, poolName: "pool1", path: "", capacityUnits: UInt32.max,
                                mountCounter: number())
                        ])),
            ]
            let link = LinkID(rawValue: UInt64.random(in: 1...12, using: &random))
            bench.feed(.message(link, messages[Int.random(in: messages.indices, using: &random)]))
            if Int.random(in: 0...9, using: &random) == 0 { bench.feed(.linkClosed(link)) }
            if Int.random(in: 0...9, using: &random) == 0 {
                bench.now = bench.now + .milliseconds(200)
                bench.feed(.tick)
            }
        }
        #expect(lead(bench.records, bench: bench) != nil)
        #expect(bench.core.state.volumes.values.count == 1)
    }
}
