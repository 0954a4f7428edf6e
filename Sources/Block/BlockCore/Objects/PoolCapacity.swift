/// What a pool's devices hold and what of it is promised, in units of 1 MiB of raw space: both copies count.
public struct PoolCapacity: Equatable, Sendable {
    /// Of all devices that work.
    public var total: UInt64 = 0
    /// Of the largest part that may fail at once.
    public var largestFaultUnit: UInt64 = 0
    /// Kept free for rebuilding.
    public var spare: UInt64 = 0
    /// In use, as the servers last told.
    public var used: UInt64 = 0
    /// Twice the size of all thick volumes.
    public var thickReserved: UInt64 = 0
    /// What of it is in use, as the servers last told.
    public var thickUsed: UInt64 = 0
    /// Twice the size of all thin volumes.
    public var thinPromised: UInt64 = 0

    /// Thin volumes may promise so many times what is not taken by thick ones, as in ScaleIO.
    static let oversubscription: UInt64 = 5

    public var usable: UInt64 { total - spare }
    /// What is used or must stay usable for thick volumes.
    public var committed: UInt64 { used + (thickReserved - min(thickReserved, thickUsed)) }
    public var free: UInt64 { usable - min(usable, committed) }
    /// Whether used space has reached `percentage` of what may be used.
    public func isAbove(_ percentage: UInt32) -> Bool { usable > 0 && used * 100 >= usable * UInt64(percentage) }

    /// Whether a volume (or its growth) of `units` fits. Thick ones fit into what is free, thin ones may promise more.
    public func hasRoom(for units: UInt32, _ provisioning: Volume.Provisioning) -> Bool {
        let raw = UInt64(units) * 2
        switch provisioning {
        case .thick: return raw <= free
        case .thin:
            return thinPromised + raw <= (usable - min(usable, thickReserved)) * PoolCapacity.oversubscription
        }
    }
}

extension SystemState {
    /// Units that nothing is bound to, as the device's server last told.
    public func freeUnits(_ device: Device) -> UInt32 {
        device.capacityUnits - min(device.capacityUnits, usedUnits[device.id] ?? 0)
    }

    /// Units that clients have to leave free.
    public func spareUnits(_ device: Device) -> UInt32 {
        UInt32(UInt64(device.capacityUnits) * UInt64(min(pools[device.pool]?.sparePercentage ?? 0, 100)) / 100)
    }

    /// What fails as one: a fault set, or a server that is in none.
    enum FaultUnit: Hashable {
        case set(FaultSetID)
        case server(SdsID)
    }

    func faultUnit(of server: SdsID) -> FaultUnit {
        servers[server]?.faultSet.map { .set($0) } ?? .server(server)
    }

    public func capacity(of id: StoragePoolID) -> PoolCapacity {
        var capacity = PoolCapacity()
        guard let pool = pools[id] else { return capacity }
        var units: [FaultUnit: UInt64] = [:]
        for device in devices(in: id) where device.status == .normal {
            capacity.total += UInt64(device.capacityUnits)
            capacity.used += UInt64(usedUnits[device.id] ?? 0)
            capacity.thickUsed += UInt64(min(thickUnits[device.id] ?? 0, usedUnits[device.id] ?? 0))
            units[faultUnit(of: device.sds), default: 0] += UInt64(device.capacityUnits)
        }
        capacity.largestFaultUnit = units.values.max() ?? 0
        capacity.spare = capacity.total * UInt64(min(pool.sparePercentage, 100)) / 100
        for volume in volumes(in: id) {
            switch volume.provisioning {
            case .thick: capacity.thickReserved += UInt64(volume.sizeUnits) * 2
            case .thin: capacity.thinPromised += UInt64(volume.sizeUnits) * 2
            }
        }
        return capacity
    }
}
