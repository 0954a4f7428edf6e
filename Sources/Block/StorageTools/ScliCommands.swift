import Base
import HTTPKit

/// One command of `scli`: its options and what it does, giving the text to print.
struct ScliCommandDefinition: Sendable {
    var options: [String]
    var summary: String
    var body: @Sendable (ScliArguments, inout ScliClient) async throws -> String

    private static let common: Set<String> = [
        "mdm_ip", "use_nonsecure_communication", "approve_certificate", "approve_certificate_once",
    ]

    func accepts(_ option: String) -> Bool { options.contains(option) || Self.common.contains(option) }
}

enum ScliCommands {
    private static let volumeKeys = ["volume_name", "volume_id"]
    private static let sdcKeys = ["sdc_ip", "sdc_id", "sdc_name", "sdc_guid"]
    private static let poolKeys = [
        "protection_domain_name", "protection_domain_id", "storage_pool_name", "storage_pool_id",
    ]

    static let all = volumesAndQueries.merging(ScliConfiguration.commands) { own, _ in own }
        .merging(ScliSnapshots.commands) { own, _ in own }

    private static let volumesAndQueries: [String: ScliCommandDefinition] = [
        "help": .init(options: [], summary: "Print this text", body: { _, _ in help }),
        "login": .init(
            options: ["username", "password"], summary: "Open a session; later commands use it", body: { _, _ in "" }),
        "logout": .init(options: [], summary: "End the session", body: { _, _ in "" }),
        "query_all": .init(options: [], summary: "The whole system at a glance", body: ScliQueries.all),
        "query_all_volumes": .init(options: [], summary: "Every volume by pool", body: ScliQueries.allVolumes),
        "query_volume": .init(options: volumeKeys, summary: "One volume", body: ScliQueries.volume),
        "query_all_sds": .init(options: [], summary: "Every storage server", body: ScliQueries.allServers),
        "query_sds": .init(
            options: ["sds_id", "sds_name", "sds_ip"], summary: "One storage server with its devices",
            body: ScliQueries.server),
        "query_all_sdc": .init(options: [], summary: "Every storage client", body: ScliQueries.allClients),
        "query_cluster": .init(options: [], summary: "The managers", body: ScliQueries.cluster),
        "switch_mdm_ownership": .init(
            options: ["new_master_mdm_id", "new_master_mdm_ip", "new_master_mdm_name"],
            summary: "Have another manager lead", body: switchOwnership),
        "query_fencing": .init(
            options: volumeKeys, summary: "Who may write to a volume, and the proof that nobody else can",
            body: ScliQueries.fencing),
        "query_properties": .init(
            options: ["object_type", "object_id", "all_objects", "properties"],
            summary: "Chosen properties of objects, for scripts", body: ScliProperties.query),
        "add_volume": .init(
            options: poolKeys + ["size_gb", "volume_name", "thin_provisioned", "thick_provisioned", "use_rmcache"],
            summary: "Create a volume", body: addVolume),
        "map_volume_to_sdc": .init(
            options: volumeKeys + sdcKeys + ["allow_multi_map"], summary: "Let a client use a volume", body: map),
        "unmap_volume_from_sdc": .init(
            options: volumeKeys + sdcKeys + ["all_sdc", "all_sdcs", "i_am_sure"],
            summary: "Stop a client from using a volume, at once", body: unmap),
        "set_sdc_volume_limits": .init(
            options: volumeKeys + sdcKeys + ["limit_iops", "limit_bandwidth_in_mbps"],
            summary: "Limit what a client may ask of a volume; 0 ends a limit", body: limit),
        "modify_volume_capacity": .init(
            options: volumeKeys + ["size_gb"], summary: "Enlarge a volume", body: resize),
        "rename_volume": .init(options: volumeKeys + ["new_name"], summary: "Rename a volume", body: rename),
        "remove_volume": .init(
            options: volumeKeys + [
                "i_am_sure", "remove_entire_snapshot_tree", "remove_descendant_snapshots_only",
                "remove_with_descendant_snapshots",
            ], summary: "Delete a volume and its data", body: remove),
    ]

    static var help: String {
        var lines = ["Usage: scli [--mdm_ip ADDRESS[,ADDRESS]] --COMMAND [OPTIONS]", "", "Commands:"]
        for (name, command) in all.sorted(by: { $0.key < $1.key }) {
            lines.append("  --\(name)" + String(repeating: " ", count: max(1, 26 - name.utf8.count)) + command.summary)
            if !command.options.isEmpty {
                lines.append("      " + command.options.map { "--\($0)" }.joined(separator: " "))
            }
        }
        return lines.joined(separator: "\n") + "\n"
    }

    @Sendable private static func addVolume(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let asked = try arguments.required("size_gb")
        guard let size = Int64(asked), (1...1 << 20).contains(size) else {
            throw ScliFailure.usage("--size_gb must be a whole number of GB")
        }
        let rounded = (size + 7) / 8 * 8
        let pool = try await ScliLookup.pool(arguments, &client)
        var body: JSONValue = [
            "volumeSizeInKb": .string(String(rounded << 20)),
            "storagePoolId": .string(pool.shown("id")),
            "volumeType": arguments.has("thin_provisioned") ? "ThinProvisioned" : "ThickProvisioned",
        ]
        if let name = arguments.value("volume_name") { body["name"] = .string(name) }
        let created = try await client.post("/api/types/Volume/instances", body)
        let notice = rounded == size ? "" : "Rounding up volume size to \(rounded) GB\n"
        return notice + "Successfully created volume of size \(rounded) GB. Object ID \(created.shown("id"))\n"
    }

    @Sendable private static func map(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> String {
        let volume = try await ScliLookup.volume(arguments, &client)
        let sdc = try await ScliLookup.sdc(arguments, &client)
        _ = try await client.post(
            "/api/instances/Volume::\(volume.shown("id"))/action/addMappedSdc",
            [
                "sdcId": .string(sdc.shown("id")),
                "allowMultipleMappings": arguments.has("allow_multi_map") ? "TRUE" : "FALSE",
            ])
        return "Successfully mapped volume \(ScliLookup.told(volume, arguments)) to SDC \(told(arguments))\n"
    }

    @Sendable private static func unmap(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> String {
        let volume = try await ScliLookup.volume(arguments, &client)
        try demandCertainty(arguments)
        let path = "/api/instances/Volume::\(volume.shown("id"))/action/removeMappedSdc"
        if arguments.has("all_sdc") || arguments.has("all_sdcs") {
            _ = try await client.post(path, ["allSdcs": "TRUE"])
            return "Successfully un-mapped volume \(ScliLookup.told(volume, arguments)) from all SDC nodes\n"
        }
        let sdc = try await ScliLookup.sdc(arguments, &client)
        _ = try await client.post(path, ["sdcId": .string(sdc.shown("id"))])
        return "Successfully un-mapped volume \(ScliLookup.told(volume, arguments)) from SDC \(told(arguments))\n"
    }

    @Sendable private static func limit(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> String {
        let volume = try await ScliLookup.volume(arguments, &client)
        let sdc = try await ScliLookup.sdc(arguments, &client)
        var body: JSONValue = ["sdcId": .string(sdc.shown("id"))]
        if let iops = arguments.value("limit_iops") {
            guard let number = UInt32(iops) else { throw ScliFailure.usage("--limit_iops must be a whole number") }
            body["iopsLimit"] = .string(String(number))
        }
        if let bandwidth = arguments.value("limit_bandwidth_in_mbps") {
            guard let number = UInt32(bandwidth) else {
                throw ScliFailure.usage("--limit_bandwidth_in_mbps must be a whole number of MB")
            }
            body["bandwidthLimitInKbps"] = .string(String(UInt64(number) * 1024))
        }
        guard body["iopsLimit"] != nil || body["bandwidthLimitInKbps"] != nil else {
            throw ScliFailure.usage("Missing parameter --limit_iops or --limit_bandwidth_in_mbps")
        }
        _ = try await client.post("/api/instances/Volume::\(volume.shown("id"))/action/setMappedSdcLimits", body)
        return "Successfully set limits of volume \(ScliLookup.told(volume, arguments)) for SDC \(told(arguments))\n"
    }

    @Sendable private static func resize(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> String
    {
        let volume = try await ScliLookup.volume(arguments, &client)
        let size = try arguments.required("size_gb")
        guard let asked = Int64(size), (1...1 << 20).contains(asked) else {
            throw ScliFailure.usage("--size_gb must be a whole number of GB")
        }
        let rounded = (asked + 7) / 8 * 8
        _ = try await client.post(
            "/api/instances/Volume::\(volume.shown("id"))/action/setVolumeSize", ["sizeInGB": .string(String(rounded))])
        let notice = rounded == asked ? "" : "Rounding up volume size to \(rounded) GB\n"
        return notice + "Successfully modified volume size to \(rounded) GB\n"
    }

    @Sendable private static func rename(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> String
    {
        let volume = try await ScliLookup.volume(arguments, &client)
        let name = try arguments.required("new_name")
        _ = try await client.post(
            "/api/instances/Volume::\(volume.shown("id"))/action/setVolumeName", ["newName": .string(name)])
        return "Successfully renamed volume \(ScliLookup.told(volume, arguments)) to \(name)\n"
    }

    @Sendable private static func remove(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> String
    {
        let volume = try await ScliLookup.volume(arguments, &client)
        try demandCertainty(arguments)
        let modes = [
            "remove_entire_snapshot_tree": "WHOLE_VTREE", "remove_descendant_snapshots_only": "DESCENDANTS_ONLY",
            "remove_with_descendant_snapshots": "INCLUDING_DESCENDANTS",
        ]
        let chosen = modes.filter { arguments.has($0.key) }.map(\.value)
        guard chosen.count < 2 else { throw ScliFailure.usage("Only one of the --remove_... options may be given") }
        _ = try await client.post(
            "/api/instances/Volume::\(volume.shown("id"))/action/removeVolume",
            ["removeMode": .string(chosen.first ?? "ONLY_ME")])
        return "Successfully removed volume \(ScliLookup.told(volume, arguments))\n"
    }

    @Sendable private static func switchOwnership(_ arguments: ScliArguments, _ client: inout ScliClient) async throws
        -> String
    {
        let member = try await ScliLookup.manager(arguments, &client)
        _ = try await client.post(
            "/api/instances/System/action/changeMdmOwnership", ["id": .string(member.shown("id"))])
        return "Successfully switched MDM ownership.\n"
    }

    static func demandCertainty(_ arguments: ScliArguments) throws(ScliFailure) {
        guard arguments.has("i_am_sure") else {
            throw .local("This cuts off or deletes data. Repeat the command with --i_am_sure")
        }
    }

    /// The SDC as the user named it.
    private static func told(_ arguments: ScliArguments) -> String {
        for key in ["sdc_name", "sdc_ip", "sdc_guid"] {
            if let value = arguments.value(key) { return value }
        }
        return "with ID " + (arguments.value("sdc_id") ?? "")
    }
}

/// Finds the object that a command's options name, or fails with the manager's words.
enum ScliLookup {
    static func volume(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> JSONValue {
        if let id = arguments.value("volume_id") {
            return try await client.get("/api/instances/Volume::\(percentEncoded(id))")
        }
        let name = try arguments.required("volume_name")
        let found = try await client.list("/api/types/Volume/instances").first { $0["name"]?.string == name }
        guard let found else { throw ScliFailure.refused("Could not find the volume") }
        return found
    }

    static func told(_ volume: JSONValue, _ arguments: ScliArguments) -> String {
        arguments.value("volume_id").map { "with ID \($0)" } ?? volume.shown("name")
    }

    static func sdc(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> JSONValue {
        let keys = [("sdc_id", "id"), ("sdc_ip", "sdcIp"), ("sdc_name", "name"), ("sdc_guid", "sdcGuid")]
        for (option, member) in keys {
            guard let value = arguments.value(option) else { continue }
            let found = try await client.list("/api/types/Sdc/instances").first {
                $0[member]?.string?.lowercased() == value.lowercased()
            }
            guard let found else { throw ScliFailure.refused("Could not find the SDC") }
            return found
        }
        throw ScliFailure.usage("Missing parameter --sdc_id, --sdc_ip, --sdc_name or --sdc_guid")
    }

    static func manager(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> JSONValue {
        let cluster = try await client.list("/api/types/System/instances").first?["mdmCluster"] ?? [:]
        let members = [cluster["master"] ?? [:]] + (cluster["slaves"]?.array ?? [])
        let found: JSONValue?
        if let given = arguments.value("new_master_mdm_id") {
            let id = (given.hasPrefix("0x") ? String(given.dropFirst(2)) : given).lowercased()
            found = members.first { $0["id"]?.string == id }
        } else if let name = arguments.value("new_master_mdm_name") {
            found = members.first { $0["name"]?.string == name }
        } else if let ip = arguments.value("new_master_mdm_ip") {
            found = members.first { member in
                ["ips", "managementIPs"].contains { member[$0]?.array?.contains(.string(ip)) == true }
            }
        } else {
            throw ScliFailure.usage(
                "Missing parameter --new_master_mdm_id, --new_master_mdm_ip or --new_master_mdm_name")
        }
        guard let found else { throw ScliFailure.refused("Could not find the MDM") }
        return found
    }

    static func domain(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> JSONValue {
        let domains = try await client.list("/api/types/ProtectionDomain/instances")
        let domain: JSONValue?
        if let id = arguments.value("protection_domain_id") {
            domain = domains.first { $0["id"]?.string == id }
        } else {
            let name = try arguments.required("protection_domain_name")
            domain = domains.first { $0["name"]?.string == name }
        }
        guard let domain else { throw ScliFailure.refused("Could not find Protection Domain") }
        return domain
    }

    static func server(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> JSONValue {
        let servers = try await client.list("/api/types/Sds/instances")
        let found: JSONValue?
        if let id = arguments.value("sds_id") {
            found = servers.first { $0["id"]?.string == id }
        } else if let name = arguments.value("sds_name") {
            found = servers.first { $0["name"]?.string == name }
        } else {
            let address = try arguments.required("sds_ip")
            found = servers.first { $0["ipList"]?.array?.contains { $0["ip"]?.string == address } == true }
        }
        guard let found else { throw ScliFailure.refused("Could not find SDS") }
        return found
    }

    static func device(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> JSONValue {
        let devices = try await client.list("/api/types/Device/instances")
        let found: JSONValue?
        if let id = arguments.value("device_id") {
            found = devices.first { $0["id"]?.string == id }
        } else {
            let server = try await server(arguments, &client)
            let own = devices.filter { $0["sdsId"] == server["id"] }
            if let name = arguments.value("device_name") {
                found = own.first { $0["name"]?.string == name }
            } else {
                let path = try arguments.required("device_path")
                found = own.first { $0["deviceCurrentPathName"]?.string == path }
            }
        }
        guard let found else { throw ScliFailure.refused("Could not find the SDS device") }
        return found
    }

    static func faultSet(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> JSONValue {
        let faultSets = try await client.list("/api/types/FaultSet/instances")
        let found: JSONValue?
        if let id = arguments.value("fault_set_id") {
            found = faultSets.first { $0["id"]?.string == id }
        } else {
            let name = try arguments.required("fault_set_name")
            let domain = try await domain(arguments, &client)
            found = faultSets.first { $0["name"]?.string == name && $0["protectionDomainId"] == domain["id"] }
        }
        guard let found else { throw ScliFailure.refused("Fault Set not found") }
        return found
    }

    static func pool(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> JSONValue {
        let pools = try await client.list("/api/types/StoragePool/instances")
        if let id = arguments.value("storage_pool_id") {
            guard let found = pools.first(where: { $0["id"]?.string == id }) else {
                throw ScliFailure.refused("Could not find Storage Pool")
            }
            return found
        }
        let name = try arguments.required("storage_pool_name")
        let domain = try await domain(arguments, &client)
        let found = pools.first { $0["name"]?.string == name && $0["protectionDomainId"] == domain["id"] }
        guard let found else { throw ScliFailure.refused("Could not find Storage Pool") }
        return found
    }
}
