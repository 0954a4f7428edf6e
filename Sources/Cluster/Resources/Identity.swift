import MesosAPI

/// Everything of a resource but its amount: two resources with equal identities add up to one.
struct Identity: Hashable {
    var name: String
    var type: MesosValue.TypeEnum
    var reservations: [MesosResource.ReservationInfo]
    var allocatedRole: String?
    var disk: MesosResource.DiskInfo?
    var provider: String?
    var isRevocable: Bool
    var isShared: Bool

    init(_ resource: MesosResource) {
        name = resource.name
        type = resource.type
        reservations = resource.reservations
        allocatedRole = resource.hasAllocationInfo ? resource.allocationInfo.role : nil
        disk = resource.hasDisk ? resource.disk : nil
        provider = resource.hasProviderID ? resource.providerID.value : nil
        isRevocable = resource.hasRevocable
        isShared = resource.hasShared
    }

    /// Persistent volumes and disks with a device of their own are one piece: they neither merge nor split.
    var isIndivisible: Bool {
        guard let disk else { return false }
        if disk.hasPersistence { return true }
        guard disk.hasSource else { return false }
        switch disk.source.type {
        case .mount, .block: return true
        case .raw: return disk.source.hasID
        case .path, .unknown: return false
        }
    }
}
