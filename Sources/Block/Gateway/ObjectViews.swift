import Base
import BlockCore

/// The committed state as the REST API's objects. Field names, types and units (KiB) are the protocol's.
struct ObjectViews {
    /// What the releases of servers and clients are told to be.
    static let release = "R3_5.0.0"

    let state: SystemState
    /// None are known where there is no cluster.
    var managers: [ManagerMember] = []
    var user: String
    /// Seconds since 1970.
    var now: UInt64

    /// Every object of a type; an empty list for types that have no objects here, nil for unknown ones.
    func list(_ typeName: String) -> [JSONValue]? {
        guard let type = ObjectType(rawValue: typeName) else { return ObjectType.empty.contains(typeName) ? [] : nil }
        switch type {
        case .system: return [system]
        case .protectionDomain: return state.domains.values.map(domain)
        case .storagePool: return state.pools.values.map(pool)
        case .faultSet: return state.faultSets.values.map(faultSet)
        case .volume: return state.volumes.values.map(volume)
        case .vtree: return trees(state.volumes.values).map(vtree)
        case .sds: return state.servers.values.map(server)
        case .device: return state.devices.values.map(device)
        case .sdc: return state.clients.values.map(client)
        case .user: return [userObject]
        }
    }

    func object(_ type: ObjectType, id: String) throws(GatewayError) -> JSONValue {
        switch type {
        case .system: if id == state.system.id.description { return system }
        case .protectionDomain:
            if let found = ProtectionDomainID(id).flatMap({ state.domains[$0] }) { return domain(found) }
        case .storagePool: if let found = StoragePoolID(id).flatMap({ state.pools[$0] }) { return pool(found) }
        case .faultSet: if let found = FaultSetID(id).flatMap({ state.faultSets[$0] }) { return faultSet(found) }
        case .volume:
            guard let volumeID = VolumeID(id) else { throw .invalidVolumeID }
            if let found = state.volumes[volumeID] { return volume(found) }
        case .vtree: if let found = volumes(ofTree: id).first { return vtree(found.tree) }
        case .sds: if let found = SdsID(id).flatMap({ state.servers[$0] }) { return server(found) }
        case .device: if let found = DeviceID(id).flatMap({ state.devices[$0] }) { return device(found) }
        case .sdc:
            guard let clientID = SdcID(id) else { throw .invalidSdcID }
            if let found = state.clients[clientID] { return client(found) }
        case .user: if id == Self.userID { return userObject }
        }
        throw type.missing
    }

    /// The objects that `relation` of an object names; its statistics are in `Statistics`.
    func related(_ type: ObjectType, id: String, relation: String) throws(GatewayError) -> [JSONValue] {
        _ = try object(type, id: id)
        switch (type, relation) {
        case (.system, _): if let list = list(relation) { return list }
        case (.protectionDomain, "StoragePool"):
            return state.pools.values.filter { $0.domain.description == id }.map(pool)
        case (.protectionDomain, "Sds"):
            return state.servers.values.filter { $0.domain.description == id }.map(server)
        case (.protectionDomain, "FaultSet"):
            return state.faultSets.values.filter { $0.domain.description == id }.map(faultSet)
        case (.faultSet, "Sds"):
            return state.servers.values.filter { $0.faultSet?.description == id }.map(server)
        case (.storagePool, "Volume"): return volumes(inPool: id).map(volume)
        case (.storagePool, "VTree"): return trees(volumes(inPool: id)).map(vtree)
        case (.storagePool, "Device"): return state.devices.values.filter { $0.pool.description == id }.map(device)
        case (.storagePool, "Sds"):
            let used = Set(state.devices.values.filter { $0.pool.description == id }.map(\.sds))
            return state.servers.values.filter { used.contains($0.id) }.map(server)
        case (.vtree, "Volume"): return volumes(ofTree: id).map(volume)
        case (.sds, "Device"): return state.devices.values.filter { $0.sds.description == id }.map(device)
        case (.sdc, "Volume"):
            return SdcID(id).map { state.volumes(mappedTo: $0).map(volume) } ?? []
        default: break
        }
        if ObjectType.empty.contains(relation) { return [] }
        throw .unknownPath("/api/instances/\(type.rawValue)::\(id)/relationships/\(relation)")
    }

    private func volumes(inPool id: String) -> [Volume] {
        StoragePoolID(id).map { state.volumes(in: $0) } ?? []
    }
}

// MARK: - Objects

extension ObjectViews {
    var system: JSONValue {
        let id = state.system.id.description
        let connected = state.clients.values.allSatisfy { state.connectedClients.contains($0.id) }
        return [
            "id": .string(id),
            "name": .string(state.system.name),
            "installId": .string(mix64(state.system.id.rawValue).hex),
            "swid": "",
            "systemVersionName": .string("Holdfast (ScaleIO compatible) Version: \(Self.release)"),
            "daysInstalled": .integer(Int64((now - min(now, state.system.createdAt)) / 86400)),
            "maxCapacityInGb": "Unlimited",
            "capacityTimeLeftInDays": "Unlimited",
            "capacityAlertHighThresholdPercent": .integer(Int64(PoolSettings().capacityAlertHigh)),
            "capacityAlertCriticalThresholdPercent": .integer(Int64(PoolSettings().capacityAlertCritical)),
            "remoteReadOnlyLimitState": false,
            "defaultIsVolumeObfuscated": false,
            "enterpriseFeaturesEnabled": true,
            "isInitialLicense": false,
            "restrictedSdcModeEnabled": false,
            "restrictedSdcMode": "None",
            "mdmManagementPort": 6611,
            "upgradeState": "NoUpgrade",
            "perfProfile": "Default",
            "cliPasswordAllowed": true,
            "managementClientSecureCommunicationEnabled": false,
            "showGuid": true,
            "authenticationMethod": "Native",
            "sdcSdsConnectivityInfo": [
                "sdcSdsConnectivityStatus": connected ? "AllConnected" : "PartiallyConnected",
                "disconnectedSdcIp": nil, "disconnectedSdsIp": nil,
            ],
            "mdmCluster": mdmCluster,
            "links": ObjectType.system.links(id: id),
        ]
    }

    /// The managers. Votes are ZooKeeper's business, so there are no tie-breakers.
    var mdmCluster: JSONValue {
        let present = Int64(managers.filter(\.isPresent).count)
        let master =
            managers.first { $0.isLeader }
            ?? ManagerMember(
                id: ManagerID(rawValue: mix64(state.system.id.rawValue &+ 1)), name: "MDM1", address: "", gateway: nil)
        let isAlone = managers.count < 2
        return [
            "id": .string(String(state.system.id.rawValue)),
            "name": .string(state.system.name),
            "clusterState": isAlone
                ? "NotClustered" : present == managers.count ? "ClusteredNormal" : "ClusteredDegraded",
            "clusterMode": isAlone ? "OneNode" : managers.count <= 3 ? "ThreeNodes" : "FiveNodes",
            "goodNodesNum": .integer(max(1, present)),
            "goodReplicasNum": .integer(max(1, present)),
            "master": manager(master),
            "slaves": .array(managers.filter { $0.id != master.id }.map { manager($0) }),
            "tieBreakers": [],
            "standbyMDMs": [],
        ]
    }

    private func manager(_ member: ManagerMember) -> JSONValue {
        let (host, port) = Self.hostAndPort(member.address, portDefault: 6611)
        let management = member.gateway.map { Self.hostAndPort($0).host } ?? host
        return [
            "id": .string(member.id.description),
            "name": .string(member.name),
            "role": "Manager",
            "status": member.isPresent ? "Normal" : "Disconnected",
            "port": .integer(Int64(port)),
            "ips": host.isEmpty ? [] : [.string(host)],
            "managementIPs": management.isEmpty ? [] : [.string(management)],
            "versionInfo": .string(Self.release),
            "virtualInterfaces": [],
        ]
    }

    func domain(_ domain: ProtectionDomain) -> JSONValue {
        let id = domain.id.description
        var json: JSONValue = [
            "id": .string(id),
            "name": .string(domain.name),
            "systemId": .string(state.system.id.description),
            "protectionDomainState": "Active",
            "rfcacheEnabled": false,
            "replicationCapacityMaxRatio": nil,
        ]
        for limit in ["rebuild", "rebalance", "overallIo", "vtreeMigration"] {
            json["\(limit)NetworkThrottlingInKbps"] = .null
            json["\(limit)NetworkThrottlingEnabled"] = false
        }
        json["links"] = ObjectType.protectionDomain.links(
            id: id, parents: [("systemId", .system, state.system.id.description)])
        return json
    }

    /// The mode as the REST API spells it.
    static func word(_ mode: BackgroundScannerMode) -> String {
        switch mode {
        case .disabled: "Disabled"
        case .deviceOnly: "DeviceOnly"
        case .dataComparison: "DataComparison"
        }
    }

    func pool(_ pool: StoragePool) -> JSONValue {
        let id = pool.id.description
        let devices = state.devices(in: pool.id)
        let isChecked = !devices.isEmpty && devices.allSatisfy { state.integrity[$0.id]?.keepsChecksums == true }
        var json: JSONValue = [
            "id": .string(id),
            "name": .string(pool.name),
            "protectionDomainId": .string(pool.domain.description),
            "sparePercentage": .integer(Int64(pool.sparePercentage)),
            "zeroPaddingEnabled": true,
            "rebuildEnabled": .bool(pool.settings.rebuildEnabled),
            "rebalanceEnabled": .bool(pool.settings.rebalanceEnabled),
            "useRmcache": false,
            "useRfcache": false,
            "checksumEnabled": false,
            "rmcacheWriteHandlingMode": "Passthrough",
            "numOfParallelRebuildRebalanceJobsPerDevice": 2,
            "backgroundScannerMode": .string(Self.word(pool.settings.scannerMode)),
            "backgroundScannerBWLimitKBps": .integer(Int64(pool.settings.scannerKibibytesPerSecond)),
            "capacityAlertHighThreshold": .integer(Int64(pool.settings.capacityAlertHigh)),
            "capacityAlertCriticalThreshold": .integer(Int64(pool.settings.capacityAlertCritical)),
            "mediaType": "HDD",
            "dataLayout": "MediumGranularity",
            "compressionMethod": "Invalid",
            "externalAccelerationType": "None",
            "persistentChecksumEnabled": .bool(isChecked),
            "persistentChecksumState": isChecked ? "Protected" : "StateInvalid",
            "spClass": "Default",
            "fragmentationEnabled": false,
            "addressSpaceUsage": "Normal",
        ]
        for kind in CopyKind.allCases {
            let policy = pool.settings.policy(kind)
            json["\(kind.rawValue)IoPriorityPolicy"] = .string(policy.kind.rawValue)
            for (parameter, value) in Self.parameters(policy) {
                json["\(kind.rawValue)IoPriority\(parameter)"] = value
            }
        }
        json["links"] = ObjectType.storagePool.links(
            id: id, parents: [("protectionDomainId", .protectionDomain, pool.domain.description)])
        return json
    }

    /// The parameters of a policy; null where it has none.
    private static func parameters(_ policy: IoPriorityPolicy) -> [(String, JSONValue)] {
        func value(_ number: UInt32, _ kinds: Set<IoPriorityPolicy.Kind>) -> JSONValue {
            kinds.contains(policy.kind) ? .integer(Int64(number)) : .null
        }
        return [
            (
                "NumOfConcurrentIosPerDevice",
                value(policy.concurrentIosPerDevice, [.limitNumOfConcurrentIos, .favorAppIos, .dynamicBwThrottling])
            ),
            (
                "BwLimitPerDeviceInKbps",
                value(policy.kibibytesPerSecondPerDevice, [.favorAppIos, .dynamicBwThrottling])
            ),
            ("AppIopsPerDeviceThreshold", value(policy.appIopsThreshold, [.dynamicBwThrottling])),
            ("AppBwPerDeviceThresholdInKbps", value(policy.appKibibytesThreshold, [.dynamicBwThrottling])),
            ("QuietPeriodInMsec", value(policy.quietPeriodMilliseconds, [.dynamicBwThrottling])),
        ]
    }

    func faultSet(_ faultSet: FaultSet) -> JSONValue {
        let id = faultSet.id.description
        return [
            "id": .string(id),
            "name": .string(faultSet.name),
            "protectionDomainId": .string(faultSet.domain.description),
            "links": ObjectType.faultSet.links(
                id: id, parents: [("protectionDomainId", .protectionDomain, faultSet.domain.description)]),
        ]
    }

    func volume(_ volume: Volume) -> JSONValue {
        let id = volume.id.description
        let tree = Self.treeID(volume.tree)
        return [
            "id": .string(id),
            "name": .string(volume.name),
            "sizeInKb": .integer(Self.kibibytes(units: UInt64(volume.sizeUnits))),
            "volumeType": .string(Self.type(of: volume)),
            "storagePoolId": .string(volume.pool.description),
            "vtreeId": .string(tree),
            "ancestorVolumeId": .optional(volume.ancestor?.description),
            "consistencyGroupId": .optional(volume.snapshotGroup?.description),
            "creationTime": .integer(Int64(clamping: volume.createdAt)),
            "isObfuscated": false,
            "useRmcache": false,
            "mappingToAllSdcsEnabled": false,
            "mappedScsiInitiatorInfo": nil,
            "mappedSdcInfo": volume.mappings.isEmpty ? .null : .array(volume.mappings.map(mapping)),
            "isVvol": false,
            "accessModeLimit": "ReadWrite",
            "compressionMethod": "Invalid",
            "dataLayout": "MediumGranularity",
            "snplIdOfAutoSnapshot": nil,
            "snplIdOfSourceVolume": nil,
            "lockedAutoSnapshot": false,
            "autoSnapshotGroupId": nil,
            "retentionLevels": [],
            "secureSnapshotExpTime": 0,
            "timeStampIsAccurate": false,
            "originalExpiryTime": 0,
            "pairIds": nil,
            "volumeReplicationState": "UnmarkedForReplication",
            "replicationJournalVolume": false,
            "replicationTimeStamp": 0,
            "volumeClass": "defaultclass",
            "managedBy": "ScaleIO",
            // Ours: which rights are in force, and whether older ones are proven to be refused everywhere.
            "attachEpoch": .integer(Int64(clamping: volume.attachEpoch)),
            "fencePending": .bool(volume.isFencePending),
            // Ours: MiB in which an older copy was promoted by an operator.
            "dataLossInMiB": .integer(Int64(state.dataLosses[volume.id]?.units ?? 0)),
            "links": ObjectType.volume.links(
                id: id,
                parents: [("vtreeId", .vtree, tree), ("storagePoolId", .storagePool, volume.pool.description)]),
        ]
    }

    private static func type(of volume: Volume) -> String {
        if volume.isSnapshot { return "Snapshot" }
        return volume.provisioning == .thin ? "ThinProvisioned" : "ThickProvisioned"
    }

    private func mapping(_ mapping: VolumeMapping) -> JSONValue {
        let client = state.clients[mapping.sdc]
        let mode =
            switch mapping.mode {
            case .readWrite: "ReadWrite"
            case .readOnly: "ReadOnly"
            case .noAccess: "NoAccess"
            }
        return [
            "sdcId": .string(mapping.sdc.description),
            "sdcIp": .optional(client?.ip),
            "sdcName": .optional(client.flatMap { $0.name.isEmpty ? nil : $0.name }),
            "limitIops": .integer(Int64(mapping.limitIops)),
            "limitBwInMbps": .integer(Int64(mapping.limitKibibytesPerSecond) / 1024),
            "accessMode": .string(mode),
            "isDirectBufferMapping": false,
            "attachEpoch": .integer(Int64(clamping: mapping.epoch)),
        ]
    }

    /// The trees of these volumes, in order of their ids.
    private func trees(_ volumes: [Volume]) -> [TreeID] { Set(volumes.map(\.tree)).sorted() }

    func vtree(_ tree: TreeID) -> JSONValue {
        let id = Self.treeID(tree)
        let volumes = state.volumes(in: tree)
        let roots = volumes.filter { $0.ancestor == nil }
        // The volume that the tree began with, or the oldest of those that nothing is left above.
        let first = volumes.first { $0.id.rawValue == tree.rawValue }
        let oldest = roots.min { ($0.createdAt, $0.id) < ($1.createdAt, $1.id) }
        guard let base = first ?? oldest ?? volumes.first else { preconditionFailure("a tree has volumes") }
        let pool = base.pool.description
        return [
            "id": .string(id),
            "name": .string(base.name),
            "baseVolumeId": .string(base.id.description),
            "storagePoolId": .string(pool),
            "vtreeMigrationInfo": ["migrationStatus": "NotInMigration", "sourceStoragePoolId": nil],
            "dataLayout": "MediumGranularity",
            "compressionMethod": "Invalid",
            "inDeletion": false,
            "rootVolumes": .array(roots.map { .string($0.id.description) }),
            "links": ObjectType.vtree.links(
                id: id,
                parents: [
                    ("storagePoolId", .storagePool, pool), ("baseVolumeId", .volume, base.id.description),
                ]),
        ]
    }

    func server(_ server: Sds) -> JSONValue {
        let id = server.id.description
        let (host, port) = Self.hostAndPort(server.address)
        let isUp = server.status == .up
        return [
            "id": .string(id),
            "name": .string(server.name),
            "protectionDomainId": .string(server.domain.description),
            "faultSetId": .optional(server.faultSet?.description),
            "ipList": [["ip": .string(host), "role": "all"]],
            "port": .integer(Int64(port)),
            "sdsState": server.isLeaving ? "RemovePending" : "Normal",
            "membershipState": isUp ? "Joined" : "Decoupled",
            "mdmConnectionState": isUp ? "Connected" : "Disconnected",
            "drlMode": "NonVolatile",
            "configuredDrlMode": "NonVolatile",
            "rmcacheEnabled": false,
            "rmcacheSizeInKb": 0,
            "rmcacheFrozen": false,
            "rmcacheMemoryAllocationState": "RmcacheDisabled",
            "numOfIoBuffers": nil,
            "onVmWare": false,
            "isOnVmWare": false,
            "maintenanceState": server.maintenance == .none
                ? "NoMaintenance" : server.maintenance.isEntering ? "SetMaintenanceInProgress" : "InMaintenance",
            "maintenanceType": server.maintenance == .none
                ? "NoMaintenance" : server.maintenance.isProtected ? "ProtectedMaintenance" : "InstantMaintenance",
            "perfProfile": "Default",
            "softwareVersionInfo": .string(Self.release),
            "links": ObjectType.sds.links(
                id: id,
                parents: [("protectionDomainId", .protectionDomain, server.domain.description)]
                    + (server.faultSet.map { [("faultSetId", .faultSet, $0.description)] } ?? [])),
        ]
    }

    func device(_ device: Device) -> JSONValue {
        let id = device.id.description
        let capacity = Self.kibibytes(units: UInt64(device.capacityUnits))
        return [
            "id": .string(id),
            "name": .string(device.name.isEmpty ? String(device.path.split(separator: "/").last ?? "") : device.name),
            "sdsId": .string(device.sds.description),
            "storagePoolId": .string(device.pool.description),
            "deviceCurrentPathName": .string(device.path),
            "deviceOriginalPathName": .string(device.path),
            "deviceState": device.isLeaving ? "RemovePending" : "Normal",
            "errorState": device.status == .normal ? "None" : "Error",
            "capacityLimitInKb": .integer(capacity),
            "maxCapacityInKb": .integer(capacity),
            "capacity": .integer(capacity),
            "mediaType": "HDD",
            "deviceType": "Unknown",
            "ledSetting": "Off",
            "links": ObjectType.device.links(
                id: id,
                parents: [
                    ("sdsId", .sds, device.sds.description), ("storagePoolId", .storagePool, device.pool.description),
                ]),
        ]
    }

    func client(_ client: Sdc) -> JSONValue {
        let id = client.id.description
        return [
            "id": .string(id),
            "name": client.name.isEmpty ? .null : .string(client.name),
            "systemId": .string(state.system.id.description),
            "sdcIp": .string(client.ip),
            "sdcIps": [.string(client.ip)],
            "sdcGuid": .string(client.guid),
            "sdcApproved": true,
            "mdmConnectionState": state.connectedClients.contains(client.id) ? "Connected" : "Disconnected",
            "onVmWare": false,
            "osType": "Linux",
            "versionInfo": .string(Self.release),
            "softwareVersionInfo": .string(Self.release),
            "installedSoftwareVersionInfo": .string(Self.release),
            "perfProfile": "Default",
            "kernelVersion": nil,
            "memoryAllocationFailure": nil,
            "socketAllocationFailure": nil,
            "sdcApprovedIps": nil,
            "sdcType": "AppSdc",
            "hostType": "SdcHost",
            "links": ObjectType.sdc.links(id: id, parents: [("systemId", .system, state.system.id.description)]),
        ]
    }

    /// What an operator should look at now, in the words of the original.
    var alerts: [JSONValue] {
        state.alerts.map { alert in
            let (type, id): (ObjectType, String) =
                switch alert.object {
                case .storagePool(let id): (.storagePool, id.description)
                case .sds(let id): (.sds, id.description)
                case .device(let id): (.device, id.description)
                case .volume(let id): (.volume, id.description)
                }
            return [
                "alertType": .string(alert.kind.rawValue),
                "severity": .string("ALERT_" + alert.severity.rawValue.uppercased()),
                "affectedObject": ["type": .string(type.rawValue), "id": .string(id)],
                "message": .string(alert.message),
            ]
        }
    }

    private static let userID = "0000000000000001"

    private var userObject: JSONValue {
        [
            "id": .string(Self.userID),
            "name": .string(user),
            "userRole": "SuperUser",
            "systemId": .string(state.system.id.description),
            "passwordChangeRequired": false,
            "links": ObjectType.user.links(
                id: Self.userID, parents: [("systemId", .system, state.system.id.description)]),
        ]
    }

    /// A tree has the number of its first volume; what is shown is made of it, reversibly, and is no volume's.
    private static let treeMask: UInt64 = 0x7654_7265_0000_0000
    static func treeID(_ tree: TreeID) -> String { (tree.rawValue ^ treeMask).hex }
    func volumes(ofTree id: String) -> [Volume] {
        guard let tree = UInt64(id, radix: 16), id.utf8.count == 16 else { return [] }
        return state.volumes(in: TreeID(rawValue: tree ^ Self.treeMask))
    }

    static func kibibytes(units: UInt64) -> Int64 {
        Int64(clamping: units) * Int64(Geometry.unitBytes / 1024)
    }

    static func hostAndPort(_ address: String, portDefault: Int = 7072) -> (host: String, port: Int) {
        guard let colon = address.lastIndex(of: ":"), let port = Int(address[address.index(after: colon)...]) else {
            return (address, portDefault)
        }
        return (String(address[..<colon]), port)
    }
}
