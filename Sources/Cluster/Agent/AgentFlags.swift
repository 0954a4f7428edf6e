import Base
import Containerizer
import Glibc
import HTTPKit
import LinuxOS
public import Logging
import MasterLocator
import MesosAPI
import OrderedCollections
import Resources

/// The command line of `mesos-agent`: `--name=value`, `--name` and `--no-name` for switches, `MESOS_NAME` in the
/// environment below them. Dashes may stand for underscores. An unknown flag is an error; one of Mesos that changes
/// nothing here is accepted.
public struct AgentFlags: Sendable {
    private enum Kind: Hashable, Sendable { case text, duration, number, toggle }

    private static let known: OrderedDictionary<String, (kind: Kind, standard: String?)> = [
        "master": (.text, nil), "work_dir": (.text, nil), "ip": (.text, "0.0.0.0"), "port": (.number, "5051"),
        "advertise_ip": (.text, nil), "advertise_port": (.number, nil), "hostname": (.text, nil),
        "resources": (.text, nil), "attributes": (.text, nil), "default_role": (.text, "*"),
        "containerizers": (.text, "docker,mesos"), "docker": (.text, "docker"),
        "docker_socket": (.text, "/var/run/docker.sock"), "docker_config": (.text, nil),
        "docker_registry": (.text, nil), "docker_remove_delay": (.duration, "6hrs"),
        "docker_stop_timeout": (.duration, "0ns"), "docker_kill_orphans": (.toggle, "true"),
        "docker_mesos_image": (.text, nil), "docker_volume_checkpoint_dir": (.text, nil),
        "executor_registration_timeout": (.duration, "1mins"),
        "executor_reregistration_timeout": (.duration, "2secs"),
        "executor_shutdown_grace_period": (.duration, "5secs"), "executor_environment_variables": (.text, nil),
        "registration_backoff_factor": (.duration, "1secs"), "recover": (.text, "reconnect"),
        "strict": (.toggle, "true"), "recovery_timeout": (.duration, "15mins"),
        "reconfiguration_policy": (.text, "equal"), "gc_delay": (.duration, "1weeks"),
        "gc_disk_headroom": (.number, "0.1"), "disk_watch_interval": (.duration, "1mins"),
        "cgroups_enable_cfs": (.toggle, "false"), "cgroups_hierarchy": (.text, "/sys/fs/cgroup"),
        "cgroups_root": (.text, "mesos"), "isolation": (.text, "posix/cpu,posix/mem"), "launcher": (.text, "posix"),
        "launcher_dir": (.text, nil), "image_providers": (.text, nil), "runtime_dir": (.text, "/var/run/mesos"),
        "sandbox_directory": (.text, "/mnt/mesos/sandbox"), "switch_user": (.toggle, "true"),
        "systemd_enable_support": (.toggle, "true"), "fetcher_cache_size": (.text, "2GB"),
        "fetcher_cache_dir": (.text, nil), "frameworks_home": (.text, nil), "log_dir": (.text, nil),
        "logging_level": (.text, "INFO"), "quiet": (.toggle, "false"), "version": (.toggle, "false"),
        "help": (.toggle, "false"), "hostname_lookup": (.toggle, "true"),
        "http_command_executor": (.toggle, "false"), "max_completed_executors_per_framework": (.number, "150"),
        "enforce_container_disk_quota": (.toggle, "false"), "credential": (.text, nil), "domain": (.text, nil),
        "zk_session_timeout": (.duration, "10secs"), "network_cni_config_dir": (.text, nil),
        "network_cni_plugins_dir": (.text, nil),
    ]

    private var given: OrderedDictionary<String, String> = [:]

    /// - Parameter arguments: without the program's name.
    public init(arguments: [String], environment: [String: String]) throws(AgentError) {
        for name in AgentFlags.known.keys {
            if let value = environment["MESOS_\(name.uppercased())"] { given[name] = value }
        }
        var rest = arguments[...]
        while let argument = rest.popFirst() {
            guard argument.hasPrefix("--"), argument.count > 2 else {
                throw AgentError(.invalidFlag, "'\(argument)' is not a flag.")
            }
            let body = argument.dropFirst(2)
            let equals = body.firstIndex(of: "=")
            var name = String(body[..<(equals ?? body.endIndex)]).replacing("-", with: "_")
            var value = equals.map { String(body[body.index(after: $0)...]) }
            if AgentFlags.known[name] == nil, value == nil, name.hasPrefix("no_") {
                name = String(name.dropFirst("no_".count))
                guard AgentFlags.known[name]?.kind == .toggle else {
                    throw AgentError(.invalidFlag, "Failed to load unknown flag '\(argument)'")
                }
                value = "false"
            }
            guard let kind = AgentFlags.known[name]?.kind else {
                throw AgentError(.invalidFlag, "Failed to load unknown flag '\(name)'")
            }
            if value == nil { value = kind == .toggle ? "true" : rest.popFirst() }
            guard let value else { throw AgentError(.invalidFlag, "The flag '\(name)' needs a value.") }
            given[name] = value
        }
        for (name, value) in given { try check(name, value) }
    }

    private func check(_ name: String, _ value: String) throws(AgentError) {
        guard let kind = AgentFlags.known[name]?.kind else { return }
        let isValid =
            switch kind {
            case .text: true
            case .duration: AgentFlags.duration(value) != nil
            case .number: Double(value) != nil
            case .toggle: ["true", "false", "1", "0"].contains(value)
            }
        guard isValid else { throw AgentError(.invalidFlag, "Failed to load flag '\(name)': '\(value)' is not valid.") }
    }

    public var wantsHelp: Bool { isOn("help") }
    public var wantsVersion: Bool { isOn("version") }

    public static var help: String {
        var text =
            "Usage: mesos-agent --master=HOST:PORT|zk://HOST:PORT,.../PATH --work_dir=DIRECTORY [--FLAG=VALUE ...]\n\n"
        for (name, flag) in known {
            text += "  --\(flag.kind == .toggle ? "[no-]" : "")\(name)\(flag.kind == .toggle ? "" : "=VALUE")"
            if let standard = flag.standard { text += "  (default: \(standard))" }
            text += "\n"
        }
        return text
    }

    // MARK: Values

    private func text(_ name: String) -> String? { given[name] ?? AgentFlags.known[name]?.standard }
    private func isOn(_ name: String) -> Bool { text(name) == "true" || text(name) == "1" }
    private func duration(_ name: String) -> Duration { text(name).flatMap(AgentFlags.duration) ?? .zero }

    /// Mesos' notation of durations: a number and `ns`, `us`, `ms`, `secs`, `mins`, `hrs`, `days` or `weeks`.
    static func duration(_ text: String) -> Duration? {
        let number = text.prefix { $0.isNumber || $0 == "." }
        let units: [String: Double] = [
            "ns": 1e-9, "us": 1e-6, "ms": 1e-3, "secs": 1, "mins": 60, "hrs": 3600, "days": 86400, "weeks": 604800,
        ]
        guard let value = Double(number), let unit = units[String(text.dropFirst(number.count))], value * unit < 9e9
        else { return nil }
        return .seconds(value * unit)
    }

    // MARK: The configuration

    public func configuration(logger: Logger) throws(AgentError) -> AgentConfiguration {
        guard let master = text("master") else { throw AgentError(.invalidFlag, "Missing required option --master.") }
        guard let workDirectory = text("work_dir"), workDirectory.hasPrefix("/") else {
            throw AgentError(.invalidFlag, "--work_dir must be given, as an absolute path.")
        }
        let location: MasterLocation
        do {
            location = try MasterLocation(parsing: master, sessionTimeout: duration("zk_session_timeout"))
        } catch {
            throw AgentError(.invalidFlag, "Failed to load flag 'master'", cause: error)
        }
        let bindIP = text("ip") ?? "0.0.0.0"
        let advertised = text("advertise_ip") ?? (bindIP == "0.0.0.0" ? HostFacts.address() : bindIP)
        guard let port = text("port").flatMap({ Int($0) }), (0...65535).contains(port) else {
            throw AgentError(.invalidFlag, "--port must be between 0 and 65535.")
        }
        var configuration = AgentConfiguration(
            master: location, workDirectory: workDirectory, bindIP: bindIP, port: port, advertisedIP: advertised,
            hostname: text("hostname") ?? HostFacts.name(), resources: try resources(workDirectory),
            containerizers: try containerizers(logger))
        if let attributes = text("attributes") {
            do {
                configuration.attributes = try MesosAttribute.list(parsing: attributes)
            } catch {
                throw AgentError(.invalidFlag, "--attributes cannot be understood", cause: error)
            }
        }
        configuration.registrationBackoff = duration("registration_backoff_factor")
        configuration.executorRegistrationTimeout = duration("executor_registration_timeout")
        configuration.executorReregistrationTimeout = duration("executor_reregistration_timeout")
        configuration.executorShutdownGracePeriod = duration("executor_shutdown_grace_period")
        configuration.removeDelay = duration("docker_remove_delay")
        configuration.sandboxDelay = duration("gc_delay")
        configuration.switchesUser = isOn("switch_user")
        configuration.isStrict = isOn("strict")
        switch text("recover") {
        case "reconnect"?: break
        case "cleanup"?: configuration.cleansUpOnRecovery = true
        default: throw AgentError(.invalidFlag, "--recover must be 'reconnect' or 'cleanup'.")
        }
        configuration.executorEnvironment = try executorEnvironment()
        configuration.flags = AgentFlags.known.keys.sorted().compactMap { name in
            text(name).map { (name: name, value: $0) }
        }
        return configuration
    }

    /// What is given, completed by what the host has.
    private func resources(_ workDirectory: String) throws(AgentError) -> [MesosResource] {
        let role = text("default_role") ?? "*"
        var given: [MesosResource] = []
        var text = text("resources") ?? ""
        if text.hasPrefix("file://") {
            do {
                text = try readText(String(text.dropFirst("file://".count)))
            } catch {
                throw AgentError(.invalidFlag, "The file of --resources cannot be read", cause: error)
            }
        }
        do {
            if !text.isEmpty { given = try Resources(parsing: text, defaultRole: role).list }
            for (name, amount) in HostFacts.resources(workDirectory: workDirectory)
            where !given.contains(where: { $0.name == name }) {
                given += try Resources(parsing: "\(name):\(amount)", defaultRole: role).list
            }
        } catch {
            throw AgentError(.invalidFlag, "--resources cannot be understood", cause: error)
        }
        return given
    }

    private func containerizers(_ logger: Logger) throws(AgentError) -> [any Containerizer] {
        var list: [any Containerizer] = []
        for name in (text("containerizers") ?? "").split(separator: ",") {
            switch name {
            case "docker":
                var docker = DockerContainerizer.Configuration()
                guard let socket = text("docker_socket").flatMap({ HTTPAddress($0) }) else {
                    throw AgentError(.invalidFlag, "--docker_socket is no address.")
                }
                docker.socket = socket
                docker.limitsCPU = isOn("cgroups_enable_cfs")
                docker.registryAuthorizations = try registryAuthorizations()
                list.append(DockerContainerizer(docker, logger: logger))
            case "mesos": list.append(ProcessContainerizer(launcherDirectory: text("launcher_dir")))
            default: throw AgentError(.invalidFlag, "Unknown containerizer '\(name)' in --containerizers.")
            }
        }
        return list
    }

    /// `--docker_config`: docker's config.json, as text or as file:// of one.
    private func registryAuthorizations() throws(AgentError) -> [String: String] {
        guard var config = text("docker_config") else { return [:] }
        do {
            if !config.hasPrefix("{") {
                config = try readText(config.hasPrefix("file://") ? String(config.dropFirst(7)) : config)
            }
            return DockerLogin.authorizations(try JSONValue(parsing: config))
        } catch {
            throw AgentError(.invalidFlag, "--docker_config cannot be read", cause: error)
        }
    }

    private func executorEnvironment() throws(AgentError) -> [(name: String, value: String)] {
        guard var text = text("executor_environment_variables") else { return [] }
        do {
            if text.hasPrefix("file://") { text = try readText(String(text.dropFirst("file://".count))) }
            let object = try JSONValue(parsing: text).object ?? [:]
            return object.map { (name: $0.key, value: $0.value.string ?? $0.value.text) }
        } catch {
            throw AgentError(.invalidFlag, "--executor_environment_variables cannot be read", cause: error)
        }
    }
}
