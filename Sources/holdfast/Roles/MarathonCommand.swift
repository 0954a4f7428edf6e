import ArgumentParser
import Base
import Coordination
import FoundationEssentials
import HTTPKit
import LinuxOS
import Logging
import Marathon
import MarathonCore
import MasterLocator
import ServiceLifecycle

/// Marathon's flags, with its names and units. Each may also come from the environment as `MARATHON_<NAME>`; the flag
/// wins.
struct MarathonCommand: Role {
    static let configuration = CommandConfiguration(
        commandName: "marathon", abstract: "Runs Marathon, the scheduler of long-running services.")

    @Option(
        name: .customLong("master"),
        help: "The masters: zk://host:port,.../path, or host:port, several joined by commas.")
    var master: String?
    @Option(name: .customLong("store"), help: "Where the state is kept instead of ZooKeeper: embedded:PATH.")
    var store: String?
    @Option(
        name: .customLong("zk"),
        help: "Where the state is kept and leaders are elected: zk://[user:password@]host:port,.../path.")
    var zk: String?
    @Option(
        name: .customLong("zk_session_timeout"), help: "Milliseconds after which a silent leader is deposed (10000).")
    var zkSessionTimeout: Int?
    @Option(name: .customLong("zk_connection_timeout"), help: "Milliseconds to connect to ZooKeeper (10000).")
    var zkConnectionTimeout: Int?
    @Option(name: .customLong("zk_timeout"), help: "Milliseconds for an operation of ZooKeeper (10000).")
    var zkTimeout: Int?
    @Option(name: .customLong("zk_max_node_size"), help: "Bytes that one change may store (1024000).")
    var zkMaxNodeSize: Int?
    @Option(
        name: .customLong("on_elected_prepare_timeout"),
        help: "Milliseconds in which an elected leader must have loaded (180000).")
    var onElectedPrepareTimeout: Int?
    @Option(
        name: .customLong("leader_proxy_connection_timeout"), help: "Milliseconds to connect to the leader (5000).")
    var leaderProxyConnectionTimeout: Int?
    @Option(
        name: .customLong("leader_proxy_read_timeout"), help: "Milliseconds for which the leader may be silent (10000)."
    )
    var leaderProxyReadTimeout: Int?
    @Option(name: .customLong("http_port"), help: "The port of the REST API (8080).")
    var httpPort: Int?
    @Option(name: .customLong("http_address"), help: "The address of the REST API (all interfaces).")
    var httpAddress: String?
    @Option(name: .customLong("hostname"), help: "The name under which others reach this host.")
    var hostname: String?
    @Option(name: .customLong("webui_url"), help: "The URL that the master's pages link to.")
    var webUIURL: String?
    @Option(name: .customLong("framework_name"), help: "The framework's name (marathon).")
    var frameworkName: String?
    @Option(name: .customLong("failover_timeout"), help: "Seconds for which tasks outlive our absence (604800).")
    var failoverTimeout: Int?
    @Option(name: .customLong("mesos_user"), help: "The user of tasks that name none (the process' user).")
    var mesosUser: String?
    @Option(name: .customLong("mesos_role"), help: "The role whose resources are used (*).")
    var mesosRole: String?
    @Option(name: .customLong("mesos_authentication_principal"), help: "The principal to register with.")
    var principal: String?
    @Option(name: .customLong("mesos_authentication_secret_file"), help: "The file that holds its secret.")
    var secretFile: String?
    @Option(
        name: .customLong("mesos_heartbeat_interval"),
        help: "Milliseconds after which a silent master is asked for a sign of life (15000).")
    var mesosHeartbeatInterval: Int?
    @Option(
        name: .customLong("mesos_heartbeat_failure_threshold"),
        help: "After so many intervals without a sign of the master, another Marathon leads (5).")
    var mesosHeartbeatFailureThreshold: Int?
    @Option(name: .customLong("enable_features"), help: "Features to add, joined by commas.")
    var enableFeatures: String?
    @Option(name: .customLong("local_port_min"), help: "The first service port (10000).")
    var localPortMin: Int?
    @Option(name: .customLong("local_port_max"), help: "The last service port (20000).")
    var localPortMax: Int?
    @Option(name: .customLong("env_vars_prefix"), help: "Stands before HOST and PORT variables.")
    var envVarsPrefix: String?
    @Option(
        name: .customLong("decline_offer_duration"), help: "Milliseconds for which unused offers are refused (120000).")
    var declineOfferDuration: Int?
    @Option(name: [.customLong("max_instances_per_offer"), .customLong("max_tasks_per_offer")], help: "5.")
    var maxInstancesPerOffer: Int?
    @Option(name: .customLong("min_revive_offers_interval"), help: "Milliseconds between requests for offers (100).")
    var minReviveOffersInterval: Int?
    @Option(name: .customLong("task_launch_timeout"), help: "Milliseconds in which a task must run (300000).")
    var taskLaunchTimeout: Int?
    @Option(
        name: .customLong("task_launch_confirm_timeout"),
        help: "Milliseconds in which a launch must be confirmed (300000).")
    var taskLaunchConfirmTimeout: Int?
    @Option(name: .customLong("kill_retry_timeout"), help: "Milliseconds after which a kill is repeated (30000).")
    var killRetryTimeout: Int?
    @Option(name: .customLong("reconciliation_interval"), help: "Milliseconds between reconciliations (600000).")
    var reconciliationInterval: Int?
    @Option(name: .customLong("default_network_name"), help: "The network of container networks without a name.")
    var defaultNetworkName: String?
    @Option(name: .customLong("mesos_bridge_name"), help: "The network that means the bridge (mesos-bridge).")
    var mesosBridgeName: String?
    @Option(name: .customLong("max_apps"), help: "The most apps that may exist.")
    var maxApps: Int?
    @Option(name: .customLong("max_running_deployments"), help: "The most deployments at a time (100).")
    var maxRunningDeployments: Int?
    @Option(name: .customLong("event_stream_max_outstanding_messages"), help: "Events that wait for a reader (1024).")
    var eventStreamMaxOutstandingMessages: Int?
    @Option(name: .customLong("max_concurrent_marathon_health_checks"), help: "256.")
    var maxConcurrentHealthChecks: Int?
    @Option(name: .customLong("zk_max_versions"), help: "Versions of an app that are kept (50).")
    var maxVersions: Int?
    @Option(name: .customLong("access_control_allow_origin"), help: "Origins that may read, joined by commas.")
    var accessControlAllowOrigin: String?
    @Flag(name: .customLong("disable_checkpoint"), help: "Tasks end with their agent's process.")
    var disableCheckpoint = false
    @Flag(
        name: [
            .customLong("ha"), .customLong("disable_ha"), .customLong("checkpoint"), .customLong("zk_compression"),
            .customLong("disable_zk_compression"), .customLong("leader_proxy_ssl_ignore_hostname"),
        ], help: .hidden)
    var ignored = false
    @Option(name: .customLong("zk_compression_threshold"), help: .hidden)
    var ignoredThreshold: Int?

    /// Ends with Marathon's exit codes where Marathon itself has to end.
    func run() async throws {
        do {
            try await serve()
        } catch let error as MarathonError {
            guard let code = error.exitCode else { throw error }
            Logger(label: "marathon").critical("ending", metadata: ["error": "\(error)", "exit.code": "\(code)"])
            throw ExitCode(code)
        }
    }

    func services(logger: Logger) async throws -> [any Service] {
        let store = text(store, "store") ?? text(zk, "zk") ?? "embedded:marathon.db"
        let configuration = try marathon()
        let backend = try CoordinationBackend.open(
            store, sessionTimeout: configuration.zooKeeper.sessionTimeout, logger: logger)
        return [MarathonService(configuration: configuration, backend: backend, logger: logger)]
    }

    private func text(_ flag: String?, _ name: String) -> String? {
        flag ?? ProcessInfo.processInfo.environment["MARATHON_" + name.uppercased()]
    }

    private func number(_ flag: Int?, _ name: String, in range: ClosedRange<Int> = 0...Int(Int32.max)) throws -> Int? {
        guard let value = flag ?? text(nil, name).map({ Int($0) ?? -1 }) else { return nil }
        guard range.contains(value) else {
            throw ValidationError("--\(name) must be a number from \(range.lowerBound) to \(range.upperBound).")
        }
        return value
    }

    private func milliseconds(_ flag: Int?, _ name: String) throws -> Duration? {
        try number(flag, name).map { .milliseconds($0) }
    }

    private func marathon() throws -> MarathonConfiguration {
        let zooKeeper = try zooKeeperFlags()
        let port = try number(httpPort, "http_port", in: 0...65535) ?? 8080
        var result = MarathonConfiguration(
            masters: try masters(sessionTimeout: zooKeeper.sessionTimeout),
            httpAddress: .tcp(host: text(httpAddress, "http_address") ?? "0.0.0.0", port: port))
        result.zooKeeper = zooKeeper
        result.masterFlag = text(master, "master") ?? ""
        result.hostname = text(hostname, "hostname") ?? ProcessInfo.processInfo.hostName
        result.webUIURL = text(webUIURL, "webui_url") ?? "http://\(result.hostname):\(port)"
        if let name = text(frameworkName, "framework_name") { result.frameworkName = name }
        if let seconds = try number(failoverTimeout, "failover_timeout") { result.failoverTimeout = .seconds(seconds) }
        result.user = text(mesosUser, "mesos_user") ?? ProcessInfo.processInfo.userName
        result.principal = text(principal, "mesos_authentication_principal")
        if let path = text(secretFile, "mesos_authentication_secret_file") {
            result.secret = try String(contentsOfFile: path, encoding: .utf8)
        }
        if let time = try number(mesosHeartbeatInterval, "mesos_heartbeat_interval", in: 1...Int(Int32.max)) {
            result.heartbeatInterval = .milliseconds(time)
        }
        if let count = try number(
            mesosHeartbeatFailureThreshold, "mesos_heartbeat_failure_threshold", in: 1...1_000_000)
        {
            result.heartbeatFailureThreshold = count
        }
        result.checkpoint = !disableCheckpoint
        result.environmentPrefix = text(envVarsPrefix, "env_vars_prefix") ?? ""
        result.accessControlAllowOrigin =
            text(accessControlAllowOrigin, "access_control_allow_origin")?.split(separator: ",").map(String.init) ?? []
        if let count = try number(eventStreamMaxOutstandingMessages, "event_stream_max_outstanding_messages") {
            result.eventStreamOutstandingMax = max(1, count)
        }
        if let count = try number(maxConcurrentHealthChecks, "max_concurrent_marathon_health_checks") {
            result.healthChecksMax = max(1, count)
        }
        if let time = try milliseconds(onElectedPrepareTimeout, "on_elected_prepare_timeout") {
            result.preparationTimeout = time
        }
        if let time = try milliseconds(leaderProxyConnectionTimeout, "leader_proxy_connection_timeout") {
            result.leaderProxyConnectionTimeout = time
        }
        if let time = try milliseconds(leaderProxyReadTimeout, "leader_proxy_read_timeout") {
            result.leaderProxyReadTimeout = time
        }
        try fillCore(&result)
        return result
    }

    private func masters(sessionTimeout: Duration) throws -> MasterLocation {
        guard let text = text(master, "master") else { throw ValidationError("--master is required.") }
        do {
            return try MasterLocation(parsing: text, sessionTimeout: sessionTimeout)
        } catch {
            throw ValidationError("--master: \(error)")
        }
    }

    private func zooKeeperFlags() throws -> ZooKeeperFlags {
        var result = ZooKeeperFlags()
        result.url = text(store, "store") == nil ? text(zk, "zk") : nil
        if let time = try milliseconds(zkSessionTimeout, "zk_session_timeout") { result.sessionTimeout = time }
        if let time = try milliseconds(zkConnectionTimeout, "zk_connection_timeout") { result.connectionTimeout = time }
        if let time = try milliseconds(zkTimeout, "zk_timeout") { result.timeout = time }
        return result
    }

    private func fillCore(_ result: inout MarathonConfiguration) throws {
        if let role = text(mesosRole, "mesos_role") { result.core.rules.role = role }
        for feature in (text(enableFeatures, "enable_features") ?? "").split(separator: ",") {
            result.core.rules.features.insert(String(feature))
        }
        result.core.rules.defaultNetworkName = text(defaultNetworkName, "default_network_name")
        if let name = text(mesosBridgeName, "mesos_bridge_name") { result.core.rules.bridgeName = name }
        let first = try number(localPortMin, "local_port_min", in: 1...65535) ?? 10_000
        let last = try number(localPortMax, "local_port_max", in: 1...65535) ?? 20_000
        guard first <= last else { throw ValidationError("--local_port_min exceeds --local_port_max.") }
        result.core.servicePorts = first...last
        if let time = try milliseconds(declineOfferDuration, "decline_offer_duration") {
            result.core.declineDuration = time
        }
        if let count = try number(maxInstancesPerOffer, "max_instances_per_offer", in: 1...10_000) {
            result.core.instancesPerOfferMax = count
        }
        if let time = try milliseconds(minReviveOffersInterval, "min_revive_offers_interval") {
            result.core.minReviveInterval = time
        }
        if let time = try milliseconds(taskLaunchTimeout, "task_launch_timeout") { result.core.launchTimeout = time }
        if let time = try milliseconds(taskLaunchConfirmTimeout, "task_launch_confirm_timeout") {
            result.core.launchConfirmTimeout = time
        }
        if let time = try milliseconds(killRetryTimeout, "kill_retry_timeout") { result.core.killRetryTimeout = time }
        if let time = try milliseconds(reconciliationInterval, "reconciliation_interval") {
            result.core.reconciliationInterval = time
        }
        result.core.appsMax = try number(maxApps, "max_apps")
        if let count = try number(maxRunningDeployments, "max_running_deployments") {
            result.core.runningDeploymentsMax = count
        }
        if let bytes = try number(zkMaxNodeSize, "zk_max_node_size", in: 1...Int(Int32.max)) {
            result.core.commandBytesMax = min(result.core.commandBytesMax, bytes)
        }
        if let count = try number(maxVersions, "zk_max_versions", in: 1...100_000) { result.core.versionsMax = count }
    }
}
