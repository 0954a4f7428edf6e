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
                "--set_capacity_alert_thresholds \(pool) --high_threshold 60 --critical_threshold 70", "Successfully")
            await expect("--query_storage_pool \(pool)", "\t\t4 concurrent I/Os per device")
            await expect("--query_storage_pool \(pool)", "Rebalance is disabled")
            await expect("--query_storage_pool \(pool)", "High: 60, Critical: 70")
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
