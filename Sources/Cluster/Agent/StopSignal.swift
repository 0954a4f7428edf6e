/// Lets one piece of work be given up from outside.
final class StopSignal: Sendable {
    private let stream: AsyncStream<Void>
    private let continuation: AsyncStream<Void>.Continuation

    init() { (stream, continuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1)) }

    func fire() { continuation.finish() }

    /// Runs `body`, cancelled when the signal fires. Returns when it has ended. To be called once.
    func run(_ body: @escaping @Sendable () async -> Void) async {
        await withTaskGroup(of: Void.self) { group in
            group.addTask { await body() }
            group.addTask { [stream] in for await _ in stream {} }
            _ = await group.next()
            group.cancelAll()
            await group.waitForAll()
        }
    }
}
