import BlockCore
import BlockManager
import Glibc
import Testing

extension StoreClusterTests {
    /// The only good copy of a volume is on a disk that is lost. What the other server still has is older: nobody gets it
    /// before an operator says so, the volume tells until he has dealt with it, and an empty disk gets its copy again.
    @Test func anOlderCopyIsServedOnlyByAnOperatorsDecision() async throws {
        try await withCluster(servers: 2) { cluster in
            await cluster.startClient("c1")
            let volume = try await cluster.makeVolume("v")
            let uri = try await cluster.map(volume, to: "c1")
            func io(_ commands: String...) async -> String {
                let words = commands.flatMap { ["-c", $0] }
                let result = await run("qemu-io", ["-f", "raw"] + words + [uri])
                return result.output.contains("failed") || result.status != 0 ? result.output : "done"
            }
            #expect(await io("write -P 1 0 8M", "flush") == "done")
            let manager = cluster.manager
            func server(_ name: String) async throws -> Sds {
                let state = try await manager.state()
                return try #require(state.server(named: name))
            }
            func combs() async throws -> [Comb] { try await manager.state().pools.values.flatMap(\.combs) }

            await cluster.kill("server1")
            #expect(await io("write -P 2 0 4M", "flush") == "done")
            await cluster.kill("server2")
            unlink("\(cluster.directory.path)/device2")
            #expect(await cluster.startServer(1))
            let lost = try await server("node2").id
            #expect(
                await cluster.until {
                    let state = try? await manager.state()
                    return state?.server(named: "node1")?.status == .up && state?.servers[lost]?.status == .down
                        && state?.pools.values.allSatisfy { $0.combs.allSatisfy { $0.state == .unavailable } } == true
                })

            async let waiting = io("read -P 2 0 4M")
            try await Task.sleep(for: .milliseconds(500))
            let kept = try await server("node1").id
            await #expect(throws: ManagerError.self) {
                try await manager.submit(.configure(.promoteStaleCopies(kept, nil)))
            }
            #expect(try await combs().allSatisfy { $0.state == .unavailable })
            _ = try await manager.submit(.configure(.promoteStaleCopies(lost, nil)))
            #expect(await waiting.contains("Pattern verification failed"), "what was written last is lost")
            let state = try await manager.state()
            #expect(state.dataLosses[volume] != nil)
            #expect(state.alerts.contains { $0.kind == .volumeLostData })
            #expect(await io("read -P 1 0 8M", "write -P 3 4M 4M", "read -P 3 4M 4M", "flush") == "done")

            // Another disk takes the place of the lost one.
            _ = try await manager.submit(.removeSds(lost))
            #expect(await cluster.startServer(2))
            #expect(
                await cluster.until(seconds: 60) {
                    let state = try? await manager.state()
                    return state?.pools.values.allSatisfy { state?.health(of: $0.id).normal == $0.combs.count } == true
                })
            await cluster.kill("server1")
            #expect(await io("read -P 1 0 4M", "read -P 3 4M 4M") == "done")
            _ = try await manager.submit(.configure(.clearDataLoss(volume)))
            #expect(try await manager.state().dataLosses.isEmpty)
        }
    }
}
