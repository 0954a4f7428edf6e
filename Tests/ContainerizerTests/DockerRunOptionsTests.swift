import Base
import MesosAPI
import Testing

@testable import Containerizer

@Suite struct DockerRunOptionsTests {
    private func body(_ parameters: [(String, String)]) throws -> JSONValue {
        var creation = DockerCreation(image: "redis")
        for (key, value) in parameters { try creation.apply(option: key, value: value) }
        return creation.json
    }

    /// The parameters of the white paper's Redis.
    @Test func volumeDriverAndNamedVolume() throws {
        let json = try body([("volume-driver", "REX-Ray"), ("volume", "redis-data:/data")])
        #expect(json["HostConfig"]?["VolumeDriver"] == "REX-Ray")
        #expect(json["HostConfig"]?["Binds"] == ["redis-data:/data"])
    }

    @Test func listsGrowAndScalarsAreReplaced() throws {
        let json = try body([
            ("env", "A=1"), ("env", "B=x=y"), ("env", "A=2"), ("cap-add", "NET_ADMIN"), ("cap-add", "SYS_TIME"),
            ("hostname", "a"), ("hostname", "b"), ("volume", "/anonymous"), ("label", "k=v"),
        ])
        #expect(json["Env"] == ["B=x=y", "A=2"])
        #expect(json["HostConfig"]?["CapAdd"] == ["NET_ADMIN", "SYS_TIME"])
        #expect(json["Hostname"] == "b")
        #expect(json["Volumes"] == ["/anonymous": [:]])
        #expect(json["Labels"] == ["k": "v"])
    }

    @Test func structuredValues() throws {
        let json = try body([
            ("ulimit", "nofile=1024:2048"), ("memory-swap", "-1"), ("memory", "1.5g"), ("device", "/dev/fuse:rw"),
            ("publish", "127.0.0.1:8080:80/udp"), ("log-opt", "max-size=10m"), ("log-driver", "json-file"),
            ("cpus", "0.5"), ("privileged", "true"), ("tmpfs", "/run:size=64m"), ("health-interval", "1m30s"),
        ])
        let host = json["HostConfig"]
        #expect(host?["Ulimits"] == [["Name": "nofile", "Soft": 1024, "Hard": 2048]])
        #expect(host?["MemorySwap"] == -1)
        #expect(host?["Memory"] == .integer(1_610_612_736))
        #expect(
            host?["Devices"] == [
                ["PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rw"]
            ])
        #expect(host?["PortBindings"] == ["80/udp": [["HostIp": "127.0.0.1", "HostPort": "8080"]]])
        #expect(host?["LogConfig"] == ["Config": ["max-size": "10m"], "Type": "json-file"])
        #expect(host?["NanoCpus"] == 500_000_000)
        #expect(host?["Privileged"] == true)
        #expect(host?["Tmpfs"] == ["/run": "size=64m"])
        #expect(json["Healthcheck"]?["Interval"] == 90_000_000_000)
    }

    @Test(arguments: [
        ("no-such-option", "1"), ("name", "x"), ("detach", "true"), ("ulimit", "nofile"), ("memory", "lots"),
        ("cpus", "-1"), ("privileged", "maybe"), ("publish", "notaport"), ("restart", "always"),
        ("security-opt", "seccomp=/etc/profile.json"), ("mount", "nonsense=1"),
    ])
    func whatCannotBeIsRefusedByName(_ key: String, _ value: String) {
        let error = #expect(throws: ContainerizerError.self) { try body([(key, value)]) }
        #expect(error?.code == .invalidRequest)
        #expect(error?.message.contains(key) == true)
    }

    @Test(arguments: [("32m", 33_554_432), ("1KiB", 1024), ("10b", 10), ("2GB", 2_147_483_648), ("-1", -1)])
    func sizes(_ text: String, _ bytes: Int64) { #expect(DockerCreation.size(text) == bytes) }
}

@Suite struct DockerTaskTests {
    private func spec(_ adjust: (inout ContainerSpec) -> Void = { _ in }) -> ContainerSpec {
        var container = MesosContainerInfo()
        container.type = .docker
        container.docker.image = "redis"
        container.docker.network = .bridge
        var command = MesosCommandInfo()
        command.shell = false
        command.arguments = ["redis-server", "--appendonly", "yes"]
        var spec = ContainerSpec(
            id: "c1", command: command, container: container,
            resources: [scalar("cpus", 0.2), scalar("mem", 32), ports(31000, 31005)],
            environment: [("MESOS_SANDBOX", "/host/sandbox"), ("PORT", "31000")], sandbox: "/host/sandbox",
            stateDirectory: "/state")
        adjust(&spec)
        return spec
    }

    private func scalar(_ name: String, _ value: Double) -> MesosResource {
        var resource = MesosResource()
        resource.name = name
        resource.type = .scalar
        resource.scalar.value = value
        return resource
    }

    private func ports(_ begin: UInt64, _ end: UInt64) -> MesosResource {
        var resource = MesosResource()
        resource.name = "ports"
        resource.type = .ranges
        var range = MesosValue.Range()
        range.begin = begin
        range.end = end
        resource.ranges.range = [range]
        return resource
    }

    private func map(_ host: UInt32, _ container: UInt32) -> MesosContainerInfo.DockerInfo.PortMapping {
        var mapping = MesosContainerInfo.DockerInfo.PortMapping()
        mapping.hostPort = host
        mapping.containerPort = container
        mapping.protocol = "tcp"
        return mapping
    }

    @Test func redisOfTheWhitePaper() throws {
        let spec = spec { $0.container?.docker.portMappings = [map(31002, 6379)] }
        let json = try DockerTask(spec: spec, limitsCPU: false).creation().json
        #expect(json["Image"] == "redis")
        #expect(json["Cmd"] == ["redis-server", "--appendonly", "yes"])
        #expect(json["Entrypoint"] == nil)
        #expect(
            json["Env"] == ["PORT=31000", "MESOS_SANDBOX=/mnt/mesos/sandbox", "MESOS_CONTAINER_NAME=mesos-c1"])
        #expect(json["HostConfig"]?["CpuShares"] == 204)
        #expect(json["HostConfig"]?["CpuQuota"] == nil)
        #expect(json["HostConfig"]?["Memory"] == 33_554_432)
        #expect(json["HostConfig"]?["NetworkMode"] == "bridge")
        #expect(json["HostConfig"]?["Binds"] == ["/host/sandbox:/mnt/mesos/sandbox"])
        #expect(json["HostConfig"]?["PortBindings"] == ["6379/tcp": [["HostIp": "", "HostPort": "31002"]]])
    }

    @Test func shellCommandsOverrideTheEntrypoint() throws {
        let spec = spec {
            $0.command = MesosCommandInfo()
            $0.command.value = "echo $PORT"
        }
        let json = try DockerTask(spec: spec, limitsCPU: true).creation().json
        #expect(json["Entrypoint"] == ["/bin/sh"])
        #expect(json["Cmd"] == ["-c", "echo $PORT"])
        #expect(json["HostConfig"]?["CpuQuota"] == 20_000)
    }

    @Test func portsOutsideTheResourcesAreRefused() {
        let spec = spec { $0.container?.docker.portMappings = [map(80, 80)] }
        #expect(throws: ContainerizerError.self) { try DockerTask(spec: spec, limitsCPU: false).creation() }
    }

    @Test func volumes() throws {
        let spec = spec { spec in
            var relative = MesosVolume()
            relative.containerPath = "/cache"
            relative.hostPath = "cache"
            relative.mode = .rw
            var driven = MesosVolume()
            driven.containerPath = "/data"
            driven.mode = .ro
            driven.source.type = .dockerVolume
            driven.source.dockerVolume.driver = "rexray"
            driven.source.dockerVolume.name = "data"
            spec.container?.volumes = [relative, driven]
        }
        let json = try DockerTask(spec: spec, limitsCPU: false).creation().json
        #expect(
            json["HostConfig"]?["Binds"] == [
                "/host/sandbox:/mnt/mesos/sandbox", "/host/sandbox/cache:/cache:rw", "data:/data:ro",
            ])
        #expect(json["HostConfig"]?["VolumeDriver"] == "rexray")
    }

    @Test func volumesStayInTheSandbox() {
        let spec = spec { spec in
            var volume = MesosVolume()
            volume.containerPath = "/x"
            volume.hostPath = "../../etc"
            volume.mode = .rw
            spec.container?.volumes = [volume]
        }
        #expect(throws: ContainerizerError.self) { try DockerTask(spec: spec, limitsCPU: false).creation() }
    }
}

@Suite struct DockerLogDecoderTests {
    @Test func piecesOfAnySizeGiveTheSameOutput() throws {
        var stream: [UInt8] = []
        for (kind, text) in [(1, "hello\n"), (2, "oops\n"), (1, ""), (1, "world\n")] as [(UInt8, String)] {
            stream += [kind, 0, 0, 0, 0, 0, 0, UInt8(text.utf8.count)] + Array(text.utf8)
        }
        for size in 1...stream.count {
            var decoder = DockerLogDecoder(isTerminal: false)
            var output: [UInt8] = []
            var errors: [UInt8] = []
            var start = 0
            while start < stream.count {
                let end = min(start + size, stream.count)
                for piece in try decoder.append(stream[start..<end]) {
                    if piece.isError { errors += piece.bytes } else { output += piece.bytes }
                }
                start = end
            }
            #expect(String(decoding: output, as: UTF8.self) == "hello\nworld\n")
            #expect(String(decoding: errors, as: UTF8.self) == "oops\n")
        }
    }

    @Test func nonsenseIsAnError() {
        var decoder = DockerLogDecoder(isTerminal: false)
        #expect(throws: DockerLogDecoder.Malformed.self) { try decoder.append(Array("plain text of a page".utf8)) }
    }

    @Test(arguments: [
        ("redis", "redis", "latest"), ("redis:5", "redis", "5"), ("host:5000/a/b", "host:5000/a/b", "latest"),
        ("host:5000/a:1", "host:5000/a", "1"), ("a@sha256:00", "a", "sha256:00"),
    ])
    func references(_ image: String, _ name: String, _ tag: String) {
        let parts = DockerClient.splitReference(image)
        #expect(parts.name == name)
        #expect(parts.tag == tag)
    }
}
