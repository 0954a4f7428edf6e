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

    @Test func aVolumeIsOverwrittenFromItsSnapshot() async throws {
        try await withCluster(servers: 2) { cluster in
            await cluster.startClient("c1")
            let volume = try await cluster.makeVolume("v")
            let uri = try await cluster.map(volume, to: "c1")
            #expect(await fio(uri, "--rw=write", "--size=4m", "--do_verify=1", "--randseed=5").status == 0)
            let id = try await snapshot(volume, "s", cluster)
            #expect(await fio(uri, "--rw=write", "--size=4m", "--do_verify=1", "--randseed=6").status == 0)
            let restore = SnapshotDefinition(volume: id, name: "", overwriting: volume)
            await #expect(throws: ManagerError.self, "it is mapped") {
                try await cluster.manager.submit(.takeSnapshots([restore], createdAt: 1))
            }
            _ = try await cluster.manager.submit(.unmap(volume, nil))
            _ = try await cluster.manager.submit(.takeSnapshots([restore], createdAt: 1))
            let again = try await cluster.map(volume, to: "c1")
            let restored = await fio(again, "--rw=write", "--size=4m", "--verify_only=1", "--randseed=5")
            #expect(restored.status == 0, "\(restored.output)")
        }
    }

    /// What a snapshot kept goes to the volume when the snapshot is gone, and nothing is left of it on any server.
    @Test func whatNoSnapshotNeedsIsMerged() async throws {
        try await withCluster(servers: 2) { cluster in
            await cluster.startClient("c1")
            let volume = try await cluster.makeVolume("v")
            let uri = try await cluster.map(volume, to: "c1")
            func check(_ offset: String, _ size: String, _ seed: String, write: Bool) async {
                let result = await fio(
                    uri, "--rw=write", write ? "--do_verify=1" : "--verify_only=1", offset, size, seed)
                #expect(result.status == 0, "\(result.output)")
            }
            await check("--offset=0", "--size=2m", "--randseed=5", write: true)
            await check("--offset=2m", "--size=6m", "--randseed=9", write: true)
            let id = try await snapshot(volume, "s", cluster)
            await check("--offset=0", "--size=2m", "--randseed=6", write: true)
            _ = try await cluster.manager.submit(.removeVolume(id, unmapping: false))
            let manager = cluster.manager
            let isMerged = await cluster.until(seconds: 60) {
                (try? await manager.state().trees.values.first?.nodes.count) == 1
            }
            #expect(isMerged)
            await check("--offset=0", "--size=2m", "--randseed=6", write: false)
            await check("--offset=2m", "--size=6m", "--randseed=9", write: false)
            // The servers tell a little later what they have.
            let hasNoMore = await cluster.until {
                guard let state = try? await manager.state() else { return false }
                return state.usedUnits.count == 2 && state.usedUnits.values.allSatisfy { $0 == 8 }
            }
            #expect(hasNoMore)
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
