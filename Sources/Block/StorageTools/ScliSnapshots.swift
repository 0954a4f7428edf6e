import Base
import HTTPKit

/// The commands of `scli` for snapshots and the trees that they form.
enum ScliSnapshots {
    static let commands: [String: ScliCommandDefinition] = [
        "snapshot_volume": .init(
            options: ["volume_name", "volume_id", "snapshot_name"],
            summary: "Take snapshots of volumes (A,B,...), all of one moment", body: take),
        "remove_consistency_group_snapshots": .init(
            options: ["consistency_group_id", "i_am_sure"], summary: "Delete the snapshots that were taken together",
            body: removeGroup),
        "query_volume_tree": .init(
            options: ["volume_name", "volume_id"], summary: "A volume with its snapshots and ancestors", body: tree),
    ]

    @Sendable private static func take(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> String {
        let all = try await client.list("/api/types/Volume/instances")
        let isByID = arguments.value("volume_id") != nil
        let named = try arguments.value("volume_id") ?? arguments.required("volume_name")
        let texts = named.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        var sources: [JSONValue] = []
        for text in texts {
            guard let found = all.first(where: { $0[isByID ? "id" : "name"]?.string == text }) else {
                throw ScliFailure.refused("Could not find the volume")
            }
            sources.append(found)
        }
        var names = sources.map { _ in "" }
        if let given = arguments.value("snapshot_name") {
            names = given.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
            guard names.count == sources.count else {
                throw ScliFailure.usage("--snapshot_name must have a name for each volume")
            }
        }
        let definitions = zip(sources, names).map { source, name -> JSONValue in
            var definition: JSONValue = ["volumeId": .string(source.shown("id"))]
            if !name.isEmpty { definition["snapshotName"] = .string(name) }
            return definition
        }
        let taken = try await client.post(
            "/api/instances/System/action/snapshotVolumes", ["snapshotDefs": .array(definitions)])
        var text = ["Snapshots created successfully."]
        for (source, id) in zip(sources, taken["volumeIdList"]?.array ?? []) {
            let id = id.string ?? ""
            let snapshot = try await client.get("/api/instances/Volume::\(percentEncoded(id))")
            text.append("    Source volume with ID \(source.shown("id"))  => \(id) \(snapshot.shown("name"))")
        }
        text.append("Consistency group ID: \(taken.shown("snapshotGroupId"))")
        return text.joined(separator: "\n") + "\n"
    }

    @Sendable private static func removeGroup(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let group = try arguments.required("consistency_group_id")
        try ScliCommands.demandCertainty(arguments)
        let removed = try await client.post(
            "/api/instances/System/action/removeConsistencyGroupSnapshots", ["snapGroupId": .string(group)])
        return "Successfully removed \(removed.count("numberOfVolumes")) snapshots of consistency group \(group)\n"
    }

    @Sendable private static func tree(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> String {
        let volume = try await ScliLookup.volume(arguments, &client)
        let relatives = try await client.list("/api/instances/VTree::\(volume.shown("vtreeId"))/relationships/Volume")
        var text: [String] = []
        func add(_ volume: JSONValue) {
            let ancestor = volume["ancestorVolumeId"]?.string
            let moment = ScliText.time(milliseconds: volume.count("creationTime") * 1000)
            let thickness = volume["volumeType"]?.string == "ThickProvisioned" ? "Thick" : "Thin"
            text.append("Volume ID: \(volume.shown("id")) Name: \(volume.shown("name"))")
            text.append(
                "    " + (ancestor.map { "Snapshot of \($0) created at \(moment)" } ?? "Provisioning: \(thickness)"))
        }
        var waiting = relatives.filter { $0["ancestorVolumeId"]?.string == nil }
        // Each after its ancestor; at most 127 of them.
        while !waiting.isEmpty, text.count < 2 * relatives.count {
            let next = waiting.removeFirst()
            add(next)
            waiting = relatives.filter { $0["ancestorVolumeId"]?.string == next["id"]?.string } + waiting
        }
        return text.joined(separator: "\n") + "\n"
    }
}
