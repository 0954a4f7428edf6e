import Base
import BlockCore
import Coordination
import Logging
import OrderedCollections

/// What clients ask to have done. Every answer has a JSON body, `{}` where there is nothing to say: clients parse it
/// blindly.
extension Gateway {
    func create(_ type: ObjectType, _ fields: RequestFields) async throws(GatewayError) -> JSONValue {
        switch type {
        case .volume: return try await createVolume(fields)
        case .protectionDomain:
            let name = try Self.checkedName(try fields.requiredText("name"))
            if case .createdProtectionDomain(let id) = try await submit(
                .createProtectionDomain(name: name), about: type)
            {
                return ["id": .string(id.description)]
            }
        case .storagePool:
            let name = try Self.checkedName(try fields.requiredText("name"))
            return try await createPool(name, fields)
        case .faultSet:
            let name = try Self.checkedName(try fields.requiredText("name"))
            guard let domain = ProtectionDomainID(try fields.requiredText("protectionDomainId")) else {
                throw .domainNotFound
            }
            if case .createdFaultSet(let id) = try await submit(
                .configure(.createFaultSet(domain, name: name)), about: type)
            {
                return ["id": .string(id.description)]
            }
        case .sdc:
            guard let guid = try fields.text("sdcGuid") else { throw .missing("sdcGuid") }
            let command = ManagerCommand.registerSdc(
                guid: guid.uppercased(), ip: try fields.text("sdcIp") ?? "", name: try fields.text("name") ?? "")
            if case .registeredSdc(let id) = try await submit(command, about: type) {
                return ["id": .string(id.description)]
            }
        case .sds: return try await addServer(fields)
        case .device: return try await addDevice(fields)
        case .system, .vtree, .user: throw .unsupported
        }
        throw .communication
    }

    func typeAction(_ type: ObjectType, _ name: String, _ fields: RequestFields) async throws(GatewayError) -> JSONValue
    {
        let views = try await views()
        switch name {
        case "queryIdByKey": return .string(try Lookup(state: views.state).id(type, fields))
        case "queryBySelectedIds":
            guard let ids = try fields.texts("ids") else { throw .missing("ids") }
            var found: [JSONValue] = []
            for id in ids { found.append(try views.object(type, id: id)) }
            return .array(found)
        case "querySelectedStatistics":
            let properties = try fields.texts("properties") ?? []
            let all = (views.list(type.rawValue) ?? []).compactMap { $0["id"]?.string }
            guard let ids = try fields.texts("ids") else {
                guard try fields.flag("allIds") == true || type == .system else { throw .missing("ids") }
                return Statistics(state: views.state).selected(type, ids: all, properties: properties)
            }
            for id in ids { _ = try views.object(type, id: id) }
            return Statistics(state: views.state).selected(type, ids: ids, properties: properties)
        default: throw .unsupported
        }
    }

    func action(_ type: ObjectType, id: String?, _ name: String, _ fields: RequestFields) async throws(GatewayError)
        -> JSONValue
    {
        switch type {
        case .system: return try await systemAction(name, fields)
        case .volume: return try await volumeAction(try await volume(id ?? ""), name, fields)
        case .sdc:
            guard let sdc = SdcID(id ?? "") else { throw .invalidSdcID }
            switch name {
            case "setSdcName":
                let name = try Self.checkedName(try fields.requiredText("sdcName"))
                return Self.empty(try await submit(.renameSdc(sdc, name: name), about: type))
            case "removeSdc": return Self.empty(try await submit(.removeSdc(sdc), about: type))
            default: throw .unsupported
            }
        case .sds:
            guard let sds = SdsID(id ?? "") else { throw .sdsNotFound }
            switch name {
            case "setSdsName":
                let name = try Self.checkedName(try fields.requiredText("name"))
                return Self.empty(try await submit(.renameSds(sds, name: name), about: type))
            case "removeSds": return Self.empty(try await submit(.removeSds(sds), about: type))
            case "enterMaintenanceMode", "enterProtectedMaintenanceMode":
                let isProtected = name == "enterProtectedMaintenanceMode"
                return Self.empty(
                    try await submit(.configure(.enterMaintenance(sds, protected: isProtected)), about: type))
            case "exitMaintenanceMode", "exitProtectedMaintenanceMode":
                return Self.empty(try await submit(.configure(.exitMaintenance(sds)), about: type))
            case "abortRemoveSds":
                return Self.empty(try await submit(.configure(.abortRemoveSds(sds)), about: type))
            default: throw .unsupported
            }
        case .protectionDomain, .storagePool, .faultSet, .device:
            _ = try await views().object(type, id: id ?? "")
            return try await configure(type, id: id ?? "", name, fields)
        case .vtree, .user:
            _ = try await views().object(type, id: id ?? "")
            throw .unsupported
        }
    }

    private func systemAction(_ name: String, _ fields: RequestFields) async throws(GatewayError) -> JSONValue {
        switch name {
        case "snapshotVolumes": return try await snapshotVolumes(fields)
        case "removeConsistencyGroupSnapshots": return try await removeGroup(fields)
        case "queryMdmCluster": return try await views().mdmCluster
        case "changeMdmOwnership":
            guard let cluster else { throw .unsupported }
            guard let member = ManagerID(try fields.requiredText("id")) else { throw .managerNotFound }
            do {
                try await cluster.giveLeadership(to: member)
            } catch {
                throw GatewayError(error)
            }
            return [:]
        case "querySystemLimits":
            func limit(_ type: String, _ description: String, _ value: String) -> JSONValue {
                ["type": .string(type), "description": .string(description), "maxVal": .string(value)]
            }
            return [
                "systemLimitEntryList": [
                    limit("volumeSizeGb", "Maximum volume size in GB", "1048576"),
                    limit("volumeSizeGranularityGb", "Volume size granularity in GB", "8"),
                    limit("maxNameLength", "Maximum length of a name", "31"),
                    limit("maxVolumesPerVTree", "Maximum number of volumes in a VTree", "127"),
                ]
            ]
        default: throw .unsupported
        }
    }

    /// The volume that a path names, or the error that clients take for "gone".
    private func volume(_ id: String) async throws(GatewayError) -> Volume {
        guard let volumeID = VolumeID(id) else { throw .invalidVolumeID }
        guard let volume = try await state().volumes[volumeID] else { throw .volumeNotFound }
        return volume
    }

    static func empty(_: ManagerReply) -> JSONValue { [:] }

    /// The rules for the names of all objects: 1 to 31 printable characters of ASCII without spaces.
    static func checkedName(_ name: String) throws(GatewayError) -> String {
        guard name.utf8.count <= 31 else { throw .nameTooLong }
        guard !name.isEmpty, name.utf8.allSatisfy({ (0x21...0x7E).contains($0) }) else { throw .nameInvalid }
        return name
    }
}

// MARK: - Volumes

extension Gateway {
    private func createVolume(_ fields: RequestFields) async throws(GatewayError) -> JSONValue {
        guard let poolText = try fields.text("storagePoolId") else { throw .missing("storagePoolId") }
        guard let pool = StoragePoolID(poolText) else { throw .poolNotFound }
        let kibibytes: UInt64
        if let number = try fields.number("volumeSizeInKb") {
            kibibytes = number
        } else if let number = try fields.number("volumeSizeInGb") {
            guard number <= VolumeSize.maxKibibytes >> 20 else { throw .tooLarge }
            kibibytes = number << 20
        } else {
            throw .missing("volumeSizeInKb")
        }
        let units = try VolumeSize.unitsRoundedUp(kibibytes: kibibytes)
        let provisioning: Volume.Provisioning
        switch try fields.text("volumeType") {
        case nil, "ThickProvisioned"?: provisioning = .thick
        case "ThinProvisioned"?: provisioning = .thin
        case let other?: throw .badRequest("volumeType \(other) is not one of ThinProvisioned, ThickProvisioned.")
        }
        let name: String
        if let given = try fields.text("name"), !given.isEmpty {
            name = try Self.checkedName(given)
        } else {
            var random = SystemRandomNumberGenerator()
            name = "volume-\((random.next() as UInt64).hex)"
        }
        let reply = try await submit(
            .createVolume(
                pool: pool, name: name, sizeUnits: units, provisioning: provisioning,
                createdAt: epochMilliseconds() / 1000))
        guard case .createdVolume(let id) = reply else { throw .communication }
        return ["id": .string(id.description)]
    }

    private func volumeAction(_ volume: Volume, _ name: String, _ fields: RequestFields) async throws(GatewayError)
        -> JSONValue
    {
        switch name {
        case "addMappedSdc": return try await map(volume, fields)
        case "removeMappedSdc": return try await unmap(volume, fields)
        case "removeVolume": return try await remove(volume, fields)
        case "overwriteVolumeContent": return try await overwrite(volume, fields)
        case "setVolumeName":
            let name = try Self.checkedName(try fields.requiredText("newName"))
            if name == volume.name { return [:] }
            return Self.empty(try await submit(.renameVolume(volume.id, name: name)))
        case "setVolumeSize": return try await resize(volume, fields)
        case "setMappedSdcLimits": return try await limit(volume, fields)
        default: throw .unsupported
        }
    }

    /// A limit that is not named, or named by an empty text, stays as it is.
    private func limit(_ volume: Volume, _ fields: RequestFields) async throws(GatewayError) -> JSONValue {
        let sdc = try Lookup(state: try await state()).sdc(fields)
        guard let mapping = volume.mapping(of: sdc) else { throw .notMapped }
        func given(_ name: String) throws(GatewayError) -> UInt64? {
            try fields.text(name)?.isEmpty == false ? try fields.number(name) : nil
        }
        let iops = try given("iopsLimit") ?? UInt64(mapping.limitIops)
        let bandwidth = try given("bandwidthLimitInKbps") ?? UInt64(mapping.limitKibibytesPerSecond)
        guard iops == 0 || (11...UInt64(UInt32.max)).contains(iops), bandwidth % 1024 == 0,
            bandwidth <= UInt64(UInt32.max)
        else { throw .outOfRange }
        return Self.empty(
            try await submit(
                .setMappingLimits(volume.id, sdc, iops: UInt32(iops), kibibytesPerSecond: UInt32(bandwidth))))
    }

    private func resize(_ volume: Volume, _ fields: RequestFields) async throws(GatewayError) -> JSONValue {
        guard let gibibytes = try fields.number("sizeInGB") else { throw .missing("sizeInGB") }
        guard gibibytes > 0, gibibytes % 8 == 0 else { throw .illegalSize }
        guard gibibytes <= VolumeSize.maxKibibytes >> 20 else { throw .tooLarge }
        let units = UInt32(gibibytes * 1024)
        guard units >= volume.sizeUnits else { throw .cannotShrink }
        if units == volume.sizeUnits { return [:] }
        return Self.empty(try await submit(.resizeVolume(volume.id, sizeUnits: units)))
    }

    /// `preempt` is ours: all other mappings are withdrawn in the same commit, and the answer comes when each is proven
    /// fenced.
    private func map(_ volume: Volume, _ fields: RequestFields) async throws(GatewayError) -> JSONValue {
        if try fields.text("allSdcs") != nil, try fields.flag("allSdcs") == true { throw .unsupported }
        let sdc = try Lookup(state: try await state()).sdc(fields)
        let mode: AccessMode
        switch try fields.text("accessMode") {
        case nil, "ReadWrite"?: mode = .readWrite
        case "ReadOnly"?: mode = .readOnly
        case "NoAccess"?: mode = .noAccess
        case let other?: throw .badRequest("accessMode \(other) is not one of ReadWrite, ReadOnly, NoAccess.")
        }
        let preempt = try fields.flag("preempt") ?? false
        let reply = try await submit(
            .map(
                volume.id, sdc, mode: mode, allowMultiple: try fields.flag("allowMultipleMappings") ?? false,
                preempt: preempt))
        return await proven(reply, change: preempt ? "preempt" : "map")
    }

    private func unmap(_ volume: Volume, _ fields: RequestFields) async throws(GatewayError) -> JSONValue {
        // Some clients send `allSdcs: "False"` together with an id.
        if try fields.flag("allSdcs") == true {
            return await proven(try await submit(.unmap(volume.id, nil)), change: "unmap")
        }
        let sdc = try Lookup(state: try await state()).sdc(fields)
        return await proven(try await submit(.unmap(volume.id, sdc)), change: "unmap")
    }

    /// Enters the proof into the ledger and shows it in the answer, where the original's clients ignore it.
    private func proven(_ reply: ManagerReply, change: String) async -> JSONValue {
        guard case .fenced(let proof) = reply else { return [:] }
        let record = FencingLedger.Record(change: change, time: epochMilliseconds(), proof: proof)
        // The change is made and proven: nothing that fails from here on may make it look undone.
        let json = record.json(try? await manager.state())
        do throws(StoreError) {
            try await ledger.add(json, of: proof.volume)
        } catch {
            logger.warning("A proof is not kept", metadata: ["volume.id": "\(proof.volume)", "error": "\(error)"])
        }
        logger.notice(
            "Volume rights changed",
            metadata: [
                "volume.id": "\(proof.volume)", "volume.attach_epoch": "\(proof.attachEpoch)", "change": "\(change)",
                "seconds": "\(proof.elapsed.inSeconds)",
            ])
        return ["fencingProof": json]
    }
}
