import Base
import Testing

@testable import StorageTools

@Suite struct ScliTextTests {
    @Test func parsesCommandLines() throws {
        let parsed = try ScliArguments([
            "--mdm_ip", "10.0.0.1,10.0.0.2", "--add_volume", "--size_gb", "16", "--volume_name=v", "--thin_provisioned",
        ])
        #expect(parsed.command == "add_volume")
        #expect(parsed.value("size_gb") == "16")
        #expect(parsed.value("volume_name") == "v")
        #expect(parsed.has("thin_provisioned"))
        #expect(parsed.value("thin_provisioned") == nil)
        #expect(parsed.value("mdm_ip") == "10.0.0.1,10.0.0.2")
    }

    @Test(arguments: [
        [], ["query_all"], ["--"], ["--size_gb", "8"], ["--login", "--username", "a", "--username", "b"],
    ])
    func refusesCommandLines(_ arguments: [String]) {
        #expect(throws: ScliArguments.Malformed.self) { try ScliArguments(arguments) }
    }

    @Test func writesSizes() {
        #expect(ScliText.size(kibibytes: 0) == "0 Bytes")
        #expect(ScliText.size(kibibytes: 16_777_216) == "16.0 GB (16384 MB)")
        #expect(ScliText.size(kibibytes: 8_388_608) == "8.0 GB (8192 MB)")
        #expect(ScliText.size(kibibytes: 1536) == "1.5 MB (1536 KB)")
        #expect(ScliText.size(kibibytes: 1 << 31) == "2.0 TB (2048 GB)")
        #expect(ScliText.size(kibibytes: .max).hasSuffix(" TB)"))
    }

    @Test func unknownCommandsAreUsageErrors() async {
        let scli = Scli(environment: ["SCLI_MDM_IP": "127.0.0.1:1", "SCLI_SESSION_FILE": "/nonexistent/x"])
        let unknown = await scli.run(["--make_coffee"])
        #expect(unknown.exitCode == 1)
        #expect(unknown.errors.contains("make_coffee"))
        #expect(await scli.run(["--query_all", "--sugar"]).errors.contains("sugar"))
        #expect(await scli.run(["--help"]).output.contains("--query_all_volumes"))
        let noSession = await scli.run(["--query_all_volumes"])
        #expect(noSession.exitCode == 7)
        #expect(
            noSession.errors == "Error: MDM failed command.  Status: Invalid session. Please login and try again.\n")
        let unreachable = await scli.run(["--login", "--username", "a", "--password", "b"])
        #expect(unreachable.exitCode == 1)
        #expect(unreachable.errors.contains("Failed to connect"))
    }
}
