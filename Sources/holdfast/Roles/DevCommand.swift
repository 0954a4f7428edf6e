import ArgumentParser
import Base
import FoundationEssentials
import Glibc
import HTTPKit
import Logging
import NIOHTTP1
import ServiceLifecycle

/// The first look: a whole cluster in one process, without root and without Docker. Tasks are plain processes; volumes
/// are NBD sockets (for root also block devices). Everything lives below one directory and goes on where it was when
/// started again.
struct DevCommand: Role {
    static let configuration = CommandConfiguration(
        commandName: "dev", abstract: "Runs everything on this machine, for a first look.",
        discussion: "Ctrl-C ends it; started again with the same --dir it goes on where it was.")

    @Option(help: "Keeps everything. Default: .holdfast/dev in the home directory.")
    var dir: String?

    @Option(name: .customLong("port-offset"), help: "Added to every port, to run beside another.")
    var portOffset = 0

    @Option(name: .customLong("device-size"), help: "Size of each storage server's (sparse) device file.")
    var deviceSize = "20g"

    @Flag(help: "Shows the log of all parts, not only warnings.")
    var verbose = false

    func validate() throws {
        guard (0...20000).contains(portOffset) else { throw ValidationError("--port-offset must be 0 to 20000") }
    }

    func services(logger: Logger) async throws -> [any Service] {
        var logger = logger
        if !verbose { logger.logLevel = .warning }
        let layout = try DevLayout(directory: dir, offset: portOffset)
        let taken = DevLayout.ports.map(layout.port).filter { !isFree(port: $0) }
        guard taken.isEmpty else {
            let list = taken.map(String.init).joined(separator: ", ")
            throw ValidationError(
                "Something listens on port \(list) already. End it, or run beside it with --port-offset 10000 --dir ANOTHER."
            )
        }
        try layout.makeDirectories()
        let password = try layout.password()
        var services: [any Service] = []
        for (type, arguments) in parts(layout, password: password) {
            guard let part = try type.parseAsRoot(arguments) as? any Role else { continue }
            var partLogger = logger
            partLogger[metadataKey: "role"] = "\(type.configuration.commandName ?? "")"
            services += try await part.services(logger: partLogger)
        }
        return services + [DevGuide(layout: layout)]
    }

    private func parts(_ layout: DevLayout, password: String) -> [(type: any Role.Type, arguments: [String])] {
        let host = DevLayout.host
        let mdm = "\(host):\(layout.port(6611))"
        let master = "\(host):\(layout.port(5050))"
        var parts: [(type: any Role.Type, arguments: [String])] = [
            (
                MdmCommand.self,
                [
                    "--store", "embedded:\(layout.directory)/mdm/mdm.db", "--listen", mdm, "--work-dir",
                    "\(layout.directory)/mdm", "--gateway-http", "\(host):\(layout.port(8081))", "--gateway-https",
                    "\(host):\(layout.port(8443))", "--gateway-password-file", layout.passwordFile,
                ]
            )
        ]
        for number in 1...3 {
            parts.append(
                (
                    SdsCommand.self,
                    [
                        "--mdm", mdm, "--listen", "\(host):\(layout.port(7071 + number))", "--name", "sds\(number)",
                        "--device", "\(layout.directory)/sds\(number)/device", "--device-size", deviceSize,
                    ]
                ))
        }
        let isRoot = geteuid() == 0
        parts += [
            (
                SdcCommand.self,
                [
                    "--mdm", mdm, "--control", layout.controlSocket, "--attach", isRoot ? "both" : "nbd",
                    "--dev-dir", "\(layout.directory)/disks", "--nbd-dir", "\(layout.directory)/nbd", "--work-dir",
                    "\(layout.directory)/sdc", "--guid-file", "\(layout.directory)/sdc/guid", "--name", "dev",
                ]
            ),
            (
                MasterCommand.self,
                [
                    "--ip=\(host)", "--port=\(layout.port(5050))", "--work_dir=\(layout.directory)/master",
                    "--cluster=dev",
                ]
            ),
            (
                VolumesCommand.self,
                [
                    "--set", "scaleio.endpoint=http://\(host):\(layout.port(8081))/api",
                    "--set", "scaleio.userName=admin", "--set", "scaleio.password=\(password)",
                    "--set", "scaleio.systemName=holdfast", "--set", "scaleio.protectionDomainName=pd1",
                    "--set", "scaleio.storagePoolName=default", "--set", "scaleio.thinOrThick=ThinProvisioned",
                    "--set", "libstorage.server.endpoints.tcp.address=tcp://\(host):\(layout.port(7979))",
                    "--lib-dir", "\(layout.directory)/volumes", "--run-dir", "\(layout.directory)/run",
                    "--plugin-dir", "\(layout.directory)/plugins", "--dev-dir", "\(layout.directory)/disks",
                    "--sdc", layout.controlSocket,
                ]
            ),
            (
                AgentCommand.self,
                [
                    "--master=\(master)", "--ip=\(host)", "--port=\(layout.port(5051))", "--hostname=localhost",
                    "--work_dir=\(layout.directory)/agent", "--runtime_dir=\(layout.directory)/agent/run",
                    "--containerizers=mesos", isRoot ? "--switch_user" : "--no-switch_user",
                ]
            ),
            (
                MarathonCommand.self,
                [
                    "--master", master, "--store", "embedded:\(layout.directory)/marathon/marathon.db",
                    "--http_address", host, "--http_port", "\(layout.port(8080))", "--hostname", "localhost",
                ]
            ),
        ]
        return parts
    }
}

/// Where `dev` keeps and finds things.
struct DevLayout {
    static let host = "127.0.0.1"
    /// All that is listened at, without offset.
    static let ports = [5050, 5051, 6611, 7072, 7073, 7074, 7979, 8080, 8081, 8443]

    let directory: String
    private let offset: Int

    init(directory: String?, offset: Int) throws {
        let environment = ProcessInfo.processInfo.environment
        let chosen = directory ?? (environment["HOME"] ?? "/tmp") + "/.holdfast/dev"
        self.directory =
            chosen.hasPrefix("/") ? chosen : FileManager.default.currentDirectoryPath + "/" + chosen
        self.offset = offset
        // The longest unix socket below it has a volume's id in its name, and such paths hold 107 bytes.
        guard self.directory.utf8.count <= 70 else {
            throw ValidationError("--dir \(self.directory) is too long: sockets in it could not be bound")
        }
    }

    func port(_ standard: Int) -> Int { standard + offset }
    var controlSocket: String { "\(directory)/sdc.sock" }
    var passwordFile: String { "\(directory)/mdm/gateway.password" }

    func makeDirectories() throws {
        let parts = [
            "mdm", "sds1", "sds2", "sds3", "sdc", "nbd", "disks", "master", "agent", "agent/run", "marathon", "volumes",
            "run", "plugins",
        ]
        for part in parts {
            try FileManager.default.createDirectory(
                atPath: "\(directory)/\(part)", withIntermediateDirectories: true, attributes: nil)
        }
    }

    /// The gateway's password, made at the first start: a fresh one for everyone, since other users share this machine.
    func password() throws -> String {
        if let data = try? Data(contentsOf: URL(filePath: passwordFile)) {
            let text = String(decoding: data, as: UTF8.self)
            if let password = text.split(whereSeparator: \.isNewline).first { return String(password) }
        }
        var random = SystemRandomNumberGenerator()
        let password = String(random.next() as UInt64, radix: 36)
        let descriptor = open(passwordFile, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw ValidationError("\(passwordFile) cannot be written") }
        defer { close(descriptor) }
        let bytes = Array((password + "\n").utf8)
        guard bytes.withUnsafeBytes({ write(descriptor, $0.baseAddress, $0.count) }) == bytes.count else {
            throw ValidationError("\(passwordFile) cannot be written")
        }
        return password
    }
}

/// Whether nobody listens on this port of the loopback address now.
private func isFree(port: Int) -> Bool {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    guard descriptor >= 0 else { return true }
    defer { close(descriptor) }
    var reuse: Int32 = 1
    setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &reuse, socklen_t(MemoryLayout<Int32>.size))
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = UInt16(truncatingIfNeeded: port).bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    return withUnsafePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
        }
    }
}

/// Waits until every part answers, then says where things are and what to try.
struct DevGuide: Service {
    let layout: DevLayout

    func run() async throws {
        let start = ContinuousClock.now
        // Cancelled by the end of the process; until then this service has nothing more to do than to have spoken.
        try? await cancelWhenGracefulShutdown {
            let answers = [(8081, "/api/version"), (5050, "/version"), (5051, "/health"), (8080, "/ping")]
            for (port, path) in answers { try await waitForAnswer(port, path) }
            print(text(after: ContinuousClock.now - start))
            fflush(nil)
            while !Task.isCancelled { try await Task.sleep(for: .seconds(3600)) }
        }
    }

    private func waitForAnswer(_ port: Int, _ path: String) async throws {
        let address = HTTPAddress.tcp(host: DevLayout.host, port: layout.port(port))
        while true {
            // Any answer will do, also 401: the part is there.
            if (try? await HTTPCaller().call(.GET, address, path, deadline: .seconds(2))) != nil { return }
            try await Task.sleep(for: .milliseconds(50))
        }
    }

    private func text(after elapsed: Duration) -> String {
        func url(_ port: Int, _ path: String, scheme: String = "http") -> String {
            "\(scheme)://\(DevLayout.host):\(layout.port(port))\(path)"
        }
        let seconds = Double((elapsed.inSeconds * 10).rounded()) / 10
        let scli = "SCLI_MDM_IP=\(DevLayout.host):\(layout.port(8081)) holdfast scli"
        return """

            Holdfast is up after \(seconds) s: one master, one agent, Marathon, three storage servers, one storage client.
            Everything is in \(layout.directory). Ctrl-C ends it, except the tasks: like the data they are there when it is started again.

              Marathon   \(url(8080, "/v2/apps"))
              Mesos      \(url(5050, "/state"))  and the agent  \(url(5051, "/state"))
              Storage    \(url(8081, "/api"))  and  \(url(8443, "/api", scheme: "https"))
                         user admin, password in \(layout.passwordFile)

            Try next, in another terminal:
              a service that is kept running (kill its process and look again)
                curl -H 'Content-Type: application/json' \(url(8080, "/v2/apps")) \\
                  -d '{"id":"/clock","cmd":"while true; do date; sleep 1; done","cpus":0.1,"mem":32}'
                curl \(url(8080, "/v2/tasks"))
              a replicated volume
                \(scli) --login --username admin --password $(cat \(layout.passwordFile))
                \(scli) --add_volume --protection_domain_name pd1 --storage_pool_name default \\
                  --size_gb 8 --volume_name first --thin_provisioned
                \(scli) --map_volume_to_sdc --volume_name first --sdc_name dev
                \(scli) --query_all_volumes
              its device: an NBD socket in \(layout.directory)/nbd (for fio, qemu-img, nbdcopy)
            """
    }
}
