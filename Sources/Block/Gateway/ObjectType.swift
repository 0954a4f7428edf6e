import Base

/// The object types that exist here, by their names in paths.
enum ObjectType: String, CaseIterable {
    case system = "System"
    case protectionDomain = "ProtectionDomain"
    case storagePool = "StoragePool"
    case faultSet = "FaultSet"
    case volume = "Volume"
    case vtree = "VTree"
    case sds = "Sds"
    case device = "Device"
    case sdc = "Sdc"
    case user = "User"

    /// Types of the original that have no objects here: clients list them and expect an empty list, not an error.
    static let empty: Set<String> = [
        "ScsiInitiator", "SnapshotPolicy", "SpSds", "AccelerationPool", "PeerMdm",
        "ReplicationConsistencyGroup", "ReplicationPair", "RfcacheDevice", "NvmeHost", "Sdt",
    ]

    /// What the gateway answers when no object of this type has the id.
    var missing: GatewayError {
        switch self {
        case .system, .vtree, .user: .notFound
        case .protectionDomain: .domainNotFound
        case .storagePool: .poolNotFound
        case .faultSet: .faultSetNotFound
        case .volume: .volumeNotFound
        case .sds: .sdsNotFound
        case .device: .deviceNotFound
        case .sdc: .sdcNotFound
        }
    }

    /// The relations of an object of this type, in the order in which its links are listed.
    var relations: [String] {
        switch self {
        case .system: ["Statistics", "ProtectionDomain", "Sdc", "User", "ScsiInitiator"]
        case .protectionDomain: ["Statistics", "StoragePool", "Sds", "FaultSet"]
        case .storagePool: ["Statistics", "Volume", "Device", "VTree", "SpSds"]
        case .faultSet: ["Statistics", "Sds"]
        case .volume: ["Statistics"]
        case .vtree: ["Statistics", "Volume"]
        case .sds: ["Statistics", "Device"]
        case .device: ["Statistics"]
        case .sdc: ["Statistics", "Volume"]
        case .user: []
        }
    }

    /// The links of one object: itself, its relations, its parents (member name, parent's type, parent's id).
    func links(id: String, parents: [(member: String, type: ObjectType, id: String)] = []) -> JSONValue {
        let path = "/api/instances/\(rawValue)::\(id)"
        func link(_ rel: String, _ href: String) -> JSONValue { ["rel": .string(rel), "href": .string(href)] }
        var links = [link("self", path)]
        links += relations.map { link("/api/\(rawValue)/relationship/\($0)", "\(path)/relationships/\($0)") }
        links += parents.map {
            link("/api/parent/relationship/\($0.member)", "/api/instances/\($0.type.rawValue)::\($0.id)")
        }
        return .array(links)
    }
}
