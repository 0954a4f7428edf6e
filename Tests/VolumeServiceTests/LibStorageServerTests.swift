import Base
import HTTPKit
import NIOHTTP1
import OrderedCollections
import Synchronization
import TestKit
import Testing

@testable import VolumeService

/// The libStorage API over HTTP, as docs/compat/rexray.md says that it works.
@Suite(.timeLimit(.minutes(2))) struct LibStorageServerTests {
    @Test func rootServicesAndVersion() async throws {
        try await ServedVolumes.run { served in
            let root = try await served.call(.GET, "/")
            #expect(try root.json().array?.contains("/volumes") == true)
            #expect(root.headers.first(name: "libstorage-servername") == "holdfast")
            let services = try await served.call(.GET, "/services").json()
            #expect(services["scaleio"]?["driver"]?["name"] == "scaleio")
            let own = try await served.call(.GET, "/services/scaleio?instance", as: "sdc1").json()
            #expect(own["instance"]?["instanceID"]?["id"] == "sdc1")
            let anonymous = try await served.call(.GET, "/services/scaleio?instance")
            #expect(try anonymous.status == 400 && anonymous.json()["message"] == "missing instance ID")
            #expect(try await served.call(.GET, "/help/version").json()["semver"] == "0.11.4")
            #expect(try await served.call(.GET, "/snapshots").json() == ["scaleio": [:]])
            #expect(try await served.call(.GET, "/snapshots/scaleio").json() == [:])
            #expect(try await served.call(.GET, "/snapshots/scaleio/1").status == 404)
        }
    }

    @Test func volumesAreCreatedFoundAndRemoved() async throws {
        try await ServedVolumes.run { served in
            let created = try await served.call(
                .POST, "/volumes/scaleio", ["name": "one", "size": 8, "type": "", "opts": ["x": 1]])
            #expect(created.status == 201)
            let id = try #require(try created.json()["id"]?.string)
            #expect(try created.json()["size"] == 8)
            let other = try await served.create("two", size: 16)
            #expect(try await served.call(.POST, "/volumes/scaleio", ["name": "one"]).status == 500)

            let all = try await served.call(.GET, "/volumes").json()
            #expect(all["scaleio"]?.object?.keys.sorted() == [id, other].sorted())
            #expect(try await served.call(.GET, "/volumes/SCALEIO").json().object?.count == 2)
            let filtered = try await served.call(.GET, "/volumes/scaleio?filter=(name%3Dtwo)").json()
            #expect(filtered.object.map { Array($0.keys) } == [other])
            #expect(try await served.call(.GET, "/volumes/scaleio/\(id)").json()["name"] == "one")
            #expect(try await served.call(.GET, "/volumes/scaleio/two?byName").json()["id"]?.string == other)
            for path in ["/volumes/none", "/volumes/none/\(id)", "/volumes/scaleio/none", "/volumes/scaleio/x?byName"] {
                let missing = try await served.call(.GET, path)
                #expect(missing.status == 404)
                #expect(try missing.json()["message"] == "resource not found")
            }
            #expect(try await served.call(.DELETE, "/volumes/scaleio/\(id)").status == 204)
            #expect(try await served.call(.DELETE, "/volumes/scaleio/\(id)").status == 404)
            #expect(try await served.call(.GET, "/volumes/scaleio").json().object?.count == 1)
        }
    }

    @Test func volumesAreEnlarged() async throws {
        try await ServedVolumes.run { served in
            let id = try await served.create("one", size: 8)
            let resized = try await served.call(.POST, "/volumes/scaleio/\(id)?resize", ["size": 24])
            #expect(try resized.json()["size"] == 24)
            let byName = try await served.call(.POST, "/volumes/scaleio/one?resize&byName", ["size": 32])
            #expect(try byName.json()["size"] == 32)
            for body: JSONValue in [[:], ["size": 0], ["size": -8], ["size": "8"], ["size": 99_999_999]] {
                #expect(try await served.call(.POST, "/volumes/scaleio/\(id)?resize", body).status == 500)
            }
            #expect(try await served.call(.POST, "/volumes/scaleio/none?resize&byName", ["size": 8]).status == 404)
        }
    }

    @Test func attachingAndWhatCallersSeeOfIt() async throws {
        try await ServedVolumes.run { served in
            let id = try await served.create("one")
            let path = "/volumes/scaleio/\(id)"
            #expect(try await served.call(.POST, path + "?attach", [:]).status == 400, "nobody calls")
            let attached = try await served.call(.POST, path + "?attach", ["force": false], as: "sdc1")
            #expect(try attached.status == 200 && attached.json()["attachToken"]?.string == id)
            #expect(try attached.json()["volume"]?["attachmentState"] == 2)
            #expect(try await served.call(.POST, path + "?attach", nil, as: "sdc1").status == 500)
            #expect(try await served.call(.POST, path + "?attach", nil, as: "sdc2").status == 500)
            #expect(served.platform.holder("one") == "sdc1")
            #expect(try await served.call(.DELETE, path).status == 500, "it is attached")

            let missing = try await served.call(.GET, path + "?attachments=true", as: "sdc1")
            #expect(try missing.status == 400 && missing.json()["message"] == "missing local devices")
            let mine = try await served.call(
                .GET, path + "?attachments=true", as: "sdc1", devices: "\(id)::/dev/scinia"
            ).json()
            #expect(mine["attachments"]?[0]?["deviceName"] == "/dev/scinia")
            let theirs = try await served.call(.GET, "/volumes/scaleio?attachments=1", as: "sdc2").json()
            #expect(theirs[id]?["attachmentState"] == 4)
            let unattached = try await served.call(.GET, "/volumes/scaleio?attachments=17", as: "sdc2").json()
            #expect(unattached == [:])

            let forced = try await served.call(.POST, path + "?attach", ["force": true], as: "sdc2")
            #expect(forced.status == 200)
            #expect(served.platform.holder("one") == "sdc2")
            #expect(served.platform.state.withLock { $0.preemptions } == 1)
            #expect(try await served.call(.POST, path + "?detach", [:]).status == 400)
            let detached = try await served.call(.POST, path + "?detach", [:], as: "sdc2")
            #expect(try detached.status == 205 && detached.json()["id"]?.string == id)
            #expect(served.platform.holder("one") == nil)

            for path in ["/volumes?detach", "/volumes/scaleio?detach"] {
                #expect(try await served.call(.POST, "/volumes/scaleio/\(id)?attach", nil, as: "sdc3").status == 200)
                let all = try await served.call(.POST, path, nil, as: "sdc3")
                #expect(all.status == 205)
                #expect(served.platform.holder("one") == nil)
            }
            #expect(try await served.call(.POST, path + "?attach", nil, as: "sdc1").status == 200)
            #expect(try await served.call(.DELETE, path + "?force", nil).status == 204)
        }
    }

    @Test func mountingForTheCommandLine() async throws {
        try await ServedVolumes.run { served in
            let id = try await served.create("one")
            let mounted = try await served.call(.POST, "/volumes/scaleio/\(id)?mount", ["holder": "cli"])
            #expect(try mounted.json() == ["mountPoint": "/volumes/one/data"])
            let seen = try await served.call(
                .GET, "/volumes/scaleio/\(id)?attachments=true", as: "sdc1", devices: "\(id)::/dev/x"
            ).json()
            #expect(seen["attachments"]?[0]?["mountPoint"] == "/volumes/one/data")
            let detach = try await served.call(.POST, "/volumes/scaleio/\(id)?detach", [:], as: "sdc1")
            #expect(detach.status == 500, "it is mounted")
            #expect(
                try await served.call(.POST, "/volumes/scaleio/one?unmount&byName", ["holder": "cli"]).status == 200)
            #expect(served.node.host.mountPoints().isEmpty)
            #expect(try await served.call(.POST, "/volumes/scaleio/\(id)?mount", ["fsType": "fat"]).status == 500)
        }
    }

    @Test func slowCallsBecomeTasks() async throws {
        try await ServedVolumes.run(taskTimeout: .zero) { served in
            let slow = try await served.call(.POST, "/volumes/scaleio", ["name": "one"])
            #expect(slow.status == 408)
            let number = try #require(try slow.json()["id"]?.integer)
            try await eventually("the task's end") {
                try await served.call(.GET, "/tasks/\(number)").json()["state"] == "success"
            }
            let task = try await served.call(.GET, "/tasks/\(number)").json()
            #expect(task["result"]?["name"] == "one")
            let failing = try await served.call(.DELETE, "/volumes/scaleio/none?async")
            #expect(failing.status == 202)
            let failed = try #require(try failing.json()["id"]?.integer)
            try await eventually("the task's failure") {
                try await served.call(.GET, "/tasks/\(failed)").json()["state"] == "error"
            }
            #expect(try await served.call(.GET, "/tasks").json().object?.count == 2)
            for path in ["/tasks/0", "/tasks/999", "/tasks/x", "/tasks/99999999999999999999"] {
                #expect(try await served.call(.GET, path).status == 404)
            }
        }
    }

    @Test func badBodiesAreRefused() async throws {
        try await ServedVolumes.run { served in
            let id = try await served.create("one")
            let volume = "/volumes/scaleio/\(id)"
            let wrong: [(path: String, body: String)] = [
                ("/volumes/scaleio", "{"), ("/volumes/scaleio", "[]"), ("/volumes/scaleio", "null"),
                ("/volumes/scaleio", "{}"), ("/volumes/scaleio", #"{"name":""}"#), ("/volumes/scaleio", #"{"name":5}"#),
                ("/volumes/scaleio", #"{"name":"x","size":"8"}"#), ("/volumes/scaleio", #"{"name":"x","size":-8}"#),
                ("/volumes/scaleio", #"{"name":"x","size":1.5}"#), ("/volumes/scaleio", #"{"name":"x","sise":8}"#),
                ("/volumes/scaleio", #"{"name":"x","type":[]}"#), ("/volumes/scaleio", #"{"name":"x","opts":"y"}"#),
                ("/volumes/scaleio", #"{"name":"x","encrypted":"no"}"#),
                ("/volumes/scaleio", #"{"name":"x","encrypted":true}"#), ("/volumes/scaleio", #"{"name":"../x"}"#),
                (volume + "?attach", "{"), (volume + "?attach", #"{"force":"true"}"#),
                (volume + "?attach", #"{"farce":true}"#), (volume + "?detach", #"{"force":1}"#),
                (volume + "?mount", #"{"overwriteFS":"false"}"#), (volume + "?mount", #"{"holder":{}}"#),
                (volume + "?unmount", "no"), (volume, "{}"), (volume + "?copy", "{}"), ("/volumes", "{}"),
            ]
            for (path, body) in wrong {
                let reply = try await served.send(.POST, path, Array(body.utf8), as: "sdc1")
                #expect(reply.status == 500, "\(path) \(body): \(reply.status) \(reply.text)")
                #expect(try reply.json()["message"]?.string?.isEmpty == false)
            }
            var random = SeededRandom(seed: 32)
            for path in ["/volumes/scaleio", volume + "?attach", volume + "?detach", volume + "?mount"] {
                for _ in 0..<25 {
                    let garbage = (0..<Int.random(in: 1...200, using: &random)).map { _ in
                        UInt8.random(in: 0...255, using: &random)
                    }
                    #expect(try await served.send(.POST, path, garbage, as: "sdc1").status == 500)
                }
                let long = [UInt8](repeating: 0x20, count: 1 << 20 + 1)
                #expect(try await served.send(.POST, path, long, as: "sdc1").status == 413)
            }
            #expect(served.platform.holder("one") == nil)
            #expect(served.platform.state.withLock { $0.volumes.count } == 1, "nothing came of it")
            #expect(try await served.call(.POST, volume + "?attach", ["force": false], as: "sdc1").status == 200)
        }
    }

    @Test func oddPathsQueriesAndHeadersAreNoTrouble() async throws {
        try await ServedVolumes.run { served in
            let id = try await served.create("one")
            for path in [
                "/volumes/scaleio?attachments=x", "/volumes/scaleio?attachments=99999999999999999999",
                "/volumes/scaleio?filter=((((", "/volumes/scaleio?=&&=&%", "/volumes/scaleio?%ff%zz=1",
            ] {
                #expect(try await served.call(.GET, path, as: "sdc1", devices: "::,::::,x").status == 200, "\(path)")
            }
            for path in ["/volumes/scaleio/%2e%2e%2f", "/volumes/scaleio/%00", "/volumes/scaleio/%zz", "/none"] {
                #expect(try await served.call(.GET, path).status == 404, "\(path)")
            }
            for header in ["", "=", "scaleio", "scaleio=", "scaleio=,,", "scaleio=,,***", "scaleio:other=sdc9"] {
                let reply = try await HTTPCaller(headers: ["libstorage-instanceid": header]).call(
                    .POST, served.libStorage, "/volumes/scaleio/\(id)?attach")
                #expect(reply.status == 400, "\(header)")
            }
            #expect(served.platform.holder("one") == nil)
        }
    }
}
