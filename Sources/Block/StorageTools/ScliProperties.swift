import Base

/// `--query_properties`: blocks of chosen properties, the form that scripts read.
enum ScliProperties {
    /// A property's name and how it is read from the REST object.
    private typealias Property = (name: String, value: @Sendable (JSONValue) -> String)

    private static let unset = "<Not Set>"

    private static func text(_ name: String, _ member: String) -> Property {
        (name, { $0.shown(member, missing: unset) })
    }

    private static func yesNo(_ name: String, _ member: String) -> Property {
        (name, { $0[member]?.bool == true ? "Yes" : "No" })
    }

    private static let types: [String: (rest: String, properties: [Property])] = [
        "SYSTEM": ("System", [text("ID", "id"), text("NAME", "name"), text("VERSION_NAME", "systemVersionName")]),
        "PROTECTION_DOMAIN": (
            "ProtectionDomain",
            [text("ID", "id"), text("NAME", "name"), text("STATE", "protectionDomainState")]
        ),
        "STORAGE_POOL": (
            "StoragePool",
            [
                text("ID", "id"), text("NAME", "name"), text("PROTECTION_DOMAIN_ID", "protectionDomainId"),
                ("SPARE_PERCENT", { "\($0.count("sparePercentage"))%" }),
                yesNo("USE_RMCACHE", "useRmcache"), yesNo("USE_RFCACHE", "useRfcache"),
            ]
        ),
        "VOLUME": (
            "Volume",
            [
                text("ID", "id"), text("NAME", "name"),
                ("SIZE", { ScliText.size(kibibytes: $0.count("sizeInKb")) }),
                ("TYPE", { $0["volumeType"]?.string == "ThickProvisioned" ? "THICK_PROVISIONED" : "THIN_PROVISIONED" }),
                text("STORAGE_POOL_ID", "storagePoolId"),
                (
                    "MAPPED_SDC_ID_LIST",
                    {
                        let ids = ($0["mappedSdcInfo"]?.array ?? []).map { $0.shown("sdcId") }
                        return ids.isEmpty ? unset : ids.joined(separator: ",")
                    }
                ),
            ]
        ),
        "SDS": (
            "Sds",
            [
                text("ID", "id"), text("NAME", "name"), text("PROTECTION_DOMAIN_ID", "protectionDomainId"),
                ("IPS", { ($0["ipList"]?.array ?? []).map { $0.shown("ip") }.joined(separator: ",") }),
                text("PORT", "port"), text("FAULT_SET_ID", "faultSetId"), text("STATE", "sdsState"),
                text("MEMBERSHIP_STATE", "membershipState"), text("CONNECTION_STATE", "mdmConnectionState"),
                yesNo("RMCACHE_ENABLED", "rmcacheEnabled"),
            ]
        ),
        "SDC": (
            "Sdc",
            [
                text("ID", "id"), text("NAME", "name"), text("IP", "sdcIp"), text("GUID", "sdcGuid"),
                text("STATE", "mdmConnectionState"), yesNo("APPROVED", "sdcApproved"),
            ]
        ),
        "DEVICE": (
            "Device",
            [
                text("ID", "id"), text("NAME", "name"), text("SDS_ID", "sdsId"),
                text("STORAGE_POOL_ID", "storagePoolId"),
                text("ORIGINAL_PATH", "deviceOriginalPathName"), text("STATE", "deviceState"),
            ]
        ),
    ]

    @Sendable static func query(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> String {
        let type = try arguments.required("object_type").uppercased()
        guard let definition = types[type] else { throw ScliFailure.usage("Unknown object type \(type)") }
        let chosen = try properties(arguments, of: definition.properties)
        var objects = try await client.list("/api/types/\(definition.rest)/instances")
        if let id = arguments.value("object_id") {
            objects = objects.filter { $0["id"]?.string == id }
            if objects.isEmpty { throw ScliFailure.refused("Not found") }
        } else if !arguments.has("all_objects") {
            throw ScliFailure.usage("Missing parameter --object_id or --all_objects")
        }
        guard !objects.isEmpty else { return "No objects returned\n" }
        return objects.map { object in
            (["\(type) \(object.shown("id")):"] + chosen.map { ScliText.property($0.name, $0.value(object)) })
                .joined(separator: "\n") + "\n"
        }.joined(separator: "\n")
    }

    private static func properties(_ arguments: ScliArguments, of known: [Property]) throws -> [Property] {
        guard let list = arguments.value("properties") else { return known }
        return try list.split(separator: ",").map { name in
            let wanted = name.uppercased()
            guard let found = known.first(where: { $0.name == wanted }) else {
                throw ScliFailure.usage("Unknown property \(name)")
            }
            return found
        }
    }
}
