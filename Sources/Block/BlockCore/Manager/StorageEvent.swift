/// Something that happened to the system, as an operator reads it.
public struct StorageEvent: Equatable, Sendable {
    public enum Severity: String, Sendable, CaseIterable {
        case info = "INFO", warning = "WARNING", error = "ERROR", critical = "CRITICAL"
    }

    /// Grows by one from event to event of a system, over all its leaders.
    public var number: UInt64
    /// Since 1970, on the leader's clock.
    public var milliseconds: UInt64
    public var severity: Severity
    /// In capitals; `MDM_DATA_DEGRADED` and `MDM_DATA_FAILED` are ScaleIO's.
    public var name: String
    /// Type and id of the object, like `Sds::c047cb2900000003`.
    public var object: String
    public var text: String

    public init(
        number: UInt64, milliseconds: UInt64, severity: Severity, name: String, object: String, text: String
    ) {
        self.number = number
        self.milliseconds = milliseconds
        self.severity = severity
        self.name = name
        self.object = object
        self.text = text
    }
}

extension ManagerNotice {
    /// What an operator is to read of it, without number; nil for what concerns a single connection.
    public func event(_ state: SystemState, milliseconds: UInt64) -> StorageEvent? {
        func event(_ severity: StorageEvent.Severity, _ name: String, _ object: String, _ text: String) -> StorageEvent
        {
            StorageEvent(
                number: 0, milliseconds: milliseconds, severity: severity, name: name, object: object, text: text)
        }
        func sds(_ severity: StorageEvent.Severity, _ name: String, _ id: SdsID, _ text: String) -> StorageEvent {
            event(severity, name, "Sds::\(id)", "SDS \(state.servers[id]?.name ?? id.description) " + text)
        }
        func pool(_ severity: StorageEvent.Severity, _ name: String, _ id: StoragePoolID, _ text: String)
            -> StorageEvent
        {
            event(
                severity, name, "StoragePool::\(id)", "Storage pool \(state.pools[id]?.name ?? id.description): " + text
            )
        }
        func device(_ severity: StorageEvent.Severity, _ name: String, _ id: DeviceID, _ text: String) -> StorageEvent {
            event(severity, name, "Device::\(id)", "Device \(state.devices[id]?.path ?? id.description) " + text)
        }
        switch self {
        case .serverRegistered(let id): return sds(.info, "SDS_ADDED", id, "introduced itself for the first time")
        case .serverUp(let id): return sds(.info, "SDS_CONNECTED", id, "is connected")
        case .hostRebooted(let id):
            return sds(.warning, "SDS_HOST_REBOOTED", id, "runs on a host that was started anew")
        case .serverDown(let id, let reason): return sds(.error, "SDS_DECOUPLED", id, "was declared down: \(reason)")
        case .serverOscillates(let id, let count):
            return sds(.error, "SDS_OSCILLATES", id, "was declared down \(count) times in a short while")
        case .serverRemoved(let id): return sds(.info, "SDS_REMOVED", id, "was removed, with nothing left on it")
        case .maintenanceEntered(let id): return sds(.info, "SDS_IN_MAINTENANCE", id, "is in maintenance")
        case .maintenanceLeft(let id): return sds(.info, "SDS_MAINTENANCE_ENDED", id, "is in use again")
        case .deviceFailed(let id): return device(.error, "DEVICE_FAILED", id, "has failed")
        case .deviceRemoved(let id): return device(.info, "DEVICE_REMOVED", id, "was removed, with nothing left on it")
        case .damageFound(let id, let blocks):
            return device(
                .error, "DEVICE_BLOCKS_DAMAGED", id, "returned \(blocks) blocks that were not what was written")
        case .damageMended(let id, let blocks):
            return device(.info, "DEVICE_BLOCKS_MENDED", id, "and its mirrors: \(blocks) blocks were written again")
        case .combsDegraded(let count, let id):
            return pool(.error, "MDM_DATA_DEGRADED", id, "\(count) combs have one copy")
        case .combsUnavailable(let count, let id):
            return pool(.critical, "MDM_DATA_FAILED", id, "\(count) combs are unavailable")
        case .rebuildFinished(let id): return pool(.info, "MDM_DATA_NORMAL", id, "every comb has two copies")
        case .staleCopiesPromoted(let count, let id, let lost):
            let name = state.servers[lost]?.name ?? lost.description
            return pool(
                .critical, "STALE_COPIES_PROMOTED", id, "\(count) combs hold older data: SDS \(name) is given up")
        case .volumeLostData(let id, let units):
            let name = state.volumes[id]?.name ?? id.description
            return event(
                .critical, "VOLUME_DATA_LOSS", "Volume::\(id)",
                "Volume \(name) may have lost writes in \(units) MiB, by an operator's decision")
        case .dataLossCleared(let id):
            let name = state.volumes[id]?.name ?? id.description
            return event(
                .info, "VOLUME_DATA_LOSS_CLEARED", "Volume::\(id)", "An operator ended the mark of volume \(name)")
        case .clientRegistered(let id):
            return event(.info, "SDC_ADDED", "Sdc::\(id)", "SDC \(id) introduced itself for the first time")
        case .fenced(let proof):
            let name = state.volumes[proof.volume]?.name ?? proof.volume.description
            return event(
                .info, "VOLUME_FENCED", "Volume::\(proof.volume)",
                "Rights to volume \(name) older than epoch \(proof.attachEpoch) are proven to be refused")
        case .connectionRefused, .nodeMerged: return nil
        }
    }
}
