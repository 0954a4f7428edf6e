public import Base
import FoundationEssentials
public import Logging
public import VolumeDriver

/// REX-Ray's `scaleio` driver: volumes of a ScaleIO system through its Gateway, devices through this host's SDC.
public actor ScaleIODriver: VolumeDriver {
    public nonisolated let name = "scaleio"

    private let configuration: ScaleIOConfiguration
    private let gateway: ScaleIOGateway
    private let logger: Logger

    private var systemID: String?
    private var guid: String?
    /// Pools by id, refreshed when a volume names one that is not there.
    private var pools: [String: Pool] = [:]
    /// False once the Gateway turned out to know no atomic pre-emption.
    private var canPreemptAtomically = true

    private struct Pool {
        var name: String
        var protectionDomainID: String
        var protectionDomainName: String
    }

    public init(configuration: ScaleIOConfiguration, logger: Logger) {
        self.configuration = configuration
        self.logger = logger
        gateway = ScaleIOGateway(configuration: configuration, logger: logger)
    }

    // MARK: Volumes

    public func volumes() async throws(VolumeDriverError) -> [PlatformVolume] {
        let list = try await gateway.get("/types/Volume/instances").array ?? []
        var result: [PlatformVolume] = []
        // Snapshots are volumes too on this platform; REX-Ray does not list them.
        for object in list where object["ancestorVolumeId"]?.string == nil {
            result.append(try await volume(object))
        }
        return result
    }

    public func volume(id: String) async throws(VolumeDriverError) -> PlatformVolume {
        guard ScaleIODriver.isObjectID(id) else {
            throw VolumeDriverError(.notFound, "There is no volume with id \(id)")
        }
        return try await volume(try await gateway.get("/instances/Volume::\(id)"))
    }

    public func volume(named name: String) async throws(VolumeDriverError) -> PlatformVolume {
        let platformName = ScaleIODriver.platformName(name)
        do {
            let answer = try await gateway.post(
                "/types/Volume/instances/action/queryIdByKey", ["name": .string(platformName)])
            guard let id = answer.string else {
                throw VolumeDriverError(.unreachable, "The Gateway answered no id for the volume \(platformName)")
            }
            return try await volume(id: id)
        } catch {
            throw ScaleIOGateway.error(error, doing: "Looking up the volume \(platformName)")
        }
    }

    public func create(_ request: VolumeRequest) async throws(VolumeDriverError) -> PlatformVolume {
        let platformName = ScaleIODriver.platformName(request.name)
        let pool = try await poolForCreation(request)
        // Volumes come in multiples of 8 GiB; the size that results is reported, not the one asked for.
        let grain: UInt64 = 8 << 30
        let asked = max((request.size ?? .gibibytes(16)).bytes, 1)
        guard asked <= 1 << 50 else {
            throw VolumeDriverError(
                .invalid, "A volume of \(ByteSize(bytes: asked)) exceeds the platform's limit of 1 PiB")
        }
        let size = ByteSize(bytes: (asked + grain - 1) / grain * grain)
        do {
            let answer = try await gateway.post(
                "/types/Volume/instances",
                [
                    "name": .string(platformName), "volumeSizeInKb": .string(String(size.wholeKibibytes)),
                    "storagePoolId": .string(pool.id), "protectionDomainId": .string(pool.protectionDomainID),
                    "volumeType": configuration.isThin ? "ThinProvisioned" : "ThickProvisioned",
                ])
            guard let id = answer["id"]?.string else {
                throw VolumeDriverError(.unreachable, "The Gateway answered no id for the new volume \(platformName)")
            }
            return try await volume(id: id)
        } catch let refusal as ScaleIOGateway.Refusal
            where refusal.isRepeated && refusal.code == ScaleIOGateway.ErrorNumber.nameInUse
        {
            // The first try's answer was lost. Whether it made this volume shows in what it asked for.
            let found = try await volume(named: request.name)
            guard found.size == size, found.attachments.isEmpty else {
                throw ScaleIOGateway.error(refusal, doing: "Creating the volume \(platformName)")
            }
            return found
        } catch {
            throw ScaleIOGateway.error(error, doing: "Creating the volume \(platformName)")
        }
    }

    public func resize(id: String, to size: ByteSize) async throws(VolumeDriverError) -> PlatformVolume {
        let current = try await volume(id: id)
        guard size > current.size else { return current }
        let grain: UInt64 = 8 << 30
        guard size.bytes <= 1 << 50 else {
            throw VolumeDriverError(.invalid, "A volume of \(size) exceeds the platform's limit of 1 PiB")
        }
        let gibibytes = (size.bytes + grain - 1) / grain * 8
        do {
            _ = try await gateway.post(
                "/instances/Volume::\(id)/action/setVolumeSize", ["sizeInGB": .string(String(gibibytes))])
        } catch {
            throw ScaleIOGateway.error(error, doing: "Enlarging the volume \(current.name)")
        }
        return try await volume(id: id)
    }

    public func remove(id: String) async throws(VolumeDriverError) {
        do {
            _ = try await gateway.post("/instances/Volume::\(id)/action/removeVolume", ["removeMode": "ONLY_ME"])
        } catch let refusal as ScaleIOGateway.Refusal
            where refusal.isRepeated && refusal.code == ScaleIOGateway.ErrorNumber.volumeNotFound
        {
            return
        } catch {
            throw ScaleIOGateway.error(error, doing: "Removing the volume \(id)")
        }
    }

    // MARK: Attaching

    public func attach(id: String, to instanceID: String, preempt: Bool) async throws(VolumeDriverError)
        -> PlatformVolume
    {
        // Several hosts may pre-empt one another at the same time: whoever loses a race tries again, a bounded number
        // of times.
        for _ in 0..<4 {
            let current = try await volume(id: id)
            let others = current.attachments.filter { $0.instanceID != instanceID }
            if others.isEmpty {
                if current.isAttached(to: instanceID) { return current }
                _ = try await map(id: id, to: instanceID, preempt: false)
            } else {
                guard preempt else {
                    throw VolumeDriverError(
                        .heldElsewhere, "The volume \(current.name) is attached to \(others[0].instanceID)")
                }
                logger.notice(
                    "taking a volume from the host that holds it",
                    metadata: ["volume.id": "\(id)", "volume.holder": "\(others[0].instanceID)"])
                if canPreemptAtomically {
                    switch try await map(id: id, to: instanceID, preempt: true) {
                    case .mapped: continue
                    case .wasMapped:
                        // The call was repeated and its first try did it, or other hosts share the volume with this one.
                        for other in try await volume(id: id).attachments where other.instanceID != instanceID {
                            try await detach(id: id, from: other.instanceID)
                        }
                        continue
                    case .refused: canPreemptAtomically = false
                    }
                }
                try await detach(id: id, from: nil)
                _ = try await map(id: id, to: instanceID, preempt: false)
            }
        }
        let last = try await volume(id: id)
        guard last.isAttached(to: instanceID), last.attachments.count == 1 else {
            throw VolumeDriverError(.heldElsewhere, "The volume \(last.name) keeps being attached to other hosts")
        }
        return last
    }

    private enum Mapping {
        case mapped
        /// It had been mapped to this client before the call.
        case wasMapped
        /// Another host holds it.
        case refused
    }

    private func map(id: String, to instanceID: String, preempt: Bool) async throws(VolumeDriverError) -> Mapping {
        var body: JSONValue = ["sdcId": .string(instanceID), "allowMultipleMappings": "FALSE"]
        if preempt { body["preempt"] = "TRUE" }
        do {
            _ = try await gateway.post("/instances/Volume::\(id)/action/addMappedSdc", body)
            return .mapped
        } catch let refusal as ScaleIOGateway.Refusal {
            if refusal.code == ScaleIOGateway.ErrorNumber.alreadyMappedToThisClient { return .wasMapped }
            // The number of "only a single SDC may be mapped" differs between releases; its text does not.
            let text = refusal.message.lowercased()
            if text.contains("single sdc") || text.contains("additional sdcs") { return .refused }
            if preempt, refusal.status == 400 { return .refused }
            throw ScaleIOGateway.error(refusal, doing: "Mapping the volume \(id)")
        } catch {
            throw ScaleIOGateway.error(error, doing: "Mapping the volume \(id)")
        }
    }

    public func detach(id: String, from instanceID: String?) async throws(VolumeDriverError) {
        let body: JSONValue =
            if let instanceID { ["sdcId": .string(instanceID), "ignoreScsiInitiators": "TRUE"] } else {
                ["allSdcs": "TRUE", "ignoreScsiInitiators": "TRUE"]
            }
        do {
            _ = try await gateway.post("/instances/Volume::\(id)/action/removeMappedSdc", body)
        } catch let refusal as ScaleIOGateway.Refusal where refusal.code == ScaleIOGateway.ErrorNumber.notMapped {
            return
        } catch {
            throw ScaleIOGateway.error(error, doing: "Unmapping the volume \(id)")
        }
    }

    // MARK: This host

    public func resolveInstance(metadata: String) async throws(VolumeDriverError) -> String {
        let system = try await currentSystemID()
        let clients = try await gateway.get("/instances/System::\(system)/relationships/Sdc").array ?? []
        for client in clients where client["sdcGuid"]?.string?.uppercased() == metadata.uppercased() {
            if let id = client["id"]?.string { return id }
        }
        throw VolumeDriverError(.notFound, "The storage system knows no SDC with GUID \(metadata)")
    }

    public func instanceMetadata() async throws(VolumeDriverError) -> String {
        if let guid { return guid }
        let fresh: String
        if let configured = configuration.guid {
            fresh = configured.uppercased()
        } else {
            fresh = try await SDCControl(path: configuration.controlSocket).guid()
        }
        guid = fresh
        return fresh
    }

    public func localDevices() async throws(VolumeDriverError) -> [String: String] {
        let directory = configuration.deviceDirectory
        var devices: [String: String] = [:]
        // A host on which nothing was ever mapped has no such directory.
        for entry in (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []
        where entry.hasPrefix("emc-vol-") {
            let parts = entry.split(separator: "-")
            guard parts.count == 4, let target = ScaleIODriver.linkTarget("\(directory)/\(entry)") else { continue }
            devices[parts[3].lowercased()] = target
        }
        return devices
    }

    /// The absolute path that the link at `path` leads to; nil when it leads nowhere.
    private static func linkTarget(_ path: String) -> String? {
        guard let target = try? FileManager.default.destinationOfSymbolicLink(atPath: path) else { return nil }
        let absolute =
            target.hasPrefix("/") ? target : path[..<(path.lastIndex(of: "/") ?? path.startIndex)] + "/" + target
        let resolved = URL(filePath: absolute).standardizedFileURL.path
        return FileManager.default.fileExists(atPath: resolved) ? resolved : nil
    }

    // MARK: The system's objects

    private func currentSystemID() async throws(VolumeDriverError) -> String {
        if let systemID { return systemID }
        let systems = try await gateway.get("/types/System/instances").array ?? []
        let matching = systems.filter { system in
            if let wanted = configuration.systemID { return system["id"]?.string == wanted }
            if let wanted = configuration.systemName { return system["name"]?.string == wanted }
            return true
        }
        guard matching.count == 1, let id = matching[0]["id"]?.string else {
            let wanted = configuration.systemID ?? configuration.systemName ?? "any"
            throw VolumeDriverError(
                .invalid, "The Gateway knows \(matching.count) systems that match '\(wanted)'; there must be one")
        }
        systemID = id
        return id
    }

    private func refreshPools() async throws(VolumeDriverError) {
        let domains = try await gateway.get("/types/ProtectionDomain/instances").array ?? []
        var names: [String: String] = [:]
        for domain in domains {
            if let id = domain["id"]?.string { names[id] = domain["name"]?.string ?? "" }
        }
        var fresh: [String: Pool] = [:]
        for pool in try await gateway.get("/types/StoragePool/instances").array ?? [] {
            guard let id = pool["id"]?.string, let domain = pool["protectionDomainId"]?.string else { continue }
            fresh[id] = Pool(
                name: pool["name"]?.string ?? "", protectionDomainID: domain, protectionDomainName: names[domain] ?? "")
        }
        pools = fresh
    }

    private func poolForCreation(_ request: VolumeRequest) async throws(VolumeDriverError) -> (
        id: String, protectionDomainID: String
    ) {
        try await refreshPools()
        let matching = pools.filter { id, pool in
            if let wanted = configuration.protectionDomainID, pool.protectionDomainID != wanted { return false }
            if let wanted = request.availabilityZone ?? configuration.protectionDomainName,
                pool.protectionDomainName != wanted
            {
                return false
            }
            if let wanted = request.type { return pool.name == wanted }
            if let wanted = configuration.storagePoolID { return id == wanted }
            if let wanted = configuration.storagePoolName { return pool.name == wanted }
            return true
        }
        guard matching.count == 1, let (id, pool) = matching.first else {
            let wanted = request.type ?? configuration.storagePoolName ?? configuration.storagePoolID ?? "any"
            throw VolumeDriverError(
                .invalid, "There are \(matching.count) storage pools that match '\(wanted)'; there must be one")
        }
        return (id, pool.protectionDomainID)
    }

    private func volume(_ object: JSONValue) async throws(VolumeDriverError) -> PlatformVolume {
        guard let id = object["id"]?.string, let kibibytes = object["sizeInKb"]?.integer, kibibytes >= 0 else {
            throw VolumeDriverError(.unreachable, "The Gateway's Volume object lacks id or size: \(object.text)")
        }
        let poolID = object["storagePoolId"]?.string ?? ""
        if pools[poolID] == nil { try await refreshPools() }
        let attachments = (object["mappedSdcInfo"]?.array ?? []).compactMap { entry -> PlatformAttachment? in
            guard let client = entry["sdcId"]?.string else { return nil }
            // Our own Gateway's addition: the attach epoch under which the mapping was made.
            let epoch = entry["attachEpoch"]
            return PlatformAttachment(instanceID: client, generation: epoch?.string ?? epoch?.integer.map(String.init))
        }
        return PlatformVolume(
            id: id, name: object["name"]?.string ?? "", size: .kibibytes(UInt64(kibibytes)),
            type: pools[poolID]?.name ?? "", availabilityZone: pools[poolID]?.protectionDomainName ?? "",
            attachments: attachments)
    }

    private static func isObjectID(_ text: String) -> Bool {
        text.utf8.count == 16 && text.utf8.allSatisfy { Character(Unicode.Scalar($0)).isHexDigit }
    }

    /// The name under which the platform keeps a volume: names have at most 31 characters there.
    ///
    /// REX-Ray cuts longer names off, so that two volumes may become one. Here a longer name ends in a hash of the
    /// whole.
    static func platformName(_ name: String) -> String {
        guard name.count > 31 else { return name }
        let hash = name.utf8.reduce(0xCBF2_9CE4_8422_2325 as UInt64) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
        return name.prefix(22) + "-" + mix64(hash).hex.prefix(8)
    }
}
