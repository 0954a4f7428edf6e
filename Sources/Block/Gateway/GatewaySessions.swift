import Base
import Coordination
import FoundationEssentials

/// The tokens that logins have handed out. They lie in the store as well, so that the gateway of the next leader knows
/// them; only the leader's gateway decides by them.
///
/// What a token was last used for is kept in memory only: another leader counts its idle time from its own beginning.
/// Bounded: beyond `tokenMax` the token unused for longest is dropped, and its owner has to log in again.
actor GatewaySessions {
    /// How long a token lives whatever happens.
    static let life = Duration.seconds(8 * 3600)
    /// How long a token lives without being used.
    static let idle = Duration.seconds(600)
    static let tokenMax = 4096
    private static let keyPrefix = "/block-gateway/session/"
    /// Of dead tokens; one login takes at most so many records with it.
    private static let removalsMax = 256

    private struct Session {
        var key: String
        /// Milliseconds since 1970: it outlives the process whose clock started elsewhere.
        var issued: UInt64
        var used: Instant
    }

    private let user: String
    private let password: String
    private let store: (any MetadataStore)?
    private var sessions: [String: Session] = [:]
    /// Of which leadership `sessions` is.
    private var term: UInt64?
    private typealias Records = Result<[(key: String, value: VersionedValue)], StoreError>
    /// All requests of a new leadership wait for one reading of what is stored.
    private var reading: (term: UInt64, task: Task<Records, Never>)?

    init(user: String, password: String, store: (any MetadataStore)?) {
        self.user = user
        self.password = password
        self.store = store
    }

    /// A new token, or nil when the credentials are wrong. Takes the same time for every wrong password of one length.
    func login(user: String, password: String, at time: GatewayTime) async throws(StoreError) -> String? {
        let userMatches = constantTimeEqual(user, self.user)
        let passwordMatches = constantTimeEqual(password, self.password)
        guard userMatches, passwordMatches else { return nil }
        try await load(time)
        var random = SystemRandomNumberGenerator()
        let secret = (random.next() as UInt64).hex + (random.next() as UInt64).hex
        let token = Data("\(self.user):\(time.epochMilliseconds):\(secret)".utf8).base64EncodedString()
        let session = Session(
            key: GatewaySessions.keyPrefix + secret, issued: time.epochMilliseconds, used: time.instant)
        let dead = makeRoom(time)
        if let store {
            let document: JSONValue = [
                "token": .string(token), "issued": .integer(Int64(clamping: session.issued)),
            ]
            let removals = dead.map { StoreChange.delete(key: $0, expected: .any) }
            try await store.commit(
                removals + [.put(key: session.key, bytes: document.bytes, expected: .any)])
        }
        sessions[token] = session
        return token
    }

    /// Whether `token` is alive; a token that is stays alive for another idle time.
    func accepts(token: String, at time: GatewayTime) async throws(StoreError) -> Bool {
        try await load(time)
        guard let session = sessions[token], isAlive(session, time) else { return false }
        sessions[token]?.used = time.instant
        return true
    }

    func logout(token: String) async throws(StoreError) {
        guard let session = sessions.removeValue(forKey: token) else { return }
        try await store?.commit([.delete(key: session.key, expected: .any)])
    }

    /// Begins with what is stored when the leadership is another than last time.
    private func load(_ time: GatewayTime) async throws(StoreError) {
        guard let store, term != time.term else { return }
        let task = reading?.term == time.term ? reading?.task : nil
        let result = await (task ?? read(store, time.term)).value
        // Somebody else who waited may have been the first, and have logged in since.
        guard term != time.term else { return }
        if reading?.term == time.term { reading = nil }
        let records = try result.get()
        sessions = [:]
        for (key, value) in records {
            guard let document = try? JSONValue(parsing: value.bytes), let token = document["token"]?.string,
                let issued = document["issued"]?.integer, issued >= 0
            else { continue }
            sessions[token] = Session(key: key, issued: UInt64(issued), used: time.instant)
        }
        term = time.term
    }

    private func read(_ store: any MetadataStore, _ term: UInt64) -> Task<Records, Never> {
        // SAFETY: it ends with the listing, which has its deadline.
        let task = Task {
            do throws(StoreError) {
                return Records.success(try await store.list(prefix: GatewaySessions.keyPrefix))
            } catch {
                return .failure(error)
            }
        }
        reading = (term, task)
        return task
    }

    private func isAlive(_ session: Session, _ time: GatewayTime) -> Bool {
        let age = Duration.milliseconds(max(time.epochMilliseconds, session.issued) - session.issued)
        return age < GatewaySessions.life && time.instant - session.used < GatewaySessions.idle
    }

    /// Forgets dead tokens and, if need be, living ones; answers their keys.
    private func makeRoom(_ time: GatewayTime) -> [String] {
        var gone = sessions.filter { !isAlive($0.value, time) }.sorted { $0.value.used < $1.value.used }
            .prefix(GatewaySessions.removalsMax).map { (token: $0.key, key: $0.value.key) }
        for (token, _) in gone { sessions[token] = nil }
        while sessions.count >= GatewaySessions.tokenMax, gone.count < GatewaySessions.removalsMax * 2,
            let oldest = sessions.min(by: { $0.value.used < $1.value.used })
        {
            sessions[oldest.key] = nil
            gone.append((oldest.key, oldest.value.key))
        }
        return gone.map(\.key)
    }
}

/// When a request is answered: by the clocks and in which leadership.
struct GatewayTime: Sendable {
    var instant: Instant
    var epochMilliseconds: UInt64
    var term: UInt64
}

/// Compares without stopping at the first difference, so that the time tells nothing but the length.
func constantTimeEqual(_ left: String, _ right: String) -> Bool {
    let left = Array(left.utf8)
    let right = Array(right.utf8)
    guard left.count == right.count else { return false }
    var difference: UInt8 = 0
    for index in left.indices { difference |= left[index] ^ right[index] }
    return difference == 0
}

/// User and password of an `Authorization: Basic` header.
func basicCredentials(_ header: String?) -> (user: String, password: String)? {
    guard let header else { return nil }
    let parts = header.split(separator: " ", maxSplits: 1)
    guard parts.count == 2, parts[0].lowercased() == "basic",
        let data = Data(base64Encoded: String(parts[1])),
        let text = String(validating: data, as: UTF8.self),
        let colon = text.firstIndex(of: ":")
    else { return nil }
    return (String(text[..<colon]), String(text[text.index(after: colon)...]))
}
