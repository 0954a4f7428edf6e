import LinuxOS

/// Talks to a Redis with `redis-cli`, as a person would.
struct RedisProbe: Sendable {
    let host: String
    let port: Int

    /// The answer's text without its final line break; throws when there is none in time.
    func call(_ arguments: String..., deadline: Duration = .seconds(2)) async throws -> String {
        let result = try await runCommand(
            ["redis-cli", "-h", host, "-p", "\(port)"] + arguments, deadline: deadline)
        let text = result.outputText.split(separator: "\n").joined(separator: "\n")
        guard result.isSuccess, !text.hasPrefix("Could not connect"), !text.hasPrefix("Error"),
            !text.hasPrefix("LOADING"), !text.hasPrefix("MISCONF"), !text.hasPrefix("DENIED")
        else { throw ScenarioFailure("redis at \(host):\(port): \(text) \(result.errorText)") }
        return text
    }
}
