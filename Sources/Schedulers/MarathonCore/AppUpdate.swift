public import Base
import OrderedCollections

extension AppSpec {
    /// The app that results when the members of `update` replace those of this one.
    ///
    /// Members of an older generation displace their canonical successors (`ports` the `portDefinitions`,
    /// `docker.network` the `networks`, `uris` the `fetch`), and `cmd` displaces `args` and the other way round.
    public func updated(by update: JSONValue, rules: SpecRules = SpecRules()) throws(SpecError) -> AppSpec {
        guard let changes = update.object else {
            throw SpecError(.malformed, [Violation(path: "/", errors: ["error.expected.jsobject"])])
        }
        if let id = changes["id"], !id.isNull, id.string == nil {
            throw SpecError(.malformed, [Violation(path: "/id", errors: ["error.expected.jsstring"])])
        }
        var merged = json.object ?? [:]
        merged["version"] = nil
        merged["versionInfo"] = nil
        let given = Set(changes.filter { !$0.value.isNull }.keys)
        let network = update["container"]?["docker"]?["network"]
        if given.contains("ports") { merged["portDefinitions"] = nil }
        if given.contains("uris") { merged["fetch"] = nil }
        if given.contains("cmd") { merged["args"] = nil }
        if given.contains("args"), changes["args"] != [] { merged["cmd"] = nil }
        if (network != nil || given.contains("ipAddress")), !given.contains("networks") { merged["networks"] = nil }
        if given.contains("networks") || merged["networks"] == nil { merged["portDefinitions"] = nil }
        for (name, value) in changes where !value.isNull && name != "id" && name != "version" && name != "versionInfo" {
            merged[name] = value
        }
        // A change to the number of ports must not trip over mappings that belong to the former network mode.
        if given.contains("networks"), !given.contains("container"), update["networks"]?[0]?["mode"] == "host",
            var container = merged["container"]?.object
        {
            container["portMappings"] = nil
            merged["container"] = .object(container)
        }
        var result = try AppSpec(parsing: .object(merged), id: id, rules: rules)
        result.reuseServicePorts(of: self)
        return result
    }

    /// Gives ports that ask for any service port (0) those that `former` had and this does not name, in order.
    mutating func reuseServicePorts(of former: AppSpec) {
        var named = Set(servicePorts)
        named.remove(0)
        var free = former.servicePorts.filter { $0 != 0 && !named.contains($0) }[...]
        assignServicePorts { free.popFirst() }
    }

    /// Fills service ports that are 0 from `next` until it gives nil. Answers false when some are left.
    @discardableResult
    public mutating func assignServicePorts(_ next: () -> Int?) -> Bool {
        if networkMode == .host {
            for index in portDefinitions.indices where portDefinitions[index].port == 0 {
                // With requirePorts 0 stays: it asks for any host port.
                guard !requirePorts else { continue }
                guard let port = next() else { return false }
                portDefinitions[index].port = port
            }
            return true
        }
        guard var mappings = container?.portMappings else { return true }
        defer { container?.portMappings = mappings }
        for index in mappings.indices where mappings[index].servicePort == 0 {
            guard let port = next() else { return false }
            mappings[index].servicePort = port
        }
        return true
    }
}
