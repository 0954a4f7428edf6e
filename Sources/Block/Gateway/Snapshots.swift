import Base
import BlockCore

/// Snapshots and the trees that they form, as clients ask for them.
extension Gateway {
    /// All of one moment. What clients may ask besides and this system does not have is refused, not ignored.
    func snapshotVolumes(_ fields: RequestFields) async throws(GatewayError) -> JSONValue {
        guard let asked = try fields.objects("snapshotDefs"), !asked.isEmpty else { throw .missing("snapshotDefs") }
        switch try fields.text("accessModeLimit") {
        case nil, "ReadWrite"?: break
        case _?: throw .unsupported
        }
        guard try fields.number("retentionPeriodInMin") ?? 0 == 0 else { throw .unsupported }
        var definitions: [SnapshotDefinition] = []
        for definition in asked {
            guard let volume = VolumeID(try definition.requiredText("volumeId")) else { throw .invalidVolumeID }
            var random = SystemRandomNumberGenerator()
            let given = try definition.text("snapshotName") ?? ""
            let name = try given.isEmpty ? "snap-\((random.next() as UInt64).hex)" : Self.checkedName(given)
            definitions.append(SnapshotDefinition(volume: volume, name: name))
        }
        let reply: ManagerReply
        do {
            reply = try await submit(.takeSnapshots(definitions, createdAt: epochMilliseconds() / 1000))
        } catch {
            throw error.detailed
        }
        guard case .tookSnapshots(let group, let ids) = reply else { throw .communication }
        return [
            "volumeIdList": .array(ids.map { .string($0.description) }), "snapshotGroupId": .string(group.description),
        ]
    }

    /// The volume shows what another one of its tree does, and keeps its id, its name and its own snapshots. It must not be
    /// mapped.
    func overwrite(_ volume: Volume, _ fields: RequestFields) async throws(GatewayError) -> JSONValue {
        guard let source = VolumeID(try fields.requiredText("srcVolumeId")) else { throw .invalidVolumeID }
        let definition = SnapshotDefinition(volume: source, name: "", overwriting: volume.id)
        _ = try await submit(.takeSnapshots([definition], createdAt: epochMilliseconds() / 1000))
        return [:]
    }

    func removeGroup(_ fields: RequestFields) async throws(GatewayError) -> JSONValue {
        guard let group = SnapshotGroupID(try fields.requiredText("snapGroupId")) else { throw .groupNotFound }
        let volumes = try await state().volumes.values.filter { $0.snapshotGroup == group }.map(\.id)
        guard !volumes.isEmpty else { throw .groupNotFound }
        try await removeAll(volumes)
        return ["numberOfVolumes": .integer(Int64(volumes.count))]
    }

    func remove(_ volume: Volume, _ fields: RequestFields) async throws(GatewayError) -> JSONValue {
        let state = try await state()
        let descendants = state.descendants(of: volume)
        switch try fields.text("removeMode") {
        case nil, "ONLY_ME"?: try await removeAll([volume.id])
        case "INCLUDING_DESCENDANTS"?: try await removeAll(descendants + [volume.id])
        case "DESCENDANTS_ONLY"?: if !descendants.isEmpty { try await removeAll(descendants) }
        case "WHOLE_VTREE"?: try await removeAll(state.volumes(in: volume.tree).map(\.id))
        case let other?: throw .badRequest("removeMode \(other) is not known.")
        }
        return [:]
    }

    /// All or none.
    private func removeAll(_ volumes: [VolumeID]) async throws(GatewayError) {
        _ = try await submit(.removeVolumes(volumes, unmapping: false))
        // Best effort: what stays is never shown again, since ids are not used twice.
        for volume in volumes { try? await ledger.forget(volume) }
    }
}
