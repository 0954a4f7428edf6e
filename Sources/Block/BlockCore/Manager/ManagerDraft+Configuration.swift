extension ManagerDraft {
    mutating func execute(
        _ command: ConfigurationCommand, _ generator: inout some RandomNumberGenerator
    ) throws(ManagerError) -> ManagerReply {
        switch command {
        case .renameProtectionDomain(let id, let name):
            var domain = try domain(id)
            try checkName(name)
            if let other = state.domain(named: name), other.id != id {
                throw ManagerError(.nameInUse, "a protection domain is already named \(name)")
            }
            domain.name = name
            put(domain)
        case .removeProtectionDomain(let id): try removeDomain(id)
        case .createFaultSet(let domain, let name):
            return .createdFaultSet(try createFaultSet(domain, name, &generator))
        case .renameFaultSet(let id, let name):
            var faultSet = try faultSet(id)
            try checkName(name)
            if let other = state.faultSet(named: name, in: faultSet.domain), other.id != id {
                throw ManagerError(.nameInUse, "a fault set of this domain is already named \(name)")
            }
            faultSet.name = name
            put(faultSet)
        case .removeFaultSet(let id):
            _ = try faultSet(id)
            guard !state.servers.values.contains(where: { $0.faultSet == id }) else {
                throw ManagerError(.inUse, "servers belong to fault set \(id)")
            }
            remove(id)
        case .renameDevice(let id, let name):
            guard var device = state.devices[id] else { throw ManagerError(.deviceNotFound, "no device \(id)") }
            try checkName(name)
            if state.devices.values.contains(where: { $0.sds == device.sds && $0.name == name && $0.id != id }) {
                throw ManagerError(.nameInUse, "a device of this SDS is already named \(name)")
            }
            device.name = name
            put(device)
        case .removeDevice, .abortRemoveSds, .abortRemoveDevice, .addSds, .addDevice,
            .enterMaintenance, .exitMaintenance:
            try executeMembership(command)
        case .renameStoragePool, .removeStoragePool, .setSparePercentage, .setCapacityAlertThresholds, .setCopying,
            .setIoPriorityPolicy, .setBackgroundScanner:
            return try executePool(command)
        case .promoteStaleCopies(let server, let device): return try promoteStaleCopies(of: server, device)
        case .clearDataLoss(let volume): try clearDataLoss(of: volume)
        }
        return .done
    }

    private mutating func executePool(_ command: ConfigurationCommand) throws(ManagerError) -> ManagerReply {
        switch command {
        case .renameStoragePool(let id, let name):
            var pool = try pool(id)
            try checkName(name)
            if let other = state.pool(named: name, in: pool.domain), other.id != id {
                throw ManagerError(.nameInUse, "a storage pool of this domain is already named \(name)")
            }
            pool.name = name
            putSettings(of: pool)
        case .removeStoragePool(let id):
            _ = try pool(id)
            guard state.volumes(in: id).isEmpty else {
                throw ManagerError(.hasVolumes, "storage pool \(id) has volumes")
            }
            guard state.devices(in: id).isEmpty else {
                throw ManagerError(.hasDevices, "storage pool \(id) has devices")
            }
            remove(id)
        case .setSparePercentage(let id, let percentage): return try setSpare(id, percentage)
        case .setCapacityAlertThresholds(let id, let high, let critical):
            var pool = try pool(id)
            pool.settings.capacityAlertHigh = high ?? pool.settings.capacityAlertHigh
            pool.settings.capacityAlertCritical = critical ?? pool.settings.capacityAlertCritical
            guard (1...100).contains(pool.settings.capacityAlertHigh),
                (pool.settings.capacityAlertHigh...100).contains(pool.settings.capacityAlertCritical)
            else {
                throw ManagerError(.invalidArgument, "thresholds are 1 to 100, the critical one is not the lower")
            }
            putSettings(of: pool)
        case .setCopying(let id, let kind, let isEnabled):
            var pool = try pool(id)
            switch kind {
            case .rebuild: pool.settings.rebuildEnabled = isEnabled
            case .rebalance: pool.settings.rebalanceEnabled = isEnabled
            }
            putSettings(of: pool)
        case .setIoPriorityPolicy(let id, let kind, let policy):
            var pool = try pool(id)
            guard (1...20).contains(policy.concurrentIosPerDevice), policy.kibibytesPerSecondPerDevice >= 1024 else {
                throw ManagerError(.invalidArgument, "1 to 20 copies at once and at least 1024 KB/s for a device")
            }
            switch kind {
            case .rebuild: pool.settings.rebuildPolicy = policy
            case .rebalance: pool.settings.rebalancePolicy = policy
            }
            putSettings(of: pool)
        case .setBackgroundScanner(let id, let mode, let limit):
            var pool = try pool(id)
            guard limit != 0 else { throw ManagerError(.invalidArgument, "the scanner reads at least 1 KB/s") }
            pool.settings.scannerMode = mode
            pool.settings.scannerKibibytesPerSecond = limit ?? pool.settings.scannerKibibytesPerSecond
            putSettings(of: pool)
        case .renameProtectionDomain, .removeProtectionDomain, .createFaultSet, .renameFaultSet, .removeFaultSet,
            .renameDevice, .removeDevice, .abortRemoveSds, .abortRemoveDevice, .addSds, .addDevice,
            .enterMaintenance, .exitMaintenance, .promoteStaleCopies, .clearDataLoss:
            preconditionFailure("not about a pool")
        }
        return .done
    }

    private mutating func executeMembership(_ command: ConfigurationCommand) throws(ManagerError) {
        switch command {
        case .removeDevice(let id):
            guard var device = state.devices[id] else { throw ManagerError(.deviceNotFound, "no device \(id)") }
            guard !device.isLeaving else { throw ManagerError(.deviceLeaving, "device \(id) is being removed") }
            try checkRoom { $0.id == id }
            device.isLeaving = true
            put(device)
        case .abortRemoveSds(let id):
            guard var server = state.servers[id] else { throw ManagerError(.sdsNotFound, "no SDS \(id)") }
            guard server.isLeaving else { throw ManagerError(.invalidArgument, "SDS \(id) is not being removed") }
            server.isLeaving = false
            put(server)
        case .abortRemoveDevice(let id):
            guard var device = state.devices[id] else { throw ManagerError(.deviceNotFound, "no device \(id)") }
            guard device.isLeaving else { throw ManagerError(.invalidArgument, "device \(id) is not being removed") }
            device.isLeaving = false
            put(device)
        case .enterMaintenance(let id, let isProtected): try beginMaintenance(id, protected: isProtected)
        case .exitMaintenance(let id): try endMaintenance(id)
        case .addSds(let id):
            guard state.removedServers[id] != nil else { throw ManagerError(.sdsNotFound, "no removed SDS \(id)") }
            forget(id)
        case .addDevice(let id):
            guard state.removedDevices[id] != nil else {
                throw ManagerError(.deviceNotFound, "no removed device \(id)")
            }
            forget(id)
        case .renameProtectionDomain, .removeProtectionDomain, .createFaultSet, .renameFaultSet, .removeFaultSet,
            .renameDevice, .renameStoragePool, .removeStoragePool, .setSparePercentage, .setCapacityAlertThresholds,
            .setCopying, .setIoPriorityPolicy, .setBackgroundScanner, .promoteStaleCopies, .clearDataLoss:
            preconditionFailure("not about who belongs to the system")
        }
    }

    // MARK: Steps

    private func domain(_ id: ProtectionDomainID) throws(ManagerError) -> ProtectionDomain {
        guard let domain = state.domains[id] else {
            throw ManagerError(.domainNotFound, "no protection domain \(id)")
        }
        return domain
    }

    private func faultSet(_ id: FaultSetID) throws(ManagerError) -> FaultSet {
        guard let faultSet = state.faultSets[id] else { throw ManagerError(.faultSetNotFound, "no fault set \(id)") }
        return faultSet
    }

    private func pool(_ id: StoragePoolID) throws(ManagerError) -> StoragePool {
        guard let pool = state.pools[id] else { throw ManagerError(.poolNotFound, "no storage pool \(id)") }
        return pool
    }

    private mutating func removeDomain(_ id: ProtectionDomainID) throws(ManagerError) {
        _ = try domain(id)
        guard !state.servers.values.contains(where: { $0.domain == id }) else {
            throw ManagerError(.hasServers, "protection domain \(id) has servers")
        }
        guard !state.pools.values.contains(where: { $0.domain == id }) else {
            throw ManagerError(.hasPools, "protection domain \(id) has storage pools")
        }
        for faultSet in state.faultSets.values where faultSet.domain == id { remove(faultSet.id) }
        remove(id)
    }

    mutating func createFaultSet(
        _ domain: ProtectionDomainID, _ name: String, _ generator: inout some RandomNumberGenerator
    ) throws(ManagerError) -> FaultSetID {
        _ = try self.domain(domain)
        try checkName(name)
        if state.faultSet(named: name, in: domain) != nil {
            throw ManagerError(.nameInUse, "a fault set of this domain is already named \(name)")
        }
        let id: FaultSetID = unusedID(&generator) { state.faultSets[$0] != nil }
        put(FaultSet(id: id, domain: domain, name: name))
        return id
    }

    private mutating func setSpare(
        _ id: StoragePoolID, _ percentage: UInt32
    ) throws(ManagerError) -> ManagerReply {
        var pool = try pool(id)
        guard percentage <= 90 else { throw ManagerError(.invalidArgument, "a spare is 0 to 90 percent") }
        pool.sparePercentage = percentage
        putSettings(of: pool)
        let capacity = state.capacity(of: id)
        guard capacity.thickReserved <= capacity.usable else {
            throw ManagerError(.insufficientCapacity, "thick volumes need what the spare would take")
        }
        return capacity.spare < capacity.largestFaultUnit
            ? .doneWithWarning(StoragePool.spareWarning(capacity)) : .done
    }
}
