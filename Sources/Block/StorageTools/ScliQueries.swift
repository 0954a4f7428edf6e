import Base

/// The query commands. Scripts in the field parse these lines, so words and their order are the original's.
enum ScliQueries {
    private struct Inventory {
        var system: JSONValue
        var domains: [JSONValue]
        var pools: [JSONValue]
        var volumes: [JSONValue]
        var servers: [JSONValue]
        var faultSets: [JSONValue]

        init(_ client: inout ScliClient) async throws {
            system = try await client.list("/api/types/System/instances").first ?? [:]
            domains = try await client.list("/api/types/ProtectionDomain/instances")
            pools = try await client.list("/api/types/StoragePool/instances")
            volumes = try await client.list("/api/types/Volume/instances")
            servers = try await client.list("/api/types/Sds/instances")
            faultSets = try await client.list("/api/types/FaultSet/instances")
        }

        func pools(of domain: JSONValue) -> [JSONValue] { pools.filter { $0["protectionDomainId"] == domain["id"] } }
        func volumes(of pool: JSONValue) -> [JSONValue] { volumes.filter { $0["storagePoolId"] == pool["id"] } }
        func servers(of domain: JSONValue) -> [JSONValue] {
            servers.filter { $0["protectionDomainId"] == domain["id"] }
        }
    }

    private static func lines(_ lines: [String]) -> String { lines.joined(separator: "\n") + "\n" }

    @Sendable static func allVolumes(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> String {
        let inventory = try await Inventory(&client)
        var text = ["Query-all-volumes returned \(inventory.volumes.count) volumes"]
        for domain in inventory.domains {
            text.append("Protection Domain \(domain.shown("id")) Name: \(domain.shown("name"))")
            for pool in inventory.pools(of: domain) {
                text.append("Storage Pool \(pool.shown("id")) Name: \(pool.shown("name"))")
                let volumes = inventory.volumes(of: pool)
                if volumes.isEmpty { text.append(" <No volumes defined>") }
                text += volumes.map { " " + line(volume: $0) }
                text.append("")
            }
        }
        return lines(text)
    }

    private static func line(volume: JSONValue) -> String {
        let mapped = volume["mappedSdcInfo"]?.array?.count ?? 0
        return "Volume ID: \(volume.shown("id")) Name: \(volume.shown("name"))"
            + " Size: \(ScliText.size(kibibytes: volume.count("sizeInKb")))"
            + (mapped == 0 ? " Unmapped" : " Mapped to \(mapped) SDC")
            + (volume["volumeType"]?.string == "ThickProvisioned" ? " Thick-provisioned" : " Thin-provisioned")
    }

    @Sendable static func volume(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> String {
        let volume = try await ScliLookup.volume(arguments, &client)
        let pool = try await client.get("/api/instances/StoragePool::\(volume.shown("storagePoolId"))")
        let domain = try await client.get("/api/instances/ProtectionDomain::\(pool.shown("protectionDomainId"))")
        var text = [
            ">> Volume ID: \(volume.shown("id")) Name: \(volume.shown("name"))",
            "   Provisioning: \(volume["volumeType"]?.string == "ThickProvisioned" ? "Thick" : "Thin")",
            "   Size: \(ScliText.size(kibibytes: volume.count("sizeInKb")))",
            "   Storage Pool \(pool.shown("id")) Name: \(pool.shown("name"))",
            "   Protection Domain \(domain.shown("id")) Name: \(domain.shown("name"))",
            "   Creation time: \(volume.count("creationTime"))",
        ]
        if let epoch = volume["attachEpoch"]?.integer { text.append("   Attach epoch: \(epoch)") }
        let lost = volume.count("dataLossInMiB")
        if lost > 0 { text.append("   DATA LOSS: older copies were promoted for \(lost) MiB of it") }
        let mapped = volume["mappedSdcInfo"]?.array ?? []
        if mapped.isEmpty { text.append("   Volume is unmapped") } else { text.append("   Mapped SDCs:") }
        for sdc in mapped {
            text.append(
                "      SDC ID: \(sdc.shown("sdcId")) IP: \(sdc.shown("sdcIp")) Name: \(sdc.shown("sdcName"))"
                    + " Access-mode: \(sdc.shown("accessMode")) IOPS limit: \(limit(sdc, "limitIops", ""))"
                    + " Bandwidth limit: \(limit(sdc, "limitBwInMbps", " MB/s"))")
        }
        return lines(text)
    }

    private static func limit(_ mapping: JSONValue, _ member: String, _ unit: String) -> String {
        mapping.count(member) == 0 ? "Unlimited" : "\(mapping.count(member))\(unit)"
    }

    /// Not in the original: the attach epochs of a volume with what each server did about them.
    @Sendable static func fencing(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> String {
        let id = try await ScliLookup.volume(arguments, &client).shown("id")
        let epochs = try await client.get("/holdfast/v1/volumes/\(id)/epochs")
        var text = [
            "Volume ID: \(id) Name: \(epochs.shown("name")) Attach epoch: \(epochs.count("attachEpoch"))"
                + (epochs["fencePending"]?.bool == true ? " (older rights not yet proven refused)" : "")
        ]
        for sdc in epochs["mappedSdcInfo"]?.array ?? [] {
            text.append(
                "    May write: SDC \(sdc.shown("sdcId")) IP: \(sdc.shown("sdcIp")) since epoch"
                    + " \(sdc.count("attachEpoch"))")
        }
        for record in epochs["history"]?.array ?? [] {
            let time = ScliText.time(milliseconds: record.count("timeMilliseconds"))
            let seconds = record["elapsedSeconds"]?.double ?? 0
            text.append(
                "    Epoch \(record.count("attachEpoch")) by \(record.shown("change")), proven \(time) after"
                    + " \(ScliText.seconds(seconds)) s:")
            let servers = record["servers"]?.array ?? []
            if servers.isEmpty { text.append("        no older right was in force: nothing to fence") }
            for server in servers {
                let revision = server["revision"]?.integer.map { " at revision \($0)" } ?? ""
                text.append("        SDS \(server.shown("sdsName")): \(server.shown("evidence"))\(revision)")
            }
        }
        return lines(text)
    }

    @Sendable static func allServers(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> String {
        let inventory = try await Inventory(&client)
        var text = ["Query-all-SDS returned \(inventory.servers.count) SDS nodes.", ""]
        for domain in inventory.domains {
            text.append("Protection Domain \(domain.shown("id")) Name: \(domain.shown("name"))")
            for server in inventory.servers(of: domain) {
                text.append(
                    "SDS ID: \(server.shown("id")) Name: \(server.shown("name")) State: \(state(server))"
                        + " IP: \(addresses(server)) Port: \(server.count("port"))"
                        + " Version: \(server.shown("softwareVersionInfo"))")
            }
        }
        return lines(text)
    }

    private static func state(_ server: JSONValue) -> String {
        "\(server.shown("mdmConnectionState")), \(server.shown("membershipState"))"
    }

    private static func addresses(_ server: JSONValue) -> String {
        (server["ipList"]?.array ?? []).map { $0.shown("ip") }.joined(separator: ",")
    }

    @Sendable static func server(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> String {
        let server = try await ScliLookup.server(arguments, &client)
        let domain = try await client.get("/api/instances/ProtectionDomain::\(server.shown("protectionDomainId"))")
        let devices = try await client.list("/api/instances/Sds::\(server.shown("id"))/relationships/Device")
        let pools = try await client.list("/api/types/StoragePool/instances")
        let ips = server["ipList"]?.array ?? []
        var text = [
            "SDS \(server.shown("id")) Name: \(server.shown("name")) Version: \(server.shown("softwareVersionInfo"))",
            "Protection Domain: \(domain.shown("id")), Name: \(domain.shown("name"))",
            "DRL mode: \(server.shown("drlMode"))",
            "Authentication error: None",
            "IP information (total \(ips.count) IPs):",
        ]
        for (index, ip) in ips.enumerated() {
            text.append("     \(index + 1): \(ip.shown("ip"))     Role: All (SDS and SDC)")
        }
        text.append("    Port: \(server.count("port"))")
        text.append("Device information (total \(devices.count) devices):")
        for (index, device) in devices.enumerated() {
            let pool = pools.first { $0["id"] == device["storagePoolId"] } ?? [:]
            let path = device.shown("deviceCurrentPathName")
            text.append(
                "     \(index + 1): Name: \(device.shown("name"))  Path: \(path)  Original-path: \(path)"
                    + "  ID: \(device.shown("id"))")
            text.append(
                "        Storage Pool: \(pool.shown("name")), Capacity: \(device.count("capacityLimitInKb") >> 20) GB,"
                    + " Error-fixes: 0, scanned 0 MB, Compare errors: 0 State: \(device.shown("deviceState"))")
        }
        let failed = devices.filter { $0["errorState"]?.string != "None" }.count
        text.append(
            "Membership-state: \(server.shown("membershipState"));"
                + " Connection-state: \(server.shown("mdmConnectionState")); SDS-state: \(server.shown("sdsState"));"
                + " \(failed) devices with error; Maintenance-state: \(server.shown("maintenanceState"))")
        let statistics = try await client.get("/api/instances/Sds::\(server.shown("id"))/relationships/Statistics")
        for (member, words) in [
            ("primaryReadBwc", "Primary-reads"), ("primaryWriteBwc", "Primary-writes"),
            ("secondaryReadBwc", "Secondary-reads"), ("secondaryWriteBwc", "Secondary-writes"),
            ("fwdRebuildReadBwc", "Forward-rebuild-reads"), ("fwdRebuildWriteBwc", "Forward-rebuild-writes"),
            ("rebalanceReadBwc", "Rebalance-reads"), ("rebalanceWriteBwc", "Rebalance-writes"),
        ] {
            text.append("\(words)   \(rate(statistics[member] ?? [:]))")
        }
        return lines(text)
    }

    /// `12 IOPS 48.0 KB (49152 Bytes) per-second`
    private static func rate(_ counter: JSONValue) -> String {
        let seconds = max(1, counter.count("numSeconds"))
        return "\(counter.count("numOccured") / seconds) IOPS"
            + " \(ScliText.size(kibibytes: counter.count("totalWeightInKb") / seconds)) per-second"
    }

    @Sendable static func allClients(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> String {
        let clients = try await client.list("/api/types/Sdc/instances")
        var text = [
            "MDM restricted SDC mode: Disabled", "Query all SDC returned \(clients.count) SDC nodes.",
        ]
        for sdc in clients {
            text.append(
                "SDC ID: \(sdc.shown("id")) Name: \(sdc.shown("name")) IP: \(sdc.shown("sdcIp"))"
                    + " State: \(sdc.shown("mdmConnectionState")) GUID: \(sdc.shown("sdcGuid")) OS Type: LINUX"
                    + " Loaded Version: \(sdc.shown("softwareVersionInfo"))"
                    + " Installed Version: \(sdc.shown("softwareVersionInfo"))")
            text.append("    Read bandwidth:  0 IOPS 0 Bytes per-second")
            text.append("    Write bandwidth:  0 IOPS 0 Bytes per-second")
        }
        return lines(text)
    }

    @Sendable static func cluster(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> String {
        let system = try await client.list("/api/types/System/instances").first ?? [:]
        let cluster = system["mdmCluster"] ?? [:]
        let slaves = cluster["slaves"]?.array ?? []
        let mode = ["ThreeNodes": "3_node", "FiveNodes": "5_node"][cluster.shown("clusterMode")] ?? "1_node"
        let state = cluster.shown("clusterState") == "ClusteredDegraded" ? "Degraded" : "Normal"
        let count = slaves.count + 1
        var text = [
            "Cluster:",
            "    Mode: \(mode), State: \(state), Active: \(cluster.count("goodNodesNum"))/\(count),"
                + " Replicas: \(cluster.count("goodReplicasNum"))/\(count)",
            "Master MDM:",
        ]
        text += manager(cluster["master"] ?? [:], status: nil)
        if !slaves.isEmpty { text.append("Slave MDMs:") }
        for slave in slaves { text += manager(slave, status: slave.shown("status")) }
        // Votes are ZooKeeper's business: no manager is a tie-breaker.
        if !slaves.isEmpty { text.append("Tie-Breakers:") }
        return lines(text)
    }

    private static func manager(_ member: JSONValue, status: String?) -> [String] {
        [
            "    Name: \(member.shown("name")), ID: 0x\(member.shown("id"))",
            "        IPs: \(member.shown("ips")), Management IPs: \(member.shown("managementIPs")),"
                + " Port: \(member.count("port"))",
            "        " + (status.map { "Status: \($0), " } ?? "") + "Version: \(member.shown("versionInfo"))",
        ]
    }

    @Sendable static func all(_ arguments: ScliArguments, _ client: inout ScliClient) async throws -> String {
        let inventory = try await Inventory(&client)
        let system = inventory.system
        let statistics = try await client.get("/api/instances/System::\(system.shown("id"))/relationships/Statistics")
        var text = [
            "System Info:",
            "\tProduct: \(system.shown("systemVersionName"))",
            "\tID:      \(system.shown("id"))",
            "\tManager ID: \(system["mdmCluster"]?["id"]?.string ?? "0")",
            "",
            "Query all returned \(inventory.domains.count) Protection Domain:",
        ]
        for domain in inventory.domains {
            let pools = inventory.pools(of: domain)
            let faultSets = inventory.faultSets.count { $0["protectionDomainId"] == domain["id"] }
            let volumes = pools.reduce(0) { $0 + inventory.volumes(of: $1).count }
            let free = try await available(domain, type: "ProtectionDomain", &client)
            text.append(
                "Protection Domain \(domain.shown("name")) (Id: \(domain.shown("id"))) has \(pools.count) storage pools,"
                    + " \(faultSets) Fault Sets, \(inventory.servers(of: domain).count) SDS nodes, \(volumes) volumes and \(free)"
                    + " available for volume allocation")
            text.append("Operational state is \(domain.shown("protectionDomainState"))")
            text.append("")
            for pool in pools {
                let free = try await available(pool, type: "StoragePool", &client)
                text.append(
                    "Storage Pool \(pool.shown("name")) (Id: \(pool.shown("id"))) has"
                        + " \(inventory.volumes(of: pool).count) volumes and \(free) available for volume allocation")
            }
        }
        text += ["", "SDS Summary:", "\tTotal \(inventory.servers.count) SDS Nodes"]
        text += summary(inventory.servers, member: "membershipState", title: "membership")
        text += summary(inventory.servers, member: "mdmConnectionState", title: "connection")
        let capacities = [
            ("maxCapacityInKb", "total capacity"), ("unusedCapacityInKb", "unused capacity"),
            ("capacityInUseInKb", "in-use capacity"), ("thinCapacityInUseInKb", "thin capacity"),
            ("protectedCapacityInKb", "protected capacity"), ("failedCapacityInKb", "failed capacity"),
            ("degradedFailedCapacityInKb", "degraded-failed capacity"),
            ("degradedHealthyCapacityInKb", "degraded-healthy capacity"),
            ("activeFwdRebuildCapacityInKb", "active-forward-rebuild capacity"),
            ("spareCapacityInKb", "spare capacity"),
        ]
        text += capacities.map { "\t\(ScliText.size(kibibytes: statistics.count($0.0))) \($0.1)" }
        text += ["", "Volumes summary:"]
        for (type, word) in [("ThinProvisioned", "thin"), ("ThickProvisioned", "thick")] {
            let volumes = inventory.volumes.filter { $0["volumeType"]?.string == type }
            guard !volumes.isEmpty else { continue }
            let size = volumes.reduce(0) { $0 + $1.count("sizeInKb") }
            text.append(
                "\t\(volumes.count) \(word)-provisioned volumes. Total size: \(ScliText.size(kibibytes: size))")
        }
        return lines(text)
    }

    private static func summary(_ servers: [JSONValue], member: String, title: String) -> [String] {
        Set(servers.map { $0.shown(member) }).sorted().map { state in
            let count = servers.filter { $0.shown(member) == state }.count
            return "\t\(count) SDS nodes have \(title) state '\(state)'"
        }
    }

    private static func available(_ object: JSONValue, type: String, _ client: inout ScliClient) async throws
        -> String
    {
        let statistics = try await client.get("/api/instances/\(type)::\(object.shown("id"))/relationships/Statistics")
        return ScliText.size(kibibytes: statistics.count("capacityAvailableForVolumeAllocationInKb"))
    }
}
