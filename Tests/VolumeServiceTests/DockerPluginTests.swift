import Base
import HTTPKit
import NIOHTTP1
import OrderedCollections
import Synchronization
import TestKit
import Testing

@testable import VolumeService

/// The volume plugin as dockerd meets it: HTTP on a unix socket.
@Suite(.timeLimit(.minutes(2))) struct DockerPluginTests {
    @Test func introducesItself() async throws {
        try await ServedVolumes.run { served in
            let activated = try await served.docker("Plugin.Activate", nil)
            #expect(try activated.json() == ["Implements": ["VolumeDriver"]])
            #expect(activated.headers.first(name: "content-type") == "application/vnd.docker.plugins.v1.2+json")
            let capabilities = try await served.docker("Capabilities", [:])
            #expect(try capabilities.json() == ["Capabilities": ["Scope": "global"]])
        }
    }

    @Test func aVolumeFromCreationToRemoval() async throws {
        try await ServedVolumes.run { served in
            let options: JSONValue = ["size": "5", "unknownOption": "x"]
            let created = try await served.docker("Create", ["Name": "data", "Opts": options])
            #expect(try created.status == 200 && created.json() == ["Err": ""])
            #expect(try await served.docker("Create", ["Name": "data", "Opts": nil]).status == 500, "16 GB are more")
            #expect(try await served.docker("Create", ["Name": "data", "Opts": options]).status == 200)
            let volume = try await served.docker("Get", ["Name": "data"]).json()["Volume"]
            #expect(volume?["Name"] == "data" && volume?["Mountpoint"] == "")
            #expect(volume?["Status"]?["size"] == 5 && volume?["Status"]?["service"] == "scaleio")

            for id in ["one", "two", "two"] {
                let mounted = try await served.docker("Mount", ["Name": "data", "ID": .string(id)])
                #expect(try mounted.json() == ["Mountpoint": "/volumes/data/data", "Err": ""])
            }
            #expect(try await served.docker("Path", ["Name": "data"]).json()["Mountpoint"] == "/volumes/data/data")
            let removal = try await served.docker("Remove", ["Name": "data"])
            #expect(try removal.status == 500 && removal.json()["Err"]?.string?.contains("mounted") == true)
            #expect(try await served.docker("Unmount", ["Name": "data", "ID": "one"]).json() == ["Err": ""])
            #expect(served.platform.holder("data") == "sdc1", "the second id still holds it")
            #expect(try await served.docker("Unmount", ["Name": "data", "ID": "two"]).status == 200)
            #expect(served.platform.holder("data") == nil)
            #expect(try await served.docker("Path", ["Name": "data"]).json()["Mountpoint"] == "")
            #expect(try await served.docker("Unmount", ["Name": "data", "ID": "two"]).status == 200)

            #expect(try await served.docker("Remove", ["Name": "data"]).json() == ["Err": ""])
            let gone = try await served.docker("Get", ["Name": "data"])
            #expect(gone.status == 500)
            #expect(try gone.json()["Err"]?.string?.hasPrefix("docker-legacy: Get: data: failed: ") == true)
        }
    }

    @Test func volumesAreListedUnderOneName() async throws {
        try await ServedVolumes.run { served in
            for name in ["b", "a"] {
                #expect(try await served.docker("Create", ["Name": .string(name)]).status == 200)
            }
            let list = try await served.docker("List", nil).json()["Volumes"]?.array
            #expect(list?.map { $0["Name"] } == ["a", "b"])
            #expect(try await served.docker("List", [:], at: served.alias).json() == ["Volumes": [], "Err": ""])
            #expect(try await served.docker("Mount", ["Name": "a", "ID": "x"], at: served.alias).status == 200)
            #expect(try await served.docker("Get", ["Name": "a"]).json()["Volume"]?["Mountpoint"] == "/volumes/a/data")
        }
    }

    @Test(arguments: ["Create", "Mount", "Unmount", "Path", "Get", "Remove"])
    func badRequestsGetClearErrors(_ method: String) async throws {
        try await ServedVolumes.run { served in
            let wrong: [(body: String, says: String)] = [
                ("{", "no JSON"), ("\u{0}", "no JSON"), ("{\"Name\":\"v\"}}", "no JSON"), ("[]", "no JSON object"),
                ("\"v\"", "no JSON object"), ("", "names no volume"), ("{}", "names no volume"),
                ("{\"Name\":\"\"}", "names no volume"), ("{\"Name\":null}", "names no volume"),
                ("{\"Name\":5}", "\"Name\" is no string"), ("{\"Name\":{\"a\":[]}}", "\"Name\" is no string"),
                ("{\"Name\":\"v\",\"ID\":7}", "\"ID\" is no string"),
                ("{\"Name\":\"v\",\"Opts\":\"size=5\"}", "\"Opts\" is no JSON object"),
                (String(repeating: "[", count: 100_000), "no JSON"),
            ]
            for (body, says) in wrong {
                let reply = try await HTTPCaller().call(
                    .POST, served.plugin, "/VolumeDriver.\(method)", body: Array(body.utf8))
                #expect(reply.status == 500)
                #expect(try reply.json()["Err"]?.string?.contains(says) == true, "\(body.prefix(40)): \(reply.text)")
            }
            var random = SeededRandom(seed: 31)
            for _ in 0..<50 {
                let garbage = (0..<Int.random(in: 1...200, using: &random)).map { _ in
                    UInt8.random(in: 0...255, using: &random)
                }
                let reply = try await HTTPCaller().call(
                    .POST, served.plugin, "/VolumeDriver.\(method)", body: garbage)
                #expect(try reply.status == 500 && reply.json()["Err"]?.string?.isEmpty == false)
            }
            let long = [UInt8](repeating: 0x20, count: 1 << 20 + 1)
            #expect(
                try await HTTPCaller().call(.POST, served.plugin, "/VolumeDriver.\(method)", body: long).status == 500)
            #expect(served.platform.state.withLock { $0.volumes.isEmpty }, "nothing came of it")
            #expect(try await served.docker("Create", ["Name": "v"]).status == 200)
        }
    }

    @Test func impossibleValuesAndUnknownMethodsAreRefused() async throws {
        try await ServedVolumes.run { served in
            for name in ["..", "a/b", "a\nb", String(repeating: "x", count: 300)] {
                for method in ["Create", "Mount", "Unmount", "Remove"] {
                    #expect(try await served.docker(method, ["Name": .string(name)]).status == 500, "\(method) \(name)")
                }
            }
            let options: [JSONValue] = [
                ["size": "many"], ["size": "0"], ["size": "-1"], ["size": "99999999999999999999"], ["size": []],
                ["iops": "x"], ["encrypted": "true"],
            ]
            for options in options {
                let reply = try await served.docker("Create", ["Name": "v", "Opts": options])
                #expect(reply.status == 500, "\(options)")
            }
            #expect(served.platform.state.withLock { $0.volumes.isEmpty })
            #expect(try await served.docker("Explode", ["Name": "v"]).status == 404)
            #expect(try await served.docker("Plugin.Deactivate", nil).status == 404)
            #expect(try await HTTPCaller().call(.GET, served.plugin, "/VolumeDriver.List").status == 404)
        }
    }

    @Test func aPlatformThatIsAwayIsAnErrorNotAHang() async throws {
        try await ServedVolumes.run { served in
            #expect(try await served.docker("Create", ["Name": "v"]).status == 200)
            served.platform.state.withLock { $0.isReachable = false }
            for method in ["Create", "Mount", "Get", "List", "Remove"] {
                let reply = try await served.docker(method, ["Name": "v"])
                #expect(reply.status == 500)
                #expect(try reply.json()["Err"]?.string?.contains("the platform is away") == true)
            }
            served.platform.state.withLock { $0.isReachable = true }
            #expect(try await served.docker("Mount", ["Name": "v", "ID": "x"]).status == 200)
        }
    }
}
