import Base
import FoundationEssentials
import Synchronization

/// The tokens that logins have handed out. They live in memory only: after a restart clients log in again by
/// themselves.
///
/// Bounded: beyond `tokenMax` the token unused for longest is dropped, and its owner has to log in again.
final class GatewaySessions: Sendable {
    /// How long a token lives whatever happens.
    static let life = Duration.seconds(8 * 3600)
    /// How long a token lives without being used.
    static let idle = Duration.seconds(600)
    static let tokenMax = 4096

    private struct Session {
        var issued: Instant
        var used: Instant
    }

    private let user: String
    private let password: String
    private let sessions = Mutex<[String: Session]>([:])

    init(user: String, password: String) {
        self.user = user
        self.password = password
    }

    /// A new token, or nil when the credentials are wrong. Takes the same time for every wrong password of one length.
    func login(user: String, password: String, now: Instant, epochMilliseconds: UInt64) -> String? {
        let userMatches = constantTimeEqual(user, self.user)
        let passwordMatches = constantTimeEqual(password, self.password)
        guard userMatches, passwordMatches else { return nil }
        var random = SystemRandomNumberGenerator()
        let secret = (random.next() as UInt64).hex + (random.next() as UInt64).hex
        let token = Data("\(self.user):\(epochMilliseconds):\(secret)".utf8).base64EncodedString()
        sessions.withLock { sessions in
            if sessions.count >= Self.tokenMax { Self.makeRoom(in: &sessions, now: now) }
            sessions[token] = Session(issued: now, used: now)
        }
        return token
    }

    /// Whether `token` is alive; a token that is stays alive for another idle time.
    func accepts(token: String, now: Instant) -> Bool {
        sessions.withLock { sessions in
            guard let session = sessions[token] else { return false }
            guard Self.isAlive(session, now: now) else {
                sessions[token] = nil
                return false
            }
            sessions[token]?.used = now
            return true
        }
    }

    func logout(token: String) {
        sessions.withLock { $0[token] = nil }
    }

    private static func isAlive(_ session: Session, now: Instant) -> Bool {
        now - session.issued < life && now - session.used < idle
    }

    private static func makeRoom(in sessions: inout [String: Session], now: Instant) {
        sessions = sessions.filter { isAlive($0.value, now: now) }
        while sessions.count >= tokenMax, let oldest = sessions.min(by: { $0.value.used < $1.value.used }) {
            sessions[oldest.key] = nil
        }
    }
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
