/// Something that is not as it should be now. Alerts follow from the objects: one ends when its reason does.
public struct Alert: Equatable, Sendable {
    public enum Severity: String, Sendable { case low, medium, high }

    /// The names are ScaleIO's but for those of full devices, damaged blocks and lost data.
    public enum Kind: String, Sendable, CaseIterable {
        case capacityUtilizationAboveHighThreshold = "CAPACITY_UTILIZATION_ABOVE_HIGH_THRESHOLD"
        case capacityUtilizationAboveCriticalThreshold = "CAPACITY_UTILIZATION_ABOVE_CRITICAL_THRESHOLD"
        case spareSmallerThanLargestFaultUnit = "CONFIGURED_SPARE_CAPACITY_IS_SMALLER_THAN_LARGEST_FAULT_UNIT"
        case degradedCapacity = "STORAGE_POOL_HAS_DEGRADED_CAPACITY"
        case failedCapacity = "STORAGE_POOL_HAS_FAILED_CAPACITY"
        case sdsDisconnected = "SDS_DISCONNECTED"
        case deviceFailed = "DEVICE_FAILED"
        case deviceFull = "DEVICE_FULL"
        case volumeLostData = "VOLUME_HAS_DATA_LOSS"
        case deviceDamaged = "DEVICE_HAS_DAMAGED_BLOCKS"
        case sdsInMaintenance = "SDS_IN_MAINTENANCE"
        case sdsOscillates = "SDS_DECOUPLED_OSCILLATION"
    }

    public enum Object: Equatable, Sendable {
        case storagePool(StoragePoolID)
        case sds(SdsID)
        case device(DeviceID)
        case volume(VolumeID)
    }

    public var kind: Kind
    public var severity: Severity
    public var object: Object
    public var message: String
}

extension SystemState {
    /// Everything that an operator should look at now, pool by pool, then servers and devices in order of their ids.
    public var alerts: [Alert] {
        var alerts: [Alert] = []
        for pool in pools.values { alerts += self.alerts(of: pool) }
        for server in servers.values where server.status == .down {
            alerts.append(
                Alert(
                    kind: .sdsDisconnected, severity: .high, object: .sds(server.id),
                    message: "SDS \(server.name) is not connected"))
        }
        for server in servers.values {
            if server.maintenance != .none {
                alerts.append(
                    Alert(
                        kind: .sdsInMaintenance, severity: .low, object: .sds(server.id),
                        message: "SDS \(server.name) is in maintenance (\(server.maintenance.rawValue))"))
            }
            if let count = oscillating[server.id] {
                alerts.append(
                    Alert(
                        kind: .sdsOscillates, severity: .high, object: .sds(server.id),
                        message: "SDS \(server.name) was lost \(count) times in a short while"))
            }
        }
        for device in devices.values where device.status == .failed {
            alerts.append(
                Alert(
                    kind: .deviceFailed, severity: .high, object: .device(device.id),
                    message: "Device \(device.path) of SDS \(servers[device.sds]?.name ?? "?") has failed"))
        }
        for device in devices.values where device.status == .normal && freeUnits(device) <= spareUnits(device) {
            alerts.append(
                Alert(
                    kind: .deviceFull, severity: .high, object: .device(device.id),
                    message: "Device \(device.path) of SDS \(servers[device.sds]?.name ?? "?") has only its spare left:"
                        + " writes that need a new unit of it are refused"))
        }
        for loss in dataLosses.values {
            alerts.append(
                Alert(
                    kind: .volumeLostData, severity: .high, object: .volume(loss.volume),
                    message: "Volume \(volumes[loss.volume]?.name ?? "?") may have lost writes in \(loss.units) MiB:"
                        + " an operator promoted older copies"))
        }
        for device in devices.values where device.status == .normal {
            guard let blocks = integrity[device.id]?.damagedBlocks, blocks > 0 else { continue }
            alerts.append(
                Alert(
                    kind: .deviceDamaged, severity: .high, object: .device(device.id),
                    message: "\(blocks) blocks of device \(device.path) of SDS \(servers[device.sds]?.name ?? "?")"
                        + " are not what was written"))
        }
        return alerts
    }

    private func alerts(of pool: StoragePool) -> [Alert] {
        var alerts: [Alert] = []
        func add(_ kind: Alert.Kind, _ severity: Alert.Severity, _ message: String) {
            alerts.append(Alert(kind: kind, severity: severity, object: .storagePool(pool.id), message: message))
        }
        let capacity = capacity(of: pool.id)
        if capacity.isAbove(pool.settings.capacityAlertCritical) {
            add(
                .capacityUtilizationAboveCriticalThreshold, .high,
                "\(capacity.used) of \(capacity.usable) MiB of storage pool \(pool.name) are in use")
        } else if capacity.isAbove(pool.settings.capacityAlertHigh) {
            add(
                .capacityUtilizationAboveHighThreshold, .medium,
                "\(capacity.used) of \(capacity.usable) MiB of storage pool \(pool.name) are in use")
        }
        if capacity.spare < capacity.largestFaultUnit {
            add(.spareSmallerThanLargestFaultUnit, .medium, StoragePool.spareWarning(capacity))
        }
        let health = health(of: pool.id)
        if health.unavailable > 0 {
            add(
                .failedCapacity, .high,
                "\(health.unavailable) of \(pool.combs.count) combs of storage pool \(pool.name) are unavailable")
        }
        if health.degraded + health.rebuilding > 0 {
            add(
                .degradedCapacity, .medium,
                "\(health.degraded + health.rebuilding) of \(pool.combs.count) combs of storage pool \(pool.name) have one copy"
            )
        }
        return alerts
    }
}

extension StoragePool {
    static func spareWarning(_ capacity: PoolCapacity) -> String {
        "The spare (\(capacity.spare) MiB) is smaller than the largest fault unit (\(capacity.largestFaultUnit) MiB):"
            + " not everything that is lost with it can be rebuilt when the pool is full"
    }
}
