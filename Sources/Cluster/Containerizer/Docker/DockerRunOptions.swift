import Base
import OrderedCollections

/// Translates options of `docker run` (20.10), as a task gives them in `parameters`, into the body of a creation.
///
/// Options apply in their order: lists grow, of others the last one counts. An option that is unknown, or that only
/// makes sense for the command line client (`--detach`, `--cidfile`, ...), is refused with an error that names it.
extension DockerCreation {
    public mutating func apply(option key: String, value: String) throws(ContainerizerError) {
        let name = key.hasPrefix("--") ? String(key.dropFirst(2)) : key
        if try applyText(name, value) { return }
        if try applyNumber(name, value) { return }
        if try applyFlag(name, value) { return }
        if try applyList(name, value) { return }
        if try applyStructured(name, value) { return }
        throw ContainerizerError(.invalidRequest, "The docker parameter '\(key)' is not supported.")
    }

    private func invalid(_ name: String, _ value: String) -> ContainerizerError {
        ContainerizerError(.invalidRequest, "invalid argument \"\(value)\" for \"--\(name)\"")
    }

    // MARK: Kinds of options

    private mutating func applyText(_ name: String, _ value: String) throws(ContainerizerError) -> Bool {
        switch name {
        case "hostname", "h": set("Hostname", .string(value))
        case "domainname": set("Domainname", .string(value))
        case "user", "u": set("User", .string(value))
        case "workdir", "w": set("WorkingDir", .string(value))
        case "mac-address": set("MacAddress", .string(value))
        case "stop-signal": set("StopSignal", .string(value))
        case "entrypoint": set("Entrypoint", value.isEmpty ? [""] : [.string(value)])
        case "volume-driver": setHost("VolumeDriver", .string(value))
        case "network", "net": setHost("NetworkMode", .string(value))
        case "pid": setHost("PidMode", .string(value))
        case "ipc": setHost("IpcMode", .string(value))
        case "uts": setHost("UTSMode", .string(value))
        case "userns": setHost("UsernsMode", .string(value))
        case "cgroupns": setHost("CgroupnsMode", .string(value))
        case "cgroup-parent": setHost("CgroupParent", .string(value))
        case "runtime": setHost("Runtime", .string(value))
        case "isolation": setHost("Isolation", .string(value))
        case "cpuset-cpus": setHost("CpusetCpus", .string(value))
        case "cpuset-mems": setHost("CpusetMems", .string(value))
        case "log-driver": setHostMember("LogConfig", "Type", .string(value))
        case "ip": setEndpointAddress("IPv4Address", value)
        case "ip6": setEndpointAddress("IPv6Address", value)
        case "name", "cidfile", "detach", "d", "detach-keys", "attach", "a", "rm", "sig-proxy", "platform", "pull":
            throw ContainerizerError(.invalidRequest, "The docker parameter '\(name)' is not allowed for tasks.")
        default: return false
        }
        return true
    }

    private mutating func setEndpointAddress(_ member: String, _ value: String) {
        var addresses = endpoint["IPAMConfig"] ?? [:]
        addresses[member] = .string(value)
        setEndpoint("IPAMConfig", addresses)
    }

    private mutating func applyNumber(_ name: String, _ value: String) throws(ContainerizerError) -> Bool {
        let integers = [
            "cpu-shares": "CpuShares", "c": "CpuShares", "cpu-period": "CpuPeriod", "cpu-quota": "CpuQuota",
            "cpu-rt-period": "CpuRealtimePeriod", "cpu-rt-runtime": "CpuRealtimeRuntime", "blkio-weight": "BlkioWeight",
            "memory-swappiness": "MemorySwappiness", "oom-score-adj": "OomScoreAdj", "pids-limit": "PidsLimit",
        ]
        let sizes = [
            "memory": "Memory", "m": "Memory", "memory-reservation": "MemoryReservation", "memory-swap": "MemorySwap",
            "kernel-memory": "KernelMemory", "shm-size": "ShmSize",
        ]
        if let member = integers[name] {
            guard let number = Int64(value) else { throw invalid(name, value) }
            setHost(member, .integer(number))
        } else if let member = sizes[name] {
            guard let size = DockerCreation.size(value) else { throw invalid(name, value) }
            setHost(member, .integer(size))
        } else if name == "cpus" {
            guard let cpus = Double(value), cpus >= 0, cpus < 1e6 else { throw invalid(name, value) }
            setHost("NanoCpus", .integer(Int64((cpus * 1e9).rounded())))
        } else if name == "stop-timeout" {
            guard let seconds = Int64(value) else { throw invalid(name, value) }
            set("StopTimeout", .integer(seconds))
        } else {
            return false
        }
        return true
    }

    private mutating func applyFlag(_ name: String, _ value: String) throws(ContainerizerError) -> Bool {
        let hostFlags = [
            "privileged": "Privileged", "read-only": "ReadonlyRootfs", "publish-all": "PublishAllPorts",
            "P": "PublishAllPorts", "init": "Init", "oom-kill-disable": "OomKillDisable",
        ]
        let configFlags = ["tty": "Tty", "t": "Tty", "interactive": "OpenStdin", "i": "OpenStdin"]
        guard
            hostFlags[name] != nil || configFlags[name] != nil || name == "no-healthcheck"
                || name == "disable-content-trust"
        else { return false }
        let isOn: Bool
        switch value {
        case "", "1", "t", "T", "true", "True", "TRUE": isOn = true
        case "0", "f", "F", "false", "False", "FALSE": isOn = false
        default: throw invalid(name, value)
        }
        if let member = hostFlags[name] { setHost(member, .bool(isOn)) }
        if let member = configFlags[name] { set(member, .bool(isOn)) }
        if name == "no-healthcheck", isOn { setMember("Healthcheck", "Test", ["NONE"]) }
        return true
    }

    private mutating func applyList(_ name: String, _ value: String) throws(ContainerizerError) -> Bool {
        let hostLists = [
            "add-host": "ExtraHosts", "cap-add": "CapAdd", "cap-drop": "CapDrop", "dns": "Dns",
            "dns-option": "DnsOptions", "dns-opt": "DnsOptions", "dns-search": "DnsSearch", "group-add": "GroupAdd",
            "volumes-from": "VolumesFrom", "device-cgroup-rule": "DeviceCgroupRules",
        ]
        if let member = hostLists[name] {
            appendHost(member, .string(value))
            return true
        }
        switch name {
        case "volume", "v": try addVolume(value)
        case "link": appendEndpoint("Links", .string(value))
        case "network-alias", "net-alias": appendEndpoint("Aliases", .string(value))
        case "link-local-ip":
            var addresses = endpoint["IPAMConfig"] ?? [:]
            addresses["LinkLocalIPs"] = .array((addresses["LinkLocalIPs"]?.array ?? []) + [.string(value)])
            setEndpoint("IPAMConfig", addresses)
        case "security-opt":
            // `seccomp=FILE` names a file of the client, which has no meaning for a task; a profile itself may be
            // given.
            if value.hasPrefix("seccomp="), value != "seccomp=unconfined", !value.hasPrefix("seccomp={") {
                throw ContainerizerError(
                    .invalidRequest, "The docker parameter 'security-opt' cannot name a file: \(value)")
            }
            appendHost("SecurityOpt", .string(value))
        default: return false
        }
        return true
    }

    private mutating func applyStructured(_ name: String, _ value: String) throws(ContainerizerError) -> Bool {
        let (left, right) = DockerCreation.halves(value, separator: "=")
        switch name {
        case "env", "e":
            // Without "=" the command line client would copy the variable from its own environment: there is none here.
            guard !left.isEmpty else { throw invalid(name, value) }
            if let right { setEnvironment(left, right) }
        case "label", "l": setMember("Labels", left, .string(right ?? ""))
        case "sysctl": setHostMember("Sysctls", left, .string(right ?? ""))
        case "log-opt":
            guard let right else { throw invalid(name, value) }
            var options = host["LogConfig"]?["Config"] ?? [:]
            options[left] = .string(right)
            setHostMember("LogConfig", "Config", options)
        case "storage-opt":
            guard let right else { throw invalid(name, value) }
            setHostMember("StorageOpt", left, .string(right))
        case "tmpfs":
            let (path, options) = DockerCreation.halves(value, separator: ":")
            setHostMember("Tmpfs", path, .string(options ?? ""))
        case "ulimit": appendHost("Ulimits", try ulimit(value))
        case "device": appendHost("Devices", try device(value))
        case "device-read-bps", "device-write-bps", "device-read-iops", "device-write-iops", "blkio-weight-device":
            try applyDeviceRate(name, value)
        case "restart": setHost("RestartPolicy", try restartPolicy(value))
        case "expose":
            let (port, protocolName) = DockerCreation.halves(value, separator: "/")
            guard let number = Int(port), (1...65535).contains(number) else { throw invalid(name, value) }
            setMember("ExposedPorts", "\(number)/\(protocolName ?? "tcp")", [:])
        case "publish", "p": try applyPublish(value)
        case "mount": appendHost("Mounts", try mount(value))
        case "gpus": appendHost("DeviceRequests", try deviceRequest(value))
        case "health-cmd", "health-interval", "health-timeout", "health-retries", "health-start-period":
            try applyHealth(name, value)
        default: return false
        }
        return true
    }

    // MARK: Single options

    private func ulimit(_ value: String) throws(ContainerizerError) -> JSONValue {
        let (name, limits) = DockerCreation.halves(value, separator: "=")
        guard let limits else { throw invalid("ulimit", value) }
        let (soft, hard) = DockerCreation.halves(limits, separator: ":")
        guard let softLimit = Int64(soft), let hardLimit = Int64(hard ?? soft), !name.isEmpty else {
            throw invalid("ulimit", value)
        }
        guard softLimit <= hardLimit || hardLimit == -1 else { throw invalid("ulimit", value) }
        return ["Name": .string(name), "Soft": .integer(softLimit), "Hard": .integer(hardLimit)]
    }

    private func device(_ value: String) throws(ContainerizerError) -> JSONValue {
        let parts = value.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
        let isMode = { (text: String) in !text.isEmpty && text.allSatisfy { "rwm".contains($0) } }
        guard let source = parts.first, !source.isEmpty, parts.count <= 3 else { throw invalid("device", value) }
        var target = source
        var mode = "rwm"
        if parts.count == 3 {
            target = parts[1]
            mode = parts[2]
        } else if parts.count == 2 {
            if isMode(parts[1]) { mode = parts[1] } else { target = parts[1] }
        }
        guard isMode(mode) else { throw invalid("device", value) }
        return ["PathOnHost": .string(source), "PathInContainer": .string(target), "CgroupPermissions": .string(mode)]
    }

    private mutating func applyDeviceRate(_ name: String, _ value: String) throws(ContainerizerError) {
        let members = [
            "device-read-bps": "BlkioDeviceReadBps", "device-write-bps": "BlkioDeviceWriteBps",
            "device-read-iops": "BlkioDeviceReadIOps", "device-write-iops": "BlkioDeviceWriteIOps",
            "blkio-weight-device": "BlkioWeightDevice",
        ]
        let (path, text) = DockerCreation.halves(value, separator: ":")
        let rate = text.flatMap { name.hasSuffix("bps") ? DockerCreation.size($0) : Int64($0) }
        guard let member = members[name], let rate, path.hasPrefix("/dev/") else { throw invalid(name, value) }
        appendHost(
            member,
            ["Path": .string(path), (name == "blkio-weight-device" ? "Weight" : "Rate"): .integer(rate)])
    }

    private func restartPolicy(_ value: String) throws(ContainerizerError) -> JSONValue {
        // The scheduler restarts tasks; a container that docker restarts behind its back would run twice.
        guard value == "no" || value.isEmpty else {
            throw ContainerizerError(
                .invalidRequest, "The docker parameter 'restart' must be 'no': the scheduler restarts tasks.")
        }
        return ["Name": "no"]
    }

    private mutating func applyPublish(_ value: String) throws(ContainerizerError) {
        let (ports, protocolName) = DockerCreation.halves(value, separator: "/")
        var parts = ports.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
        guard let last = parts.popLast(), let containerPort = Int(last), (1...65535).contains(containerPort) else {
            throw invalid("publish", value)
        }
        let hostPort = parts.popLast() ?? ""
        guard hostPort.isEmpty || Int(hostPort).map({ (0...65535).contains($0) }) == true else {
            throw invalid("publish", value)
        }
        publish(
            containerPort: containerPort, hostIP: parts.joined(separator: ":"), hostPort: hostPort,
            protocol: protocolName ?? "tcp")
    }

    private func mount(_ value: String) throws(ContainerizerError) -> JSONValue {
        var mount: JSONValue = ["Type": "volume"]
        var driver: JSONValue = [:]
        var driverOptions: JSONValue = [:]
        for field in value.split(separator: ",") {
            let (key, text) = DockerCreation.halves(String(field), separator: "=")
            switch key {
            case "type": mount["Type"] = .string(text ?? "")
            case "source", "src": mount["Source"] = .string(text ?? "")
            case "target", "destination", "dst": mount["Target"] = .string(text ?? "")
            case "readonly", "ro": mount["ReadOnly"] = .bool(text != "false" && text != "0")
            case "consistency": mount["Consistency"] = .string(text ?? "")
            case "bind-propagation": mount["BindOptions"] = ["Propagation": .string(text ?? "")]
            case "volume-nocopy": mount["VolumeOptions"] = ["NoCopy": .bool(text != "false")]
            case "volume-driver": driver["Name"] = .string(text ?? "")
            case "volume-opt":
                let (option, setting) = DockerCreation.halves(text ?? "", separator: "=")
                driverOptions[option] = .string(setting ?? "")
            case "tmpfs-size":
                guard let size = text.flatMap(DockerCreation.size) else { throw invalid("mount", value) }
                mount["TmpfsOptions"] = ["SizeBytes": .integer(size)]
            default: throw invalid("mount", value)
            }
        }
        if driverOptions != [:] { driver["Options"] = driverOptions }
        if driver != [:] {
            var options = mount["VolumeOptions"] ?? [:]
            options["DriverConfig"] = driver
            mount["VolumeOptions"] = options
        }
        guard mount["Target"]?.string?.isEmpty == false else { throw invalid("mount", value) }
        return mount
    }

    private func deviceRequest(_ value: String) throws(ContainerizerError) -> JSONValue {
        if value == "all" { return ["Count": -1, "Capabilities": [["gpu"]]] }
        if let count = Int64(value) { return ["Count": .integer(count), "Capabilities": [["gpu"]]] }
        guard value.hasPrefix("device=") else { throw invalid("gpus", value) }
        let ids = value.dropFirst("device=".count).split(separator: ",").map { JSONValue.string(String($0)) }
        return ["DeviceIDs": .array(ids), "Capabilities": [["gpu"]]]
    }

    private mutating func applyHealth(_ name: String, _ value: String) throws(ContainerizerError) {
        switch name {
        case "health-cmd": setMember("Healthcheck", "Test", ["CMD-SHELL", .string(value)])
        case "health-retries":
            guard let retries = Int64(value) else { throw invalid(name, value) }
            setMember("Healthcheck", "Retries", .integer(retries))
        default:
            let members = [
                "health-interval": "Interval", "health-timeout": "Timeout", "health-start-period": "StartPeriod",
            ]
            guard let member = members[name], let duration = DockerCreation.duration(value) else {
                throw invalid(name, value)
            }
            setMember("Healthcheck", member, .integer(duration.wholeNanoseconds))
        }
    }

    // MARK: Values

    /// `text` at its first `separator`; nil for the second half when there is none.
    static func halves(_ text: String, separator: Character) -> (String, String?) {
        guard let index = text.firstIndex(of: separator) else { return (text, nil) }
        return (String(text[..<index]), String(text[text.index(after: index)...]))
    }

    /// Bytes from `512`, `64k`, `1.5g`, `10MB`, `1GiB` (binary units in every spelling, as docker reads them); -1 stays
    /// -1.
    static func size(_ text: String) -> Int64? {
        if text == "-1" { return -1 }
        var rest = Substring(text.lowercased())
        if rest.hasSuffix("ib") { rest = rest.dropLast(2) } else if rest.hasSuffix("b") { rest = rest.dropLast() }
        var shift = 0
        if let unit = rest.last, let power = ["k": 10, "m": 20, "g": 30, "t": 40, "p": 50][unit] {
            shift = power
            rest = rest.dropLast()
        }
        guard let number = Double(rest.filter { $0 != " " }), number >= 0 else { return nil }
        let bytes = number * Double(1 << shift)
        return bytes < 9e18 ? Int64(bytes) : nil
    }

    /// Go's notation: `1h2m3.5s`, `300ms`.
    static func duration(_ text: String) -> Duration? {
        let units: [String: Double] = ["h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "ns": 1e-9]
        var seconds = 0.0
        var rest = Substring(text)
        guard !rest.isEmpty else { return nil }
        while !rest.isEmpty {
            let digits = rest.prefix { $0.isNumber || $0 == "." }
            rest = rest.dropFirst(digits.count)
            let unit = rest.prefix { $0.isLetter }
            rest = rest.dropFirst(unit.count)
            guard let number = Double(digits), let factor = units[String(unit)] else { return nil }
            seconds += number * factor
        }
        return seconds < 9e9 ? .seconds(seconds) : nil
    }
}
