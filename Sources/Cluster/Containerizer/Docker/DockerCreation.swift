public import Base
import OrderedCollections

/// The body of `POST /containers/create`, built up the way `docker run` builds it from its command line.
public struct DockerCreation: Sendable {
    /// Top-level members (`Image`, `Cmd`, `Env`, ...).
    private(set) var config: JSONValue.Object = [:]
    private(set) var host: JSONValue.Object = [:]
    /// Settings of the endpoint in the container's network (aliases, addresses).
    private(set) var endpoint: JSONValue.Object = [:]

    public init(image: String) { config["Image"] = .string(image) }

    public var json: JSONValue {
        var body = config
        body["HostConfig"] = .object(host)
        if !endpoint.isEmpty, let network = host["NetworkMode"]?.string {
            body["NetworkingConfig"] = ["EndpointsConfig": .object([network: .object(endpoint)])]
        }
        return .object(body)
    }

    // MARK: Setting

    mutating func set(_ key: String, _ value: JSONValue) { config[key] = value }
    mutating func setHost(_ key: String, _ value: JSONValue) { host[key] = value }
    mutating func setEndpoint(_ key: String, _ value: JSONValue) { endpoint[key] = value }

    mutating func append(_ key: String, _ value: JSONValue) {
        config[key] = .array((config[key]?.array ?? []) + [value])
    }
    mutating func appendHost(_ key: String, _ value: JSONValue) {
        host[key] = .array((host[key]?.array ?? []) + [value])
    }
    mutating func appendEndpoint(_ key: String, _ value: JSONValue) {
        endpoint[key] = .array((endpoint[key]?.array ?? []) + [value])
    }
    mutating func setMember(_ key: String, _ member: String, _ value: JSONValue) {
        var object = config[key] ?? [:]
        object[member] = value
        config[key] = object
    }
    mutating func setHostMember(_ key: String, _ member: String, _ value: JSONValue) {
        var object = host[key] ?? [:]
        object[member] = value
        host[key] = object
    }

    // MARK: Parts that several sources share

    /// `NAME=VALUE`; an earlier value of the same name is replaced, as docker's own list of variables does.
    public mutating func setEnvironment(_ name: String, _ value: String) {
        var list = (config["Env"]?.array ?? []).filter { !($0.string ?? "").hasPrefix(name + "=") }
        list.append(.string("\(name)=\(value)"))
        config["Env"] = .array(list)
    }

    /// `[SOURCE:]PATH[:OPTIONS]`, where SOURCE is a path of the host or the name of a volume; without SOURCE an
    /// anonymous volume.
    public mutating func addVolume(_ specification: String) throws(ContainerizerError) {
        guard !specification.isEmpty else { throw ContainerizerError(.invalidRequest, "invalid empty volume spec") }
        if specification.contains(":") {
            appendHost("Binds", .string(specification))
        } else {
            setMember("Volumes", specification, [:])
        }
    }

    /// Publishes a container's port, on the given port of the host (empty: one that docker chooses).
    public mutating func publish(containerPort: Int, hostIP: String = "", hostPort: String, protocol name: String) {
        let key = "\(containerPort)/\(name)"
        setMember("ExposedPorts", key, [:])
        var bindings = host["PortBindings"]?[key]?.array ?? []
        bindings.append(["HostIp": .string(hostIP), "HostPort": .string(hostPort)])
        setHostMember("PortBindings", key, .array(bindings))
    }
}
