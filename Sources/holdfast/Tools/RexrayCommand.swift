import ArgumentParser
import Base
import Glibc
import HTTPKit
import LinuxOS
import Logging
import ScaleIODriver
import ServiceLifecycle
import VolumeService

/// REX-Ray's command line, as far as it concerns volumes.
struct RexrayCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rexray", abstract: "The REX-Ray command line.",
        subcommands: [
            RexrayVersionCommand.self, RexrayEnvCommand.self, RexrayVolumeCommand.self, RexrayAdapterCommand.self,
            RexrayServiceCommand.self, RexrayStartCommand.self, RexrayStatusCommand.self,
        ],
        // REX-Ray's -h names the libStorage host.
        helpNames: [.customLong("help"), .customShort("?")])
}

struct RexrayVersionCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "version", abstract: "Prints the version.")

    func run() async throws {
        print("REX-Ray\n-------")
        print("Binary: \(CommandLine.arguments[0])\nFlavor: client+agent+controller")
        print("SemVer: \(rexraySemanticVersion)\nOsArch: Linux-\(RexrayVersionCommand.architecture)")
        print("Commit: holdfast")
    }

    private static var architecture: String {
        #if arch(x86_64)
            "x86_64"
        #else
            "aarch64"
        #endif
    }
}

struct RexrayEnvCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "env", abstract: "Prints the configuration in effect.")

    @OptionGroup var options: VolumesOptions

    func run() async throws {
        for (key, value) in try options.load(needsPlatform: false).environment { print("\(key)=\(value)") }
    }
}

struct RexrayAdapterCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "adapter", abstract: "Shows services and this host.",
        subcommands: [RexrayAdapterTypesCommand.self, RexrayAdapterInstancesCommand.self])
}

struct RexrayAdapterTypesCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "types", abstract: "Lists the configured services.", aliases: ["ls", "list"])

    @OptionGroup var global: RexrayGlobalOptions

    func run() async throws {
        try await global.withClient { client, _ in
            let services = try await client.services()
            let rows = services.map { [$0["name"]?.string ?? "", $0["driver"]?["name"]?.string ?? ""] }
            RexrayGlobalOptions.show(RexrayOutput.table(header: ["Name", "Driver"], rows: rows, quiet: false))
        }
    }
}

struct RexrayAdapterInstancesCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "instances", abstract: "Shows this host as the platform knows it.")

    @OptionGroup var global: RexrayGlobalOptions

    func run() async throws {
        try await global.withClient { client, _ in
            let instance = try await client.instance()["instance"]
            let row = [
                instance?["instanceID"]?["id"]?.string ?? "", instance?["name"]?.string ?? "",
                instance?["providerName"]?.string ?? "", instance?["region"]?.string ?? "",
            ]
            RexrayGlobalOptions.show(
                RexrayOutput.table(header: ["ID", "Name", "Provider", "Region"], rows: [row], quiet: false))
        }
    }
}

struct RexrayServiceCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "service", abstract: "Runs the service, or says whether it runs.",
        subcommands: [RexrayStartCommand.self, RexrayStatusCommand.self])
}

struct RexrayStartCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "start", abstract: "Runs the service in the foreground.")

    @Flag(name: .customShort("f"), help: "Kept for old scripts: the service always runs in the foreground.")
    var inForeground = false

    @OptionGroup var service: VolumesCommand

    func run() async throws { try await service.run() }
}

struct RexrayStatusCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "status", abstract: "Says whether the service runs.")

    @OptionGroup var global: RexrayGlobalOptions

    func run() async throws {
        let configuration = try global.options.load(needsPlatform: false)
        let client = try global.client(configuration, global.runningService(configuration))
        print(await client.isAlive() ? "REX-Ray is running" : "REX-Ray is stopped")
    }
}

/// The options of all commands that talk to a libStorage server.
struct RexrayGlobalOptions: ParsableArguments {
    @OptionGroup var options: VolumesOptions

    @Option(name: [.short, .customLong("host")], help: "The libStorage server, e.g. tcp://10.0.0.1:7979.")
    var host: String?

    @Option(name: [.customShort("s"), .customLong("service")], help: "The libStorage service.")
    var service: String?

    @Option(name: [.customShort("l"), .customLong("logLevel")], help: "error, warn, info or debug.")
    var logLevel = "warn"

    /// Where a service should be running.
    func runningService(_ configuration: VolumesConfiguration) throws -> HTTPAddress {
        if let host {
            guard let address = HTTPAddress(host) else { throw ValidationError("'\(host)' is no address") }
            return address
        }
        if let address = configuration.host { return address }
        if let text = try? readText(configuration.directories.specFile), let address = HTTPAddress(text) {
            return address
        }
        return configuration.endpoints.first ?? .tcp(host: "127.0.0.1", port: 7979)
    }

    func client(_ configuration: VolumesConfiguration, _ address: HTTPAddress) throws -> LibStorageClient {
        LibStorageClient(
            address: address, service: service ?? configuration.serviceName,
            driver: ScaleIODriver(configuration: configuration.scaleIO, logger: logger))
    }

    private var logger: Logger {
        var logger = Logger(label: "rexray")
        logger.logLevel = Logger.Level(rawValue: logLevel == "warn" ? "warning" : logLevel) ?? .warning
        return logger
    }

    /// Runs `body` with a client of the running service, or of one that runs inside this process until `body` ends.
    func withClient(_ body: @escaping @Sendable (LibStorageClient, VolumesConfiguration) async throws -> Void)
        async throws
    {
        do {
            let configuration = try options.load(needsPlatform: false)
            let address = try runningService(configuration)
            let remote = try client(configuration, address)
            if host != nil || configuration.host != nil {
                try await body(remote, configuration)
            } else if await remote.isAlive() {
                try await body(remote, configuration)
            } else {
                try await withEmbeddedService(configuration, body)
            }
        } catch let error as any CodedError {
            FileDescriptorOutput.error.write("FATA \(errorChain(error))\n")
            throw ExitCode(1)
        }
    }

    private func withEmbeddedService(
        _ configuration: VolumesConfiguration,
        _ body: @escaping @Sendable (LibStorageClient, VolumesConfiguration) async throws -> Void
    ) async throws {
        let socket = "\(configuration.directories.run)/embedded-\(getpid()).sock"
        // What fails is told by the answers; that its servers are stopped at the end is no news.
        var quiet = logger
        if quiet.logLevel > .debug { quiet.logLevel = .critical }
        let services = try await VolumesServices(configuration: configuration, logger: quiet)
            .prepareEmbedded(socket: socket)
        let client = try client(configuration, .unix(path: socket))
        defer { unlink(socket) }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for service in services { group.addTask { try await service.run() } }
            for _ in 0..<200 {
                if await client.isAlive() { break }
                try await Task.sleep(for: .milliseconds(10))
            }
            try await body(client, configuration)
            group.cancelAll()
        }
    }

    static func show(_ text: String) { FileDescriptorOutput.standard.write(text) }
}

/// Writes a text as it is, without a line end of its own.
struct FileDescriptorOutput {
    static let standard = FileDescriptorOutput(descriptor: 1)
    static let error = FileDescriptorOutput(descriptor: 2)

    private let descriptor: Int32

    func write(_ text: String) {
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
            guard count > 0 else { return }
            rest = rest.dropFirst(count)
        }
    }
}
