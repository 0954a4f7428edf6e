import Base
import Testing

@testable import BlockCore

/// What the manager remembers of copies that left, and what it makes of it when they return.
@Suite struct FormerCopyTests {
    private let one = SdsID(rawValue: 1)

    /// Three servers, of which the first has gone and was declared down.
    private func withoutTheFirst() throws -> (bench: ManagerBench, before: [Comb]) {
        var bench = ManagerBench()
        _ = try bench.volume()
        let before = bench.combs
        bench.feed(.linkClosed(ManagerBench.link(1)))
        bench.pass(.seconds(1), alive: [2, 3])
        #expect(bench.core.state.servers[one]?.status == .down)
        return (bench, before)
    }

    @Test func aCopyThatLeavesIsRememberedWithItsLastEpoch() throws {
        let (bench, before) = try withoutTheFirst()
        for (comb, earlier) in zip(bench.combs, before) {
            let left = earlier.inSync.first { $0.sds == one }
            #expect(comb.former == left.map { FormerCopy(place: $0, epoch: earlier.epoch) })
            #expect(comb.epoch == earlier.epoch + (left == nil ? 0 : 1))
        }
    }

    @Test func theFormerCopyIsPreferredAsTarget() throws {
        var (bench, before) = try withoutTheFirst()
        bench.join(1, incarnation: 2, link: 11)
        for server: UInt64 in [2, 3] { bench.acknowledge(server) }
        bench.feed(.tick)
        for (comb, earlier) in zip(bench.combs, before) {
            guard let left = earlier.inSync.first(where: { $0.sds == one }) else { continue }
            #expect(comb.target == nil || comb.target == left && comb.targetEpoch == earlier.epoch)
        }
        let resyncs = bench.combs.filter { $0.target != nil }
        #expect(resyncs.count == ManagerConfiguration().resyncsPerDevice)
        // A copy that is complete again has no past.
        let index = try #require(bench.combs.firstIndex { $0.target != nil })
        let comb = bench.combs[index]
        let pool = try #require(bench.core.state.pools.values.first?.id)
        let target = try #require(comb.target)
        bench.feed(
            .message(
                ManagerBench.link(comb.primary.sds.rawValue),
                .rebuildDone(CombKey(pool: pool, index: UInt32(index)), epoch: comb.epoch, target: target)))
        bench.pass(.milliseconds(100), alive: [2, 3])
        #expect(bench.combs[index].secondary == target && bench.combs[index].former == nil)
    }

    @Test func copiesThatAreCompleteShareACommit() throws {
        var (bench, _) = try withoutTheFirst()
        bench.join(1, incarnation: 2, link: 11)
        bench.feed(.tick)
        let complete = bench.combs.indices.filter { bench.combs[$0].target?.sds == one }
        #expect(complete.count > 10)
        let commits = bench.commits
        bench.finishCopies()
        #expect(bench.commits == commits)
        // Who waits for an answer does not wait for them, and takes them along.
        _ = try bench.run(.createProtectionDomain(name: "other"))
        #expect(bench.commits == commits + 1)
        #expect(complete.allSatisfy { bench.combs[$0].secondary?.sds == one })
        // The first one after a pause does not wait, and the others follow.
        bench.pass(.milliseconds(100), alive: [2, 3])
        bench.finishCopies()
        #expect(bench.commits == commits + 2 && bench.combs.contains { $0.target != nil })
        bench.pass(.milliseconds(100), alive: [2, 3])
        #expect(bench.commits == commits + 3 && bench.combs.allSatisfy { $0.target == nil })
    }

    @Test func aTargetThatLeavesInTheMiddleKeepsItsEpoch() throws {
        var (bench, before) = try withoutTheFirst()
        bench.join(1, incarnation: 2, link: 11)
        bench.feed(.tick)
        #expect(bench.combs.contains { $0.target?.sds == one })
        bench.feed(.linkClosed(LinkID(rawValue: 11)))
        bench.pass(.seconds(1), alive: [2, 3])
        for (comb, earlier) in zip(bench.combs, before) where earlier.inSync.contains(where: { $0.sds == one }) {
            #expect(comb.state == .degraded && comb.former?.epoch == earlier.epoch)
        }
    }

    @Test func theLastCopysAbsenceDoesNotMakeTheFormerCopyForgotten() throws {
        var (bench, before) = try withoutTheFirst()
        bench.pass(.seconds(3), alive: [3])
        #expect(bench.combs.contains { $0.state == .unavailable && $0.former?.place.sds == one })
        for server: UInt64 in [1, 2] { bench.join(server, incarnation: 2, link: 10 + server) }
        bench.feed(.tick)
        for (comb, earlier) in zip(bench.combs, before) where earlier.inSync.allSatisfy({ $0.sds.rawValue != 3 }) {
            #expect(comb.former?.place.sds == one && comb.primary.sds.rawValue == 2)
        }
    }

    @Test func anotherCopyIsMadeWhenTheFormerStaysAway() throws {
        var (bench, _) = try withoutTheFirst()
        #expect(bench.combs.allSatisfy { $0.target == nil })
        bench.pass(ManagerConfiguration().absenceGrace, alive: [2, 3])
        let rebuilt = bench.combs.filter { $0.target != nil }
        #expect(!rebuilt.isEmpty && rebuilt.allSatisfy { $0.targetEpoch == nil && $0.former?.place.sds == one })
    }

    /// A device that failed, or was put back, holds nothing that could be built on.
    @Test func whatADeviceHeldIsForgottenWithIt() throws {
        var bench = ManagerBench()
        _ = try bench.volume()
        bench.feed(.message(ManagerBench.link(1), .deviceFailed(DeviceID(rawValue: 1))))
        #expect(bench.combs.allSatisfy { $0.former == nil })
        var (other, _) = try withoutTheFirst()
        #expect(other.combs.contains { $0.former != nil })
        other.join(1, incarnation: 2, link: 11, mountCounter: 1)
        #expect(other.core.state.devices[DeviceID(rawValue: 1)]?.status == .failed)
        #expect(other.combs.allSatisfy { $0.former == nil })
        // Also in what is stored.
        let records = other.records.sorted { $0.key < $1.key }.map { (key: $0.key, value: $0.value) }
        let stored = try #require(try SystemState.decode(records))
        #expect(stored.pools == other.core.state.pools)
    }

    @Test func whatCannotBeReadIsNotBuiltOn() throws {
        var bench = ManagerBench()
        _ = try bench.volume()
        let index = try #require(bench.combs.firstIndex { $0.secondary != nil })
        let comb = bench.combs[index]
        let pool = try #require(bench.core.state.pools.values.first?.id)
        bench.feed(
            .message(
                ManagerBench.link(comb.primary.sds.rawValue),
                .copyUnreadable(CombKey(pool: pool, index: UInt32(index)), epoch: comb.epoch, copy: comb.primary)))
        #expect(bench.combs[index].state == .degraded && bench.combs[index].former == nil)
    }

    /// Records as version 1 wrote them: no former copy, no host.
    @Test func recordsOfVersionOneAreRead() throws {
        var bench = ManagerBench()
        _ = try bench.volume()
        let state = bench.core.state
        var records = bench.records
        for (key, value) in records { records[key] = [1] + value.dropFirst() }
        for pool in state.pools.values {
            for first in stride(from: 0, to: pool.combs.count, by: Int(Geometry.combsPerChunk)) {
                let combs = pool.combs[first..<min(first + Int(Geometry.combsPerChunk), pool.combs.count)]
                var writer = ByteWriter()
                writer.put(UInt8(1))
                writer.put(pool.id)
                writer.put(UInt32(first))
                writer.put(UInt32(combs.count))
                for comb in combs {
                    writer.put(comb.epoch)
                    writer.put(comb.revision)
                    writer.put(comb.primary)
                    writer.put(UInt8(1))
                    writer.put(try #require(comb.secondary))
                }
                records[RecordKey.combs(pool.id, chunk: UInt32(first) / Geometry.combsPerChunk).path] = writer.bytes
            }
        }
        for server in state.servers.values {
            let path = RecordKey.server(server.id).path
            // An empty host, no fault set, not leaving, "none".
            records[path] = try #require(records[path]).dropLast(2 + 8 + 1 + 6)
        }
        for device in state.devices.values {
            // No name, not leaving.
            let path = RecordKey.device(device.id).path
            records[path] = try #require(records[path]).dropLast(2 + 1)
        }
        for pool in state.pools.values {
            var settings = ByteWriter()
            settings.put(pool.settings)
            let path = RecordKey.pool(pool.id).path
            records[path] = try #require(records[path]).dropLast(settings.bytes.count)
        }
        for volume in state.volumes.values {
            // No tree and head, no ancestor and group.
            let path = RecordKey.volume(volume.id).path
            records[path] = try #require(records[path]).dropLast(8 + 4 + 8 + 8)
        }
        let list = records.sorted { $0.key < $1.key }.map { (key: $0.key, value: $0.value) }
        let read = try #require(try SystemState.decode(list))
        #expect(read.pools == state.pools && read.servers == state.servers && read.volumes == state.volumes)
    }
}
