/// Names one stored record. The paths and the records' layout are described in docs/formats/manager-store.md.
enum RecordKey: Hashable {
    case system
    case domain(ProtectionDomainID)
    case faultSet(FaultSetID)
    case pool(StoragePoolID)
    case combs(StoragePoolID, chunk: UInt32)
    case server(SdsID)
    case device(DeviceID)
    case removedServer(SdsID)
    case removedDevice(DeviceID)
    case client(SdcID)
    case volume(VolumeID)
    case tree(TreeID)
    case dataLoss(VolumeID)

    var path: String {
        switch self {
        case .system: "system"
        case .domain(let id): "domain/\(id)"
        case .faultSet(let id): "faultset/\(id)"
        case .pool(let id): "pool/\(id)"
        case .combs(let id, let chunk):
            "combs/\(id)/" + String(repeating: "0", count: max(0, 4 - String(chunk).count)) + String(chunk)
        case .server(let id): "sds/\(id)"
        case .device(let id): "device/\(id)"
        case .removedServer(let id): "removed-sds/\(id)"
        case .removedDevice(let id): "removed-device/\(id)"
        case .client(let id): "sdc/\(id)"
        case .volume(let id): "volume/\(id)"
        case .tree(let id): "tree/\(id)"
        case .dataLoss(let id): "data-loss/\(id)"
        }
    }
}

/// Every record begins with its version; a reader refuses later ones than its own.
private let recordVersion: UInt8 = 4

extension SystemState {
    /// The record's bytes, or nil if the object is gone.
    func encode(_ key: RecordKey) -> [UInt8]? {
        var writer = ByteWriter()
        writer.put(recordVersion)
        switch key {
        case .system:
            writer.put(system.id)
            writer.put(system.name)
            writer.put(system.createdAt)
            writer.put(revision)
        case .domain(let id):
            guard let domain = domains[id] else { return nil }
            writer.put(domain.id)
            writer.put(domain.name)
        case .faultSet(let id):
            guard let faultSet = faultSets[id] else { return nil }
            writer.put(faultSet.id)
            writer.put(faultSet.domain)
            writer.put(faultSet.name)
        case .pool(let id):
            guard let pool = pools[id] else { return nil }
            writer.put(pool.id)
            writer.put(pool.domain)
            writer.put(pool.name)
            writer.put(pool.combCount)
            writer.put(pool.sparePercentage)
            writer.put(pool.settings)
        case .combs(let id, let chunk):
            guard let pool = pools[id] else { return nil }
            let first = Int(chunk * Geometry.combsPerChunk)
            let combs = Array(pool.combs[first..<min(first + Int(Geometry.combsPerChunk), pool.combs.count)])
            writer.put(pool.id)
            writer.put(UInt32(first))
            writer.put(list: combs) { $0.put($1) }
        case .server(let id):
            guard let server = servers[id] else { return nil }
            writer.put(server)
        case .device(let id):
            guard let device = devices[id] else { return nil }
            writer.put(device)
        case .removedServer(let id):
            guard let removed = removedServers[id] else { return nil }
            writer.put(removed.id)
            writer.put(removed.name)
            writer.put(removed.address)
            writer.put(removed.revision)
        case .removedDevice(let id):
            guard let removed = removedDevices[id] else { return nil }
            writer.put(removed.id)
            writer.put(removed.sds)
            writer.put(removed.path)
            writer.put(removed.revision)
        case .client(let id):
            guard let client = clients[id] else { return nil }
            writer.put(client.id)
            writer.put(client.guid)
            writer.put(client.name)
            writer.put(client.ip)
            writer.put(client.generation)
            writer.put(client.incarnation)
        case .volume(let id):
            guard let volume = volumes[id] else { return nil }
            writer.put(volume)
        case .tree(let id):
            guard let tree = trees[id] else { return nil }
            writer.put(tree)
        case .dataLoss(let id):
            guard let loss = dataLosses[id] else { return nil }
            writer.put(loss)
        }
        return writer.bytes
    }

    /// Builds the state from everything that is stored; nil when nothing is.
    static func decode(_ records: [(key: String, value: [UInt8])]) throws(ManagerError) -> SystemState? {
        guard let stored = records.first(where: { $0.key == "system" }) else { return nil }
        do {
            var (reader, _) = try open(stored.value)
            let system = System(
                id: try reader.id(SystemID.self), name: try reader.text(), createdAt: try reader.number(UInt64.self))
            var state = SystemState(system: system)
            state.revision = try reader.number(UInt64.self)
            for kind in [
                "domain", "faultset", "pool", "combs", "sds", "device", "removed-sds", "removed-device", "sdc",
                "volume", "tree", "data-loss",
            ] {
                for record in records where record.key.hasPrefix(kind + "/") {
                    var (reader, version) = try open(record.value)
                    try state.load(kind, &reader, version: version)
                    try reader.finish()
                }
            }
            try state.checkTrees()
            return state
        } catch {
            throw ManagerError(.malformed, "a stored record of the manager cannot be read", cause: error)
        }
    }

    private static func open(_ bytes: [UInt8]) throws(WireError) -> (ByteReader, version: UInt8) {
        var reader = ByteReader(bytes)
        let version = try reader.number(UInt8.self)
        guard (1...recordVersion).contains(version) else { throw WireError(description: "record version \(version)") }
        return (reader, version)
    }

    private mutating func load(_ kind: String, _ reader: inout ByteReader, version: UInt8) throws(WireError) {
        switch kind {
        case "domain":
            let id = try reader.id(ProtectionDomainID.self)
            domains[id] = ProtectionDomain(id: id, name: try reader.text())
        case "faultset":
            let id = try reader.id(FaultSetID.self)
            faultSets[id] = FaultSet(id: id, domain: try reader.id(ProtectionDomainID.self), name: try reader.text())
        case "pool":
            let id = try reader.id(StoragePoolID.self)
            let domain = try reader.id(ProtectionDomainID.self)
            let name = try reader.text()
            let combCount = try reader.number(UInt32.self)
            guard combCount > 0, combCount <= 1 << 16, combCount & (combCount - 1) == 0 else {
                throw WireError(description: "a pool of \(combCount) combs")
            }
            var pool = StoragePool(
                id: id, domain: domain, name: name, combs: Array(repeating: .unplaced, count: Int(combCount)),
                sparePercentage: try reader.number(UInt32.self))
            if version > 1 { pool.settings = try reader.poolSettings(hasScanner: version > 3) }
            pools[id] = pool
        case "combs":
            let id = try reader.id(StoragePoolID.self)
            let first = Int(try reader.number(UInt32.self))
            let combs = try reader.list(minimumSize: 33) { reader throws(WireError) in try reader.comb(version: version)
            }
            guard let pool = pools[id], first + combs.count <= pool.combs.count else {
                throw WireError(description: "combs of an unknown pool")
            }
            _ = pools.modify(id) { $0.combs.replaceSubrange(first..<first + combs.count, with: combs) }
        case "sds":
            let server = try reader.server(version: version)
            servers[server.id] = server
        case "device":
            let device = try reader.device(version: version)
            devices[device.id] = device
        case "removed-sds":
            let id = try reader.id(SdsID.self)
            removedServers[id] = RemovedServer(
                id: id, name: try reader.text(), address: try reader.text(), revision: try reader.number(UInt64.self))
        case "removed-device":
            let id = try reader.id(DeviceID.self)
            removedDevices[id] = RemovedDevice(
                id: id, sds: try reader.id(SdsID.self), path: try reader.text(),
                revision: try reader.number(UInt64.self))
        case "sdc":
            let id = try reader.id(SdcID.self)
            clients[id] = Sdc(
                id: id, guid: try reader.text(), name: try reader.text(), ip: try reader.text(),
                generation: try reader.number(UInt32.self), incarnation: try reader.number(UInt64.self))
        case "tree":
            let tree = try reader.volumeTree()
            trees[tree.id] = tree
        case "data-loss":
            let loss = try reader.dataLoss()
            guard volumes[loss.volume] != nil else { throw WireError(description: "data loss of an unknown volume") }
            dataLosses[loss.volume] = loss
        default:
            let volume = try reader.volume(version: version)
            volumes[volume.id] = volume
        }
    }

    /// A volume whose node is missing would read as zeros.
    private func checkTrees() throws(WireError) {
        for volume in volumes.values {
            let isAlone = volume.head == 0 && volume.tree.rawValue == volume.id.rawValue
            guard trees[volume.tree].map({ $0.contains(volume.head) && $0.pool == volume.pool }) ?? isAlone else {
                throw WireError(description: "volume \(volume.id) has no node")
            }
        }
    }
}

extension ByteWriter {
    fileprivate mutating func put(_ server: Sds) {
        put(server.id)
        put(server.domain)
        put(server.name)
        put(server.address)
        put(server.status.rawValue)
        put(server.incarnation)
        put(server.generation)
        put(server.downRevision)
        put(server.hostBoot)
        put(server.faultSet?.rawValue ?? 0)
        put(server.isLeaving)
        put(server.maintenance.rawValue)
    }

    fileprivate mutating func put(_ device: Device) {
        put(device.id)
        put(device.sds)
        put(device.pool)
        put(device.path)
        put(device.capacityUnits)
        put(device.status.rawValue)
        put(device.mountCounter)
        put(device.name)
        put(device.isLeaving)
    }

    mutating func put(_ settings: PoolSettings) {
        put(settings.capacityAlertHigh)
        put(settings.capacityAlertCritical)
        put(settings.rebuildEnabled)
        put(settings.rebalanceEnabled)
        put(settings.rebuildPolicy)
        put(settings.rebalancePolicy)
        put(settings.scannerMode.rawValue)
        put(settings.scannerKibibytesPerSecond)
    }

    private mutating func put(_ policy: IoPriorityPolicy) {
        put(policy.kind.rawValue)
        put(policy.concurrentIosPerDevice)
        put(policy.kibibytesPerSecondPerDevice)
        put(policy.appIopsThreshold)
        put(policy.appKibibytesThreshold)
        put(policy.quietPeriodMilliseconds)
    }

    fileprivate mutating func put(_ volume: Volume) {
        put(volume.id)
        put(volume.pool)
        put(volume.name)
        put(volume.sizeUnits)
        put(volume.provisioning.rawValue)
        put(volume.createdAt)
        put(volume.attachEpoch)
        put(volume.fencedThrough)
        put(volume.revision)
        put(list: volume.mappings) { $0.put($1) }
        put(volume.tree)
        put(volume.head)
        put(volume.ancestor?.rawValue ?? 0)
        put(volume.snapshotGroup?.rawValue ?? 0)
    }
}

extension ByteReader {
    private mutating func enumeration<Value: RawRepresentable<String>>(_ type: Value.Type) throws(WireError) -> Value {
        let text = try text()
        guard let value = Value(rawValue: text) else { throw WireError(description: "unknown value \(text)") }
        return value
    }

    fileprivate mutating func server(version: UInt8) throws(WireError) -> Sds {
        var server = Sds(
            id: try id(SdsID.self), domain: try id(ProtectionDomainID.self), name: try text(), address: try text(),
            status: try enumeration(Sds.Status.self), incarnation: try number(UInt64.self),
            generation: try number(UInt32.self), downRevision: try number(UInt64.self))
        if version > 1 {
            server.hostBoot = try text()
            let faultSet = try id(FaultSetID.self)
            server.faultSet = faultSet.rawValue == 0 ? nil : faultSet
            server.isLeaving = try flag()
            server.maintenance = try enumeration(Sds.Maintenance.self)
        }
        return server
    }

    fileprivate mutating func device(version: UInt8) throws(WireError) -> Device {
        var device = Device(
            id: try id(DeviceID.self), sds: try id(SdsID.self), pool: try id(StoragePoolID.self), path: try text(),
            capacityUnits: try number(UInt32.self), status: try enumeration(Device.Status.self),
            mountCounter: try number(UInt64.self))
        if version > 1 {
            device.name = try text()
            device.isLeaving = try flag()
        }
        return device
    }

    /// Without `hasScanner` they are those of a time that knew none.
    mutating func poolSettings(hasScanner: Bool) throws(WireError) -> PoolSettings {
        var settings = PoolSettings()
        settings.capacityAlertHigh = try number(UInt32.self)
        settings.capacityAlertCritical = try number(UInt32.self)
        settings.rebuildEnabled = try flag()
        settings.rebalanceEnabled = try flag()
        settings.rebuildPolicy = try ioPriorityPolicy()
        settings.rebalancePolicy = try ioPriorityPolicy()
        if hasScanner {
            settings.scannerMode = try enumeration(BackgroundScannerMode.self)
            settings.scannerKibibytesPerSecond = try number(UInt32.self)
        }
        return settings
    }

    private mutating func ioPriorityPolicy() throws(WireError) -> IoPriorityPolicy {
        var policy = IoPriorityPolicy(try enumeration(IoPriorityPolicy.Kind.self))
        policy.concurrentIosPerDevice = try number(UInt32.self)
        policy.kibibytesPerSecondPerDevice = try number(UInt32.self)
        policy.appIopsThreshold = try number(UInt32.self)
        policy.appKibibytesThreshold = try number(UInt32.self)
        policy.quietPeriodMilliseconds = try number(UInt32.self)
        return policy
    }

    fileprivate mutating func volume(version: UInt8) throws(WireError) -> Volume {
        let id = try id(VolumeID.self)
        let pool = try self.id(StoragePoolID.self)
        let name = try text()
        let sizeUnits = try number(UInt32.self)
        let provisioning = try enumeration(Volume.Provisioning.self)
        let createdAt = try number(UInt64.self)
        let attachEpoch = try number(UInt64.self)
        let fencedThrough = try number(UInt64.self)
        let revision = try number(UInt64.self)
        var volume = Volume(
            id: id, pool: pool, name: name, sizeUnits: sizeUnits, provisioning: provisioning, createdAt: createdAt,
            mappings: try list(minimumSize: 25) { reader throws(WireError) in try reader.mapping() },
            attachEpoch: attachEpoch, fencedThrough: fencedThrough, revision: revision)
        guard version > 2 else { return volume }
        volume.tree = try self.id(TreeID.self)
        volume.head = try number(UInt32.self)
        let ancestor = try self.id(VolumeID.self)
        volume.ancestor = ancestor.rawValue == 0 ? nil : ancestor
        let group = try self.id(SnapshotGroupID.self)
        volume.snapshotGroup = group.rawValue == 0 ? nil : group
        return volume
    }
}
