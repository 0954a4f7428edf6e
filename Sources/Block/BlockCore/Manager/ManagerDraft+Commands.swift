/// How a command ends once its batch is committed.
enum CommandOutcome {
    case reply(ManagerReply)
    /// Answer when the volume's withdrawn rights are proven fenced.
    case whenFenced(VolumeID)
    /// Answer when the snapshots are proven to be of one moment.
    case whenCut([SnapshotDefinition], createdAt: UInt64)
}

extension ManagerDraft {
    mutating func execute(
        _ command: ManagerCommand, _ generator: inout some RandomNumberGenerator
    ) throws(ManagerError) -> CommandOutcome {
        switch command {
        case .createProtectionDomain(let name):
            return .reply(.createdProtectionDomain(try createDomain(name, &generator)))
        case .createStoragePool(let domain, let name, let combCount):
            return .reply(.createdStoragePool(try createPool(domain, name, combCount, &generator)))
        case .renameSds(let id, let name):
            guard var server = state.servers[id] else { throw ManagerError(.sdsNotFound, "no SDS \(id)") }
            try checkName(name)
            if let other = state.server(named: name), other.id != id {
                throw ManagerError(.nameInUse, "an SDS is already named \(name)")
            }
            server.name = name
            put(server)
        case .removeSds(let id): try removeServer(id)
        case .registerSdc(let guid, let ip, let name):
            return .reply(.registeredSdc(try registerClient(guid, ip, name, &generator)))
        case .renameSdc(let id, let name):
            guard var client = state.clients[id] else { throw ManagerError(.sdcNotFound, "no SDC \(id)") }
            try checkName(name)
            client.name = name
            put(client)
        case .removeSdc(let id):
            guard state.clients[id] != nil else { throw ManagerError(.sdcNotFound, "no SDC \(id)") }
            guard state.volumes(mappedTo: id).isEmpty else {
                throw ManagerError(.inUse, "volumes are mapped to SDC \(id)")
            }
            remove(id)
        case .createVolume, .resizeVolume, .renameVolume, .removeVolume, .removeVolumes:
            return .reply(try executeVolume(command, &generator))
        case .takeSnapshots(let definitions, let createdAt):
            try checkSnapshots(definitions)
            return .whenCut(definitions, createdAt: createdAt)
        case .map(let volume, let client, let mode, let allowMultiple, let preempt):
            return try map(volume, client, mode, allowMultiple: allowMultiple, preempt: preempt)
        case .unmap(let volume, let client): return try unmap(volume, client)
        case .setMappingLimits(let id, let client, let iops, let bandwidth):
            var volume = try volume(id)
            guard let index = volume.mappings.firstIndex(where: { $0.sdc == client }) else {
                throw ManagerError(.notMapped, "volume \(id) is not mapped to SDC \(client)")
            }
            volume.mappings[index].limitIops = iops
            volume.mappings[index].limitKibibytesPerSecond = bandwidth
            put(volume)
        case .configure(let command): return .reply(try execute(command, &generator))
        }
        return .reply(.done)
    }

    // MARK: Domains, pools, servers, clients

    mutating func createDomain(
        _ name: String, _ generator: inout some RandomNumberGenerator
    ) throws(ManagerError) -> ProtectionDomainID {
        try checkName(name)
        if state.domain(named: name) != nil {
            throw ManagerError(.nameInUse, "a protection domain is already named \(name)")
        }
        let id: ProtectionDomainID = unusedID(&generator) { state.domains[$0] != nil }
        put(ProtectionDomain(id: id, name: name))
        return id
    }

    mutating func createPool(
        _ domain: ProtectionDomainID, _ name: String, _ combCount: UInt32,
        _ generator: inout some RandomNumberGenerator
    ) throws(ManagerError) -> StoragePoolID {
        guard state.domains[domain] != nil else {
            throw ManagerError(.domainNotFound, "no protection domain \(domain)")
        }
        try checkName(name)
        guard combCount > 0, combCount & (combCount - 1) == 0 else {
            throw ManagerError(.invalidArgument, "a pool has a power of two of combs")
        }
        let sum = state.pools.values.reduce(Int(combCount)) { $0 + $1.combs.count }
        guard sum <= Int(Geometry.combsMax) else {
            throw ManagerError(
                .invalidArgument, "all storage pools together have at most \(Geometry.combsMax) combs, and not \(sum)")
        }
        if state.pool(named: name, in: domain) != nil {
            throw ManagerError(.nameInUse, "a storage pool of this domain is already named \(name)")
        }
        let id: StoragePoolID = unusedID(&generator) { state.pools[$0] != nil }
        put(
            StoragePool(
                id: id, domain: domain, name: name, combs: Array(repeating: .unplaced, count: Int(combCount)),
                sparePercentage: 10))
        return id
    }

    /// At once if the server holds nothing; otherwise its copies move away first.
    private mutating func removeServer(_ id: SdsID) throws(ManagerError) {
        guard var server = state.servers[id] else { throw ManagerError(.sdsNotFound, "no SDS \(id)") }
        guard !server.isLeaving else { throw ManagerError(.sdsLeaving, "SDS \(id) is being removed") }
        let isUsed = state.pools.values.contains { pool in
            pool.combs.contains { $0.isPlaced && $0.places.contains { $0.sds == id } }
        }
        guard isUsed else { return remove(id) }
        try checkRoom { $0.sds == id }
        server.isLeaving = true
        put(server)
    }

    private mutating func registerClient(
        _ guid: String, _ ip: String, _ name: String, _ generator: inout some RandomNumberGenerator
    ) throws(ManagerError) -> SdcID {
        guard !guid.isEmpty, guid.utf8.count <= 64 else { throw ManagerError(.invalidArgument, "not a GUID") }
        if var client = state.client(guid: guid) {
            client.ip = ip
            if !name.isEmpty { client.name = name }
            put(client)
            return client.id
        }
        let id: SdcID = unusedID(&generator) { state.clients[$0] != nil }
        put(Sdc(id: id, guid: guid, name: name, ip: ip, generation: 0, incarnation: 0))
        return id
    }

    /// ScaleIO's rule for names: 1 to 31 characters; none of them a control character.
    func checkName(_ name: String) throws(ManagerError) {
        guard !name.isEmpty, name.count <= 31, name.unicodeScalars.allSatisfy({ $0.value > 32 && $0.value != 127 })
        else {
            throw ManagerError(.invalidName, "a name has 1 to 31 printable characters without blanks")
        }
    }

    // MARK: Volumes

    func volume(_ id: VolumeID) throws(ManagerError) -> Volume {
        guard let volume = state.volumes[id] else { throw ManagerError(.volumeNotFound, "no volume \(id)") }
        return volume
    }

    private mutating func executeVolume(
        _ command: ManagerCommand, _ generator: inout some RandomNumberGenerator
    ) throws(ManagerError) -> ManagerReply {
        switch command {
        case .createVolume(let pool, let name, let sizeUnits, let provisioning, let createdAt):
            guard state.pools[pool] != nil else { throw ManagerError(.poolNotFound, "no storage pool \(pool)") }
            try checkVolumeName(name, of: nil)
            guard sizeUnits > 0 else { throw ManagerError(.invalidSize, "a volume has at least 1 MiB") }
            try place(pool)
            try checkCapacity(pool, adding: sizeUnits, provisioning)
            let id = unusedVolumeID(&generator)
            put(
                Volume(
                    id: id, pool: pool, name: name, sizeUnits: sizeUnits, provisioning: provisioning,
                    createdAt: createdAt, mappings: [], attachEpoch: 0, fencedThrough: 0, revision: 0))
            return .createdVolume(id)
        case .resizeVolume(let id, let sizeUnits):
            var volume = try volume(id)
            guard sizeUnits >= volume.sizeUnits else {
                throw ManagerError(.invalidSize, "a volume cannot shrink")
            }
            try checkCapacity(volume.pool, adding: sizeUnits - volume.sizeUnits, volume.provisioning)
            volume.sizeUnits = sizeUnits
            put(volume)
        case .renameVolume(let id, let name):
            var volume = try volume(id)
            try checkVolumeName(name, of: id)
            volume.name = name
            put(volume)
        case .removeVolume(let id, let unmapping):
            let volume = try volume(id)
            guard unmapping || volume.mappings.isEmpty else {
                throw ManagerError(.volumeMapped, "volume \(id) is mapped")
            }
            relink(volume)
            remove(id)
        case .removeVolumes(let ids, let unmapping):
            for id in ids { _ = try executeVolume(.removeVolume(id, unmapping: unmapping), &generator) }
        case .createProtectionDomain, .createStoragePool, .renameSds, .removeSds, .registerSdc, .renameSdc, .removeSdc,
            .takeSnapshots, .map, .unmap, .setMappingLimits, .configure:
            preconditionFailure("not about a volume alone")
        }
        return .done
    }

    /// Not the number of a tree either: units are named by trees, and one may outlive its first volume.
    func unusedVolumeID(_ generator: inout some RandomNumberGenerator) -> VolumeID {
        unusedID(&generator) { state.volumes[$0] != nil || state.trees[TreeID(rawValue: $0.rawValue)] != nil }
    }

    /// A volume may stay unnamed.
    func checkVolumeName(_ name: String, of volume: VolumeID?) throws(ManagerError) {
        if name.isEmpty { return }
        try checkName(name)
        if let other = state.volume(named: name), other.id != volume {
            throw ManagerError(.nameInUse, "a volume is already named \(name)")
        }
    }

    func checkCapacity(
        _ id: StoragePoolID, adding units: UInt32, _ provisioning: Volume.Provisioning
    ) throws(ManagerError) {
        let capacity = state.capacity(of: id)
        if let pool = state.pools[id], units > 0, capacity.isAbove(pool.settings.capacityAlertCritical) {
            throw ManagerError(.poolCritical, "storage pool \(pool.name) is filled to its critical threshold")
        }
        guard capacity.hasRoom(for: units, provisioning) else {
            throw ManagerError(.insufficientCapacity, "the pool has no room for \(units) MiB more")
        }
    }

    // MARK: Mappings

    private mutating func map(
        _ id: VolumeID, _ client: SdcID, _ mode: AccessMode, allowMultiple: Bool, preempt: Bool
    ) throws(ManagerError) -> CommandOutcome {
        var volume = try volume(id)
        guard state.clients[client] != nil else { throw ManagerError(.sdcNotFound, "no SDC \(client)") }
        let others = volume.mappings.filter { $0.sdc != client }
        if let existing = volume.mapping(of: client), existing.mode == mode, others.isEmpty || allowMultiple {
            if existing.epoch > volume.fencedThrough { return .whenFenced(id) }
            throw ManagerError(.alreadyMapped, "volume \(id) is already mapped to SDC \(client)")
        }
        guard preempt || allowMultiple || others.isEmpty else {
            throw ManagerError(.mappedElsewhere, "volume \(id) is mapped to SDC \(others[0].sdc)")
        }
        let hadOne = volume.mappings.count == 1
        let withdrawn = preempt ? volume.mappings : volume.mappings.filter { $0.sdc == client }
        volume.mappings = preempt ? [] : others
        volume.attachEpoch += 1
        volume.mappings.append(
            VolumeMapping(
                sdc: client, mode: mode, epoch: volume.attachEpoch, limitIops: 0, limitKibibytesPerSecond: 0))
        let beginsSharing = hadOne && volume.mappings.count > 1 && rules.contains(.sharingIsConfirmed)
        return settle(volume, needsProof: !withdrawn.isEmpty || beginsSharing)
    }

    private mutating func unmap(_ id: VolumeID, _ client: SdcID?) throws(ManagerError) -> CommandOutcome {
        var volume = try volume(id)
        let remaining = client.map { client in volume.mappings.filter { $0.sdc != client } } ?? []
        guard remaining.count < volume.mappings.count else {
            if volume.isFencePending { return .whenFenced(id) }
            throw ManagerError(.notMapped, "volume \(id) is not mapped there")
        }
        volume.mappings = remaining
        volume.attachEpoch += 1
        return settle(volume, needsProof: true)
    }

    /// Stores a volume whose mappings changed. Where nothing was withdrawn, nobody has to learn that he is no longer alone, and
    /// nothing awaits proof, the new rights are in force with the commit.
    private mutating func settle(_ volume: Volume, needsProof: Bool) -> CommandOutcome {
        var volume = volume
        let settled = volume.fencedThrough == volume.attachEpoch - 1
        if (settled && !needsProof) || !rules.contains(.remapWaitsForProof) {
            volume.fencedThrough = volume.attachEpoch
        }
        put(volume)
        return .whenFenced(volume.id)
    }

    /// The proof has arrived for this epoch; a later change needs its own.
    mutating func raiseFence(_ id: VolumeID, through epoch: UInt64) {
        guard var volume = state.volumes[id], volume.attachEpoch == epoch, volume.fencedThrough < epoch else { return }
        volume.fencedThrough = epoch
        put(volume)
    }
}
