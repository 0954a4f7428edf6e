import Base
import MarathonCore
import MesosAPI
import OrderedCollections
import Testing

@Suite struct AppSpecTests {
    @Test func paperFormBecomesCanonical() throws {
        let app = try spec(redis)
        #expect(app.id.description == "/redis")
        #expect(app.networks == [Network(mode: .bridge)])
        #expect(app.container?.kind == .docker)
        #expect(app.container?.parameters.map(\.key) == ["volume-driver", "volume"])
        #expect(app.container?.parameters.map(\.value) == ["REX-Ray", "redis-data:/data"])
        #expect(app.args == ["redis-server", "--appendonly", "yes"])
        #expect(app.holdsExclusiveVolume)
        let json = app.json
        #expect(json["networks"] == [["mode": "container/bridge"]])
        #expect(json["container"]?["portMappings"]?[0]?["hostPort"] == 0)
        #expect(json["container"]?["docker"]?["portMappings"] == nil)
        #expect(json["container"]?["docker"]?["network"] == nil)
    }

    @Test func canonicalFormReadsBackUnchanged() throws {
        let texts = [
            redis, #"{"id":"/a/b","cmd":"sleep 1","instances":0,"labels":{"x":"y"},"env":{"A":1}}"#,
            #"{"id":"x","cmd":"run","portDefinitions":[{"port":80,"name":"http"}],"requirePorts":true}"#,
            #"{"id":"x","cmd":"run","constraints":[["hostname","UNIQUE"],["rack","max_per","2"]]}"#,
            #"{"id":"x","cmd":"run","healthChecks":[{"protocol":"TCP","portIndex":0},{"protocol":"COMMAND","command":{"value":"true"}}]}"#,
            #"{"id":"x","cmd":"run","ports":[],"unreachableStrategy":"disabled","killSelection":"OLDEST_FIRST"}"#,
            #"{"id":"x","cmd":"run","container":{"type":"MESOS","volumes":[{"containerPath":"data","external":{"name":"v","size":9,"options":{"dvdi/driver":"rexray"}}}]}}"#,
            #"{"id":"x","cmd":"run","ipAddress":{"networkName":"net","discovery":{"ports":[{"number":80,"name":"w"}]}}}"#,
        ]
        for text in texts {
            let app = try spec(text)
            let again = try AppSpec(parsing: app.json)
            #expect(again == app, "\(text)")
        }
    }

    @Test func defaults() throws {
        let app = try spec(#"{"id":"/web","cmd":"true"}"#)
        #expect(app.cpus == 1 && app.mem == 128 && app.disk == 0 && app.instances == 1)
        #expect(app.portDefinitions == [PortDefinition(name: "default")])
        #expect(app.json["unreachableStrategy"] == ["inactiveAfterSeconds": 0, "expungeAfterSeconds": 0])
        #expect(app.json["upgradeStrategy"] == ["minimumHealthCapacity": 1.0, "maximumOverCapacity": 1.0])
    }

    @Test(arguments: [
        (#"{"cmd":"x"}"#, "/id", "error.path.missing", SpecError.Kind.malformed),
        (#"{"id":3,"cmd":"x"}"#, "/id", "error.expected.jsstring", .malformed),
        (#"{"id":"a","cmd":"x","instances":"two"}"#, "/instances", "error.expected.jsnumber", .malformed),
        (
            #"{"id":"a","cmd":"x","container":{"docker":{"image":"i","parameters":[{"value":"v"}]}}}"#,
            "/container/docker/parameters(0)/key", "error.path.missing", .malformed
        ),
        (
            #"{"id":"a"}"#, "/", "AppDefinition must either contain one of 'cmd' or 'args', and/or a 'container'.",
            .invalid
        ),
        (
            #"{"id":"a","cmd":"x","args":["y"]}"#, "/",
            "AppDefinition must either contain one of 'cmd' or 'args', and/or a 'container'.", .invalid
        ),
        (#"{"id":"a","cmd":"x","instances":-1}"#, "/instances", "got -1, expected 0 or more", .invalid),
        (
            #"{"id":"a","cmd":"x","upgradeStrategy":{"minimumHealthCapacity":1.5}}"#,
            "/upgradeStrategy/minimumHealthCapacity", "got 1.5, expected 1.0 or less", .invalid
        ),
        (
            #"{"id":"a","cmd":"x","constraints":[["hostname","NEAR"]]}"#, "/constraints(0)",
            "Operator must be one of the following UNIQUE, CLUSTER, GROUP_BY, LIKE, MAX_PER or UNLIKE", .invalid
        ),
        (#"{"id":"a","cmd":"x","ports":[80,80]}"#, "/portDefinitions", "Ports must be unique.", .invalid),
        (
            #"{"id":"a","cmd":"x","ports":[80],"healthChecks":[{"portIndex":1}]}"#, "/healthChecks(0)",
            "Health check port indices must address an element of the ports array or container port mappings.", .invalid
        ),
        (
            #"{"id":"a","cmd":"x","networks":[{"mode":"container"}]}"#, "/networks(0)",
            "Network name must be specified when container network is selected.", .invalid
        ),
        (
            #"{"id":"db","cmd":"x","instances":2,"container":{"type":"MESOS","volumes":[{"containerPath":"d","external":{"name":"v","options":{"dvdi/driver":"rexray"}}}]}}"#,
            "/", "Number of instances is limited to 1 when declaring DVDI volumes in app [/db]", .invalid
        ),
        (
            #"{"id":"a","cmd":"x","container":{"docker":{"image":"i"},"volumes":[{"containerPath":"/d","external":{"name":"v","size":3,"options":{"dvdi/driver":"rexray"}}}]}}"#,
            "/container/volumes(0)/external/size", "must be undefined for Docker containers", .invalid
        ),
    ])
    func violations(_ text: String, _ path: String, _ message: String, _ kind: SpecError.Kind) throws {
        let json = try JSONValue(parsing: text)
        let error = #expect(throws: SpecError.self) { try AppSpec(parsing: json) }
        #expect(error?.kind == kind)
        #expect(
            error?.violations.contains(Violation(path: path, errors: [message])) ?? false,
            "\(String(describing: error))")
    }

    @Test func refusesBadIDs() {
        for id in ["", "/", "Ab", "a_b", "-a", "a-", "a..b", "a/restart", "a/tasks"] {
            #expect(throws: SpecError.self, "\(id)") {
                try AppSpec(parsing: ["id": .string(id), "cmd": "x"])
            }
        }
        for id in ["a", "a.b/c-d", "/0/9", "//x//y/"] {
            #expect(throws: Never.self, "\(id)") { try AppSpec(parsing: ["id": .string(id), "cmd": "x"]) }
        }
    }

    @Test func updateKeepsWhatItDoesNotName() throws {
        var app = try spec(redis)
        app.assignServicePorts { 10_007 }
        let scaled = try app.updated(by: ["instances": 3])
        #expect(scaled.instances == 3)
        #expect(scaled.hasSameConfiguration(as: app))
        // The paper's own document again, with its service port unnamed, is no change either.
        let same = try app.updated(by: JSONValue(parsing: redis))
        #expect(same == app)
        let commanded = try app.updated(by: ["cmd": "redis-server"])
        #expect(commanded.args.isEmpty && commanded.cmd == "redis-server")
    }

    @Test func taskForThePaper() throws {
        var cluster = Cluster(agents: 1)
        try cluster.create(redis)
        cluster.offerAll()
        let launch = try #require(cluster.tasks.values.first?.launch)
        let task = TaskBuilder().task(launch)
        let port = try #require(launch.instance.hostPorts.first ?? nil)
        #expect((31000...32000).contains(port))
        #expect(task.name == "redis")
        #expect(!task.command.shell)
        #expect(!task.command.hasValue)
        #expect(task.command.arguments == ["redis-server", "--appendonly", "yes"])
        #expect(task.container.type == .docker)
        #expect(task.container.docker.network == .bridge)
        #expect(task.container.docker.portMappings.first?.hostPort == UInt32(port))
        #expect(task.container.docker.portMappings.first?.containerPort == 6379)
        let parameters = task.container.docker.parameters.map { "\($0.key)=\($0.value)" }
        #expect(
            parameters == [
                "volume-driver=REX-Ray", "volume=redis-data:/data", "label=MESOS_TASK_ID=\(task.taskID.value)",
            ])
        let environment = Dictionary(
            uniqueKeysWithValues: task.command.environment.variables.map { ($0.name, $0.value) })
        #expect(environment["PORT0"] == String(port))
        #expect(environment["PORT_6379"] == String(port))
        #expect(environment["MARATHON_APP_ID"] == "/redis")
        #expect(environment["MARATHON_APP_RESOURCE_MEM"] == "32.0")
        #expect(environment["HOST"] == "agent-1")
        #expect(task.taskID.value.hasPrefix("redis.instance-") && task.taskID.value.hasSuffix("._app.1"))
    }

    @Test func mutatedDocumentsNeverCrash() throws {
        let seeds = try [
            redis,
            #"{"id":"/a","cmd":"x","healthChecks":[{"protocol":"HTTP","path":"/","portIndex":0}],"constraints":[["a","LIKE","b.*"]],"networks":[{"mode":"container","name":"n"}],"container":{"type":"MESOS","volumes":[{"containerPath":"d","mode":"RW","external":{"name":"v","options":{"dvdi/driver":"r"}}}],"portMappings":[{"containerPort":1,"name":"p"}]},"fetch":[{"uri":"u"}],"unreachableStrategy":{"inactiveAfterSeconds":1,"expungeAfterSeconds":2},"upgradeStrategy":{"minimumHealthCapacity":0.5}}"#,
        ].map { try JSONValue(parsing: $0) }
        var rng = SeededRandom(seed: 4711)
        var accepted = 0
        for round in 0..<4000 {
            var document = seeds[round % seeds.count]
            for _ in 0...Int.random(in: 0...2, using: &rng) { document = mutate(document, &rng) }
            guard let app = try? AppSpec(parsing: document) else { continue }
            accepted += 1
            #expect(try AppSpec(parsing: app.json) == app)
            _ = try? app.updated(by: mutate(document, &rng))
        }
        #expect(accepted > 100)
    }

    /// Replaces, removes or adds one thing somewhere in the document.
    private func mutate(_ value: JSONValue, _ rng: inout SeededRandom) -> JSONValue {
        let strange: [JSONValue] = [
            nil, true, -1, 0, 3.7, 1e300, 9_223_372_036_854_775_807, "", "x", "/", "\u{0}é", [], [nil],
            [[1, "UNIQUE"]], [:],
            ["a": ["b": nil]], "HOST", "DOCKER", "MESOS", "disabled", 70000,
        ]
        if Int.random(in: 0..<4, using: &rng) == 0 { return strange[Int.random(in: 0..<strange.count, using: &rng)] }
        if var elements = value.array, !elements.isEmpty {
            let index = Int.random(in: 0..<elements.count, using: &rng)
            elements[index] = mutate(elements[index], &rng)
            if Int.random(in: 0..<4, using: &rng) == 0 { elements.append(elements[index]) }
            return .array(elements)
        }
        guard let object = value.object, !object.isEmpty else {
            return strange[Int.random(in: 0..<strange.count, using: &rng)]
        }
        var result = value
        let keys = Array(object.keys)
        let key = keys[Int.random(in: 0..<keys.count, using: &rng)]
        switch Int.random(in: 0..<6, using: &rng) {
        case 0: result[key] = nil
        case 1: result["instances"] = strange[Int.random(in: 0..<strange.count, using: &rng)]
        case 2: result["ipAddress"] = [:]
        default: result[key] = mutate(object[key] ?? nil, &rng)
        }
        return result
    }

    @Test func timestamps() throws {
        #expect(Timestamp(milliseconds: 0).description == "1970-01-01T00:00:00.000Z")
        let time = try #require(Timestamp("2021-01-02T03:04:05.678Z"))
        #expect(time.milliseconds == 1_609_556_645_678)
        #expect(time.description == "2021-01-02T03:04:05.678Z")
        #expect(Timestamp("2024-02-29T23:59:59Z")?.description == "2024-02-29T23:59:59.000Z")
        for text in ["", "2021-13-02T03:04:05Z", "2021-01-02 03:04:05Z", "2021-01-02T03:04:05.Z", "x"] {
            #expect(Timestamp(text) == nil, "\(text)")
        }
    }
}
