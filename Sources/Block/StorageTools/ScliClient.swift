import Base
import HTTPKit
import NIOHTTP1

/// Why `scli` could not do what it was told, with the exit code and the words of the original.
struct ScliFailure: Error, Equatable {
    var exitCode: Int32
    var text: String

    static func usage(_ message: String) -> ScliFailure {
        ScliFailure(exitCode: 1, text: "Error: \(message). For help: scli --help")
    }

    static func local(_ message: String) -> ScliFailure { ScliFailure(exitCode: 1, text: "Error: \(message)") }

    static func refused(_ status: String) -> ScliFailure {
        ScliFailure(exitCode: 7, text: "Error: MDM failed command.  Status: \(status)")
    }

    static let noSession = refused("Invalid session. Please login and try again.")
}

/// The gateway's REST API as `scli` uses it: at the first address that answers and knows a leader.
struct ScliClient {
    var addresses: [HTTPAddress]
    var token: String?
    private let http = HTTPCaller(client: HTTPCaller.promptClient)

    init(addresses: [HTTPAddress], token: String?) {
        self.addresses = addresses
        self.token = token
    }

    mutating func login(user: String, password: String) async throws(ScliFailure) -> String {
        let reply = try await call(.GET, "/api/login", credentials: "\(user):\(password)")
        guard reply.status != 401 else { throw .refused("Permission denied") }
        guard reply.isSuccess, let token = (try? reply.json())?.string else { throw Self.refusal(reply) }
        self.token = token
        return token
    }

    mutating func get(_ path: String) async throws(ScliFailure) -> JSONValue {
        try await answer(.GET, path, body: nil)
    }

    mutating func list(_ path: String) async throws(ScliFailure) -> [JSONValue] {
        guard let list = try await get(path).array else { throw .local("The MDM's answer is not understood") }
        return list
    }

    mutating func post(_ path: String, _ body: JSONValue = [:]) async throws(ScliFailure) -> JSONValue {
        try await answer(.POST, path, body: body.bytes)
    }

    private mutating func answer(_ method: HTTPMethod, _ path: String, body: [UInt8]?) async throws(ScliFailure)
        -> JSONValue
    {
        guard let token else { throw .noSession }
        let reply = try await call(method, path, credentials: ":\(token)", body: body)
        if reply.status == 401 { throw .noSession }
        guard reply.isSuccess else { throw Self.refusal(reply) }
        if reply.body.isEmpty { return [:] }
        guard let json = try? reply.json() else { throw .local("The MDM's answer is not understood") }
        return json
    }

    private mutating func call(
        _ method: HTTPMethod, _ path: String, credentials: String, body: [UInt8]? = nil
    ) async throws(ScliFailure) -> HTTPReply {
        var headers: HTTPHeaders = ["authorization": "Basic \(base64(credentials))"]
        if body != nil { headers.add(name: "content-type", value: "application/json") }
        var tried: [String] = []
        var leaderless: HTTPReply?
        for (index, address) in addresses.enumerated() {
            // A manager that is silent must not keep a question from the others.
            let isLast = index == addresses.count - 1
            let deadline: Duration = method == .GET && !isLast ? .seconds(15) : .seconds(60)
            do {
                let reply = try await http.call(
                    method, address, path, headers: headers, body: body, deadline: deadline)
                guard Self.isLeaderless(reply) else {
                    // First from now on; the others stay for when it goes away.
                    addresses.swapAt(0, index)
                    return reply
                }
                leaderless = reply
            } catch {
                tried.append("\(address)")
                // A request that may have been carried out is not repeated elsewhere.
                if !error.isUnsent && method != .GET { break }
            }
        }
        if let leaderless { return leaderless }
        throw .local("Failed to connect to MDM \(tried.joined(separator: ","))")
    }

    /// The manager there is none that leads, nor knows one: nothing was done.
    private static func isLeaderless(_ reply: HTTPReply) -> Bool {
        !reply.isSuccess && (try? reply.json())?["errorCode"]?.integer == 105
    }

    private static func refusal(_ reply: HTTPReply) -> ScliFailure {
        let message = (try? reply.json())?["message"]?.string
        return .refused(message ?? "The MDM answered with status \(reply.status)")
    }
}
