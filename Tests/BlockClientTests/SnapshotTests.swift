import Base
import BlockClient
import BlockCore
import BlockIO
import BlockManager
import Testing

extension StoreClusterTests {
    private func snapshot(_ volume: VolumeID, _ name: String, _ cluster: StoreCluster) async throws -> VolumeID {
        let reply = try await cluster.manager.submit(
            .takeSnapshots([SnapshotDefinition(volume: volume, name: name)], createdAt: 1))
        guard case .tookSnapshots(_, let ids) = reply, ids.count == 1 else {
            throw ManagerError(.malformed, "unexpected \(reply)")
        }
        return ids[0]
    }

    @Test func aSnapshotKeepsWhatItsVolumeHadAndOutlivesIt() async throws {
        try await withCluster(servers: 2) { cluster in
            await cluster.startClient("c1")
            let volume = try await cluster.makeVolume("v")
            let uri = try await cluster.map(volume, to: "c1")
            #expect(await fio(uri, "--rw=write", "--size=8m", "--do_verify=1", "--randseed=5").status == 0)
            let id = try await snapshot(volume, "s", cluster)
            // A part of it, block by block, so that reads find their blocks in two places.
            let changed = await fio(
                uri, "--rw=randwrite", "--size=8m", "--io_size=2m", "--do_verify=1", "--randseed=6")
            #expect(changed.status == 0, "\(changed.output)")
            let shot = try await cluster.map(id, to: "c1")
            let kept = await fio(shot, "--rw=write", "--size=8m", "--verify_only=1", "--randseed=5")
            #expect(kept.status == 0, "\(kept.output)")
            let mixed = await fio(
                uri, "--rw=randwrite", "--size=8m", "--io_size=2m", "--verify_only=1", "--randseed=6")
            #expect(mixed.status == 0, "\(mixed.output)")
            // Writes to it are its own.
            let second = try await snapshot(id, "s2", cluster)
            let own = await fio(
                shot, "--rw=randwrite", "--size=8m", "--io_size=3m", "--do_verify=1", "--randseed=7")
            #expect(own.status == 0, "\(own.output)")
            // Both go; what is left is as the volume was at first, also after everything was restarted.
            for gone in [volume, id] {
                _ = try await cluster.manager.submit(.unmap(gone, nil))
                _ = try await cluster.manager.submit(.removeVolume(gone, unmapping: false))
            }
            let last = try await cluster.map(second, to: "c1")
            await cluster.kill("server1")
            await cluster.kill("server2")
            #expect(await cluster.startServer(1))
            #expect(await cluster.startServer(2))
            let left = await fio(last, "--rw=write", "--size=8m", "--verify_only=1", "--randseed=5")
            #expect(left.status == 0, "\(left.output)")
        }
    }

    @Test func snapshotsUnderLoadAreTakenAndLoseNothing() async throws {
        try await withCluster { cluster in
            await cluster.startClient("c1")
            let volume = try await cluster.makeVolume("v")
            let uri = try await cluster.map(volume, to: "c1")
            async let running = fio(
                uri, "--rw=randwrite", "--size=16m", "--io_size=32m", "--rate_iops=3000", "--do_verify=1",
                "--randseed=8")
            var taken: [VolumeID] = []
            for number in 0..<5 { taken.append(try await snapshot(volume, "s\(number)", cluster)) }
            let result = await running
            #expect(result.status == 0, "\(result.output)")
            #expect(Set(taken).count == 5)
            let state = try await cluster.manager.state()
            #expect(state.volumes.values.filter { $0.ancestor == volume }.count == 5)
        }
    }
}
