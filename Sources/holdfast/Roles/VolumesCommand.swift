import ArgumentParser
import Base
import Glibc
import LinuxOS
import Logging
import ServiceLifecycle
import VolumeService

struct VolumesCommand: Role {
    static let configuration = CommandConfiguration(
        commandName: "volumes", abstract: "Runs the volume service: Docker's volume plugin and libStorage.")

    @OptionGroup var options: VolumesOptions

    func services(logger: Logger) async throws -> [any Service] {
        let configuration = try options.load()
        return try await VolumesServices(configuration: configuration, logger: logger).prepare()
    }
}

/// What the volume service and the command line `rexray` have in common: where their configuration comes from.
struct VolumesOptions: ParsableArguments {
    @Option(name: [.short, .customLong("config")], help: "The configuration file (default: /etc/rexray/config.yml).")
    var config: String?

    @Option(
        name: .customLong("set"), parsing: .singleValue,
        help: "KEY=VALUE: sets a key of the configuration, e.g. scaleio.endpoint=http://10.0.0.1:8081/api. Repeatable.")
    var settings: [String] = []

    @Option(name: .customLong("gateway"), help: "The ScaleIO Gateway, e.g. http://10.0.0.1:8081 (scaleio.endpoint).")
    var gateway: String?

    @Option(name: .customLong("gateway-user"), help: "Who logs in there (scaleio.userName).")
    var gatewayUser: String?

    @Option(name: .customLong("gateway-password-file"), help: "File with the password.")
    var gatewayPasswordFile: String?

    @Option(name: .customLong("gateway-password"), help: "The password. Prefer the file: this can be seen by others.")
    var gatewayPassword: String?

    @Option(name: .customLong("lib-dir"), help: "Keeps the mount ledger and the mounts (default: /var/lib/rexray).")
    var libraryDirectory: String?

    @Option(name: .customLong("run-dir"), help: "Keeps sockets and the spec file (default: /var/run/rexray).")
    var runDirectory: String?

    @Option(name: .customLong("plugin-dir"), help: "Where Docker looks for plugins (default: /run/docker/plugins).")
    var pluginDirectory: String?

    @Option(name: .customLong("plugin-name"), help: "A name of the volume driver in Docker. Repeatable.")
    var pluginNames: [String] = []

    @Option(name: .customLong("dev-dir"), help: "Where the SDC links its devices (default: /dev/disk/by-id).")
    var deviceDirectory: String?

    @Option(name: .customLong("sdc"), help: "The SDC's control socket (default: /run/holdfast/sdc.sock).")
    var controlSocket: String?

    /// Blocks on the file system; called before anything is served.
    ///
    /// - Parameter needsPlatform: false for the command line, which can do without the Gateway when a service runs.
    func load(needsPlatform: Bool = true) throws -> VolumesConfiguration {
        let environment = currentEnvironment()
        var directories = RexrayDirectories(environment: environment)
        if let libraryDirectory { directories.library = libraryDirectory }
        if let runDirectory { directories.run = runDirectory }
        var overrides: [(key: String, value: String)] = []
        if let pluginDirectory { overrides.append(("holdfast.plugin.directory", pluginDirectory)) }
        if !pluginNames.isEmpty { overrides.append(("holdfast.plugin.names", pluginNames.joined(separator: ","))) }
        if let gateway { overrides.append(("scaleio.endpoint", gateway)) }
        if let gatewayUser { overrides.append(("scaleio.userName", gatewayUser)) }
        if let gatewayPassword {
            overrides.append(("scaleio.password", gatewayPassword))
        } else if let gatewayPasswordFile {
            overrides.append(("scaleio.password", try readText(gatewayPasswordFile)))
        }
        if let deviceDirectory { overrides.append(("scaleio.deviceDirectory", deviceDirectory)) }
        if let controlSocket { overrides.append(("scaleio.controlSocket", controlSocket)) }
        for setting in settings {
            guard let equals = setting.firstIndex(of: "=") else {
                throw ValidationError("'--set \(setting)' lacks a '=': write --set KEY=VALUE")
            }
            overrides.append((String(setting[..<equals]), String(setting[setting.index(after: equals)...])))
        }
        return try VolumesConfiguration(
            yaml: try text(directories), environment: environment, overrides: overrides,
            defaults: needsPlatform
                ? [("scaleio.userName", "admin")]
                : [
                    ("scaleio.endpoint", "http://127.0.0.1:8081/api"), ("scaleio.userName", "admin"),
                    ("scaleio.password", "-"),
                ],
            directories: directories)
    }

    private func text(_ directories: RexrayDirectories) throws -> String {
        if let config { return String(decoding: try readFile(config), as: UTF8.self) }
        for path in directories.configurationFiles where access(path, F_OK) == 0 {
            return String(decoding: try readFile(path), as: UTF8.self)
        }
        return ""
    }
}
