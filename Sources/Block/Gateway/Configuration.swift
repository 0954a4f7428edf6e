import Base
import BlockCore

/// Changes of what volumes live on, with the actions and fields of the original.
extension Gateway {
    func createPool(_ name: String, _ fields: RequestFields) async throws(GatewayError) -> JSONValue {
        guard let domain = ProtectionDomainID(try fields.requiredText("protectionDomainId")) else {
            throw .domainNotFound
        }
        let spare = try Self.percentage("sparePercentage", fields)
        let reply = try await submit(.createStoragePool(domain: domain, name: name), about: .storagePool)
        guard case .createdStoragePool(let id) = reply else { throw .communication }
        if let spare {
            _ = try await submit(.configure(.setSparePercentage(id, spare)), about: .storagePool)
        }
        return ["id": .string(id.description)]
    }

    func events(after number: UInt64) async throws(GatewayError) -> JSONValue {
        let events: [StorageEvent]
        do throws(ManagerError) {
            events = try await manager.events(after: number)
        } catch {
            throw GatewayError(error)
        }
        return .array(
            events.map { event in
                [
                    "number": .integer(Int64(clamping: event.number)),
                    "timeMilliseconds": .integer(Int64(clamping: event.milliseconds)),
                    "severity": .string(event.severity.rawValue), "name": .string(event.name),
                    "object": .string(event.object), "text": .string(event.text),
                ]
            })
    }

    /// Servers introduce themselves; only one that was removed has to be added before it may do so again.
    func addServer(_ fields: RequestFields) async throws(GatewayError) -> JSONValue {
        let name = try fields.requiredText("name")
        let state = try await state()
        guard let removed = state.removedServers.values.first(where: { $0.name == name }) else { throw .sdsNotFound }
        _ = try await submit(.configure(.addSds(removed.id)), about: .sds)
        return ["id": .string(removed.id.description)]
    }

    /// The same for a device, named by its server and path; it is used when the server introduces itself next.
    func addDevice(_ fields: RequestFields) async throws(GatewayError) -> JSONValue {
        // Both spellings are in use.
        var path = try fields.text("deviceCurrentPathname")
        if path == nil { path = try fields.requiredText("deviceCurrentPathName") }
        guard let server = SdsID(try fields.requiredText("sdsId")) else { throw .sdsNotFound }
        let state = try await state()
        let removed = state.removedDevices.values.first { $0.sds == server && $0.path == path }
        guard let removed else { throw .deviceNotFound }
        _ = try await submit(.configure(.addDevice(removed.id)), about: .device)
        return ["id": .string(removed.id.description)]
    }

    func configure(
        _ type: ObjectType, id: String, _ action: String, _ fields: RequestFields
    ) async throws(GatewayError) -> JSONValue {
        let command: ConfigurationCommand
        switch type {
        case .protectionDomain: command = try domainCommand(ProtectionDomainID(id), action, fields)
        case .storagePool: command = try poolCommand(StoragePoolID(id), action, fields)
        case .faultSet: command = try faultSetCommand(FaultSetID(id), action, fields)
        case .device: command = try deviceCommand(DeviceID(id), action, fields)
        case .system, .volume, .vtree, .sds, .sdc, .user: throw .unsupported
        }
        return try await configured(command, about: type)
    }

    /// Has a change made; a warning is told.
    func configured(_ command: ConfigurationCommand, about type: ObjectType) async throws(GatewayError) -> JSONValue {
        switch try await submit(.configure(command), about: type) {
        case .doneWithWarning(let warning): return ["warning": .string(warning)]
        case .done, .createdProtectionDomain, .createdStoragePool, .createdFaultSet, .registeredSdc, .createdVolume,
            .tookSnapshots, .fenced:
            return [:]
        }
    }

    private func domainCommand(
        _ id: ProtectionDomainID?, _ action: String, _ fields: RequestFields
    ) throws(GatewayError) -> ConfigurationCommand {
        guard let id else { throw .domainNotFound }
        switch action {
        case "setProtectionDomainName":
            return .renameProtectionDomain(id, name: try Self.checkedName(try fields.requiredText("name")))
        case "removeProtectionDomain": return .removeProtectionDomain(id)
        default: throw .unsupported
        }
    }

    private func faultSetCommand(
        _ id: FaultSetID?, _ action: String, _ fields: RequestFields
    ) throws(GatewayError) -> ConfigurationCommand {
        guard let id else { throw .faultSetNotFound }
        switch action {
        case "setFaultSetName":
            return .renameFaultSet(id, name: try Self.checkedName(try fields.requiredText("newName")))
        case "removeFaultSet": return .removeFaultSet(id)
        default: throw .unsupported
        }
    }

    private func deviceCommand(
        _ id: DeviceID?, _ action: String, _ fields: RequestFields
    ) throws(GatewayError) -> ConfigurationCommand {
        guard let id else { throw .deviceNotFound }
        switch action {
        case "removeDevice": return .removeDevice(id)
        case "abortRemoveDevice": return .abortRemoveDevice(id)
        case "setDeviceName": return .renameDevice(id, name: try Self.checkedName(try fields.requiredText("newName")))
        default: throw .unsupported
        }
    }

    private func poolCommand(
        _ id: StoragePoolID?, _ action: String, _ fields: RequestFields
    ) throws(GatewayError) -> ConfigurationCommand {
        guard let id else { throw .poolNotFound }
        switch action {
        case "setStoragePoolName":
            return .renameStoragePool(id, name: try Self.checkedName(try fields.requiredText("name")))
        case "removeStoragePool": return .removeStoragePool(id)
        case "setSparePercentage", "modifySpareCapacityPercentage":
            guard let percentage = try Self.percentage("sparePercentage", fields) else {
                throw .missing("sparePercentage")
            }
            return .setSparePercentage(id, percentage)
        case "setCapacityAlertThresholds":
            return .setCapacityAlertThresholds(
                id, high: try Self.percentage("capacityAlertHighThresholdPercent", fields),
                critical: try Self.percentage("capacityAlertCriticalThresholdPercent", fields))
        case "setRebuildEnabled", "setRebalanceEnabled":
            let kind: CopyKind = action == "setRebuildEnabled" ? .rebuild : .rebalance
            guard let isEnabled = try fields.flag("\(kind.rawValue)Enabled") else {
                throw .missing("\(kind.rawValue)Enabled")
            }
            return .setCopying(id, kind, isEnabled: isEnabled)
        case "enableBackgroundDeviceScanner":
            let word = try fields.text("scannerMode") ?? ObjectViews.word(.deviceOnly)
            let modes = [BackgroundScannerMode.deviceOnly, .dataComparison]
            guard let mode = modes.first(where: { ObjectViews.word($0) == word }) else {
                throw .badRequest("scannerMode \(word) is not one of DeviceOnly, DataComparison.")
            }
            let limit = try fields.number("scannerBWLimitKBps")
            guard (1...UInt64(UInt32.max)).contains(limit ?? 1) else { throw .outOfRange }
            return .setBackgroundScanner(id, mode, kibibytesPerSecond: limit.map { UInt32($0) })
        case "disableBackgroundDeviceScanner":
            return .setBackgroundScanner(id, .disabled, kibibytesPerSecond: nil)
        case "setRebuildIoPriorityPolicy": return .setIoPriorityPolicy(id, .rebuild, try Self.policy(fields))
        case "setRebalanceIoPriorityPolicy": return .setIoPriorityPolicy(id, .rebalance, try Self.policy(fields))
        default: throw .unsupported
        }
    }

    private static func percentage(_ name: String, _ fields: RequestFields) throws(GatewayError) -> UInt32? {
        guard let number = try fields.number(name) else { return nil }
        guard number <= 100 else { throw .outOfRange }
        return UInt32(number)
    }

    /// Parameters that are missing keep their defaults.
    private static func policy(_ fields: RequestFields) throws(GatewayError) -> IoPriorityPolicy {
        let name = try fields.requiredText("policy")
        guard let kind = IoPriorityPolicy.Kind(rawValue: name) else {
            let known = IoPriorityPolicy.Kind.allCases.map(\.rawValue).joined(separator: ", ")
            throw .badRequest("policy \(name) is not one of \(known).")
        }
        var policy = IoPriorityPolicy(kind)
        func number(_ name: String, _ missing: UInt32) throws(GatewayError) -> UInt32 {
            guard let number = try fields.number(name) else { return missing }
            guard let value = UInt32(exactly: number) else { throw .outOfRange }
            return value
        }
        policy.concurrentIosPerDevice = try number("numOfConcurrentIosPerDevice", policy.concurrentIosPerDevice)
        policy.kibibytesPerSecondPerDevice = try number("bwLimitPerDeviceInKbps", policy.kibibytesPerSecondPerDevice)
        policy.appIopsThreshold = try number("appIopsPerDeviceThreshold", policy.appIopsThreshold)
        policy.appKibibytesThreshold = try number("appBwPerDeviceThresholdInKbps", policy.appKibibytesThreshold)
        policy.quietPeriodMilliseconds = try number("quietPeriodInMsec", policy.quietPeriodMilliseconds)
        return policy
    }
}
