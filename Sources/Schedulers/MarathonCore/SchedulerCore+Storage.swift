public import Base
import OrderedCollections

/// Why a store's content is not a state of ours.
public struct RecordError: CodedError {
    public enum Code: Hashable, Sendable { case malformed, unknownKey }
    public var code: Code
    public var message: String
    public var cause: (any Error)?
}

extension SchedulerCore {
    /// Restores the state from every record that earlier `persist` actions wrote, in the order of their keys.
    public init(configuration: CoreConfiguration, records: [(key: String, value: JSONValue)]) throws(RecordError) {
        self.init(configuration: configuration)
        for (key, value) in records {
            let kind = key.prefix { $0 != "/" }
            func malformed(_ cause: (any Error)? = nil) -> RecordError {
                RecordError(code: .malformed, message: "The record \(key) is malformed", cause: cause)
            }
            switch kind {
            case "root":
                guard let version = value["version"]?.string.flatMap({ Timestamp($0) }) else { throw malformed() }
                rootVersion = version
            case "apps", "versions":
                let app: AppSpec
                do throws(SpecError) { app = try AppSpec(record: value) } catch { throw malformed(error) }
                if kind == "apps" { apps[app.id] = app } else { versions[app.id, default: []].append(app) }
            case "instances":
                guard let instance = Instance(record: value) else { throw malformed() }
                instances[instance.id] = instance
            case "deployments":
                let deployment: Deployment?
                do throws(SpecError) { deployment = try Deployment(record: value) } catch { throw malformed(error) }
                guard let deployment else { throw malformed() }
                deployments.append(deployment)
            case "failures":
                guard let failure = TaskFailure(value) else { throw malformed() }
                failures[failure.appID] = failure
            default: throw RecordError(code: .unknownKey, message: "The record \(key) is of no known kind", cause: nil)
            }
        }
        for id in Array(versions.keys) { versions[id]?.sort { $0.version < $1.version } }
        instances.sort { ($0.value.stagedAt, $0.key) < ($1.value.stagedAt, $1.key) }
        for instance in instances.values { instanceIDs[instance.appID, default: []].append(instance.id) }
        deployments.sort { $0.version < $1.version }
        dirtyApps = Set(apps.keys).union(instanceIDs.keys)
    }
}

extension AppSpec {
    /// An app as `json` wrote it. Rules that depend on flags are not applied again: a changed flag must not lose apps.
    init(record: JSONValue) throws(SpecError) {
        var rules = SpecRules()
        rules.features = ["external_volumes", "gpu_resources", "secrets", "task_killing", "vips"]
        rules.role = record["role"]?.string ?? "*"
        var app = try AppSpec(parsing: record, rules: rules)
        if app.networkMode == .host, record["portDefinitions"] == nil { app.portDefinitions = [] }
        self = app
    }
}

extension Deployment.Step {
    func json(nameOf key: String) -> JSONValue {
        [key: .string(kind.rawValue), "app": .string(app.description)]
    }

    init?(_ json: JSONValue) {
        guard let kind = json["action"]?.string.flatMap(Deployment.Kind.init(rawValue:)), let app = json["app"]?.string
        else { return nil }
        self.init(kind: kind, app: AppID(app))
    }
}

extension JSONValue {
    fileprivate static func optional(_ app: AppSpec?) -> JSONValue { app?.json ?? .null }
}

extension Deployment {
    /// The light form of the plan that events carry.
    var plan: JSONValue {
        [
            "id": .string(id), "version": .string(version.description),
            "steps": .array(steps.map { step in ["actions": .array(step.map { $0.json(nameOf: "action") })] }),
        ]
    }

    var record: JSONValue {
        [
            "id": .string(id), "version": .string(version.description), "currentStep": .integer(Int64(currentStep)),
            "steps": .array(steps.map { .array($0.map { $0.json(nameOf: "action") }) }),
            "changes": .array(
                changes.map { change in
                    [
                        "app": .string(change.app.description), "original": .optional(change.original),
                        "target": .optional(change.target),
                    ]
                }),
        ]
    }

    init?(record: JSONValue) throws(SpecError) {
        guard let id = record["id"]?.string, let version = record["version"]?.string.flatMap({ Timestamp($0) }),
            let current = record["currentStep"]?.integer, let steps = record["steps"]?.array,
            let changes = record["changes"]?.array
        else { return nil }
        self.init(id: id, version: version, changes: [], steps: steps.map { ($0.array ?? []).compactMap { Step($0) } })
        currentStep = Int(clamping: current)
        for change in changes {
            guard let app = change["app"]?.string else { return nil }
            func spec(_ key: String) throws(SpecError) -> AppSpec? {
                guard let json = change[key], !json.isNull else { return nil }
                return try AppSpec(record: json)
            }
            self.changes.append(Change(app: AppID(app), original: try spec("original"), target: try spec("target")))
        }
    }
}
