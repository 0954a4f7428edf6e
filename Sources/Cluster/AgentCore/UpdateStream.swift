public import Base
public import MesosAPI

/// The status updates of one task on their way to the scheduler: in order, one at a time, each repeated until
/// acknowledged.
public struct UpdateStream: Sendable {
    /// Beyond this many waiting updates the oldest that is neither under way nor final gives way: only a scheduler that
    /// has not acknowledged for a very long time misses an intermediate state.
    public static let pendingMax = 256

    public private(set) var pending: [MesosTaskStatus] = []
    public let executor: String
    /// A final state has been put in; nothing follows it.
    public private(set) var isTerminal = false
    /// When the first pending update is to be sent again; nil while the master is away or nothing waits.
    public internal(set) var retryAt: Instant?
    private var retryDelay = UpdateStream.retryDelayMin
    /// Uuids of everything ever put in, to recognise an executor's repetitions.
    private var known: Set<[UInt8]> = []

    static let retryDelayMin = Duration.seconds(10)
    static let retryDelayMax = Duration.seconds(600)

    public init(executor: String) { self.executor = executor }

    /// Answers false when the update is a repetition or comes after a final one.
    mutating func append(_ status: MesosTaskStatus) -> Bool {
        guard !isTerminal, known.insert(status.uuidBytes).inserted else { return false }
        pending.append(status)
        if pending.count > UpdateStream.pendingMax { pending.remove(at: 1) }
        isTerminal = status.state.isTerminal
        return true
    }

    func knows(_ uuid: [UInt8]) -> Bool { known.contains(uuid) }

    /// Removes the first update if `uuid` is its own. Answers whether it was.
    mutating func acknowledge(_ uuid: [UInt8]) -> Bool {
        guard let first = pending.first, first.uuidBytes == uuid else { return false }
        pending.removeFirst()
        retryAt = nil
        retryDelay = UpdateStream.retryDelayMin
        return true
    }

    /// True when the last update of the task is acknowledged.
    public var isFinished: Bool { isTerminal && pending.isEmpty }

    /// The update to send now; sets the time of its repetition.
    mutating func next(now: Instant) -> MesosTaskStatus? {
        guard let first = pending.first else { return nil }
        retryAt = now + retryDelay
        retryDelay = min(retryDelay * 2, UpdateStream.retryDelayMax)
        return first
    }

    /// The master is away: nothing is sent until `next`, which then starts over with the shortest delay.
    mutating func pause() {
        retryAt = nil
        retryDelay = UpdateStream.retryDelayMin
    }
}
