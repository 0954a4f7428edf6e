import Base

/// The commands about what volumes live on: domains, fault sets, pools, servers and their devices.
enum ScliConfiguration {
    private static let domainKeys = ["protection_domain_name", "protection_domain_id"]
    private static let poolKeys = domainKeys + ["storage_pool_name", "storage_pool_id"]
    private static let faultSetKeys = domainKeys + ["fault_set_name", "fault_set_id"]
    private static let serverKeys = ["sds_id", "sds_name", "sds_ip"]
    private static let deviceKeys = serverKeys + ["device_id", "device_name", "device_path"]
    private static let policyKeys = [
        "policy", "concurrent_io_limit", "bw_limit_kbps", "app_iops_threshold", "app_bw_threshold_kbps",
        "quiet_period_ms",
    ]

    static let commands: [String: ScliCommandDefinition] = [
        "add_protection_domain": .init(
            options: ["protection_domain_name"], summary: "Create a protection domain", body: addDomain),
        "rename_protection_domain": .init(
            options: domainKeys + ["new_name"], summary: "Rename a protection domain", body: renameDomain),
        "remove_protection_domain": .init(
            options: domainKeys, summary: "Remove an empty protection domain", body: removeDomain),
        "add_storage_pool": .init(
            options: domainKeys + ["storage_pool_name", "spare_percentage"], summary: "Create a storage pool",
            body: addPool),
        "rename_storage_pool": .init(
            options: poolKeys + ["new_name"], summary: "Rename a storage pool", body: renamePool),
        "remove_storage_pool": .init(options: poolKeys, summary: "Remove an empty storage pool", body: removePool),
        "query_storage_pool": .init(
            options: poolKeys, summary: "One storage pool with its policies and its state", body: queryPool),
        "modify_spare_policy": .init(
            options: poolKeys + ["spare_percentage", "i_am_sure"], summary: "How much a pool keeps free for rebuilding",
            body: setSpare),
        "set_capacity_alert_thresholds": .init(
            options: poolKeys + ["high_threshold", "critical_threshold"], summary: "When a pool counts as full",
            body: setThresholds),
        "set_rebuild_policy": .init(
            options: poolKeys + policyKeys, summary: "What rebuilding may take from applications",
            body: { try await setPolicy("Rebuild", $0, &$1) }),
        "set_rebalance_policy": .init(
            options: poolKeys + policyKeys, summary: "What rebalancing may take from applications",
            body: { try await setPolicy("Rebalance", $0, &$1) }),
        "enable_rebuild": .init(
            options: poolKeys, summary: "Let a pool rebuild", body: { try await enable("Rebuild", true, $0, &$1) }),
        "disable_rebuild": .init(
            options: poolKeys, summary: "Begin no rebuild in a pool",
            body: { try await enable("Rebuild", false, $0, &$1) }),
        "enable_rebalance": .init(
            options: poolKeys, summary: "Let a pool even its devices",
            body: { try await enable("Rebalance", true, $0, &$1) }),
        "disable_rebalance": .init(
            options: poolKeys, summary: "Leave the devices of a pool as they are",
            body: { try await enable("Rebalance", false, $0, &$1) }),
        "enable_background_device_scanner": .init(
            options: poolKeys + ["scanner_mode", "scanner_bandwidth_limit"],
            summary: "Look for damage in a pool before somebody reads it", body: enableScanner),
        "disable_background_device_scanner": .init(
            options: poolKeys, summary: "Look for no damage in a pool", body: disableScanner),
        "add_fault_set": .init(
            options: domainKeys + ["fault_set_name"], summary: "Create a fault set", body: addFaultSet),
        "rename_fault_set": .init(
            options: faultSetKeys + ["new_name"], summary: "Rename a fault set", body: renameFaultSet),
        "remove_fault_set": .init(options: faultSetKeys, summary: "Remove an empty fault set", body: removeFaultSet),
        "query_all_fault_sets": .init(
            options: [], summary: "Every fault set with its servers", body: queryFaultSets),
        "promote_stale_copies": .init(
            options: deviceKeys + ["i_am_sure"],
            summary: "Give a lost server or device up and serve the older copies; volumes lose data", body: promoteStale
        ),
        "clear_data_loss": .init(
            options: ["volume_name", "volume_id"], summary: "End the mark of a volume that lost data", body: clearLoss),
        "add_sds": .init(
            options: ["sds_name"], summary: "Let a server that was removed join again", body: addServer),
        "remove_sds": .init(
            options: serverKeys, summary: "Move a server's data away, then remove it", body: removeServer),
        "abort_remove_sds": .init(options: serverKeys, summary: "Keep a server after all", body: keepServer),
        "rename_sds": .init(options: serverKeys + ["new_name"], summary: "Rename a server", body: renameServer),
        "enter_maintenance_mode": .init(
            options: serverKeys + ["protected"], summary: "Take a server out of use for a while", body: enterMaintenance
        ),
        "exit_maintenance_mode": .init(
            options: serverKeys, summary: "Bring a server back into use", body: exitMaintenance),
        "add_sds_device": .init(
            options: serverKeys + ["device_path"], summary: "Use a device again that was removed", body: addDevice),
        "remove_sds_device": .init(
            options: deviceKeys, summary: "Move a device's data away, then remove it", body: removeDevice),
        "abort_remove_sds_device": .init(options: deviceKeys, summary: "Keep a device after all", body: keepDevice),
        "rename_device": .init(options: deviceKeys + ["new_name"], summary: "Rename a device", body: renameDevice),
        "query_events": .init(
            options: ["after"], summary: "What happened, or what did after an event", body: queryEvents),
        "query_alerts": .init(options: [], summary: "What needs looking at now", body: queryAlerts),
    ]

    // MARK: Domains

    @Sendable private static func addDomain(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let name = try arguments.required("protection_domain_name")
        let created = try await client.post("/api/types/ProtectionDomain/instances", ["name": .string(name)])
        return "Successfully created protection domain \(name). Object ID \(created.shown("id"))\n"
    }

    @Sendable private static func renameDomain(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let domain = try await ScliLookup.domain(arguments, &client)
        let name = try arguments.required("new_name")
        try await act("ProtectionDomain", domain, "setProtectionDomainName", ["name": .string(name)], &client)
        return "Successfully renamed protection domain \(domain.shown("name")) to \(name)\n"
    }

    @Sendable private static func removeDomain(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let domain = try await ScliLookup.domain(arguments, &client)
        try await act("ProtectionDomain", domain, "removeProtectionDomain", [:], &client)
        return "Successfully removed protection domain \(domain.shown("name"))\n"
    }

    // MARK: Fault sets

    @Sendable private static func addFaultSet(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let domain = try await ScliLookup.domain(arguments, &client)
        let name = try arguments.required("fault_set_name")
        let created = try await client.post(
            "/api/types/FaultSet/instances",
            ["name": .string(name), "protectionDomainId": .string(domain.shown("id"))])
        return "Successfully created fault set \(name). Object ID \(created.shown("id"))\n"
    }

    @Sendable private static func renameFaultSet(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let faultSet = try await ScliLookup.faultSet(arguments, &client)
        let name = try arguments.required("new_name")
        try await act("FaultSet", faultSet, "setFaultSetName", ["newName": .string(name)], &client)
        return "Successfully renamed fault set \(faultSet.shown("name")) to \(name)\n"
    }

    @Sendable private static func removeFaultSet(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let faultSet = try await ScliLookup.faultSet(arguments, &client)
        try await act("FaultSet", faultSet, "removeFaultSet", [:], &client)
        return "Successfully removed fault set \(faultSet.shown("name"))\n"
    }

    @Sendable private static func queryFaultSets(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let faultSets = try await client.list("/api/types/FaultSet/instances")
        let servers = try await client.list("/api/types/Sds/instances")
        let domains = try await client.list("/api/types/ProtectionDomain/instances")
        var text = ["Query-all-fault-sets returned \(faultSets.count) Fault Sets", ""]
        for domain in domains {
            let own = faultSets.filter { $0["protectionDomainId"] == domain["id"] }
            if own.isEmpty { continue }
            text.append("Protection Domain \(domain.shown("id")) Name: \(domain.shown("name"))")
            for faultSet in own {
                let members = servers.filter { $0["faultSetId"] == faultSet["id"] }
                text.append(
                    "Fault Set ID: \(faultSet.shown("id")) Name: \(faultSet.shown("name")) has \(members.count) SDS nodes"
                )
                text += members.map { "    SDS ID: \($0.shown("id")) Name: \($0.shown("name"))" }
            }
        }
        return text.joined(separator: "\n") + "\n"
    }

    // MARK: Pools

    @Sendable private static func addPool(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> String
    {
        let domain = try await ScliLookup.domain(arguments, &client)
        let name = try arguments.required("storage_pool_name")
        var body: JSONValue = ["name": .string(name), "protectionDomainId": .string(domain.shown("id"))]
        if let spare = arguments.value("spare_percentage") { body["sparePercentage"] = .string(try percentage(spare)) }
        let created = try await client.post("/api/types/StoragePool/instances", body)
        return "Successfully created a storage pool named \(name). Object ID \(created.shown("id"))\n"
    }

    @Sendable private static func renamePool(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let pool = try await ScliLookup.pool(arguments, &client)
        let name = try arguments.required("new_name")
        try await act("StoragePool", pool, "setStoragePoolName", ["name": .string(name)], &client)
        return "Successfully renamed storage pool \(pool.shown("name")) to \(name)\n"
    }

    @Sendable private static func removePool(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let pool = try await ScliLookup.pool(arguments, &client)
        try await act("StoragePool", pool, "removeStoragePool", [:], &client)
        return "Successfully removed storage pool \(pool.shown("name"))\n"
    }

    @Sendable private static func setSpare(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let pool = try await ScliLookup.pool(arguments, &client)
        let spare = try percentage(try arguments.required("spare_percentage"))
        let answer = try await act(
            "StoragePool", pool, "setSparePercentage", ["sparePercentage": .string(spare)], &client)
        let warning = answer["warning"]?.string.map { "Warning: \($0)\n" } ?? ""
        return warning + "Successfully modified spare policy: \(spare)%\n"
    }

    @Sendable private static func setThresholds(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let pool = try await ScliLookup.pool(arguments, &client)
        var body: JSONValue = [:]
        for (option, member) in [("high_threshold", "High"), ("critical_threshold", "Critical")] {
            guard let value = arguments.value(option) else { continue }
            body["capacityAlert\(member)ThresholdPercent"] = .string(try percentage(value))
        }
        try await act("StoragePool", pool, "setCapacityAlertThresholds", body, &client)
        return "Successfully modified the capacity alert thresholds\n"
    }

    private static func setPolicy(
        _ kind: String, _ arguments: ScliArguments, _ client: inout ScliClient
    ) async throws -> String {
        let pool = try await ScliLookup.pool(arguments, &client)
        let word = try arguments.required("policy")
        guard let policy = policies.first(where: { $0.word == word || $0.rest == word }) else {
            throw ScliFailure.usage("--policy is one of " + policies.map(\.word).joined(separator: ", "))
        }
        var body: JSONValue = ["policy": .string(policy.rest)]
        let parameters = [
            ("concurrent_io_limit", "numOfConcurrentIosPerDevice"), ("bw_limit_kbps", "bwLimitPerDeviceInKbps"),
            ("app_iops_threshold", "appIopsPerDeviceThreshold"),
            ("app_bw_threshold_kbps", "appBwPerDeviceThresholdInKbps"), ("quiet_period_ms", "quietPeriodInMsec"),
        ]
        for (option, member) in parameters {
            if let value = arguments.value(option) { body[member] = .string(value) }
        }
        try await act("StoragePool", pool, "set\(kind)IoPriorityPolicy", body, &client)
        return "Successfully set the \(kind.lowercased()) policy of storage pool \(pool.shown("name")) to \(word)\n"
    }

    private static let policies: [(word: String, rest: String)] = [
        ("no_limit", "unlimited"), ("limit_concurrent_io", "limitNumOfConcurrentIos"), ("favor_app_io", "favorAppIos"),
        ("dynamic_bw_throttling", "dynamicBwThrottling"),
    ]

    private static func enable(
        _ kind: String, _ isEnabled: Bool, _ arguments: ScliArguments, _ client: inout ScliClient
    ) async throws -> String {
        let pool = try await ScliLookup.pool(arguments, &client)
        try await act(
            "StoragePool", pool, "set\(kind)Enabled", ["\(kind.lowercased())Enabled": isEnabled ? "TRUE" : "FALSE"],
            &client)
        return "Successfully \(isEnabled ? "enabled" : "disabled") \(kind.lowercased()) in storage pool"
            + " \(pool.shown("name"))\n"
    }

    private static let scannerModes: [(word: String, rest: String)] = [
        ("disable", "Disabled"), ("device_only", "DeviceOnly"), ("data_comparison", "DataComparison"),
    ]

    @Sendable private static func enableScanner(
        _ arguments: ScliArguments, _ client: inout ScliClient
    ) async throws -> String {
        let pool = try await ScliLookup.pool(arguments, &client)
        let word = arguments.value("scanner_mode") ?? "device_only"
        guard let mode = scannerModes.first(where: { $0.word == word && $0.rest != "Disabled" }) else {
            throw ScliFailure.usage("--scanner_mode is device_only or data_comparison")
        }
        var body: JSONValue = ["scannerMode": .string(mode.rest)]
        if let limit = arguments.value("scanner_bandwidth_limit") { body["scannerBWLimitKBps"] = .string(limit) }
        try await act("StoragePool", pool, "enableBackgroundDeviceScanner", body, &client)
        return "Successfully enabled the background device scanner of storage pool \(pool.shown("name"))\n"
    }

    @Sendable private static func disableScanner(
        _ arguments: ScliArguments, _ client: inout ScliClient
    ) async throws -> String {
        let pool = try await ScliLookup.pool(arguments, &client)
        try await act("StoragePool", pool, "disableBackgroundDeviceScanner", [:], &client)
        return "Successfully disabled the background device scanner of storage pool \(pool.shown("name"))\n"
    }

    @Sendable private static func queryPool(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let pool = try await ScliLookup.pool(arguments, &client)
        let statistics = try await client.get(
            "/api/instances/StoragePool::\(pool.shown("id"))/relationships/Statistics")
        let health = try await client.list("/holdfast/v1/pools").first { $0["id"] == pool["id"] }?["combs"] ?? [:]
        var text = [
            "Storage Pool \(pool.shown("name")) (Id: \(pool.shown("id"))) has \(statistics.count("numOfVolumes")) volumes and"
                + " \(ScliText.size(kibibytes: statistics.count("capacityAvailableForVolumeAllocationInKb")))"
                + " available for volume allocation",
            "\tSpare policy: \(pool.count("sparePercentage"))% out of total",
            "\tCapacity alert thresholds: High: \(pool.count("capacityAlertHighThreshold")),"
                + " Critical: \(pool.count("capacityAlertCriticalThreshold"))",
        ]
        let scanner = scannerModes.first { $0.rest == pool["backgroundScannerMode"]?.string }?.word ?? "N/A"
        text.append(
            "\tBackground device scanner: Mode: \(scanner),"
                + " Bandwidth limit: \(pool.count("backgroundScannerBWLimitKBps")) KBps")
        text.append(
            "\tDamage: \(statistics.count("damagedBlocks")) blocks now,"
                + " \(statistics.count("damagedBlocksFound")) found, \(statistics.count("fixedReadErrorCount")) mended,"
                + " \(statistics.count("backgroundScannedInMB")) MB scanned")
        for kind in ["rebuild", "rebalance"] {
            let word = policies.first { $0.rest == pool["\(kind)IoPriorityPolicy"]?.string }?.word ?? "N/A"
            let isEnabled = pool["\(kind)Enabled"]?.bool == true
            text.append("\t\(kind.capitalised) is \(isEnabled ? "enabled" : "disabled"), policy: \(word)")
            let parameters = [
                ("NumOfConcurrentIosPerDevice", "concurrent I/Os per device"),
                ("BwLimitPerDeviceInKbps", "KB/s per device"),
                ("AppIopsPerDeviceThreshold", "application IOPS per device"),
                ("AppBwPerDeviceThresholdInKbps", "application KB/s per device"),
                ("QuietPeriodInMsec", "ms quiet period"),
            ]
            for (member, words) in parameters {
                if let value = pool["\(kind)IoPriority\(member)"]?.integer { text.append("\t\t\(value) \(words)") }
            }
        }
        let combs = health.object?.map { "\($0.value.integer ?? 0) \($0.key)" }.joined(separator: ", ") ?? ""
        text.append("\tCombs: \(combs)")
        return text.joined(separator: "\n") + "\n"
    }

    // MARK: Servers and devices

    @Sendable private static func addServer(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let name = try arguments.required("sds_name")
        let created = try await client.post("/api/types/Sds/instances", ["name": .string(name)])
        return "Successfully created SDS \(name). Object ID \(created.shown("id"))\n"
    }

    @Sendable private static func removeServer(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let server = try await ScliLookup.server(arguments, &client)
        try await act("Sds", server, "removeSds", [:], &client)
        return "Successfully started removing SDS \(server.shown("name"))\n"
    }

    @Sendable private static func keepServer(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let server = try await ScliLookup.server(arguments, &client)
        try await act("Sds", server, "abortRemoveSds", [:], &client)
        return "Successfully aborted removing SDS \(server.shown("name"))\n"
    }

    @Sendable private static func enterMaintenance(
        _ arguments: ScliArguments, _ client: inout ScliClient
    ) async throws -> String {
        let server = try await ScliLookup.server(arguments, &client)
        let action = arguments.has("protected") ? "enterProtectedMaintenanceMode" : "enterMaintenanceMode"
        try await act("Sds", server, action, [:], &client)
        return "SDS \(server.shown("name")) is entering maintenance mode\n"
    }

    @Sendable private static func exitMaintenance(
        _ arguments: ScliArguments, _ client: inout ScliClient
    ) async throws -> String {
        let server = try await ScliLookup.server(arguments, &client)
        try await act("Sds", server, "exitMaintenanceMode", [:], &client)
        return "SDS \(server.shown("name")) is exiting maintenance mode\n"
    }

    @Sendable private static func renameServer(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let server = try await ScliLookup.server(arguments, &client)
        let name = try arguments.required("new_name")
        try await act("Sds", server, "setSdsName", ["name": .string(name)], &client)
        return "Successfully renamed SDS \(server.shown("name")) to \(name)\n"
    }

    @Sendable private static func addDevice(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let server = try await ScliLookup.server(arguments, &client)
        let path = try arguments.required("device_path")
        let created = try await client.post(
            "/api/types/Device/instances",
            ["sdsId": .string(server.shown("id")), "deviceCurrentPathname": .string(path)])
        return "Successfully added device \(path). Object ID \(created.shown("id"))\n"
    }

    @Sendable private static func removeDevice(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let device = try await ScliLookup.device(arguments, &client)
        try await act("Device", device, "removeDevice", [:], &client)
        return "Successfully started removing device \(device.shown("name"))\n"
    }

    @Sendable private static func keepDevice(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let device = try await ScliLookup.device(arguments, &client)
        try await act("Device", device, "abortRemoveDevice", [:], &client)
        return "Successfully aborted removing device \(device.shown("name"))\n"
    }

    @Sendable private static func renameDevice(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let device = try await ScliLookup.device(arguments, &client)
        let name = try arguments.required("new_name")
        try await act("Device", device, "setDeviceName", ["newName": .string(name)], &client)
        return "Successfully renamed device \(device.shown("name")) to \(name)\n"
    }

    @Sendable private static func queryEvents(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let after = arguments.value("after") ?? "0"
        guard UInt64(after) != nil else { throw ScliFailure.usage("--after is the number of an event") }
        let events = try await client.list("/holdfast/v1/events/\(after)")
        let lines = events.map { event in
            "\(event.count("number")) \(ScliText.time(milliseconds: event.count("timeMilliseconds")))"
                + " \(event.shown("severity")) \(event.shown("name")) \(event.shown("object")) \(event.shown("text"))"
        }
        return (["Query-events returned \(events.count) events"] + lines).joined(separator: "\n") + "\n"
    }

    @Sendable private static func queryAlerts(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let alerts = try await client.list("/holdfast/v1/alerts")
        var text = ["Query-alerts returned \(alerts.count) alerts"]
        for alert in alerts {
            let object = alert["affectedObject"] ?? [:]
            text.append(
                "\(alert.shown("severity")) \(alert.shown("alertType")) \(object.shown("type")) \(object.shown("id")):"
                    + " \(alert.shown("message"))")
        }
        return text.joined(separator: "\n") + "\n"
    }

    // MARK: Lost copies

    @Sendable private static func promoteStale(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        guard arguments.has("i_am_sure") else {
            throw ScliFailure.usage(
                "What was written since the older copies left will be lost, and the SDS must never serve again: --i_am_sure"
            )
        }
        let server = try await ScliLookup.server(arguments, &client)
        var body: JSONValue = [:]
        if ["device_id", "device_name", "device_path"].contains(where: arguments.has) {
            body["deviceId"] = .string(try await ScliLookup.device(arguments, &client).shown("id"))
        }
        let answer = try await client.post("/holdfast/v1/sds/\(server.shown("id"))/promoteStaleCopies", body)
        return "SDS \(server.shown("name")) is given up: \(answer.shown("warning"))\n"
    }

    @Sendable private static func clearLoss(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let volume = try await ScliLookup.volume(arguments, &client)
        _ = try await client.post("/holdfast/v1/volumes/\(volume.shown("id"))/clearDataLoss")
        return "Successfully cleared the data loss mark of volume \(volume.shown("name"))\n"
    }

    // MARK: Steps

    @discardableResult
    static func act(
        _ type: String, _ object: JSONValue, _ action: String, _ body: JSONValue, _ client: inout ScliClient
    ) async throws -> JSONValue {
        try await client.post("/api/instances/\(type)::\(object.shown("id"))/action/\(action)", body)
    }

    private static func percentage(_ text: String) throws(ScliFailure) -> String {
        let digits = text.hasSuffix("%") ? String(text.dropLast()) : text
        guard let number = Int(digits), (0...100).contains(number) else {
            throw .usage("'\(text)' is no percentage")
        }
        return digits
    }
}

extension String {
    fileprivate var capitalised: String { prefix(1).uppercased() + dropFirst() }
}
