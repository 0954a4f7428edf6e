import BlockCore
import Testing

extension StoreClusterTests {
    /// Also when a server has gone in between, and when the manager who grants the leases has.
    @Test func whatOneClientWroteTheOtherReads() async throws {
        try await withCluster(managers: 2) { cluster in
            await cluster.startClient("c1")
            await cluster.startClient("c2")
            let volume = try await cluster.makeVolume("v")
            let first = try await cluster.map(volume, to: "c1")
            let second = try await cluster.map(volume, to: "c2", sharing: true)
            func write(_ uri: String, _ seed: Int) async {
                let result = await fio(uri, "--rw=randwrite", "--size=8m", "--do_verify=0", "--randseed=\(seed)")
                #expect(result.status == 0, "\(result.output)")
            }
            func verify(_ uri: String, _ seed: Int) async {
                let result = await fio(uri, "--rw=randwrite", "--size=8m", "--verify_only=1", "--randseed=\(seed)")
                #expect(result.status == 0, "\(result.output)")
            }
            await write(first, 21)
            await verify(second, 21)
            await cluster.kill("server1")
            await write(second, 22)
            await verify(first, 22)
            _ = await cluster.killLeader()
            await verify(second, 22)
            #expect(await cluster.until { cluster.leaders.count == 1 })
            await write(first, 23)
            await verify(second, 23)
        }
    }
}
