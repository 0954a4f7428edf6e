import Base
import Testing

@testable import BlockCore
@testable import Gateway

@Suite struct SnapshotTests {
    private static let action = "/api/instances/System::\(MemoryManager.system)/action"

    private func take(_ bench: Bench, _ sources: [String], names: [String?]) async throws -> JSONValue {
        let definitions = zip(sources, names).map { source, name -> JSONValue in
            ["volumeId": .string(source), "snapshotName": .optional(name)]
        }
        return try await bench.post("\(Self.action)/snapshotVolumes", ["snapshotDefs": .array(definitions)])
    }

    private func ids(_ answer: JSONValue) -> [String] { answer["volumeIdList"]?.array?.compactMap(\.string) ?? [] }

    private func volume(_ bench: Bench, _ id: String) async throws -> JSONValue {
        try await bench.get("/api/instances/Volume::\(id)")
    }

    @Test func snapshotsOfAGroupNameItAndTheirAncestors() async throws {
        let bench = try await Bench()
        let first = try await bench.createVolume("a")
        let sources = [first, try await bench.createVolume("b", kibibytes: "16777216")]
        let answer = try await take(bench, sources, names: ["a1", nil])
        let taken = ids(answer)
        #expect(taken.count == 2)
        for (source, id) in zip(sources, taken) {
            let (original, snapshot) = (try await volume(bench, source), try await volume(bench, id))
            #expect(snapshot["volumeType"] == "Snapshot")
            #expect(original["volumeType"] == "ThinProvisioned")
            #expect(snapshot["ancestorVolumeId"]?.string == source)
            #expect(original["ancestorVolumeId"] == .null)
            #expect(snapshot["consistencyGroupId"] == answer["snapshotGroupId"])
            #expect(snapshot["vtreeId"] == original["vtreeId"])
            #expect(snapshot["sizeInKb"] == original["sizeInKb"])
            #expect(snapshot["mappedSdcInfo"] == .null)
        }
        #expect(try await volume(bench, taken[0])["name"] == "a1")
        #expect(try await volume(bench, taken[1])["name"]?.string?.hasPrefix("snap-") == true)
        let tree = try #require(try await volume(bench, taken[0])["vtreeId"]?.string)
        let shown = try await bench.get("/api/instances/VTree::\(tree)")
        #expect(shown["name"] == "a")
        #expect(shown["baseVolumeId"]?.string == sources[0])
        let members = try await bench.get("/api/instances/VTree::\(tree)/relationships/Volume").array ?? []
        #expect(Set(members.compactMap { $0["id"]?.string }) == [sources[0], taken[0]])
        #expect(try await bench.get("/api/types/VTree/instances").array?.count == 2)
        let pool = try await bench.get("/api/instances/StoragePool::\(MemoryManager.pool)/relationships/Statistics")
        #expect(pool["numOfSnapshots"] == 2)
        #expect(pool["numOfVtrees"] == 2)
        #expect(pool["numOfThinBaseVolumes"] == 2)
        let statistics = try await bench.get("/api/instances/Volume::\(sources[0])/relationships/Statistics")
        #expect(statistics["numOfChildVolumes"] == 1)
        #expect(statistics["numOfDescendantVolumes"] == 1)
        let removed = try await bench.post(
            "\(Self.action)/removeConsistencyGroupSnapshots", ["snapGroupId": answer["snapshotGroupId"] ?? .null])
        #expect(removed["numberOfVolumes"] == 2)
        #expect(try await bench.get("/api/types/Volume/instances").array?.count == 2)
        let again = await bench.refusal {
            try await bench.post(
                "\(Self.action)/removeConsistencyGroupSnapshots", ["snapGroupId": answer["snapshotGroupId"] ?? .null])
        }
        #expect(again?.code == 185)
    }

    /// a - b - c, and what each mode leaves of it.
    @Test(arguments: [
        ("ONLY_ME", "b", ["a", "c"]), ("INCLUDING_DESCENDANTS", "b", ["a"]), ("DESCENDANTS_ONLY", "b", ["a", "b"]),
        ("WHOLE_VTREE", "b", []), ("ONLY_ME", "a", ["b", "c"]), ("INCLUDING_DESCENDANTS", "a", []),
    ]) func modesOfRemovalLeaveTheOthers(_ mode: String, _ victim: String, _ left: [String]) async throws {
        let bench = try await Bench()
        let other = try await bench.createVolume("other")
        var ids = ["a": try await bench.createVolume("a")]
        for (source, name) in [("a", "b"), ("b", "c")] {
            ids[name] = self.ids(try await take(bench, [ids[source] ?? ""], names: [name])).first
        }
        _ = try await bench.post(
            "/api/instances/Volume::\(ids[victim] ?? "")/action/removeVolume", ["removeMode": .string(mode)])
        let volumes = try await bench.get("/api/types/Volume/instances").array ?? []
        #expect(Set(volumes.compactMap { $0["name"]?.string }) == Set(left + ["other"]))
        #expect(try await volume(bench, other)["name"] == "other")
        if left == ["a", "c"] {
            #expect(try await volume(bench, ids["c"] ?? "")["ancestorVolumeId"]?.string == ids["a"])
        }
        if left == ["b", "c"] {
            #expect(try await volume(bench, ids["b"] ?? "")["ancestorVolumeId"] == .null)
            let trees = try await bench.get("/api/types/VTree/instances").array ?? []
            #expect(Set(trees.compactMap { $0["name"]?.string }) == ["b", "other"])
        }
    }

    @Test func aMappedDescendantKeepsAll() async throws {
        let bench = try await Bench()
        let source = try await bench.createVolume("a")
        let snapshot = try #require(ids(try await take(bench, [source], names: ["b"])).first)
        _ = try await bench.post(
            "/api/instances/Volume::\(snapshot)/action/addMappedSdc",
            ["sdcId": .string(MemoryManager.sdc1.description)])
        let refusal = await bench.refusal {
            try await bench.post("/api/instances/Volume::\(source)/action/removeVolume", ["removeMode": "WHOLE_VTREE"])
        }
        #expect(refusal == .volumeMapped)
        #expect(try await bench.get("/api/types/Volume/instances").array?.count == 2)
    }

    @Test func refusalsHaveDetails() async throws {
        let bench = try await Bench()
        let source = try await bench.createVolume("a")
        func refusal(_ body: JSONValue) async -> GatewayError? {
            await bench.refusal { try await bench.post("\(Self.action)/snapshotVolumes", body) }
        }
        let one: JSONValue = ["volumeId": .string(source), "snapshotName": "b"]
        #expect(await refusal([:])?.status == 400)
        #expect(await refusal(["snapshotDefs": []])?.status == 400)
        #expect(await refusal(["snapshotDefs": "x"])?.status == 400)
        #expect(await refusal(["snapshotDefs": ["x"]])?.status == 400)
        #expect(await refusal(["snapshotDefs": [[:]]])?.status == 400)
        #expect(await refusal(["snapshotDefs": [["volumeId": "x"]]]) == .invalidVolumeID)
        #expect(await refusal(["snapshotDefs": [one], "accessModeLimit": "ReadOnly"]) == .unsupported)
        #expect(await refusal(["snapshotDefs": [one], "retentionPeriodInMin": "5"]) == .unsupported)
        #expect(await refusal(["snapshotDefs": [["volumeId": "00000000000000ff"]]])?.code == 79)
        bench.manager.refuseNext(ManagerError(.tooManySnapshots, "full"))
        let full = await refusal(["snapshotDefs": [one]])
        #expect(full?.code == 182)
        #expect(full?.json["details"]?[0]?["rc"] == 182)
        #expect(full?.json["details"]?[0]?["errorMessage"] == "There are too many snapshots in the VTree")
        bench.manager.refuseNext(ManagerError(.snapshotFailed, "writes went on at sds1"))
        let failed = await refusal(["snapshotDefs": [one]])
        #expect(failed?.code == 164)
        #expect(failed?.message.contains("sds1") == true)
    }

    @Test func aVolumeIsOverwrittenFromItsSnapshot() async throws {
        let bench = try await Bench()
        let id = try await bench.createVolume("a")
        let other = try await bench.createVolume("b")
        let snapshot = try #require(ids(try await take(bench, [id], names: ["a1"])).first)
        func overwrite(_ source: String) async throws -> JSONValue {
            try await bench.post(
                "/api/instances/Volume::\(id)/action/overwriteVolumeContent", ["srcVolumeId": .string(source)])
        }
        #expect(try await overwrite(snapshot) == [:])
        #expect(try await volume(bench, id)["name"] == "a")
        #expect(try await bench.get("/api/types/Volume/instances").array?.count == 3)
        #expect(await bench.refusal { try await overwrite(other) }?.code == 198)
        #expect(await bench.refusal { try await overwrite(id) }?.code == 330)
        #expect(await bench.refusal { try await overwrite("0000000000000404") }?.code == 79)
    }
}
