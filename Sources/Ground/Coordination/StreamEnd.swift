import Dispatch

/// Serial, so that streams are heard to end in their order.
private let ends = DispatchQueue(label: "stream-ends")

extension AsyncStream.Continuation {
    /// Calls `body` once, soon after the stream has ended: finished, or its reader cancelled or gone.
    ///
    /// Who cancels a task holds that task's lock while its streams end, and a `yield` that wakes the task waits for it. So what
    /// `onTermination` calls must not wait for a lock that anybody holds while yielding to the stream; `body` may, being called
    /// from a queue.
    public func afterEnd(_ body: @escaping @Sendable () -> Void) {
        onTermination = { _ in ends.async(execute: body) }
    }
}
