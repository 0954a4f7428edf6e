import Base
import Testing

@testable import BlockCore

@Suite struct WireTests {
    @Test func checksumIsCastagnolis() {
        #expect(CRC32C.checksum(Array("123456789".utf8)) == 0xE306_9283)
        #expect(CRC32C.checksum([UInt8](repeating: 0, count: 32)) == 0x8A91_36AA)
        let bytes = (0..<100).map { UInt8($0) }
        let parts = CRC32C.checksum(Array(bytes[37...]), seed: CRC32C.checksum(Array(bytes[..<37])))
        #expect(parts == CRC32C.checksum(bytes))
    }

    private func header() -> DataHeader {
        var header = DataHeader(opcode: .write)
        header.flags = .payload
        header.request = 7
        header.session = 1 << 40
        header.volume = 0xABCD
        header.unit = 3
        header.offset = 8192
        header.length = 4096
        header.combEpoch = 11
        header.attachEpoch = 12
        header.node = 13
        return header
    }

    /// The bytes of version 3, as docs/formats/volume-wire.md lays them out.
    @Test func dataHeaderLayout() throws {
        let bytes = header().encoded()
        #expect(bytes.count == 80)
        #expect(Array(bytes[0..<8]) == [0x46, 0x4C, 0x44, 0x48, 3, 3, 8, 0])
        #expect(
            bytes[8] == 7 && bytes[24] == 0xCD && bytes[32] == 3 && bytes[48] == 11 && bytes[56] == 12
                && bytes[72] == 13)
        let decoded = try bytes.withUnsafeBytes { try DataHeader(decoding: $0) }
        #expect(decoded == header())
    }

    @Test func damagedHeadersAreRefused() {
        let good = header().encoded()
        for position in good.indices {
            var bad = good
            bad[position] ^= 0x10
            #expect(throws: WireError.self) { try bad.withUnsafeBytes { try DataHeader(decoding: $0) } }
        }
        #expect(throws: WireError.self) {
            try Array(good[..<79]).withUnsafeBytes { try DataHeader(decoding: $0) }
        }
    }

    @Test func controlMessagesSurviveTheWire() throws {
        let key = CombKey(pool: StoragePoolID(rawValue: 5), index: 6)
        let place = CopyPlace(sds: SdsID(rawValue: 7), device: DeviceID(rawValue: 8))
        var counters = IOCounters()
        counters.add(.primaryWrite, bytes: 4096)
        counters.add(.rebalanceWrite, bytes: 1 << 20)
        let messages: [MessageToManager] = [
            .serverHello(
                ServerHello(
                    system: nil, sds: SdsID(rawValue: 1), name: "sds", domainName: "d", address: "10.0.0.1:7072",
                    incarnation: 9, hostBoot: "a boot",
                    devices: [
                        DeviceOffer(
                            id: DeviceID(rawValue: 2), poolName: "p", path: "/dev/x", capacityUnits: 3,
                            mountCounter: 4)
                    ], faultSetName: "rack1")),
            .clientHello(ClientHello(guid: "G", name: "n", ip: "10.0.0.2", incarnation: 3)),
            .keepAlive([DeviceUsage(device: DeviceID(rawValue: 2), usedUnits: 17, thickUnits: 3, counters: counters)]),
            .acknowledge(revision: 99),
            .removeSecondary(key, epoch: 4, secondary: place), .rebuildDone(key, epoch: 5, target: place),
            .rebuildFailed(key, epoch: 6, target: place), .deviceFailed(DeviceID(rawValue: 3)), .requestMap,
            .copyUnreadable(key, epoch: 7, copy: place), .drained(key, epoch: 8),
            .cut(9, .sealed, isIntact: true), .nodeEmpty(TreeID(rawValue: 10), node: 11, revision: 12),
            .leaseRequest(number: 1 << 40),
        ]
        for message in messages {
            let frame = ControlFrame.encode(message)
            #expect(try ControlFrame.length(prefix: Array(frame[..<4])) == frame.count - 4)
            #expect(try ControlFrame.decodeToManager(Array(frame[4...])) == message)
        }
    }

    @Test func combsSurviveTheWire() throws {
        let places = (1...3).map { CopyPlace(sds: SdsID(rawValue: $0), device: DeviceID(rawValue: $0 + 10)) }
        let states: [Comb.State] = [
            .unplaced, .normal(secondary: places[1]), .degraded, .rebuilding(target: places[2]), .unavailable,
        ]
        for former in [nil, FormerCopy(place: places[2], epoch: 41)] {
            let entries = states.enumerated().map { index, state in
                var comb = Comb(epoch: 42, primary: places[0], state: state, revision: 7)
                comb.former = former
                return PoolUpdate.Entry(index: UInt32(index), comb: comb)
            }
            var update = MapUpdate(revision: 8, isFull: false)
            update.pools = [
                PoolUpdate(pool: StoragePoolID(rawValue: 5), combCount: 8, sparePercentage: 34, entries: entries)
            ]
            let frame = ControlFrame.encode(MessageFromManager.update(update))
            #expect(try ControlFrame.decodeFromManager(Array(frame[4...])) == .update(update))
        }
    }

    @Test(arguments: [true, false]) func volumesSurviveTheWire(isThick: Bool) throws {
        var update = MapUpdate(revision: 8, isFull: true)
        update.volumes = [
            VolumeRecord(
                id: VolumeID(rawValue: 5), pool: StoragePoolID(rawValue: 6), name: "v", sizeUnits: 7, isThick: isThick,
                attachEpoch: 8,
                mappings: [
                    VolumeMapping(
                        sdc: SdcID(rawValue: 9), mode: .readOnly, epoch: 8, limitIops: 1, limitKibibytesPerSecond: 2)
                ], tree: TreeID(rawValue: 10), head: 11)
        ]
        let frame = ControlFrame.encode(MessageFromManager.update(update))
        #expect(try ControlFrame.decodeFromManager(Array(frame[4...])) == .update(update))
    }

    @Test(arguments: [nil, "10.0.0.1:6611"]) func redirectsSurviveTheWire(_ leader: String?) throws {
        let frame = ControlFrame.encode(MessageFromManager.redirect(leader: leader))
        #expect(try ControlFrame.decodeFromManager(Array(frame[4...])) == .redirect(leader: leader))
        // As docs/formats/volume-wire.md has it: version, kind, text.
        #expect(Array(frame[8..<10]) == [ControlFrame.version, 6])
        #expect(frame.count == 12 + (leader?.utf8.count ?? 0))
    }

    /// As docs/formats/volume-wire.md has them: version, kind, number.
    @Test func leasesSurviveTheWire() throws {
        let granted = ControlFrame.encode(MessageFromManager.lease(number: 0x0102))
        #expect(try ControlFrame.decodeFromManager(Array(granted[4...])) == .lease(number: 0x0102))
        #expect(Array(granted[8...]) == [ControlFrame.version, 8, 2, 1, 0, 0, 0, 0, 0, 0])
        let asked = ControlFrame.encode(MessageToManager.leaseRequest(number: 0x0102))
        #expect(Array(asked[8...]) == [ControlFrame.version, 13, 2, 1, 0, 0, 0, 0, 0, 0])
        // Who knows version 4 knows nothing of leases and must not take part.
        let body: [UInt8] = [4] + asked[9...]
        let checksum = CRC32C.checksum(body)
        let old = (0..<4).map { UInt8(truncatingIfNeeded: checksum >> ($0 * 8)) } + body
        #expect(throws: WireError.self) { try ControlFrame.decodeToManager(old) }
    }

    @Test(arguments: [
        ControlFrame.encode(MessageToManager.leaseRequest(number: 7)),
        ControlFrame.encode(.keepAlive([DeviceUsage(device: DeviceID(rawValue: 2), usedUnits: 17)])),
        ControlFrame.encode(MessageFromManager.redirect(leader: "10.0.0.1:6611")),
    ])
    func randomControlBytesNeverCrash(_ frame: [UInt8]) {
        var random = SeededRandom(seed: 4)
        for _ in 0..<2000 {
            var body = Array(frame[8...])
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                body[Int.random(in: 0..<body.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
            }
            let checksum = CRC32C.checksum(body)
            let rest = (0..<4).map { UInt8(truncatingIfNeeded: checksum >> ($0 * 8)) } + body
            _ = try? ControlFrame.decodeToManager(rest)
            _ = try? ControlFrame.decodeFromManager(rest)
        }
    }
}
