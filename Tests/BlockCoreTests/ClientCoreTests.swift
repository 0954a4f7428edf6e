import Base
import Testing

@testable import BlockCore

@Suite struct ClientCoreTests {
    /// A client of one volume whose only server is this test.
    private struct Bench {
        static let server = SdsID(rawValue: 7)
        static let volume = VolumeID(rawValue: 9)
        static let link = LinkID(rawValue: 1)

        var core = ClientCore(configuration: ClientConfiguration(guid: "G", name: "c", ip: "c", incarnation: 1))
        var now = Instant(nanoseconds: 1_000_000_000)

        init() {
            let place = CopyPlace(sds: Bench.server, device: DeviceID(rawValue: 8))
            let comb = Comb(epoch: 1, primary: place, state: .degraded, revision: 1)
            let mapping = VolumeMapping(
                sdc: SdcID(rawValue: 3), mode: .readWrite, epoch: 1, limitIops: 0, limitKibibytesPerSecond: 0)
            var update = MapUpdate(revision: 1, isFull: true)
            update.servers = [ServerAddress(sds: Bench.server, address: "s")]
            let pool = StoragePoolID(rawValue: 5)
            update.pools = [PoolUpdate(pool: pool, combCount: 1, entries: [PoolUpdate.Entry(index: 0, comb: comb)])]
            update.volumes = [
                VolumeRecord(
                    id: Bench.volume, pool: pool, name: "v", sizeUnits: 1, attachEpoch: 1, mappings: [mapping])
            ]
            _ = feed(.managerConnected)
            _ = feed(
                .manager(.welcomeClient(system: SystemID(rawValue: 2), sdc: SdcID(rawValue: 3), generation: 1)))
            _ = feed(.manager(.update(update)))
        }

        /// What it sends to the server because of this.
        mutating func feed(_ event: ClientEvent) -> [DataHeader] {
            var actions: [ClientAction] = []
            core.apply(event, now: now, into: &actions)
            return actions.compactMap { if case .send(_, let header, _) = $0 { header } else { nil } }
        }

        mutating func zero(_ io: UInt64, blocks: Range<UInt32>) -> [DataHeader] {
            feed(
                .submit(
                    ClientIO(rawValue: io), Attachment(volume: Bench.volume, epoch: 1), .writeZeroes,
                    offset: UInt64(blocks.lowerBound) * 4096, length: UInt32(blocks.count) * 4096))
        }

        mutating func read(_ io: UInt64, block: UInt32) -> [DataHeader] {
            feed(
                .submit(
                    ClientIO(rawValue: io), Attachment(volume: Bench.volume, epoch: 1), .read,
                    offset: UInt64(block) * 4096, length: 4096))
        }

        mutating func answer(_ header: DataHeader, _ status: DataStatus) -> [DataHeader] {
            feed(.answer(Bench.link, header.reply(status), nil))
        }

        mutating func wait() -> [DataHeader] {
            now = now + .milliseconds(20)
            return feed(.tick)
        }

        mutating func connect() {
            let hello = feed(.serverConnected(Bench.server, Bench.link))
            for header in hello { _ = answer(header, .ok) }
        }
    }

    @Test func overlappingWritesGoOutAtOnce() throws {
        var bench = Bench()
        #expect(bench.zero(1, blocks: 0..<1).isEmpty)
        bench.connect()
        let late = try #require(bench.zero(2, blocks: 8..<10).first)
        #expect(late.offset == 8 * 4096)
        #expect(bench.zero(3, blocks: 9..<12).count == 1)
    }

    /// What is sent again may have been applied before: a later write must not come between the two times.
    @Test func aWriteSentAgainHoldsBackLaterOnesOnItsBlocks() throws {
        var bench = Bench()
        _ = bench.zero(1, blocks: 100..<101)
        bench.connect()
        let first = try #require(bench.zero(2, blocks: 0..<4).first)
        #expect(bench.answer(first, .notReady).isEmpty)
        #expect(bench.zero(3, blocks: 3..<6).isEmpty)
        #expect(bench.zero(4, blocks: 4..<6).isEmpty, "it overlaps the one that waits")
        #expect(bench.zero(5, blocks: 6..<7).count == 1)
        #expect(bench.read(6, block: 1).isEmpty)
        #expect(bench.read(7, block: 9).count == 1)
        let again = bench.wait()
        #expect(again.map(\.offset) == [0])
        #expect(bench.wait().isEmpty)
        let next = bench.answer(try #require(again.first), .ok)
        #expect(next.map(\.offset) == [3 * 4096])
        #expect(bench.answer(try #require(next.first), .ok).map(\.offset) == [4 * 4096])
        #expect(bench.wait().map(\.opcode) == [.read])
    }
}
