/// What did not become true before the deadline of `eventually`.
public struct NeverHappened: Error, CustomStringConvertible {
    public var what: String
    public var deadline: Duration
    public var lastError: String?

    public var description: String {
        "\(what) did not happen within \(deadline)" + (lastError.map { "; at last: \($0)" } ?? "")
    }
}

/// Polls until `value` answers something, and answers that. Errors count as "not yet".
///
/// - Parameter deadline: generous, since it costs nothing when things go well and machines are slow when they do not.
@discardableResult
public func eventually<Value>(
    _ what: String, within deadline: Duration = .seconds(20), every interval: Duration = .milliseconds(20),
    isolation: isolated (any Actor)? = #isolation, _ value: () async throws -> Value?
) async throws -> Value {
    let end = ContinuousClock.now + deadline
    var lastError: (any Error)?
    while true {
        do {
            if let value = try await value() { return value }
            lastError = nil
        } catch {
            lastError = error
        }
        guard ContinuousClock.now < end else {
            throw NeverHappened(what: what, deadline: deadline, lastError: lastError.map { "\($0)" })
        }
        try await Task.sleep(for: interval)
    }
}

/// Polls until `condition` holds.
public func eventually(
    _ what: String, within deadline: Duration = .seconds(20), every interval: Duration = .milliseconds(20),
    isolation: isolated (any Actor)? = #isolation, _ condition: () async throws -> Bool
) async throws {
    try await eventually(what, within: deadline, every: interval, isolation: isolation) {
        try await condition() ? true : nil
    }
}
