import Base
public import BlockCore
public import Coordination
public import HTTPKit
import HTTPTypes
public import Hummingbird
public import Logging
import OrderedCollections

/// Who may log in, and what the gateway says it is.
public struct GatewayConfiguration: Sendable {
    public var user: String
    public var password: String
    /// What `/api/version` answers: clients choose their dialect by it. From "4.0" on they would expect another login.
    public var apiVersion: String

    public init(user: String = "admin", password: String, apiVersion: String = "3.5") {
        self.user = user
        self.password = password
        self.apiVersion = apiVersion
    }
}

/// The ScaleIO REST API in front of the manager. Tokens and the ledger of proofs are in the store, so that the gateways
/// of all managers are one to their clients.
public struct Gateway: Sendable {
    let configuration: GatewayConfiguration
    let manager: any ManagerPort
    /// Nil: there is no other manager.
    let cluster: (any ManagerClusterPort)?
    let sessions: GatewaySessions
    let ledger: FencingLedger
    let caller = HTTPCaller(client: HTTPCaller.promptClient)
    let logger: Logger
    private let clock: GatewayClock

    /// - Parameter store: where tokens and proofs are kept; nil: in memory.
    public init(
        configuration: GatewayConfiguration, manager: any ManagerPort, cluster: (any ManagerClusterPort)? = nil,
        store: (any MetadataStore)? = nil, logger: Logger
    ) {
        self.init(
            configuration: configuration, manager: manager, cluster: cluster, store: store, logger: logger,
            clock: .system)
    }

    init(
        configuration: GatewayConfiguration, manager: any ManagerPort, cluster: (any ManagerClusterPort)? = nil,
        store: (any MetadataStore)? = nil, logger: Logger, clock: GatewayClock
    ) {
        self.configuration = configuration
        self.manager = manager
        self.cluster = cluster
        self.logger = logger
        self.clock = clock
        sessions = GatewaySessions(user: configuration.user, password: configuration.password, store: store)
        ledger = FencingLedger(store: store)
    }

    /// Adds the gateway's paths: everything below `/api`, and `/holdfast/v1` for what the original does not have.
    public func addRoutes(to router: HTTPRouter) {
        for method: HTTPRequest.Method in [.get, .post, .put, .delete] {
            for path in ["/api/**", "/holdfast/v1/**"] {
                router.on(.init(path), method: method) { request, _ in
                    try await respond(to: request)
                }
            }
        }
    }

    private func respond(to request: Request) async throws -> Response {
        do {
            let body = request.method == .get ? [] : try await request.bytes(limit: 1 << 20)
            return try await respond(
                to: GatewayCall(
                    method: request.method, uri: request.uri.string, path: request.uri.path,
                    authorization: request.headers[.authorization], body: body,
                    isForwarded: Gateway.isForwarded(request)))
        } catch let error as GatewayError {
            logger.debug(
                "Refused a request",
                metadata: [
                    "http.path": "\(request.uri.path)", "error.code": "\(error.code)",
                    "error.message": "\(error.message)",
                ])
            throw error.failure
        }
    }

    var leadership: ManagerLeadership { cluster?.leadership() ?? .here(term: 0) }

    /// One request in, one JSON document out. Throws `notLeader` as long as nothing was done.
    func answer(method: HTTPRequest.Method, path: String, authorization: String?, body: [UInt8])
        async throws(GatewayError)
        -> JSONValue
    {
        guard case .here(let term) = leadership else { throw .notLeader }
        let time = GatewayTime(
            instant: clock.instant(), epochMilliseconds: clock.epochMilliseconds(), term: term)
        let credentials = basicCredentials(authorization)
        let named = GatewayPath(path)
        if named == .login, method == .get {
            guard let credentials else { throw .unauthorized }
            let token = try await stored { () throws(StoreError) in
                try await sessions.login(user: credentials.user, password: credentials.password, at: time)
            }
            guard let token else { throw .unauthorized }
            return .string(token)
        }
        guard let token = credentials?.password,
            try await stored({ () throws(StoreError) in try await sessions.accepts(token: token, at: time) })
        else { throw .unauthorized }
        guard method == .get || method == .post else { throw .notAllowed }
        guard let named else {
            if method == .get, let answer = try await extra(path) { return answer }
            if method == .post, let answer = try await extraAction(path, body) { return answer }
            throw .unknownPath(path)
        }
        return method == .get
            ? try await read(named, path: path, token: token) : try await write(named, path: path, body)
    }

    private func read(_ named: GatewayPath, path: String, token: String) async throws(GatewayError) -> JSONValue {
        switch named {
        case .login: throw .notAllowed
        case .logout:
            try await stored { () throws(StoreError) in try await sessions.logout(token: token) }
            return ""
        case .version: return .string(configuration.apiVersion)
        case .everything:
            let views = try await views()
            var all: JSONValue = [:]
            for type in ObjectType.allCases { all[type.rawValue] = .array(views.list(type.rawValue) ?? []) }
            return all
        case .list(let type):
            guard let list = try await views().list(type) else { throw .unknownPath(path) }
            return .array(list)
        case .object(let type, let id):
            return try await views().object(try known(type), id: id)
        case .relationship(let typeName, let id, let relation):
            let type = try known(typeName)
            let views = try await views()
            guard relation == "Statistics" else { return .array(try views.related(type, id: id, relation: relation)) }
            _ = try views.object(type, id: id)
            return Statistics(state: views.state).of(type, id: id)
        case .lookup(let type, let method, let key):
            return .string(try Lookup(state: try await state()).legacy(type: type, method: method, key: key))
        case .action, .typeAction: throw .notAllowed
        }
    }

    private func write(_ named: GatewayPath, path: String, _ body: [UInt8]) async throws(GatewayError) -> JSONValue {
        let fields = try RequestFields(body)
        switch named {
        case .list(let type): return try await create(try known(type), fields)
        case .typeAction(let type, let name): return try await typeAction(try known(type), name, fields)
        case .action(let type, let id, let name): return try await action(try known(type), id: id, name, fields)
        case .logout, .version, .login, .everything, .object, .relationship, .lookup: throw .notAllowed
        }
    }

    func known(_ type: String) throws(GatewayError) -> ObjectType {
        guard let known = ObjectType(rawValue: type) else {
            throw ObjectType.empty.contains(type) ? .unsupported : .unknownPath("/api/types/\(type)")
        }
        return known
    }

    func state() async throws(GatewayError) -> SystemState {
        do {
            return try await manager.state()
        } catch {
            throw GatewayError(error)
        }
    }

    func views() async throws(GatewayError) -> ObjectViews {
        ObjectViews(
            state: try await state(), managers: (try? await cluster?.members()) ?? [], user: configuration.user,
            now: clock.epochMilliseconds() / 1000)
    }

    /// What needs the metadata store, which may be away for a moment.
    private func stored<Value>(_ body: () async throws(StoreError) -> Value) async throws(GatewayError) -> Value {
        do {
            return try await body()
        } catch {
            logger.warning("The store of tokens is not reached", metadata: ["error": "\(error)"])
            throw .communication
        }
    }

    /// Hands a command to the manager; `type` is what the command is about, for the words of a refusal.
    func submit(_ command: ManagerCommand, about type: ObjectType = .volume) async throws(GatewayError) -> ManagerReply
    {
        do {
            return try await manager.submit(command)
        } catch {
            logger.info(
                "The manager refused a command",
                metadata: ["manager.code": "\(error.code)", "manager.message": "\(error.message)"])
            throw GatewayError(error, about: type)
        }
    }

    func epochMilliseconds() -> UInt64 { clock.epochMilliseconds() }
}

/// The clocks that the gateway reads: a monotonic one for tokens, the calendar for creation times.
struct GatewayClock: Sendable {
    var instant: @Sendable () -> Instant
    var epochMilliseconds: @Sendable () -> UInt64

    static let system: GatewayClock = {
        let start = ContinuousClock.now
        return GatewayClock(
            instant: { Instant.zero + (ContinuousClock.now - start) },
            epochMilliseconds: { calendarMilliseconds() })
    }()
}

extension GatewayError {
    /// The manager's refusal in the words of the original.
    init(_ error: ManagerError, about type: ObjectType = .volume) {
        switch error.code {
        case .domainNotFound: self = .domainNotFound
        case .poolNotFound: self = .poolNotFound
        case .sdsNotFound: self = .sdsNotFound
        case .deviceNotFound: self = .deviceNotFound
        case .sdcNotFound: self = .sdcNotFound
        case .managerNotFound: self = .managerNotFound
        case .faultSetNotFound: self = .faultSetNotFound
        case .volumeNotFound: self = .volumeNotFound
        case .nameInUse: self = Self.nameInUse(type)
        case .invalidName: self = .nameInvalid
        case .invalidSize: self = .illegalSize
        case .invalidArgument: self = .outOfRange
        case .insufficientServers:
            self =
                type == .volume
                ? .poolTooSmall : GatewayError(code: 64, "The data has nowhere else to go: \(error.message)")
        case .insufficientCapacity: self = .noCapacity
        case .poolCritical: self = .poolCritical
        case .sdsLeaving: self = .sdsLeaving
        case .deviceLeaving: self = .deviceLeaving
        case .hasServers: self = .domainHasServers
        case .hasPools: self = .domainHasPools
        case .hasDevices: self = .poolHasDevices
        case .hasVolumes: self = .poolHasVolumes
        case .alreadyMapped: self = .alreadyMapped
        case .mappedElsewhere: self = .singleMapping
        case .notMapped: self = .notMapped
        case .volumeMapped: self = .volumeMapped
        case .inUse:
            self =
                switch type {
                case .sdc: GatewayError(code: 180, "SDC has mapped volume(s)")
                case .faultSet: .faultSetNotEmpty
                case .system, .protectionDomain, .storagePool, .volume, .vtree, .sds, .device, .user:
                    GatewayError(code: 64, "The object is in use: \(error.message)")
                }
        case .tooManySnapshots: self = .tooManySnapshots
        case .otherTree: self = .otherTree
        case .sameVolume: self = .sameVolume
        // To be tried again, as the text says; then ours, which tells why.
        case .snapshotFailed: self = GatewayError(code: 164, "The system is busy. Retry later: \(error.message)")
        case .overloaded: self = .busy
        case .notLeader: self = .notLeader
        // The original's text first, since clients match on it; then ours, since it names the server in question.
        case .fencingUnproven, .storeFailed, .unavailable, .identityConflict, .malformed, .sdsRemoved:
            self = GatewayError(code: 69, "Communication error: \(errorChain(error))")
        }
    }

    private static func nameInUse(_ type: ObjectType) -> GatewayError {
        switch type {
        case .protectionDomain:
            GatewayError(code: 141, "Protection Domain name already exists. Please use a different name.")
        case .storagePool: GatewayError(code: 173, "Storage Pool name already exists. Please use a different name.")
        case .faultSet: GatewayError(code: 266, "Fault Set name already exists. Please use a different name.")
        case .device: GatewayError(code: 206, "A device with the given name already exists in the SDS")
        case .sds: GatewayError(code: 98, "SDS name is already in use. Please use a different name.")
        case .sdc: GatewayError(code: 98, "SDC name is already in use. Please use a different name.")
        case .system, .volume, .vtree, .user: .nameInUse
        }
    }
}
