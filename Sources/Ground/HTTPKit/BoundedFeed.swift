public import NIOCore

/// The sending side of a long-lived answer (RecordIO, server-sent events): chunks wait in a bounded buffer for one
/// reader.
///
/// Overflow policy: disconnect. A reader that falls `limit` chunks behind loses its connection and has to subscribe
/// again; memory never grows with a slow reader.
public struct BoundedFeed: Sendable {
    /// Thrown to the reader's side when it fell too far behind.
    public struct SlowReader: Error {}

    /// The chunks in order, for exactly one reader.
    public let chunks: AsyncThrowingStream<ByteBuffer, any Error>
    private let continuation: AsyncThrowingStream<ByteBuffer, any Error>.Continuation
    /// Ends when the feed overflows: a reader that does not read does not come to the chunks' end to learn of it.
    private let overflow: AsyncStream<Void>
    private let overflowContinuation: AsyncStream<Void>.Continuation

    public init(limit: Int = 4096) {
        (chunks, continuation) = AsyncThrowingStream.makeStream(bufferingPolicy: .bufferingOldest(limit))
        (overflow, overflowContinuation) = AsyncStream.makeStream()
    }

    /// Appends a chunk. Answers false when the feed has ended, by this call (overflow) or before.
    @discardableResult
    public func offer(_ chunk: ByteBuffer) -> Bool {
        switch continuation.yield(chunk) {
        case .enqueued: return true
        case .dropped:
            continuation.finish(throwing: SlowReader())
            overflowContinuation.finish()
            return false
        case .terminated: return false
        @unknown default: return false
        }
    }

    @discardableResult
    public func offer(_ bytes: some Sequence<UInt8>) -> Bool { offer(ByteBuffer(bytes: bytes)) }

    /// Throws `SlowReader` as soon as the reader fell too far behind, and returns only when the task is cancelled.
    func awaitOverflow() async throws {
        for await _ in overflow {}
        if !Task.isCancelled { throw SlowReader() }
    }

    /// Ends the feed after what it holds; later offers answer false.
    public func finish() { continuation.finish() }

    /// `body` is called once when the feed ends for any reason: finished, overflowed, or its reader gone.
    ///
    /// It is called by whoever ends the feed, who may hold the lock of a task: it must not wait for a lock that is held during
    /// `offer`.
    public func onEnd(_ body: @escaping @Sendable () -> Void) {
        continuation.onTermination = { _ in body() }
    }
}
