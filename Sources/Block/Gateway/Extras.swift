import Base
import BlockCore

// MARK: - What the original does not have

extension Gateway {
    /// `/holdfast/v1/volumes/ID/epochs`: who may write now and the proofs of how it came to be.
    /// `/holdfast/v1/pools`: how many combs of each pool have two copies. Nil for other paths.
    func extra(_ path: String) async throws(GatewayError) -> JSONValue? {
        let segments = path.split(separator: "/").map(String.init)
        guard segments.count >= 3, segments[0] == "holdfast", segments[1] == "v1" else { return nil }
        switch segments.dropFirst(2) {
        case ["pools"]:
            let state = try await state()
            return .array(
                state.pools.values.map { pool in
                    let health = state.health(of: pool.id)
                    return [
                        "id": .string(pool.id.description), "name": .string(pool.name),
                        "combs": [
                            "total": .integer(Int64(pool.combs.count)), "normal": .integer(Int64(health.normal)),
                            "degraded": .integer(Int64(health.degraded)),
                            "moving": .integer(Int64(health.moving)),
                            "rebuilding": .integer(Int64(health.rebuilding)),
                            "unavailable": .integer(Int64(health.unavailable)),
                            "unplaced": .integer(Int64(health.unplaced)),
                        ],
                    ]
                })
        case let rest where rest.first == "events" && rest.count <= 2:
            guard let after = rest.count == 1 ? 0 : UInt64(segments[3]) else { throw .unknownPath(path) }
            return try await events(after: after)
        case ["alerts"]: return .array(try await views().alerts)
        case let rest where rest.count == 3 && rest.first == "volumes" && rest.last == "epochs":
            let state = try await state()
            let name = segments[3]
            guard let volume = VolumeID(name).flatMap({ state.volumes[$0] }) ?? state.volume(named: name) else {
                throw .volumeNotFound
            }
            let views = try await views()
            return [
                "volumeId": .string(volume.id.description),
                "name": .string(volume.name),
                "attachEpoch": .integer(Int64(clamping: volume.attachEpoch)),
                "fencedThrough": .integer(Int64(clamping: volume.fencedThrough)),
                "fencePending": .bool(volume.isFencePending),
                "mappedSdcInfo": views.volume(volume)["mappedSdcInfo"] ?? .null,
                "history": .array((try? await ledger.records(of: volume.id)) ?? []),
            ]
        default: return nil
        }
    }

    /// `/holdfast/v1/sds/ID/promoteStaleCopies` (`deviceId`): gives a server, or a device, up for good.
    /// `/holdfast/v1/volumes/ID/clearDataLoss`: ends a volume's mark. Nil for other paths.
    func extraAction(_ path: String, _ body: [UInt8]) async throws(GatewayError) -> JSONValue? {
        let segments = path.split(separator: "/").map(String.init)
        guard segments.count == 5, segments[0] == "holdfast", segments[1] == "v1" else { return nil }
        let fields = try RequestFields(body)
        let name = segments[3]
        switch (segments[2], segments[4]) {
        case ("sds", "promoteStaleCopies"):
            let state = try await state()
            guard let server = SdsID(name).flatMap({ state.servers[$0] }) ?? state.server(named: name) else {
                throw .sdsNotFound
            }
            var device: DeviceID?
            if let text = try fields.text("deviceId") {
                guard let id = DeviceID(text) else { throw .deviceNotFound }
                device = id
            }
            return try await configured(.promoteStaleCopies(server.id, device), about: .sds)
        case ("volumes", "clearDataLoss"):
            let state = try await state()
            guard let volume = VolumeID(name).flatMap({ state.volumes[$0] }) ?? state.volume(named: name) else {
                throw .volumeNotFound
            }
            return try await configured(.clearDataLoss(volume.id), about: .volume)
        default: return nil
        }
    }
}
