import Base
import Foundation
import StorageTools
import Testing

@testable import BlockCore
@testable import Gateway

@Suite struct GatewayConfigurationTests {
    private let pool = "/api/instances/StoragePool::\(MemoryManager.pool)"

    @Test func faultSetsLiveAndDie() async throws {
        let bench = try await Bench()
        let body: JSONValue = ["name": "rack9", "protectionDomainId": .string(MemoryManager.domain.description)]
        let id = try #require(try await bench.post("/api/types/FaultSet/instances", body)["id"]?.string)
        #expect(await bench.refusal { try await bench.post("/api/types/FaultSet/instances", body) }?.code == 266)
        #expect(try await bench.post("/api/types/FaultSet/instances/action/queryIdByKey", body) == .string(id))
        #expect(
            try await bench.get("/api/instances/ProtectionDomain::\(MemoryManager.domain)/relationships/FaultSet")
                .array?.count == 2)
        #expect(
            try await bench.post("/api/instances/FaultSet::\(id)/action/setFaultSetName", ["newName": "rack2"]) == [:])
        #expect(try await bench.get("/api/instances/FaultSet::\(id)")["name"] == "rack2")
        #expect(try await bench.post("/api/instances/FaultSet::\(id)/action/removeFaultSet") == [:])
        #expect(await bench.refusal { try await bench.get("/api/instances/FaultSet::\(id)") }?.code == 265)
        let used = "/api/instances/FaultSet::\(MemoryManager.faultSet)/action/removeFaultSet"
        #expect(await bench.refusal { try await bench.post(used) }?.code == 268)
        let servers = try await bench.get("/api/instances/FaultSet::\(MemoryManager.faultSet)/relationships/Sds")
        #expect(servers.array?.first?["faultSetId"] == .string(MemoryManager.faultSet.description))
    }

    @Test func domainsAndPoolsAreMadeRenamedAndRemoved() async throws {
        let bench = try await Bench()
        let domain = try #require(
            try await bench.post("/api/types/ProtectionDomain/instances", ["name": "pd2"])["id"]?.string)
        let made = try #require(
            try await bench.post(
                "/api/types/StoragePool/instances",
                ["name": "ssd", "protectionDomainId": .string(domain), "sparePercentage": "34"])["id"]?.string)
        let object = try await bench.get("/api/instances/StoragePool::\(made)")
        #expect(object["sparePercentage"] == 34 && object["protectionDomainId"] == .string(domain))
        let remove = "/api/instances/ProtectionDomain::\(domain)/action/removeProtectionDomain"
        #expect(await bench.refusal { try await bench.post(remove) }?.code == 176)
        _ = try await bench.post("/api/instances/StoragePool::\(made)/action/setStoragePoolName", ["name": "nvme"])
        _ = try await bench.post(
            "/api/instances/ProtectionDomain::\(domain)/action/setProtectionDomainName", ["name": "pd3"])
        #expect(try await bench.get("/api/instances/StoragePool::\(made)")["name"] == "nvme")
        #expect(try await bench.post("/api/instances/StoragePool::\(made)/action/removeStoragePool") == [:])
        #expect(try await bench.post(remove) == [:])
        #expect(await bench.refusal { try await bench.post(pool + "/action/removeStoragePool") }?.code == 172)
    }

    @Test func spareThresholdsAndPolicies() async throws {
        let bench = try await Bench()
        let warned = try await bench.post(pool + "/action/setSparePercentage", ["sparePercentage": "20"])
        #expect(warned["warning"]?.string?.contains("largest fault unit") == true)
        #expect(try await bench.post(pool + "/action/setSparePercentage", ["sparePercentage": 34]) == [:])
        #expect(
            await bench.refusal {
                try await bench.post(pool + "/action/setSparePercentage", ["sparePercentage": "101"])
            }?.code == 64)
        _ = try await bench.post(
            pool + "/action/setCapacityAlertThresholds",
            ["capacityAlertHighThresholdPercent": "70", "capacityAlertCriticalThresholdPercent": "75"])
        _ = try await bench.post(pool + "/action/setRebalanceEnabled", ["rebalanceEnabled": "FALSE"])
        _ = try await bench.post(
            pool + "/action/setRebuildIoPriorityPolicy",
            ["policy": "favorAppIos", "numOfConcurrentIosPerDevice": "3", "bwLimitPerDeviceInKbps": "20480"])
        let object = try await bench.get(pool)
        #expect(object["sparePercentage"] == 34)
        #expect(object["capacityAlertHighThreshold"] == 70 && object["capacityAlertCriticalThreshold"] == 75)
        #expect(object["rebalanceEnabled"] == false && object["rebuildEnabled"] == true)
        #expect(object["rebuildIoPriorityPolicy"] == "favorAppIos")
        #expect(object["rebuildIoPriorityNumOfConcurrentIosPerDevice"] == 3)
        #expect(object["rebuildIoPriorityBwLimitPerDeviceInKbps"] == 20480)
        #expect(object["rebuildIoPriorityQuietPeriodInMsec"] == .null)
        #expect(object["rebalanceIoPriorityPolicy"] == "favorAppIos")
        #expect(
            await bench.refusal {
                try await bench.post(pool + "/action/setRebalanceIoPriorityPolicy", ["policy": "gentle"])
            }?.status == 400)
        #expect(
            await bench.refusal {
                try await bench.post(
                    pool + "/action/setRebalanceIoPriorityPolicy",
                    ["policy": "favorAppIos", "bwLimitPerDeviceInKbps": "1"])
            }?.code == 64)
    }

    @Test func theScannerIsSetAndDamageShown() async throws {
        let bench = try await Bench()
        #expect(try await bench.get(pool)["backgroundScannerMode"] == "DataComparison")
        #expect(try await bench.get(pool)["persistentChecksumEnabled"] == false, "no device has told of any")
        _ = try await bench.post(
            pool + "/action/enableBackgroundDeviceScanner",
            ["scannerMode": "DeviceOnly", "scannerBWLimitKBps": "512"])
        #expect(try await bench.get(pool)["backgroundScannerMode"] == "DeviceOnly")
        #expect(try await bench.get(pool)["backgroundScannerBWLimitKBps"] == 512)
        _ = try await bench.post(pool + "/action/disableBackgroundDeviceScanner")
        #expect(try await bench.get(pool)["backgroundScannerMode"] == "Disabled")
        let enable = pool + "/action/enableBackgroundDeviceScanner"
        #expect(await bench.refusal { try await bench.post(enable, ["scannerMode": "Gentle"]) }?.status == 400)
        #expect(await bench.refusal { try await bench.post(enable, ["scannerBWLimitKBps": "0"]) }?.code == 64)
        bench.manager.change { state in
            for device in state.devices.keys { state.integrity[device] = DeviceIntegrity() }
            let device = state.devices.keys.sorted()[0]
            state.integrity[device]?.damagedBlocks = 3
            state.integrity[device]?.mended = 4
        }
        #expect(try await bench.get(pool)["persistentChecksumState"] == "Protected")
        let alerts = try await bench.get("/holdfast/v1/alerts")
        #expect(alerts.text.contains("DEVICE_HAS_DAMAGED_BLOCKS"))
        let statistics = try await bench.get(pool + "/relationships/Statistics")
        #expect(statistics["damagedBlocks"] == 3 && statistics["fixedReadErrorCount"] == 4)
    }

    @Test func fullPoolsAreToldOfAndRefuse() async throws {
        let bench = try await Bench()
        _ = try await bench.post(pool + "/action/setSparePercentage", ["sparePercentage": 34])
        #expect(try await bench.get("/holdfast/v1/alerts") == [])
        bench.manager.change { state in
            for device in state.devices.keys { state.usedUnits[device] = 15000 }
        }
        let alert = try #require(try await bench.get("/holdfast/v1/alerts").array?.first)
        #expect(alert["alertType"] == "CAPACITY_UTILIZATION_ABOVE_CRITICAL_THRESHOLD")
        #expect(alert["severity"] == "ALERT_HIGH")
        #expect(alert["affectedObject"] == ["type": "StoragePool", "id": .string(MemoryManager.pool.description)])
        bench.manager.refuseNext(ManagerError(.poolCritical, "full"))
        #expect(await bench.refusal { .string(try await bench.createVolume("v")) }?.code == 337)
    }

    @Test func devicesAreRenamed() async throws {
        let bench = try await Bench()
        let device = try #require(try await bench.get("/api/types/Device/instances").array?.first?["id"]?.string)
        let path = "/api/instances/Device::\(device)/action/setDeviceName"
        _ = try await bench.post(path, ["newName": "slot7"])
        #expect(try await bench.get("/api/instances/Device::\(device)")["name"] == "slot7")
        #expect(await bench.refusal { try await bench.post(path) }?.status == 400)
    }

    /// The servers of this manager hold nothing: they are removed at once, and come back only when added.
    @Test func serversAndDevicesGoAndComeBack() async throws {
        let bench = try await Bench()
        let server = try #require(try await bench.get("/api/types/Sds/instances").array?.first)
        let id = try #require(server["id"]?.string)
        #expect(server["sdsState"] == "Normal")
        #expect(try await bench.post("/api/instances/Sds::\(id)/action/removeSds") == [:])
        #expect(await bench.refusal { try await bench.get("/api/instances/Sds::\(id)") }?.code == 78)
        let body: JSONValue = ["name": "sds1", "protectionDomainId": .string(MemoryManager.domain.description)]
        #expect(try await bench.post("/api/types/Sds/instances", body)["id"] == .string(id))
        #expect(await bench.refusal { try await bench.post("/api/types/Sds/instances", body) }?.code == 78)

        let device = try #require(try await bench.get("/api/types/Device/instances").array?.first)
        let deviceID = try #require(device["id"]?.string)
        let path = "/api/instances/Device::\(deviceID)/action/"
        #expect(try await bench.post(path + "removeDevice") == [:])
        #expect(try await bench.get("/api/instances/Device::\(deviceID)")["deviceState"] == "RemovePending")
        #expect(await bench.refusal { try await bench.post(path + "removeDevice") }?.code == 135)
        #expect(try await bench.post(path + "abortRemoveDevice") == [:])
        #expect(try await bench.get("/api/instances/Device::\(deviceID)")["deviceState"] == "Normal")
        #expect(
            await bench.refusal { try await bench.post("/api/types/Device/instances", ["sdsId": .string(id)]) }?.status
                == 400)
    }

    @Test func eventsAreRead() async throws {
        let bench = try await Bench()
        for name in ["a", "b", "c"] { _ = try await bench.createVolume(name) }
        #expect(try await bench.get("/holdfast/v1/events").array?.count == 3)
        let later = try #require(try await bench.get("/holdfast/v1/events/2").array)
        #expect(later.map { $0["number"]?.integer } == [3])
        #expect(later.first?["severity"] == "WARNING" && later.first?["text"] == "change 3")
        #expect(await bench.refusal { try await bench.get("/holdfast/v1/events/x") }?.status == 404)
    }

    @Test func whatDevicesDidIsShownAsRates() async throws {
        let bench = try await Bench()
        bench.manager.change { state in
            for (index, device) in state.devices.keys.enumerated() {
                var counters = IOCounters()
                for _ in 0..<10 * (index + 1) { counters.add(.primaryWrite, bytes: 4096) }
                counters.add(.rebalanceRead, bytes: 1 << 20)
                state.activity[device] = Activity(seconds: 5, counters: counters)
            }
        }
        let pool = try await bench.get(pool + "/relationships/Statistics")
        #expect(pool["primaryWriteBwc"] == ["numOccured": 60, "numSeconds": 5, "totalWeightInKb": 240])
        #expect(pool["totalReadBwc"] == ["numOccured": 3, "numSeconds": 5, "totalWeightInKb": 3072])
        let server = try #require(try await bench.get("/api/types/Sds/instances").array?.first?["id"]?.string)
        let own = try await bench.get("/api/instances/Sds::\(server)/relationships/Statistics")
        #expect(own["primaryWriteBwc"]?["numOccured"] == 10 && own["secondaryReadBwc"]?["numOccured"] == 0)
    }

    @Test func serversGoIntoMaintenanceAndComeBack() async throws {
        let bench = try await Bench()
        let id = try #require(try await bench.get("/api/types/Sds/instances").array?.first?["id"]?.string)
        let path = "/api/instances/Sds::\(id)"
        #expect(try await bench.get(path)["maintenanceState"] == "NoMaintenance")
        #expect(try await bench.post(path + "/action/enterProtectedMaintenanceMode") == [:])
        #expect(try await bench.get(path)["maintenanceState"] == "SetMaintenanceInProgress")
        #expect(try await bench.get(path)["maintenanceType"] == "ProtectedMaintenance")
        #expect(await bench.refusal { try await bench.post(path + "/action/enterMaintenanceMode") }?.code == 64)
        #expect(try await bench.post(path + "/action/exitMaintenanceMode") == [:])
        #expect(await bench.refusal { try await bench.post(path + "/action/exitMaintenanceMode") }?.code == 64)
    }

    @Test func olderCopiesArePromotedOnlyByAnOperator() async throws {
        let bench = try await Bench()
        let volume = try await bench.createVolume("v")
        let servers = try await bench.manager.state().servers.keys
        let path = "/holdfast/v1/sds/sds1/promoteStaleCopies"
        #expect(await bench.refusal { try await bench.post(path) }?.code == 64)
        bench.manager.change { state in
            let devices = state.devices.values
            let (lost, older) = (devices.first { $0.sds == servers[0] }, devices.first { $0.sds == servers[1] })
            guard let lost, let older else { return }
            state.servers[lost.sds]?.status = .down
            for index in 0..<16 {
                var comb = Comb(
                    epoch: 7, primary: CopyPlace(sds: lost.sds, device: lost.id), state: .unavailable, revision: 1)
                comb.former = FormerCopy(place: CopyPlace(sds: older.sds, device: older.id), epoch: 5)
                state.pools[MemoryManager.pool]?.combs[index] = comb
            }
        }
        let refused = ["/holdfast/v1/sds/nobody/promoteStaleCopies": 78, "/holdfast/v1/volumes/v9/clearDataLoss": 79]
        for (path, code) in refused { #expect(await bench.refusal { try await bench.post(path) }?.code == code) }
        #expect(await bench.refusal { try await bench.post(path, ["deviceId": "5"]) }?.code == 126)
        #expect(await bench.refusal { try await bench.get(path) }?.status == 404)
        #expect(try await bench.get("/api/instances/Volume::\(volume)")["dataLossInMiB"] == 0)
        let done = try await bench.post(path)
        #expect(done["warning"]?.string?.hasPrefix("16 pieces hold older data now") == true)
        #expect(try await bench.get("/api/instances/Volume::\(volume)")["dataLossInMiB"] == 8192)
        func marked() async throws -> [JSONValue] {
            try await bench.get("/holdfast/v1/alerts").array?.filter { $0["alertType"] == "VOLUME_HAS_DATA_LOSS" } ?? []
        }
        #expect(try await marked().map { $0["affectedObject"] } == [["type": "Volume", "id": .string(volume)]])
        #expect(try await bench.post("/holdfast/v1/volumes/v/clearDataLoss") == [:])
        #expect(try await marked().isEmpty)
    }

    @Test func scliConfigures() async throws {
        try await ServedGateway.run { served in
            let scli = Scli(environment: [
                "SCLI_MDM_IP": "127.0.0.1:\(served.plain)", "SCLI_SESSION_FILE": served.directory + "/session",
            ])
            func run(_ words: String) async -> ToolResult {
                await scli.run(words.split(separator: " ").map(String.init))
            }
            func expect(_ words: String, _ output: String) async {
                let result = await run(words)
                #expect(result.exitCode == 0, "\(words): \(result.errors)")
                #expect(result.output.contains(output), "\(words): \(result.output)")
            }
            await expect("--login --username admin --password secret", "Logged in.")
            await expect(
                "--add_protection_domain --protection_domain_name pd2",
                "Successfully created protection domain pd2. Object ID ")
            await expect(
                "--add_storage_pool --protection_domain_name pd2 --storage_pool_name ssd --spare_percentage 34",
                "Successfully created a storage pool named ssd. Object ID ")
            await expect(
                "--add_fault_set --protection_domain_name pd2 --fault_set_name rack2",
                "Successfully created fault set rack2. Object ID ")
            await expect("--query_all_fault_sets", "Query-all-fault-sets returned 2 Fault Sets")
            await expect("--query_all_fault_sets", "    SDS ID: ")
            let pool = "--protection_domain_name pd2 --storage_pool_name ssd"
            await expect(
                "--modify_spare_policy \(pool) --spare_percentage 20%", "Successfully modified spare policy: 20%")
            await expect(
                "--set_rebuild_policy \(pool) --policy limit_concurrent_io --concurrent_io_limit 4",
                "Successfully set the rebuild policy")
            await expect("--disable_rebalance \(pool)", "Successfully disabled rebalance")
            await expect(
                "--enable_background_device_scanner \(pool) --scanner_mode data_comparison"
                    + " --scanner_bandwidth_limit 2048", "Successfully enabled the background device scanner")
            await expect(
                "--query_storage_pool \(pool)", "scanner: Mode: data_comparison, Bandwidth limit: 2048 KBps")
            await expect(
                "--disable_background_device_scanner \(pool)", "Successfully disabled the background device scanner")
            await expect("--query_storage_pool \(pool)", "scanner: Mode: disable,")
            await expect(
                "--set_capacity_alert_thresholds \(pool) --high_threshold 60 --critical_threshold 70", "Successfully")
            await expect("--query_storage_pool \(pool)", "\t\t4 concurrent I/Os per device")
            await expect("--query_storage_pool \(pool)", "Rebalance is disabled")
            await expect("--query_storage_pool \(pool)", "High: 60, Critical: 70")
            await expect("--rename_sds --sds_name sds1 --new_name first", "to first")
            await expect("--rename_device --sds_name first --device_name device1.img --new_name disk", "to disk")
            await expect("--remove_sds_device --sds_name first --device_name disk", "Successfully started removing")
            await expect("--abort_remove_sds_device --sds_name first --device_name disk", "Successfully aborted")
            await expect("--enter_maintenance_mode --sds_name first", "SDS first is entering maintenance mode")
            await expect("--query_sds --sds_name first", "Maintenance-state: SetMaintenanceInProgress")
            await expect("--query_sds --sds_name first", "Primary-writes   0 IOPS 0 Bytes per-second")
            await expect("--exit_maintenance_mode --sds_name first", "SDS first is exiting maintenance mode")
            await expect("--remove_sds --sds_name first", "Successfully started removing SDS first")
            await expect("--add_sds --sds_name first", "Successfully created SDS first. Object ID ")
            await expect("--query_events --after 3", " WARNING MDM_DATA_DEGRADED StoragePool::")
            #expect(await run("--query_events --after yesterday").exitCode == 1)
            #expect(await run("--promote_stale_copies --sds_name sds2").exitCode == 1)
            #expect(await run("--promote_stale_copies --sds_name sds2 --i_am_sure").exitCode == 7)
            #expect(await run("--clear_data_loss --volume_name v").exitCode == 7)
            await expect("--query_alerts", "Query-alerts returned 1 alerts")
            await expect("--query_all", "1 Fault Sets")
            await expect("--rename_storage_pool \(pool) --new_name nvme", "to nvme")
            await expect("--remove_storage_pool --protection_domain_name pd2 --storage_pool_name nvme", "Successfully")
            let refused = await run("--remove_storage_pool --protection_domain_name pd1 --storage_pool_name hdd")
            #expect(refused.exitCode == 7)
            #expect(refused.errors == "Error: MDM failed command.  Status: The Storage Pool has SDS devices\n")
            await expect(
                "--remove_fault_set --protection_domain_name pd2 --fault_set_name rack2", "Successfully removed")
            await expect("--rename_protection_domain --protection_domain_name pd2 --new_name pd3", "to pd3")
            await expect("--remove_protection_domain --protection_domain_name pd3", "Successfully removed")
            #expect(await run("--modify_spare_policy \(pool) --spare_percentage ten").exitCode == 7)
        }
    }
}
