public import Base
import OrderedCollections

/// What parsing needs to know of the installation.
public struct SpecRules: Hashable, Sendable {
    /// `--enable_features`.
    public var features: Set<String> = ["external_volumes", "task_killing", "vips"]
    /// `--default_network_name`.
    public var defaultNetworkName: String?
    /// `--mesos_bridge_name`.
    public var bridgeName = "mesos-bridge"
    /// `--mesos_role`; "*" when none.
    public var role = "*"

    public init() {}
}

extension AppSpec {
    /// Reads an app in any form that Marathon 0.8 to 1.10 accepted and brings it into the canonical one.
    ///
    /// - Parameters:
    ///   - id: the id given by the request's path; nil when the document must hold it.
    ///   - parent: what a relative id in the document is resolved against.
    /// - Throws: every violation of types or rules that could be found, with its path.
    public init(
        parsing json: JSONValue, id: AppID? = nil, parent: AppID = .root, rules: SpecRules = SpecRules()
    ) throws(SpecError) {
        guard let object = json.object else {
            throw SpecError(.malformed, [Violation(path: "/", errors: ["error.expected.jsobject"])])
        }
        let log = ViolationLog()
        let reader = ObjectReader(object: object, path: "", log: log)
        var app = AppSpec(id: id ?? .root)
        app.readIdentity(reader, id: id, parent: parent)
        app.readCommand(reader)
        app.readResources(reader, rules: rules)
        app.readPlacement(reader, rules: rules)
        app.readStrategies(reader)
        app.readContainer(reader, rules: rules)
        app.readPorts(reader, rules: rules)
        app.healthChecks = (reader.members("healthChecks") ?? []).map { HealthCheck(reading: $0) }
        app.refuseMissingFeatures(reader, rules: rules)
        if log.malformed.isEmpty { app.validate(log, rules: rules) }
        try log.check()
        self = app
    }

    private mutating func readIdentity(_ reader: ObjectReader, id: AppID?, parent: AppID) {
        let text = reader.string("id")
        if let id {
            self.id = id
            if let text, AppID(text, parent: id.parent) != id, AppID(text) != id {
                reader.log.invalid("/id", "The app id \(text) differs from the id \(id) of the request's path")
            }
        } else if let text {
            self.id = AppID(text, parent: parent)
        } else if reader.value("id") == nil {
            reader.log.malformed("/id", "error.path.missing")
        }
        dependencies = (reader.strings("dependencies") ?? []).map { AppID($0, parent: self.id.parent) }
        labels = reader.stringMap("labels") ?? [:]
        if let text = reader.string("version") {
            if let version = Timestamp(text) {
                self.version = version
            } else {
                reader.log.malformed("/version", "error.expected.date")
            }
        }
        let info = reader.member("versionInfo")
        lastScalingAt = info?.string("lastScalingAt").flatMap { Timestamp($0) } ?? version
        lastConfigChangeAt = info?.string("lastConfigChangeAt").flatMap { Timestamp($0) } ?? version
    }

    private mutating func readCommand(_ reader: ObjectReader) {
        cmd = reader.string("cmd")
        args = reader.strings("args") ?? []
        user = reader.string("user")
        executor = reader.string("executor") ?? ""
        taskKillGracePeriodSeconds = reader.integer("taskKillGracePeriodSeconds")
        tty = reader.bool("tty")
        readEnvironment(reader)
        let uris = reader.strings("uris") ?? []
        let fetches = reader.members("fetch") ?? []
        if !uris.isEmpty, !fetches.isEmpty {
            reader.log.invalid("/uris", "may not be set in conjunction with fetch")
        }
        fetch = uris.map { Fetch(uri: $0, extract: Fetch.isArchive($0)) }
        for item in fetches where item.required("uri") {
            fetch.append(
                Fetch(
                    uri: item.string("uri") ?? "", extract: item.bool("extract") ?? true,
                    executable: item.bool("executable") ?? false, cache: item.bool("cache") ?? false,
                    destPath: item.string("destPath") ?? item.string("outputFile")))
        }
    }

    private mutating func readEnvironment(_ reader: ObjectReader) {
        guard let members = reader.value("env")?.object else {
            env = reader.stringMap("env") ?? [:]
            return
        }
        if members.values.contains(where: { $0["secret"] != nil }) {
            reader.log.invalid("/env", "Feature secrets is not enabled. Enable with --enable_features secrets)")
            return
        }
        env = reader.stringMap("env") ?? [:]
        if env.keys.contains("") { reader.log.invalid("/env", "must not contain empty names") }
    }

    private mutating func readResources(_ reader: ObjectReader, rules: SpecRules) {
        instances = reader.integer("instances") ?? 1
        cpus = reader.double("cpus", in: 0...1e9) ?? 1
        mem = reader.double("mem", in: 0...1e15) ?? 128
        disk = reader.double("disk", in: 0...1e15) ?? 0
        gpus = reader.integer("gpus") ?? 0
        if let limits = reader.member("resourceLimits") {
            resourceLimits = ResourceLimits(
                cpus: AppSpec.limit(limits, "cpus", atLeast: cpus), mem: AppSpec.limit(limits, "mem", atLeast: mem))
        }
        backoffSeconds = reader.integer("backoffSeconds") ?? 1
        backoffFactor = reader.double("backoffFactor", in: 1...1e6) ?? 1.15
        maxLaunchDelaySeconds = reader.integer("maxLaunchDelaySeconds") ?? 300
    }

    private static func limit(_ reader: ObjectReader, _ key: String, atLeast request: Double) -> ResourceLimits.Limit? {
        if reader.value(key) == "unlimited" { return .unlimited }
        guard let amount = reader.double(key, in: 0...1e15) else { return nil }
        if amount < request { reader.log.invalid(reader.path(key), "must be greater than or equal to the request") }
        return .amount(amount)
    }

    private mutating func readPlacement(_ reader: ObjectReader, rules: SpecRules) {
        role = reader.string("role") ?? rules.role
        acceptedResourceRoles = reader.strings("acceptedResourceRoles")
        for (index, element) in (reader.array("constraints") ?? []).enumerated() {
            let path = "/constraints(\(index))"
            guard let parts = element.array, parts.allSatisfy({ $0.string != nil || $0.integer != nil }) else {
                reader.log.malformed(path, "error.expected.jsarray")
                continue
            }
            let texts = parts.map { $0.string ?? $0.integer.map(String.init) ?? "" }
            if let constraint = Constraint(parts: texts, path: path, log: reader.log) { constraints.append(constraint) }
        }
    }

    private mutating func readStrategies(_ reader: ObjectReader) {
        killSelection =
            reader.string("killSelection").flatMap { text in
                switch text {
                case "YOUNGEST_FIRST", "YoungestFirst": return .youngestFirst
                case "OLDEST_FIRST", "OldestFirst": return .oldestFirst
                default:
                    reader.log.malformed("/killSelection", "error.unknown.enum.literal")
                    return nil
                }
            } ?? .youngestFirst
        guard let strategy = reader.value("unreachableStrategy") else { return }
        if strategy == "disabled" {
            unreachableStrategy = .disabled
        } else if let member = reader.member("unreachableStrategy") {
            unreachableStrategy = .replace(
                inactiveAfterSeconds: member.integer("inactiveAfterSeconds") ?? 0,
                expungeAfterSeconds: member.integer("expungeAfterSeconds") ?? member.integer("inactiveAfterSeconds")
                    ?? 0)
        }
    }

    /// Called after the container is known: its volumes decide the default.
    mutating func readUpgradeStrategy(_ reader: ObjectReader) {
        let hasVolume = container?.volumes.contains { if case .external = $0.source { true } else { false } } ?? false
        upgradeStrategy =
            hasVolume
            ? UpgradeStrategy(minimumHealthCapacity: 0.5, maximumOverCapacity: 0)
            : UpgradeStrategy(minimumHealthCapacity: 1, maximumOverCapacity: 1)
        if labels["MARATHON_SINGLE_INSTANCE_APP"] == "true", reader.value("upgradeStrategy") == nil {
            upgradeStrategy = UpgradeStrategy(minimumHealthCapacity: 0, maximumOverCapacity: 0)
        }
        guard let strategy = reader.member("upgradeStrategy") else { return }
        if let value = strategy.double("minimumHealthCapacity", in: 0...1) {
            upgradeStrategy.minimumHealthCapacity = value
        }
        if let value = strategy.double("maximumOverCapacity", in: 0...1) { upgradeStrategy.maximumOverCapacity = value }
    }

    private func refuseMissingFeatures(_ reader: ObjectReader, rules: SpecRules) {
        if let secrets = reader.value("secrets"), secrets != [:] {
            reader.log.invalid("/secrets", "Feature secrets is not enabled. Enable with --enable_features secrets)")
        }
        if gpus > 0, !rules.features.contains("gpu_resources") {
            reader.log.invalid(
                "/gpus", "Feature gpu_resources is not enabled. Enable with --enable_features gpu_resources)")
        }
        for key in ["readinessChecks"] where !(reader.value(key)?.array ?? []).isEmpty {
            reader.log.invalid("/\(key)", "\(key) are not implemented")
        }
        for key in ["check", "residency"] where reader.value(key) != nil {
            reader.log.invalid("/\(key)", "\(key) is not implemented")
        }
    }
}

extension Fetch {
    /// True for what the fetcher of the legacy `uris` unpacked.
    static func isArchive(_ uri: String) -> Bool {
        [".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz", ".zip"].contains { uri.hasSuffix($0) }
    }
}

extension Constraint {
    init?(parts: [String], path: String, log: ViolationLog) {
        guard parts.count == 2 || parts.count == 3 else {
            log.invalid(path, "Each constraint must have either 2 or 3 fields")
            return nil
        }
        guard let relation = Operator(rawValue: parts[1].uppercased()) else {
            log.invalid(
                path, "Operator must be one of the following UNIQUE, CLUSTER, GROUP_BY, LIKE, MAX_PER or UNLIKE")
            return nil
        }
        self.init(field: parts[0], relation: relation, value: parts.count == 3 ? parts[2] : nil)
        if field.isEmpty { log.invalid(path, "Field name must not be empty") }
        switch relation {
        case .unique:
            if value != nil { log.invalid(path, "Value specified but not used") }
        case .cluster: break
        case .groupBy:
            if let value, Int(value) == nil { log.invalid(path, "Value was not a valid integer") }
        case .maxPer:
            if value.flatMap({ Int($0) }) == nil { log.invalid(path, "Value was not a valid integer") }
        case .like, .unlike:
            guard let value, !value.isEmpty else {
                log.invalid(path, "A regular expression value must be provided")
                return
            }
            if (try? Regex(value)) == nil { log.invalid(path, "'\(value)' is not a valid regular expression") }
        case .exactly:
            let isText = value?.utf8.allSatisfy(Constraint.isPlain) ?? false
            if !isText { log.invalid(path, "Value must match ^[a-zA-Z0-9_/.-]*$") }
        }
    }

    private static func isPlain(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), UInt8(ascii: "/"), UInt8(ascii: "."),
            UInt8(ascii: "-"):
            true
        default: false
        }
    }
}

extension HealthCheck {
    init(reading reader: ObjectReader) {
        transport = reader.choice("protocol", Transport.self) ?? .http
        path = reader.string("path")
        port = reader.integer("port", in: 0...65535)
        portIndex = reader.integer("portIndex")
        command = reader.member("command")?.string("value") ?? reader.value("command")?.string
        gracePeriodSeconds = reader.integer("gracePeriodSeconds") ?? 300
        intervalSeconds = reader.integer("intervalSeconds") ?? 60
        timeoutSeconds = reader.integer("timeoutSeconds") ?? 20
        maxConsecutiveFailures = reader.integer("maxConsecutiveFailures") ?? 3
        delaySeconds = reader.integer("delaySeconds") ?? 15
        ignoreHttp1xx = reader.bool("ignoreHttp1xx") ?? false
        ipProtocol = reader.string("ipProtocol") ?? "IPv4"
        if transport == .command, (command ?? "").isEmpty {
            reader.log.invalid(reader.path("command"), "must not be empty")
        }
        if port != nil, portIndex != nil {
            reader.log.invalid(reader.path, "HealthCheck must specify either a port or a portIndex")
        }
        if transport == .https {
            reader.log.invalid(reader.path("protocol"), "HTTPS is not implemented; use TCP or MESOS_HTTPS")
        }
        if intervalSeconds == 0 { reader.log.invalid(reader.path("intervalSeconds"), "got 0, expected 1 or more") }
    }
}
