import Base
import BlockCore
import Foundation
import HTTPTypes
import Logging
import OrderedCollections
import Synchronization
import Testing

@testable import Gateway

/// A gateway without network, logged in, on a clock that only the test moves.
struct Bench {
    let manager = MemoryManager()
    let gateway: Gateway
    let seconds: SecondsBox
    let token: String

    final class SecondsBox: Sendable {
        let value = Mutex<UInt64>(1000)
        func advance(_ seconds: UInt64) { value.withLock { $0 += seconds } }
        func read() -> UInt64 { value.withLock { $0 } }
    }

    init() async throws {
        let seconds = SecondsBox()
        self.seconds = seconds
        gateway = Gateway(
            configuration: GatewayConfiguration(password: "secret"), manager: manager, logger: Logger(label: "test"),
            clock: GatewayClock(
                instant: { Instant(nanoseconds: seconds.read() * 1_000_000_000) },
                epochMilliseconds: { 1_700_086_400_000 + seconds.read() * 1000 }))
        let answer = try await gateway.answer(
            method: .get, path: "/api/login", authorization: Self.basic("admin", "secret"), body: [])
        token = try #require(answer.string)
    }

    static func basic(_ user: String, _ password: String) -> String {
        "Basic " + Data("\(user):\(password)".utf8).base64EncodedString()
    }

    func get(_ path: String) async throws(GatewayError) -> JSONValue {
        try await gateway.answer(method: .get, path: path, authorization: Self.basic("", token), body: [])
    }

    func post(_ path: String, _ body: JSONValue = [:]) async throws(GatewayError) -> JSONValue {
        try await gateway.answer(method: .post, path: path, authorization: Self.basic("any", token), body: body.bytes)
    }

    func refusal(_ body: () async throws -> JSONValue) async -> GatewayError? {
        do {
            let answer = try await body()
            Issue.record("answered \(answer.text)")
            return nil
        } catch {
            return error as? GatewayError
        }
    }

    func createVolume(_ name: String, kibibytes: String = "8388608") async throws -> String {
        let answer = try await post(
            "/api/types/Volume/instances",
            [
                "name": .string(name), "volumeSizeInKb": .string(kibibytes),
                "storagePoolId": .string(MemoryManager.pool.description), "volumeType": "ThinProvisioned",
            ])
        return try #require(answer["id"]?.string)
    }
}

@Suite struct GatewayTests {
    @Test func listsEveryType() async throws {
        let bench = try await Bench()
        _ = try await bench.createVolume("redis-data")
        for type in ObjectType.allCases {
            let list = try #require(try await bench.get("/api/types/\(type.rawValue)/instances").array)
            #expect(!list.isEmpty, "\(type)")
            for object in list {
                let id = try #require(object["id"]?.string)
                #expect(id.utf8.count == 16, "\(type) \(id)")
                #expect(try await bench.get("/api/instances/\(type.rawValue)::\(id)") == object)
                let rels = (object["links"]?.array ?? []).compactMap { $0["rel"]?.string }
                #expect(rels.first == "self")
                for link in object["links"]?.array ?? [] {
                    let href = try #require(link["href"]?.string)
                    _ = try await bench.get(href)
                }
            }
        }
        #expect(try await bench.get("/api/types/SnapshotPolicy/instances") == [])
        #expect(try await bench.get("/api/instances").object?.count == ObjectType.allCases.count)
        #expect(await bench.refusal { try await bench.get("/api/types/Nonsense/instances") }?.status == 404)
    }

    /// The way from the system to a volume that old clients walk by links.
    @Test func walksByRelations() async throws {
        let bench = try await Bench()
        let id = try await bench.createVolume("redis-data")
        func follow(_ object: JSONValue, _ rel: String) async throws -> JSONValue {
            let link = try #require(object["links"]?.array?.first { $0["rel"]?.string == rel })
            return try await bench.get(try #require(link["href"]?.string))
        }
        let system = try #require(try await bench.get("/api/types/System/instances")[0])
        let domain = try #require(try await follow(system, "/api/System/relationship/ProtectionDomain")[0])
        let pool = try #require(try await follow(domain, "/api/ProtectionDomain/relationship/StoragePool")[0])
        let volume = try #require(try await follow(pool, "/api/StoragePool/relationship/Volume")[0])
        #expect(volume["id"]?.string == id)
        #expect(try await follow(volume, "/api/parent/relationship/storagePoolId") == pool)
        let tree = try await follow(volume, "/api/parent/relationship/vtreeId")
        #expect(try await follow(tree, "/api/VTree/relationship/Volume")[0] == volume)
        let clients = try await follow(system, "/api/System/relationship/Sdc")
        #expect(clients.array?.count == 2)
        #expect(clients[0]?["mdmConnectionState"] == "Connected")
        #expect(clients[1]?["mdmConnectionState"] == "Disconnected")
    }

    @Test func roundsSizesUpOnCreation() async throws {
        let bench = try await Bench()
        for (asked, sizeInKb) in [("1", 8_388_608), ("8388608", 8_388_608), ("8388609", 16_777_216)] {
            let id = try await bench.createVolume("v\(asked)", kibibytes: asked)
            let volume = try await bench.get("/api/instances/Volume::\(id)")
            #expect(volume["sizeInKb"]?.integer == Int64(sizeInKb))
            #expect(volume["volumeType"] == "ThinProvisioned")
            #expect(volume["creationTime"]?.integer == 1_700_087_400)
            #expect(volume["mappedSdcInfo"] == .null)
        }
        let pool = JSONValue.string(MemoryManager.pool.description)
        let thick = try await bench.post(
            "/api/types/Volume/instances", ["name": "thick", "volumeSizeInGb": 9, "storagePoolId": pool])
        let volume = try await bench.get("/api/instances/Volume::\(thick.object?["id"]?.string ?? "")")
        #expect(volume["sizeInKb"] == 16_777_216)
        #expect(volume["volumeType"] == "ThickProvisioned")
    }

    @Test func refusesBadVolumes() async throws {
        let bench = try await Bench()
        _ = try await bench.createVolume("taken")
        let pool = MemoryManager.pool.description
        func refusal(_ name: String, _ size: JSONValue, pool: String = pool) async -> GatewayError? {
            await bench.refusal {
                try await bench.post(
                    "/api/types/Volume/instances",
                    ["name": .string(name), "volumeSizeInKb": size, "storagePoolId": .string(pool)])
            }
        }
        #expect(await refusal("taken", "8388608") == .nameInUse)
        #expect(await refusal("a b", "8388608") == .nameInvalid)
        #expect(await refusal(String(repeating: "x", count: 32), "8388608") == .nameTooLong)
        #expect(await refusal("v", "0") == .outOfRange)
        #expect(await refusal("v", "18446744073709551615") == .tooLarge)
        #expect(await refusal("v", "-1")?.status == 400)
        #expect(await refusal("v", "many")?.status == 400)
        #expect(await refusal("v", [1])?.status == 400)
        #expect(await refusal("v", "8388608", pool: "ffffffffffffffff") == .poolNotFound)
        #expect(await refusal("v", "8388608", pool: "?") == .poolNotFound)
        let missing = await bench.refusal {
            try await bench.post("/api/types/Volume/instances", ["name": "v", "volumeSizeInKb": "8388608"])
        }
        #expect(
            missing?.json["message"]
                == "Request message is not valid: The following parameter(s) must be part of the request body: storagePoolId."
        )
        #expect(missing?.json["httpStatusCode"] == 400)
        #expect(missing?.json["errorCode"] == 0)
    }

    @Test func mapsAndUnmaps() async throws {
        let bench = try await Bench()
        let id = try await bench.createVolume("v")
        let action = "/api/instances/Volume::\(id)/action"
        let sdc1 = JSONValue.string(MemoryManager.sdc1.description)
        _ = try await bench.post("\(action)/addMappedSdc", ["sdcId": sdc1, "allowMultipleMappings": "false"])
        let again = await bench.refusal { try await bench.post("\(action)/addMappedSdc", ["sdcId": sdc1]) }
        #expect(again?.code == 81)
        let other: JSONValue = ["guid": .string(MemoryManager.guid2.lowercased())]
        #expect(await bench.refusal { try await bench.post("\(action)/addMappedSdc", other) } == .singleMapping)
        let both: JSONValue = ["guid": .string(MemoryManager.guid2), "allowMultipleMappings": "TRUE"]
        _ = try await bench.post("\(action)/addMappedSdc", both)
        let mapped = try await bench.get("/api/instances/Volume::\(id)")["mappedSdcInfo"]
        #expect(mapped?.array?.count == 2)
        #expect(mapped?[0]?["sdcId"] == sdc1)
        #expect(mapped?[0]?["sdcIp"] == "10.71.0.11")
        #expect(mapped?[0]?["limitIops"] == 0)
        let clients = "/api/instances/Sdc::\(MemoryManager.sdc2)/relationships/Volume"
        #expect(try await bench.get(clients)[0]?["id"]?.string == id)
        #expect(await bench.refusal { try await bench.post("\(action)/removeVolume") } == .volumeMapped)
        _ = try await bench.post("\(action)/removeMappedSdc", ["sdcId": sdc1, "allSdcs": "False"])
        #expect(
            await bench.refusal { try await bench.post("\(action)/removeMappedSdc", ["sdcId": sdc1]) } == .notMapped)
        _ = try await bench.post("\(action)/removeMappedSdc", ["allSdcs": ""])
        _ = try await bench.post("\(action)/removeVolume", ["removeMode": "ONLY_ME"])
        #expect(await bench.refusal { try await bench.get("/api/instances/Volume::\(id)") } == .volumeNotFound)
        #expect(await bench.refusal { try await bench.post("\(action)/removeVolume") }?.code == 79)
    }

    @Test func preemptsWithProof() async throws {
        let bench = try await Bench()
        let id = try await bench.createVolume("v")
        let action = "/api/instances/Volume::\(id)/action/addMappedSdc"
        _ = try await bench.post(action, ["sdcId": .string(MemoryManager.sdc1.description)])
        let answer = try await bench.post(
            action, ["sdcId": .string(MemoryManager.sdc2.description), "preempt": "TRUE"])
        let proof = try #require(answer["fencingProof"])
        #expect(proof["attachEpoch"] == 2)
        #expect(proof["servers"]?.array?.map { $0["evidence"]?.string } == ["acknowledged", "acknowledged", "removed"])
        #expect(proof["servers"]?[0]?["sdsName"] == "sds1")
        let volume = try await bench.get("/api/instances/Volume::\(id)")
        #expect(volume["attachEpoch"] == 2)
        #expect(volume["mappedSdcInfo"]?.array?.map { $0["sdcIp"]?.string } == ["10.71.0.12"])
        for key in [id, "v"] {
            let epochs = try await bench.get("/holdfast/v1/volumes/\(key)/epochs")
            #expect(epochs["history"]?.array?.map { $0["change"]?.string } == ["map", "preempt"])
            #expect(epochs["fencePending"] == false)
        }
        #expect(await bench.refusal { try await bench.get("/holdfast/v1/volumes/nope/epochs") } == .volumeNotFound)
        #expect(try await bench.get("/holdfast/v1/pools")[0]?["combs"]?["unplaced"] == 16)
    }

    @Test func resizesAndRenames() async throws {
        let bench = try await Bench()
        let id = try await bench.createVolume("v")
        let action = "/api/instances/Volume::\(id)/action"
        _ = try await bench.post("\(action)/setVolumeSize", ["sizeInGB": "24"])
        #expect(try await bench.get("/api/instances/Volume::\(id)")["sizeInKb"] == 25_165_824)
        func resizing(_ size: JSONValue) async -> GatewayError? {
            await bench.refusal { try await bench.post("\(action)/setVolumeSize", ["sizeInGB": size]) }
        }
        #expect(await resizing("16") == .cannotShrink)
        #expect(await resizing(25) == .illegalSize)
        #expect(await resizing("18446744073709551608") == .tooLarge)
        _ = try await bench.post("\(action)/setVolumeName", ["newName": "w"])
        #expect(try await bench.post("/api/types/Volume/instances/action/queryIdByKey", ["name": "w"]).string == id)
        let missing = await bench.refusal {
            try await bench.post("/api/types/Volume/instances/action/queryIdByKey", ["name": "v"])
        }
        #expect(missing?.message == "Not found")
        #expect(missing?.code == 3)
    }

    @Test func findsByOldAndNewKeys() async throws {
        let bench = try await Bench()
        let name = "ab/cd+ef=="
        let id = try await bench.createVolume(name)
        let pool = MemoryManager.pool.description
        let domain = MemoryManager.domain.description
        for path in ["ab%2Fcd%2Bef%3D%3D", "ab%252Fcd%252Bef%253D%253D", "ab/cd+ef=="] {
            #expect(try await bench.get("/api/types/Volume/instances/getByName::\(path)").string == id)
        }
        #expect(try await bench.get("/api/types/Pool/instances/getByName::\(domain),hdd").string == pool)
        #expect(try await bench.get("/api/types/Domain/instances/getByName::pd1").string == domain)
        #expect(
            try await bench.get("/api/types/Client/instances/getByIp::10.71.0.12/").string
                == MemoryManager.sdc2.description)
        let keys: [(String, JSONValue, String)] = [
            ("Sdc", ["guid": .string(MemoryManager.guid1.lowercased())], MemoryManager.sdc1.description),
            ("Sdc", ["ip": "10.71.0.11"], MemoryManager.sdc1.description),
            ("StoragePool", ["name": "hdd", "protectionDomainName": "pd1"], pool),
            ("StoragePool", ["name": "hdd", "protectionDomainId": .string(domain)], pool),
            ("ProtectionDomain", ["name": "pd1"], domain),
        ]
        for (type, key, id) in keys {
            #expect(try await bench.post("/api/types/\(type)/instances/action/queryIdByKey", key).string == id)
        }
        let selected = try await bench.post(
            "/api/types/Volume/instances/action/queryBySelectedIds", ["ids": [.string(id)]])
        #expect(selected[0]?["name"]?.string == name)
    }

    @Test func countsCapacity() async throws {
        let bench = try await Bench()
        _ = try await bench.createVolume("v")
        let statistics = try await bench.get(
            "/api/instances/StoragePool::\(MemoryManager.pool)/relationships/Statistics")
        let total: Int64 = 3 * 20480 * 1024
        #expect(statistics["maxCapacityInKb"]?.integer == total)
        #expect(statistics["capacityInUseInKb"] == 307_200)
        #expect(statistics["thinCapacityAllocatedInKb"] == 16_777_216)
        let free = try #require(statistics["capacityAvailableForVolumeAllocationInKb"]?.integer)
        #expect(free % VolumeSize.grainKibibytes == 0)
        #expect(free > 0)
        let selected = try await bench.post(
            "/api/types/StoragePool/instances/action/querySelectedStatistics",
            ["ids": [.string(MemoryManager.pool.description)], "properties": ["maxCapacityInKb", "unheardOf"]])
        #expect(selected[MemoryManager.pool.description] == ["maxCapacityInKb": .integer(total), "unheardOf": 0])
        let system = try await bench.post(
            "/api/types/System/instances/action/querySelectedStatistics", ["allIds": "", "properties": ["numOfSds"]])
        #expect(system == ["numOfSds": 3])
    }

    @Test func translatesTheManagersRefusals() async throws {
        let bench = try await Bench()
        let id = try await bench.createVolume("v")
        for code in ManagerError.Code.allCases {
            bench.manager.refuseNext(ManagerError(code, "because"))
            let error = await bench.refusal {
                try await bench.post("/api/instances/Volume::\(id)/action/setVolumeName", ["newName": "w"])
            }
            #expect(error?.status == 500)
            #expect(error?.message.isEmpty == false)
            if code == .fencingUnproven { #expect(error?.message.contains("because") == true) }
        }
    }

    @Test func setsLimitsOfMappings() async throws {
        let bench = try await Bench()
        let id = try await bench.createVolume("v")
        let path = "/api/instances/Volume::\(id)/action"
        let sdc = try #require(try await bench.get("/api/types/Sdc/instances")[0]?["id"]?.string)
        let limits = "\(path)/setMappedSdcLimits"
        #expect(
            await bench.refusal { try await bench.post(limits, ["sdcId": .string(sdc), "iopsLimit": "20"]) }?.code == 84
        )
        _ = try await bench.post("\(path)/addMappedSdc", ["sdcId": .string(sdc)])
        func shown() async throws -> [Int64?] {
            let mapping = try await bench.get("/api/instances/Volume::\(id)")["mappedSdcInfo"]?[0]
            return [mapping?["limitIops"]?.integer, mapping?["limitBwInMbps"]?.integer]
        }
        let both: JSONValue = ["sdcId": .string(sdc), "iopsLimit": "11", "bandwidthLimitInKbps": "10240"]
        #expect(try await bench.post(limits, both) == [:])
        #expect(try await shown() == [11, 10])
        // What is not named stays.
        _ = try await bench.post(limits, ["sdcId": .string(sdc), "iopsLimit": 0, "bandwidthLimitInKbps": ""])
        #expect(try await shown() == [0, 10])
        for (name, value) in [
            ("iopsLimit", "10"), ("iopsLimit", "1"), ("iopsLimit", "4294967296"), ("bandwidthLimitInKbps", "1000"),
            ("bandwidthLimitInKbps", "4398046511104"),
        ] {
            let error = await bench.refusal {
                try await bench.post(limits, ["sdcId": .string(sdc), name: .string(value)])
            }
            #expect(error?.code == 64, "\(name) \(value)")
        }
        let error = await bench.refusal { try await bench.post(limits, ["sdcId": .string(sdc), "iopsLimit": "many"]) }
        #expect(error?.status == 400)
        #expect(try await shown() == [0, 10])
    }

    @Test func answersWhatItCannotDo() async throws {
        let bench = try await Bench()
        let id = try await bench.createVolume("v")
        for path in [
            "/api/instances/Volume::\(id)/action/migrateVTree",
            "/api/instances/StoragePool::\(MemoryManager.pool)/action/setZeroPaddingPolicy",
            "/api/types/SnapshotPolicy/instances",
        ] {
            #expect(await bench.refusal { try await bench.post(path) } == .unsupported, "\(path)")
        }
        #expect(try await bench.post("/api/instances/System/queryMdmCluster")["clusterMode"] == "OneNode")
    }

    @Test(arguments: ["{", "[]", "\"x\"", "{\"name\":}", "\u{0}", "{\"name\": {\"a\": 1}}"])
    func refusesMalformedBodies(_ body: String) async throws {
        let bench = try await Bench()
        let error = await bench.refusal {
            try await bench.gateway.answer(
                method: .post, path: "/api/types/Volume/instances/action/queryIdByKey",
                authorization: Bench.basic("", bench.token), body: Array(body.utf8))
        }
        #expect(error?.status == 400)
    }

    @Test(arguments: [
        "/api", "/api/", "/api/instances/Volume", "/api/instances/::", "/api/types", "/api/types//instances",
        "/api/types/Volume/instances/getByName", "/api/instances/Volume::1/relationships", "/api/%zz", "/api/%",
        "/api/types/Volume/instances/action", "/api/version/2",
    ])
    func refusesMalformedPaths(_ path: String) async throws {
        let bench = try await Bench()
        let error = await bench.refusal { try await bench.get(path) }
        #expect(error?.status == 404)
    }
}

@Suite struct GatewaySessionTests {
    @Test func demandsLogin() async throws {
        let bench = try await Bench()
        func refused(_ path: String, _ authorization: String?) async -> Bool {
            await bench.refusal {
                try await bench.gateway.answer(method: .get, path: path, authorization: authorization, body: [])
            } == .unauthorized
        }
        #expect(await refused("/api/login", nil))
        #expect(await refused("/api/login", Bench.basic("admin", "wrong")))
        #expect(await refused("/api/login", Bench.basic("root", "secret")))
        #expect(await refused("/api/login", "Basic !!!"))
        #expect(await refused("/api/login", "Bearer x"))
        #expect(await refused("/api/types/System/instances", nil))
        #expect(await refused("/api/types/System/instances", Bench.basic("admin", "secret")))
        #expect(await refused("/api/version", Bench.basic("", "nonsense")))
        #expect(await refused("/holdfast/v1/pools", nil))
        #expect(try await bench.get("/api/version") == "3.5")
    }

    @Test func logsOutOneTokenOnly() async throws {
        let bench = try await Bench()
        let other = try #require(
            try await bench.gateway.answer(
                method: .get, path: "/api/login", authorization: Bench.basic("admin", "secret"), body: []
            ).string)
        #expect(try await bench.get("/api/logout") == "")
        #expect(await bench.refusal { try await bench.get("/api/version") } == .unauthorized)
        _ = try await bench.gateway.answer(
            method: .get, path: "/api/version", authorization: Bench.basic("", other), body: [])
    }

    @Test func tokensExpire() async throws {
        let idle = try await Bench()
        idle.seconds.advance(599)
        _ = try await idle.get("/api/version")
        idle.seconds.advance(599)
        _ = try await idle.get("/api/version")
        idle.seconds.advance(601)
        #expect(await idle.refusal { try await idle.get("/api/version") } == .unauthorized)

        let old = try await Bench()
        for _ in 0..<57 {
            old.seconds.advance(500)
            _ = try await old.get("/api/version")
        }
        old.seconds.advance(500)
        #expect(await old.refusal { try await old.get("/api/version") } == .unauthorized)
    }

    @Test func tokensAreBounded() async throws {
        let bench = try await Bench()
        for _ in 0..<GatewaySessions.tokenMax + 10 {
            _ = try await bench.gateway.sessions.login(
                user: "admin", password: "secret",
                at: GatewayTime(
                    instant: Instant(nanoseconds: 1_000_000_000_001), epochMilliseconds: 1_700_087_400_000, term: 0))
        }
        // The first, unused for longest, had to go.
        #expect(await bench.refusal { try await bench.get("/api/version") } == .unauthorized)
    }
}
