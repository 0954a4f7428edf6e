import Base
import Coordination
import MasterCore
import MesosAPI

/// What a master leaves to the next one, in the metadata store: one JSON document per agent and per framework, so that
/// operators can read it.
struct Registry: Sendable {
    static let prefix = "/master/registry/"

    let store: any MetadataStore
    let epoch: LeaderEpoch

    /// Everything an earlier master left, read while the epoch holds. Documents that cannot be read are an error: to
    /// start without them would lose tasks.
    func load() async throws(MasterError) -> (agents: [RegistryAgent], frameworks: [RegistryFramework]) {
        var agents: [RegistryAgent] = []
        var frameworks: [RegistryFramework] = []
        try await commit([])
        do {
            for (key, value) in try await store.list(prefix: Registry.prefix) {
                let json = try JSONValue(parsing: value.bytes)
                let since = json["since"]?.double ?? 0
                let info = json["info"] ?? .null
                let state = json["state"]?.string ?? ""
                if key.hasPrefix(Registry.prefix + "agents/"), let state = RegistryAgent.State(rawValue: state) {
                    let info = try jsonDecode(MesosAgentInfo.self, from: info)
                    agents.append(
                        RegistryAgent(
                            info: info, state: state, since: since, isDeactivated: json["deactivated"]?.bool ?? false))
                } else if key.hasPrefix(Registry.prefix + "frameworks/") {
                    let info = try jsonDecode(MesosFrameworkInfo.self, from: info)
                    frameworks.append(RegistryFramework(info: info, isRemoved: state == "removed", since: since))
                } else {
                    throw MasterError(.registry, "The registry entry \(key) has an unknown state")
                }
            }
        } catch let error as MasterError {
            throw error
        } catch {
            throw MasterError(.registry, "The registry could not be read", cause: error)
        }
        return (agents, frameworks)
    }

    /// Makes `changes` durable, all or none; of several changes of one key the last counts.
    func commit(_ changes: [RegistryChange]) async throws(MasterError) {
        var latest: [String: StoreChange] = [:]
        for change in changes {
            let change = Registry.storeChange(change)
            latest[change.key] = change
        }
        let all = latest.keys.sorted().compactMap { latest[$0] }
        do {
            var rest = all[...]
            repeat {
                try await store.commit(Array(rest.prefix(MetadataLimits.changesMax)), as: epoch)
                rest = rest.dropFirst(MetadataLimits.changesMax)
            } while !rest.isEmpty
        } catch {
            let code: MasterError.Code = error.code == .fenced ? .leadershipLost : .registry
            throw MasterError(code, "The registry could not be written", cause: error)
        }
    }

    private static func storeChange(_ change: RegistryChange) -> StoreChange {
        switch change {
        case .agent(let agent):
            put(
                "agents/\(agent.info.id)", state: agent.state.rawValue, since: agent.since,
                info: jsonEncode(agent.info), isDeactivated: agent.isDeactivated)
        case .removeAgent(let id): .delete(key: "\(prefix)agents/\(id)", expected: .any)
        case .framework(let framework):
            put(
                "frameworks/\(framework.info.id)", state: framework.isRemoved ? "removed" : "active",
                since: framework.since, info: jsonEncode(framework.info))
        case .removeFramework(let id): .delete(key: "\(prefix)frameworks/\(id)", expected: .any)
        }
    }

    private static func put(
        _ key: String, state: String, since: Double, info: JSONValue, isDeactivated: Bool = false
    ) -> StoreChange {
        var document: JSONValue = ["state": .string(state), "since": .number(since), "info": info]
        if isDeactivated { document["deactivated"] = .bool(true) }
        return .put(key: prefix + key, bytes: document.bytes, expected: .any)
    }
}
