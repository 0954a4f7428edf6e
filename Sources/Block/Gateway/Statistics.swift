import Base
import BlockCore
import OrderedCollections

/// Capacities and counts of a part of the system. Capacities are in KiB and raw: both copies count, as in the original.
struct Statistics {
    private let state: SystemState

    init(state: SystemState) { self.state = state }

    /// The statistics of one object; an unknown id is the caller's mistake and answered before.
    func of(_ type: ObjectType, id: String) -> JSONValue {
        switch type {
        case .system:
            return pools(
                state.pools.values,
                more: [
                    "numOfProtectionDomains": .integer(Int64(state.domains.count)),
                    "numOfStoragePools": .integer(Int64(state.pools.count)),
                    "numOfSds": .integer(Int64(state.servers.count)),
                    "numOfSdc": .integer(Int64(state.clients.count)),
                    "numOfScsiInitiators": 0,
                    "numOfFaultSets": .integer(Int64(state.faultSets.count)),
                ])
        case .protectionDomain:
            let pools = state.pools.values.filter { $0.domain.description == id }
            return self.pools(
                pools,
                more: [
                    "numOfStoragePools": .integer(Int64(pools.count)),
                    "numOfSds": .integer(Int64(state.servers.values.count { $0.domain.description == id })),
                    "numOfFaultSets": .integer(Int64(state.faultSets.values.count { $0.domain.description == id })),
                ])
        case .storagePool: return pools(state.pools.values.filter { $0.id.description == id }, more: [:])
        case .faultSet:
            let servers = state.servers.values.filter { $0.faultSet?.description == id }
            let ids = Set(servers.map(\.id))
            return capacity(
                state.devices.values.filter { ids.contains($0.sds) },
                more: ["numOfSds": .integer(Int64(servers.count))])
        case .volume: return mapped(VolumeID(id).flatMap { state.volumes[$0] }.map { [$0] } ?? [])
        case .vtree: return mapped(ObjectViews(state: state, user: "", now: 0).volumes(ofTree: id))
        case .sds:
            let devices = state.devices.values.filter { $0.sds.description == id }
            return capacity(devices, more: ["numOfDevices": .integer(Int64(devices.count))])
        case .device: return capacity(state.devices.values.filter { $0.id.description == id }, more: [:])
        case .sdc:
            let volumes = SdcID(id).map { state.volumes(mappedTo: $0) } ?? []
            return ["numOfMappedVolumes": .integer(Int64(volumes.count))]
        case .user: return [:]
        }
    }

    /// The chosen properties of several objects by id; for the System one flat object. Unknown properties are 0.
    func selected(_ type: ObjectType, ids: [String], properties: [String]) -> JSONValue {
        var result: JSONValue = [:]
        for id in ids {
            let all = of(type, id: id)
            var chosen: JSONValue = [:]
            for property in properties { chosen[property] = all[property] ?? 0 }
            if type == .system { return chosen }
            result[id] = chosen
        }
        return result
    }

    /// Of a volume, or of all volumes of a tree together.
    private func mapped(_ volumes: [Volume]) -> JSONValue {
        let clients = Set(volumes.flatMap { $0.mappings.map(\.sdc) }).sorted()
        let relatives = volumes.first.map { state.volumes(in: $0.tree) } ?? []
        let ids = Set(volumes.map(\.id))
        let children = relatives.count { $0.ancestor.map(ids.contains) ?? false }
        let descendants = Set(volumes.flatMap { state.descendants(of: $0) })
        return [
            "numOfMappedSdcs": .integer(Int64(clients.count)),
            "mappedSdcIds": .array(clients.map { .string($0.description) }),
            "numOfChildVolumes": .integer(Int64(children)),
            "numOfDescendantVolumes": .integer(Int64(descendants.count)), "numOfMappedScsiInitiators": 0,
            "numOfVolumes": .integer(Int64(volumes.count)),
        ]
    }

    private func capacity(_ devices: [Device], more: JSONValue.Object) -> JSONValue {
        let total = devices.reduce(0) { $0 + UInt64($1.capacityUnits) }
        let used = devices.reduce(0) { $0 + UInt64(state.usedUnits[$1.id] ?? 0) }
        let thick = devices.reduce(0) { $0 + UInt64(state.thickUnits[$1.id] ?? 0) }
        var json: JSONValue = [
            "maxCapacityInKb": .integer(ObjectViews.kibibytes(units: total)),
            "capacityLimitInKb": .integer(ObjectViews.kibibytes(units: total)),
            "capacityInUseInKb": .integer(ObjectViews.kibibytes(units: used)),
            "unusedCapacityInKb": .integer(ObjectViews.kibibytes(units: total - min(total, used))),
            "thinCapacityInUseInKb": .integer(ObjectViews.kibibytes(units: used - min(used, thick))),
        ]
        for (key, value) in bandwidths(of: devices) { json[key] = value }
        for (key, value) in integrity(of: devices) { json[key] = value }
        for (key, value) in more { json[key] = value }
        return json
    }

    /// What was found and mended since the servers started. What they tell may be any number.
    private func integrity(of devices: [Device]) -> JSONValue.Object {
        func sum(_ count: KeyPath<DeviceIntegrity, UInt64>) -> JSONValue {
            let counts = devices.compactMap { state.integrity[$0.id]?[keyPath: count] }
            return .integer(counts.reduce(0) { Int64(clamping: UInt64($0) &+ min($1, 1 << 60)) })
        }
        return [
            "fixedReadErrorCount": sum(\.mended), "backgroundScannedInMB": sum(\.scannedUnits),
            "backgroundScanCompareCount": sum(\.differing), "damagedBlocks": sum(\.damagedBlocks),
            "damagedBlocksFound": sum(\.found),
        ]
    }

    /// What the devices did lately, class by class, as `{numOccured, numSeconds, totalWeightInKb}`.
    private func bandwidths(of devices: [Device]) -> JSONValue.Object {
        func bandwidth(_ classes: IOCounters.Class...) -> JSONValue {
            // Periods end at different moments: all are brought to the length of the longest. What servers tell may be
            // any number.
            let activities = devices.compactMap { state.activity[$0.id] }
            let seconds = Double(activities.map(\.seconds).max() ?? 0)
            var (count, bytes) = (0.0, 0.0)
            for activity in activities {
                let part = seconds / Double(max(1, activity.seconds))
                for kind in classes {
                    count += Double(activity.counters[kind].count) * part
                    bytes += Double(activity.counters[kind].bytes) * part
                }
            }
            func whole(_ value: Double) -> JSONValue { .integer(Int64(min(value, 1e18).rounded())) }
            return [
                "numOccured": whole(count), "numSeconds": whole(seconds), "totalWeightInKb": whole(bytes / 1024),
            ]
        }
        return [
            "primaryReadBwc": bandwidth(.primaryRead), "primaryWriteBwc": bandwidth(.primaryWrite),
            "secondaryReadBwc": bandwidth(), "secondaryWriteBwc": bandwidth(.secondaryWrite),
            "totalReadBwc": bandwidth(.primaryRead, .rebuildRead, .rebalanceRead),
            "totalWriteBwc": bandwidth(.primaryWrite, .secondaryWrite, .rebuildWrite, .rebalanceWrite),
            "fwdRebuildReadBwc": bandwidth(.rebuildRead), "fwdRebuildWriteBwc": bandwidth(.rebuildWrite),
            "bckRebuildReadBwc": bandwidth(), "bckRebuildWriteBwc": bandwidth(),
            "rebalanceReadBwc": bandwidth(.rebalanceRead), "rebalanceWriteBwc": bandwidth(.rebalanceWrite),
            "userDataReadBwc": bandwidth(.primaryRead), "userDataWriteBwc": bandwidth(.primaryWrite),
        ]
    }

    private func pools(_ pools: [StoragePool], more: JSONValue.Object) -> JSONValue {
        var sum: [String: Int64] = [:]
        for pool in pools {
            for (name, value) in numbers(pool) { sum[name, default: 0] += value }
        }
        var json: JSONValue = [:]
        for (name, value) in sum.sorted(by: { $0.key < $1.key }) { json[name] = .integer(value) }
        let devices = pools.flatMap { state.devices(in: $0.id) }
        for (name, value) in bandwidths(of: devices) { json[name] = value }
        for (name, value) in integrity(of: devices) { json[name] = value }
        for (key, value) in more { json[key] = value }
        return json
    }

    private func numbers(_ pool: StoragePool) -> [String: Int64] {
        let devices = state.devices(in: pool.id)
        let volumes = state.volumes(in: pool.id)
        let unit = ObjectViews.kibibytes(units: 1)
        let capacity = state.capacity(of: pool.id)
        let total = Int64(capacity.total) * unit
        let used = min(total, Int64(capacity.used) * unit)
        let spare = Int64(capacity.spare) * unit
        func size(_ provisioning: Volume.Provisioning) -> Int64 {
            volumes.filter { $0.provisioning == provisioning }.reduce(0) { $0 + Int64($1.sizeUnits) } * unit
        }
        let free = Int64(capacity.free) * unit
        let grain = VolumeSize.grainKibibytes
        let health = state.health(of: pool.id)
        let placed = Int64(max(1, pool.combs.count - health.unplaced))
        /// The part of `capacity` that lies in `combs` of the placed combs.
        func share(_ capacity: Int64, _ combs: Int) -> Int64 { capacity / placed * Int64(combs) }
        return [
            "maxCapacityInKb": total,
            "capacityLimitInKb": total,
            "capacityInUseInKb": used,
            "unusedCapacityInKb": total - used,
            "spareCapacityInKb": spare,
            "thickCapacityInUseInKb": 2 * size(.thick),
            "thinCapacityInUseInKb": used - min(used, Int64(capacity.thickUsed) * unit),
            "thinCapacityAllocatedInKb": 2 * size(.thin),
            "thinCapacityAllocatedInKm": 2 * size(.thin),
            "snapCapacityInUseInKb": 0,
            "snapCapacityInUseOccupiedInKb": 0,
            "snapshotCapacityInKb": 0,
            "netCapacityInUseInKb": used / 2,
            "netUnusedCapacityInKb": free / 2,
            "capacityAvailableForVolumeAllocationInKb": free / 2 / grain * grain,
            "protectedCapacityInKb": share(used, health.normal + health.moving),
            "degradedHealthyCapacityInKb": share(used, health.degraded + health.rebuilding),
            "degradedFailedCapacityInKb": share(used, health.degraded + health.rebuilding),
            "failedCapacityInKb": share(used, health.unavailable),
            "unreachableUnusedCapacityInKb": 0,
            "activeFwdRebuildCapacityInKb": share(used, health.rebuilding),
            "pendingFwdRebuildCapacityInKb": share(used, health.degraded),
            "activeMovingRebalanceCapacityInKb": share(used, health.moving),
            "atRestCapacityInKb": used,
            "movingCapacityInKb": share(used, health.moving),
            "numOfVolumes": Int64(volumes.count),
            "numOfUnmappedVolumes": Int64(volumes.count { $0.mappings.isEmpty }),
            "numOfMappedToAllVolumes": 0,
            "numOfVolumesInDeletion": 0,
            "numOfSnapshots": Int64(volumes.count(where: \.isSnapshot)),
            "numOfVtrees": Int64(Set(volumes.map(\.tree)).count),
            "numOfThinBaseVolumes": Int64(volumes.count { $0.provisioning == .thin && !$0.isSnapshot }),
            "numOfThickBaseVolumes": Int64(volumes.count { $0.provisioning == .thick }),
            "numOfDevices": Int64(devices.count),
        ]
    }
}

/// The sizes that volumes may have.
enum VolumeSize {
    /// 8 GiB.
    static let grainKibibytes: Int64 = 8 << 20
    /// 1 PiB.
    static let maxKibibytes: UInt64 = 1 << 40

    /// `kibibytes` rounded up to the grain, in units of 1 MiB.
    static func unitsRoundedUp(kibibytes: UInt64) throws(GatewayError) -> UInt32 {
        guard kibibytes > 0 else { throw .outOfRange }
        guard kibibytes <= maxKibibytes else { throw .tooLarge }
        let grain = UInt64(grainKibibytes)
        return UInt32((kibibytes + grain - 1) / grain * grain / 1024)
    }
}
