import Base
import FoundationEssentials
import HTTPKit

/// What a tool printed and how it ended.
public struct ToolResult: Equatable, Sendable {
    public var exitCode: Int32
    public var output: String
    public var errors: String

    public init(exitCode: Int32 = 0, output: String = "", errors: String = "") {
        self.exitCode = exitCode
        self.output = output
        self.errors = errors
    }
}

/// `scli`, the storage administrator's command line: the original's commands, words and exit codes (0 done, 1 wrong
/// usage or no connection, 7 refused by the manager), carried out over the gateway's REST API.
public struct Scli: Sendable {
    /// Port of the gateway's plain HTTP side, used when an address names none.
    public static let portDefault = 8081

    private let environment: [String: String]
    private let configurationFile: String

    /// - Parameters:
    ///   - environment: `SCLI_MDM_IP` (addresses), `SCLI_SESSION_FILE`, `HOME`.
    ///   - configurationFile: lines `mdm_ip=ADDRESS[,ADDRESS]`; used when neither option nor environment names an
    /// address.
    public init(environment: [String: String], configurationFile: String = "/etc/holdfast/scli.conf") {
        self.environment = environment
        self.configurationFile = configurationFile
    }

    public func run(_ arguments: [String]) async -> ToolResult {
        do {
            let parsed: ScliArguments
            do {
                parsed = try ScliArguments(arguments)
            } catch {
                throw ScliFailure.usage(error.message)
            }
            return ToolResult(output: try await perform(parsed))
        } catch let failure as ScliFailure {
            return ToolResult(exitCode: failure.exitCode, errors: failure.text + "\n")
        } catch let malformed as ScliArguments.Malformed {
            return ToolResult(exitCode: 1, errors: ScliFailure.usage(malformed.message).text + "\n")
        } catch {
            return ToolResult(exitCode: 1, errors: "Error: \(error)\n")
        }
    }

    private func perform(_ arguments: ScliArguments) async throws -> String {
        guard let command = ScliCommands.all[arguments.command] else {
            throw ScliFailure.usage("Unknown command --\(arguments.command)")
        }
        if arguments.command == "help" { return ScliCommands.help }
        if let unknown = arguments.options.keys.sorted().first(where: { !command.accepts($0) }) {
            throw ScliFailure.usage("Unknown option --\(unknown) of --\(arguments.command)")
        }
        let addresses = try addresses(arguments)
        let session = ScliSession(path: sessionPath)
        // The session belongs to the list of addresses as given: any of them may answer next time.
        let sessionKey = addresses.map(\.description).joined(separator: ",")
        var client = ScliClient(addresses: addresses, token: session.token(for: sessionKey))
        switch arguments.command {
        case "login":
            let user = try arguments.required("username")
            let token = try await client.login(user: user, password: try arguments.required("password"))
            try session.store(token, for: sessionKey)
            let system = try await client.list("/api/types/System/instances").first ?? [:]
            return "Logged in. User role is SuperUser. System ID is \(system.shown("id"))\n"
        case "logout":
            _ = try await client.get("/api/logout")
            try session.store(nil, for: sessionKey)
            return "Logged out.\n"
        default:
            return try await command.body(arguments, &client)
        }
    }

    private var sessionPath: String {
        environment["SCLI_SESSION_FILE"] ?? (environment["HOME"] ?? "/tmp") + "/.scli_session"
    }

    private func addresses(_ arguments: ScliArguments) throws(ScliFailure) -> [HTTPAddress] {
        let text =
            arguments.value("mdm_ip") ?? environment["SCLI_MDM_IP"] ?? configuredAddresses ?? "127.0.0.1"
        var result: [HTTPAddress] = []
        for part in text.split(separator: ",") {
            let part = String(part)
            let complete = part.contains(":") ? part : "\(part):\(Self.portDefault)"
            guard let address = HTTPAddress(complete) else { throw .usage("'\(part)' is no MDM address") }
            result.append(address)
        }
        guard !result.isEmpty else { throw .usage("--mdm_ip names no address") }
        return result
    }

    private var configuredAddresses: String? {
        guard let data = try? Data(contentsOf: URL(filePath: configurationFile)),
            let text = String(validating: data, as: UTF8.self)
        else { return nil }
        for line in text.split(separator: "\n") where line.hasPrefix("mdm_ip=") {
            return String(line.dropFirst("mdm_ip=".count))
        }
        return nil
    }
}
