import Base
import BlockCore
import Foundation
import HTTPKit
import LinuxOS
import Logging
import NIOHTTP1
import ServiceLifecycle
import StorageTools
import Synchronization
import Testing

@testable import Gateway

/// A gateway that serves on free ports of this machine while `body` runs.
struct ServedGateway: Sendable {
    let manager: MemoryManager
    let plain: Int
    /// 0 when HTTPS is not served.
    let secure: Int
    let directory: String

    static func run<Result: Sendable>(
        secure: Bool = false, _ body: @escaping @Sendable (ServedGateway) async throws -> Result
    ) async throws -> Result {
        let manager = MemoryManager()
        let directory = NSTemporaryDirectory() + "gateway-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let gateway = Gateway(
            configuration: GatewayConfiguration(password: "secret"), manager: manager, logger: Logger(label: "test"))
        let endpoints = GatewayEndpoints(
            plain: .tcp(host: "127.0.0.1", port: 0), secure: secure ? .tcp(host: "127.0.0.1", port: 0) : nil,
            directory: directory)
        let (ports, announce) = AsyncStream<(Bool, Int)>.makeStream(bufferingPolicy: .bufferingOldest(2))
        let servers = try await gateway.servers(endpoints) { announce.yield(($0, $1)) }
        return try await withThrowingTaskGroup(of: Void.self) { group in
            let services = ServiceGroup(
                configuration: .init(services: servers.map { .init(service: $0) }, logger: Logger(label: "test")))
            group.addTask { try await services.run() }
            var found = (plain: 0, secure: 0)
            var count = 0
            for await (isSecure, port) in ports {
                if isSecure { found.secure = port } else { found.plain = port }
                count += 1
                if count == servers.count { break }
            }
            let result = try await body(
                ServedGateway(
                    manager: manager, plain: found.plain, secure: found.secure, directory: directory))
            await services.triggerGracefulShutdown()
            try await group.waitForAll()
            return result
        }
    }
}

@Suite struct GatewayServerTests {
    @Test func speaksHTTP() async throws {
        try await ServedGateway.run { served in
            let address = HTTPAddress.tcp(host: "127.0.0.1", port: served.plain)
            let http = HTTPCaller()
            let login = try await http.call(
                .GET, address, "/api/login", headers: ["authorization": Bench.basic("admin", "secret")])
            #expect(login.status == 200)
            #expect(login.headers["content-type"] == ["application/json"])
            // Clients strip the first and the last character: nothing may follow the quotes.
            #expect(login.text.hasPrefix("\"") && login.text.hasSuffix("\""))
            let token = try #require(try login.json().string)
            let session = HTTPCaller(headers: [
                "authorization": Bench.basic("", token), "accept": "application/json;version=2.0",
            ])
            let volumes = try await session.call(.GET, address, "/api/types/Volume/instances")
            #expect(volumes.text == "[]")
            let created = try await session.call(
                .POST, address, "/api/types/Volume/instances",
                json: [
                    "name": "v", "volumeSizeInKb": "16777216", "storagePoolId": .string("\(MemoryManager.pool)"),
                ])
            #expect(created.status == 200)
            let id = try #require(try created.json()["id"]?.string)
            let mapped = try await session.call(
                .POST, address, "/api/instances/Volume::\(id)/action/addMappedSdc",
                json: ["guid": .string(MemoryManager.guid1)])
            #expect(mapped.status == 200)
            let unmapped = try await session.call(
                .POST, address, "/api/instances/Volume::\(id)/action/removeMappedSdc", json: ["allSdcs": "true"])
            #expect(unmapped.status == 200)
            let removed = try await session.call(
                .POST, address, "/api/instances/Volume::\(id)/action/removeVolume")
            #expect(removed.text == "{}")
            let gone = try await session.call(.GET, address, "/api/instances/Volume::\(id)")
            #expect(gone.status == 500)
            #expect(
                gone.text == #"{"message":"Could not find the volume","httpStatusCode":500,"errorCode":79}"#)
            #expect(try await session.call(.DELETE, address, "/api/types/Volume/instances").status == 405)
            #expect(try await HTTPCaller().call(.GET, address, "/api/types/Volume/instances").status == 401)
            let large = [UInt8](repeating: 0x20, count: 2 << 20)
            #expect(try await session.call(.POST, address, "/api/types/Volume/instances", body: large).status == 413)
        }
    }

    @Test func answersScli() async throws {
        try await ServedGateway.run { served in
            let scli = Scli(environment: [
                "SCLI_MDM_IP": "127.0.0.1:\(served.plain)", "SCLI_SESSION_FILE": served.directory + "/session",
            ])
            func run(_ line: String) async -> ToolResult {
                await scli.run(line.split(separator: " ").map(String.init))
            }
            #expect(await run("--query_all_volumes").exitCode == 7)
            let refused = await run("--login --username admin --password wrong")
            #expect(refused.exitCode == 7)
            let login = await run("--login --username admin --password secret")
            #expect(login.output == "Logged in. User role is SuperUser. System ID is \(MemoryManager.system)\n")
            let mode = try FileManager.default.attributesOfItem(atPath: served.directory + "/session")
            #expect(mode[.posixPermissions] as? Int == 0o600)

            let pool = "--protection_domain_name pd1 --storage_pool_name hdd"
            let added = await run("--add_volume \(pool) --size_gb 15 --volume_name redis-data --thin_provisioned")
            #expect(
                added.output.hasPrefix("Rounding up volume size to 16 GB\nSuccessfully created volume of size 16 GB."))
            _ = await run("--add_volume \(pool) --size_gb 8 --volume_name other")
            let mapped = await run("--map_volume_to_sdc --volume_name redis-data --sdc_ip 10.71.0.11")
            #expect(mapped.output == "Successfully mapped volume redis-data to SDC 10.71.0.11\n")
            let again = await run("--map_volume_to_sdc --volume_name redis-data --sdc_ip 10.71.0.11")
            #expect(again.exitCode == 7)
            #expect(
                again.errors == "Error: MDM failed command.  Status: The volume is already mapped to this SDC\n")

            let volumes = try await served.manager.state().volumes.values
            #expect(
                await run("--query_all_volumes").output == """
                    Query-all-volumes returned 2 volumes
                    Protection Domain b9885bb700000000 Name: pd1
                    Storage Pool 048ab3c100000000 Name: hdd
                     Volume ID: \(volumes[0].id) Name: redis-data Size: 16.0 GB (16384 MB) Mapped to 1 SDC Thin-provisioned
                     Volume ID: \(volumes[1].id) Name: other Size: 8.0 GB (8192 MB) Unmapped Thick-provisioned


                    """)
            #expect(await run("--query_all_sds").output.contains("Query-all-SDS returned 3 SDS nodes."))
            #expect(
                await run("--query_all_sds").output.contains(
                    "Name: sds1 State: Connected, Joined IP: 10.71.0.11 Port: 7072 Version: R3_5"))
            #expect(await run("--query_sds --sds_ip 10.71.0.12").output.contains("Storage Pool: hdd, Capacity: 20 GB"))
            #expect(await run("--query_all_sdc").output.contains("GUID: \(MemoryManager.guid1)"))
            #expect(
                await run("--query_all").output.contains("has 1 storage pools, 1 Fault Sets, 3 SDS nodes, 2 volumes"))
            #expect(await run("--query_volume --volume_name other").output.contains("Volume is unmapped"))
            let properties = await run(
                "--query_properties --object_type VOLUME --all_objects --properties NAME,SIZE,MAPPED_SDC_ID_LIST")
            #expect(properties.output.contains("VOLUME \(volumes[1].id):\n\tNAME"))
            #expect(properties.output.contains("<Not Set>"))
            #expect(await run("--query_fencing --volume_name redis-data").output.contains("acknowledged"))
            #expect(await run("--query_cluster").output.contains("Mode: 1_node"))

            #expect(await run("--remove_volume --volume_name redis-data").exitCode == 1)
            #expect(await run("--remove_volume --volume_name redis-data --i_am_sure").exitCode == 7)
            let unmap = await run("--unmap_volume_from_sdc --volume_name redis-data --all_sdc --i_am_sure")
            #expect(unmap.output == "Successfully un-mapped volume redis-data from all SDC nodes\n")
            #expect(await run("--rename_volume --volume_name other --new_name third").exitCode == 0)
            #expect(await run("--modify_volume_capacity --volume_name third --size_gb 24").exitCode == 0)
            #expect(await run("--remove_volume --volume_name redis-data --i_am_sure").exitCode == 0)
            #expect(await run("--remove_volume --volume_name redis-data --i_am_sure").exitCode == 7)
            #expect(await run("--logout").output == "Logged out.\n")
            #expect(await run("--query_all").exitCode == 7)
        }
    }

    /// PyPowerFlex from PyPI, unchanged, over HTTPS.
    @Test(.enabled("needs Python 3.10 or later with venv, and openssl", { await PythonClient.isAvailable }))
    func servesPyPowerFlex() async throws {
        let python = try await PythonClient.prepare()
        try await ServedGateway.run(secure: true) { served in
            try #require(served.secure > 0)
            let script = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
                .appending(path: "Clients/powerflex_client.py").path
            let result = try await runCommand(
                [
                    python, script, "\(served.secure)", "secret", "\(MemoryManager.pool)",
                    "\(MemoryManager.domain)", MemoryManager.guid1,
                ], deadline: .seconds(60))
            #expect(result.isSuccess, "\(result.outputText)\n\(result.errorText)")
            #expect(result.outputText.contains("all done"))
        }
    }
}

/// A Python environment of its own with the client, made once and kept beside the build.
enum PythonClient {
    static var isAvailable: Bool {
        get async {
            guard let openssl = try? await runCommand(["openssl", "version"]), openssl.isSuccess else { return false }
            return await python != nil
        }
    }

    /// The first interpreter that works; names alone prove nothing (version managers have shims for what is not there).
    private static var python: String? {
        get async {
            let check = "import sys, venv, ensurepip; assert sys.version_info >= (3, 10)"
            for name in ["python3", "python3.13", "python3.12", "python3.11", "python3.10"] {
                if let result = try? await runCommand([name, "-c", check]), result.isSuccess { return name }
            }
            return nil
        }
    }

    static func prepare() async throws -> String {
        let package = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let environment = package.appending(path: ".build/venv-powerflex").path
        let interpreter = environment + "/bin/python"
        let check = [interpreter, "-c", "import PyPowerFlex"]
        if let result = try? await runCommand(check), result.isSuccess { return interpreter }
        try await runChecked(
            [try #require(await python), "-m", "venv", "--clear", environment], deadline: .seconds(120))
        try await runChecked(
            [interpreter, "-m", "pip", "install", "--quiet", "PyPowerFlex==2.0.1"], deadline: .seconds(180))
        return interpreter
    }
}
