public import Base
public import HTTPKit
public import ScaleIODriver
import VolumeDriver

/// Everything that is wrong with a configuration, at once.
public struct ConfigurationError: CodedError {
    public enum Code: Hashable, Sendable {
        case invalid
    }

    public var code: Code { .invalid }
    public var faults: [String]
    public var cause: (any Error)? { nil }

    public var message: String {
        "The configuration of the volumes service is not valid:\n" + faults.map { "  - \($0)" }.joined(separator: "\n")
    }
}

/// The directories of REX-Ray: `REXRAY_HOME` prefixes all of them.
public struct RexrayDirectories: Hashable, Sendable {
    public var configuration: String
    public var library: String
    public var log: String
    public var run: String

    public init(environment: [String: String]) {
        let home = environment["REXRAY_HOME"] ?? ""
        configuration = environment["REXRAY_HOME_ETC"] ?? home + "/etc/rexray"
        library = environment["REXRAY_HOME_LIB"] ?? home + "/var/lib/rexray"
        log = environment["REXRAY_HOME_LOG"] ?? home + "/var/log/rexray"
        run = environment["REXRAY_HOME_RUN"] ?? home + "/var/run/rexray"
    }

    /// Where the configuration is looked for, in this order.
    public var configurationFiles: [String] { [configuration + "/rexray.yml", configuration + "/config.yml"] }
    /// Holds the address of a running service.
    public var specFile: String { run + "/rexray.spec" }
}

/// The configuration of the volumes service: REX-Ray's config.yml, its environment variables, and flags.
public struct VolumesConfiguration: Sendable {
    public var directories: RexrayDirectories
    /// libStorage's service id, `libstorage.service`.
    public var serviceName: String
    public var scaleIO: ScaleIOConfiguration
    public var volumes: VolumeSettings
    /// Where the libStorage API listens. The first one is written into the spec file.
    public var endpoints: [HTTPAddress]
    /// The daemon that the command line talks to, when it is named: `libstorage.host`.
    public var host: HTTPAddress?
    public var pluginDirectory: String
    /// The names of the plugin's sockets, and so of the volume driver in Docker.
    public var pluginNames: [String]
    /// The one of them under which `docker volume ls` finds all volumes.
    public var listedAs: String
    public var taskTimeout: Duration
    public var sweepInterval: Duration
    public var logLevel: String
    /// The keys that were set, as environment variables; passwords are hidden.
    public var environment: [(key: String, value: String)]

    /// - Parameters:
    ///   - yaml: the file's text; empty when there is none.
    ///   - defaults: values of keys that are set nowhere.
    ///   - overrides: keys with values from the command line; they win over the environment, which wins over the file.
    public init(
        yaml: String, environment: [String: String], overrides: [(key: String, value: String)] = [],
        defaults: [(key: String, value: String)] = [],
        directories: RexrayDirectories? = nil
    ) throws(ConfigurationError) {
        var tree = ConfigurationTree(yaml: yaml, environment: environment, overrides: overrides, defaults: defaults)
        let directories = directories ?? RexrayDirectories(environment: environment)
        self.directories = directories
        let services = tree.names(under: "libstorage.server.services")
        let legacyDriver = tree.list("rexray.storageDrivers")?.first
        let service = tree.text("libstorage.service") ?? services.first ?? legacyDriver ?? "scaleio"
        serviceName = service
        let prefix = "libstorage.server.services.\(service.lowercased())"
        let driver = tree.text(prefix + ".driver", "libstorage.storage.driver") ?? service
        if driver.lowercased() != "scaleio" {
            tree.faults.append("The service '\(service)' uses the driver '\(driver)', but the only driver is 'scaleio'")
        }
        scaleIO = VolumesConfiguration.scaleIO(&tree, scope: prefix)
        volumes = VolumesConfiguration.volumes(&tree, directories: directories)
        endpoints = VolumesConfiguration.endpoints(&tree, directories: directories)
        host = nil
        if let text = tree.text("libstorage.host") {
            host = HTTPAddress(text)
            if host == nil { tree.faults.append("'libstorage.host' is '\(text)', which is no address") }
        }
        pluginDirectory = tree.text("holdfast.plugin.directory") ?? "/run/docker/plugins"
        pluginNames = tree.list("holdfast.plugin.names") ?? ["rexray", "REX-Ray"]
        for name in pluginNames where name.isEmpty || name.contains("/") || name.utf8.count > 64 {
            tree.faults.append("'holdfast.plugin.names' has '\(name)', which is no file name")
        }
        listedAs = tree.text("holdfast.plugin.listedAs") ?? pluginNames.last ?? ""
        if !pluginNames.contains(listedAs) {
            tree.faults.append("'holdfast.plugin.listedAs' is '\(listedAs)', which is not in 'holdfast.plugin.names'")
        }
        taskTimeout = tree.duration("libstorage.server.tasks.exeTimeout") ?? .seconds(60)
        sweepInterval = tree.duration("holdfast.sweepInterval") ?? .seconds(5)
        logLevel = tree.text("rexray.logLevel") ?? "warn"
        self.environment = tree.values.map { key, value in
            let isSecret = key.hasSuffix("password") || key.hasSuffix("token")
            return (key.uppercased().replacing(".", with: "_"), isSecret ? "******" : value.text)
        }.sorted { $0.0 < $1.0 }
        guard tree.faults.isEmpty else { throw ConfigurationError(faults: tree.faults) }
    }

    private static func scaleIO(_ tree: inout ConfigurationTree, scope: String) -> ScaleIOConfiguration {
        // The block of the service comes before the one at the file's top.
        func text(_ key: String) -> String? { tree.text("\(scope).scaleio.\(key)", "scaleio.\(key)") }
        var endpoints: [ScaleIOEndpoint] = []
        if let listed = text("endpoint") {
            for given in listed.split(separator: ",", omittingEmptySubsequences: false) {
                let given = given.filter { !$0.isWhitespace }
                guard let endpoint = ScaleIOEndpoint(given) else {
                    tree.faults.append("'scaleio.endpoint' is '\(given)', but must be like http://gateway/api")
                    continue
                }
                if endpoint.isSecure {
                    tree.faults.append(
                        "'scaleio.endpoint' is '\(given)': HTTPS is not supported yet, use the plain address")
                }
                endpoints.append(endpoint)
            }
        } else {
            tree.faults.append("'scaleio.endpoint' is missing: the Gateway's address, like http://gateway/api")
        }
        for key in ["userName", "password"] where text(key) == nil {
            tree.faults.append("'scaleio.\(key)' is missing: it is needed to log in at the Gateway")
        }
        // Without an endpoint there is a fault already; this one only lets the search for others go on.
        if endpoints.isEmpty, let placeholder = ScaleIOEndpoint("http://127.0.0.1:8081/api") {
            endpoints = [placeholder]
        }
        var result = ScaleIOConfiguration(
            endpoints: endpoints, userName: text("userName") ?? "", password: text("password") ?? "")
        result.isInsecure = tree.flag("\(scope).scaleio.insecure", "scaleio.insecure") ?? false
        result.systemID = text("systemID")
        result.systemName = text("systemName")
        result.protectionDomainID = text("protectionDomainID")
        result.protectionDomainName = text("protectionDomainName")
        result.storagePoolID = text("storagePoolID")
        result.storagePoolName = text("storagePoolName")
        if let thinOrThick = text("thinOrThick") {
            switch thinOrThick.lowercased() {
            case "thinprovisioned": result.isThin = true
            case "thickprovisioned": result.isThin = false
            default:
                tree.faults.append(
                    "'scaleio.thinOrThick' is '\(thinOrThick)', but must be ThinProvisioned or ThickProvisioned")
            }
        }
        result.guid = text("guid")
        result.controlSocket = text("controlSocket") ?? result.controlSocket
        result.deviceDirectory = text("deviceDirectory") ?? result.deviceDirectory
        result.callDeadline = tree.duration("scaleio.callDeadline") ?? result.callDeadline
        return result
    }

    private static func volumes(_ tree: inout ConfigurationTree, directories: RexrayDirectories) -> VolumeSettings {
        let operations = ConfigurationKeys.operations
        var result = VolumeSettings()
        result.mountDirectory =
            tree.text("\(operations).mount.path", "docker.mountDirPath") ?? directories.library + "/volumes"
        if !result.mountDirectory.hasPrefix("/") {
            tree.faults.append("'\(operations).mount.path' is '\(result.mountDirectory)', but must be an absolute path")
        }
        result.rootPath = tree.text("\(operations).mount.rootPath", "linux.volume.rootpath") ?? result.rootPath
        if result.rootPath == "/" { result.rootPath = "" }
        if !result.rootPath.isEmpty, !result.rootPath.hasPrefix("/") || result.rootPath.contains("..") {
            tree.faults.append("'\(operations).mount.rootPath' is '\(result.rootPath)', but must be like /data")
        }
        if let mode = tree.text("linux.volume.filemode") {
            if let bits = UInt32(mode, radix: 8), bits <= 0o7777 {
                result.fileMode = bits
            } else {
                tree.faults.append("'linux.volume.filemode' is '\(mode)', but must be an octal mode such as 0700")
            }
        }
        result.preempts = tree.flag("\(operations).mount.preempt", "volume.mount.preempt") ?? result.preempts
        result.createsImplicitly = tree.flag("\(operations).create.implicit") ?? result.createsImplicitly
        result.isCreateDisabled = tree.flag("\(operations).create.disable", "volume.create.disable") ?? false
        result.isRemoveDisabled = tree.flag("\(operations).remove.disable", "volume.remove.disable") ?? false
        result.forcesRemoval = tree.flag("\(operations).remove.force") ?? false
        result.ignoresUsedCount =
            tree.flag("\(operations).unmount.ignoreusedcount", "volume.unmount.ignoreusedcount") ?? false
        if let size = tree.number("\(operations).create.default.size", "docker.size") {
            if (1...(1 << 20)).contains(size) {
                result.defaultSize = .gibibytes(UInt64(size))
            } else {
                tree.faults.append(
                    "'\(operations).create.default.size' is \(size), but must be a number of GB, 1 or more")
            }
        }
        if let name = tree.text("\(operations).create.default.fsType", "docker.fsType") {
            if let kind = FilesystemKind(rawValue: name.lowercased()), kind.canBeMade {
                result.defaultFilesystem = kind
            } else {
                tree.faults.append("'\(operations).create.default.fsType' is '\(name)', but must be ext4 or xfs")
            }
        }
        result.defaultType = tree.text("\(operations).create.default.type", "docker.volumeType")
        result.defaultAvailabilityZone = tree.text(
            "\(operations).create.default.availabilityZone", "docker.availabilityZone")
        result.defaultIOPS = tree.number("\(operations).create.default.IOPS", "docker.iops")
        result.attachTimeout = tree.duration("libstorage.device.attachTimeout") ?? result.attachTimeout
        result.mountOptions = tree.list("holdfast.mount.options") ?? []
        return result
    }

    private static func endpoints(_ tree: inout ConfigurationTree, directories: RexrayDirectories) -> [HTTPAddress] {
        let names = tree.names(under: "libstorage.server.endpoints")
        // Nobody is asked for a password on these addresses, so nothing beyond this host is offered unless configured.
        if names.isEmpty {
            return [.unix(path: directories.run + "/libstorage.sock"), .tcp(host: "127.0.0.1", port: 7979)]
        }
        var result: [HTTPAddress] = []
        for name in names {
            guard let text = tree.text("libstorage.server.endpoints.\(name).address") else { continue }
            if let address = HTTPAddress(text) {
                result.append(address)
            } else {
                tree.faults.append("'libstorage.server.endpoints.\(name).address' is '\(text)', which is no address")
            }
        }
        return result
    }
}
