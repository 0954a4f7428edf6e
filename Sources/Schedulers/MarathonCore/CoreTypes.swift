public import Base
import OrderedCollections

/// What the core needs to know of its installation. Names and defaults are Marathon's flags unless noted.
public struct CoreConfiguration: Sendable {
    public var rules = SpecRules()
    /// The wall-clock time at `Instant.zero`: versions and time stamps are wall-clock times, yet the core reads no
    /// clock.
    public var clockOrigin = Timestamp(milliseconds: 0)
    public var servicePorts = 10_000...20_000
    public var declineDuration = Duration.seconds(120)
    public var instancesPerOfferMax = 5
    /// Marathon waits 5 s between revives; we react at once to new work and only bound the rate.
    public var minReviveInterval = Duration.milliseconds(100)
    /// Ours: while work waits, offers are asked for again this often.
    public var reviveRepeat = Duration.seconds(10)
    public var killRetryTimeout = Duration.seconds(30)
    public var launchConfirmTimeout = Duration.seconds(300)
    public var launchTimeout = Duration.seconds(300)
    public var reconciliationInterval = Duration.seconds(600)
    public var runningDeploymentsMax = 100
    public var appsMax: Int?
    public var versionsMax = 50
    /// What one command may store, with all keys: below what every store takes in one commit.
    public var commandBytesMax = 900_000
    /// Of a command's records; those of its tasks are a little longer, and stores take 512.
    static let keyLengthMax = 400

    public init() {}
}

/// One app in a change of a group: what was asked for, before it is merged with what exists.
public struct AppChange: Sendable {
    public enum Kind: Sendable {
        /// The app must not exist.
        case create
        /// PUT and PATCH: absent members keep their values if `isPartial`; `mustExist` is PATCH.
        case update(isPartial: Bool, mustExist: Bool)
        case delete
        /// Replace every task, keep the configuration.
        case restart
    }
    public var kind: Kind
    /// Nil: the document holds it.
    public var id: AppID?
    public var document: JSONValue

    public init(_ kind: Kind, id: AppID? = nil, document: JSONValue = .null) {
        self.kind = kind
        self.id = id
        self.document = document
    }
}

/// Which tasks to kill.
public enum KillTarget: Sendable {
    /// Unknown ids are skipped.
    case tasks([String])
    /// One task of an app; an unknown one is an error.
    case task(AppID, String)
    /// All of an app, or those on `host`.
    case app(AppID, host: String?)
}

/// What users ask for.
public enum Command: Sendable {
    case change([AppChange], force: Bool)
    case kill(KillTarget, scale: Bool, wipe: Bool, force: Bool)
    /// With `force` the plan is dropped where it is, otherwise it is reversed.
    case cancelDeployment(String, force: Bool)
    case resetDelay(AppID)
}

public enum CommandReply: Sendable {
    /// `apps`: the ids that the change created or updated, in its order; `created` tells whether the first one is new.
    case deployment(id: String, version: Timestamp, apps: [AppID], created: Bool)
    case killed([JSONValue])
    case done
}

public enum CommandError: Error, Sendable, Hashable {
    case spec(SpecError)
    case badRequest(String)
    case notFound(String)
    case conflict(String)
    /// 409: the running deployments that hold the apps.
    case locked([String])
    case tooManyDeployments(Int)
    case portsExhausted(ClosedRange<Int>)
    /// The scheduler stops before the command took effect, or before it is known whether it did.
    case unavailable(String)
}

/// A health check that is due.
public struct Probe: Hashable, Sendable {
    public enum Kind: Hashable, Sendable { case http(path: String, isTLS: Bool, ignores1xx: Bool), tcp }
    public var instanceID: String
    public var index: Int
    public var kind: Kind
    public var host: String
    public var port: Int
    public var timeout: Duration
}

/// Something happened.
public enum Input: Sendable {
    /// Answered by `Action.reply` with the same number.
    case command(Command, request: UInt64)
    /// Subscribed at a master, for the first time or again.
    case connected
    case disconnected
    case offers([AgentOffer])
    case report(TaskReport)
    /// The master has given an agent up. It tells what became of the tasks only when asked, if it did not know them.
    case agentLost(String)
    /// `failure` nil: healthy.
    case probed(instanceID: String, index: Int, failure: String?)
    /// Time passed; expected several times a second.
    case tick
}

/// A task to start with parts of an offer.
public struct Launch: Sendable {
    public var instance: Instance
    public var app: AppSpec
    public var shares: [ResourceShare]
    public var allocationRole: String
}

/// One change of the store: nil deletes.
public struct StoreWrite: Sendable, Hashable {
    public var key: String
    public var value: JSONValue?
}

/// What the service has to do, in this order: writes are durable before anything after them happens.
public enum Action: Sendable {
    case persist([StoreWrite])
    case reply(request: UInt64, Result<CommandReply, CommandError>)
    case accept(offerID: String, agentID: String, [Launch])
    case decline([String], refuse: Duration)
    case revive
    case suppress
    case kill(taskID: String, agentID: String?)
    case acknowledge(taskID: String, agentID: String, uuid: [UInt8])
    /// Empty: implicit, for everything that the master knows of us.
    case reconcile([(taskID: String, agentID: String)])
    case probe(Probe)
    case publish(Event)
}

/// An event of `/v2/events`.
public struct Event: Sendable, Hashable {
    public var type: String
    public var payload: JSONValue

    init(_ type: String, at time: Timestamp, _ members: JSONValue.Object) {
        self.type = type
        var object = members
        object["eventType"] = .string(type)
        object["timestamp"] = .string(time.description)
        payload = .object(object)
    }

    /// Events that the service itself raises: connections and API calls.
    public static func make(_ type: String, at time: Timestamp, _ members: JSONValue) -> Event {
        Event(type, at: time, members.object ?? [:])
    }
}

/// A plan that is being carried out.
public struct Deployment: Hashable, Sendable {
    public enum Kind: String, Hashable, Sendable {
        case start = "StartApplication"
        case stop = "StopApplication"
        case scale = "ScaleApplication"
        case restart = "RestartApplication"
    }
    public struct Step: Hashable, Sendable {
        public var kind: Kind
        public var app: AppID
    }
    /// Before and after; nil means that the app does not exist.
    public struct Change: Hashable, Sendable {
        public var app: AppID
        public var original: AppSpec?
        public var target: AppSpec?
    }
    public var id: String
    public var version: Timestamp
    public var changes: [Change]
    /// Actions of one step run side by side, steps one after the other.
    public var steps: [[Step]]
    public var currentStep = 0

    public var affectedApps: [AppID] { changes.map(\.app) }
}

/// Delays launches of an app that keeps failing.
struct Backoff: Sendable {
    var configVersion: Timestamp
    var delaySeconds: Double
    var until: Timestamp
}

/// What `/v2/queue` tells about an app that waits for offers.
struct QueueEntry: Sendable {
    struct Unused: Sendable {
        var offer: AgentOffer
        var reasons: [RejectReason]
        var time: Timestamp
    }
    var count: Int
    var since: Timestamp
    var processed = 0
    var unused = 0
    var lastUnused: Timestamp?
    var lastUsed: Timestamp?
    /// By the first reason of each refused offer, since `since`.
    var refusals: [RejectReason: Int] = [:]
    /// The newest refused offer of each agent, at most `agentsMax`.
    var unusedOffers: OrderedDictionary<String, Unused> = [:]

    static let agentsMax = 100

    mutating func refuse(_ offer: AgentOffer, reasons: [RejectReason], at time: Timestamp) {
        processed += 1
        unused += 1
        lastUnused = time
        if let first = RejectReason.allCases.first(where: { reasons.contains($0) }) { refusals[first, default: 0] += 1 }
        if unusedOffers[offer.agentID] == nil, unusedOffers.count >= QueueEntry.agentsMax { unusedOffers.removeFirst() }
        unusedOffers[offer.agentID] = Unused(offer: offer, reasons: reasons, time: time)
    }
}
