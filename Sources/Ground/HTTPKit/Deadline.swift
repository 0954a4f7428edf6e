import Base

/// Work was not done by its deadline, and given up.
public struct DeadlineExceeded: Error, CustomStringConvertible {
    public var deadline: Duration

    public var description: String { "Not done within \(deadline.inSeconds) s" }
}

/// Runs `body`, cancelled and failed with `DeadlineExceeded` when it takes longer than `deadline`. Returns only when
/// `body` has ended, so it must end when it is cancelled.
public func withDeadline<Value: Sendable>(
    _ deadline: Duration, _ body: @escaping @Sendable () async throws -> Value
) async throws -> Value {
    try await withThrowingTaskGroup(of: Value.self) { group in
        group.addTask { try await body() }
        group.addTask {
            try await Task.sleep(for: deadline)
            throw DeadlineExceeded(deadline: deadline)
        }
        defer { group.cancelAll() }
        guard let value = try await group.next() else { throw CancellationError() }
        return value
    }
}
