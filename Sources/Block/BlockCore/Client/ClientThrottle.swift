import Base

/// How much one client may ask of one volume. 0 in a member: that is not limited.
public struct VolumeLimits: Equatable, Sendable {
    /// I/Os of the front end per second, whatever their size; a flush is none.
    public var iops: UInt32
    /// KiB read and written per second. Zeroing moves no bytes.
    public var kibibytesPerSecond: UInt32

    public init(iops: UInt32 = 0, kibibytesPerSecond: UInt32 = 0) {
        self.iops = iops
        self.kibibytesPerSecond = kibibytesPerSecond
    }

    public static let none = VolumeLimits()
}

/// Two token buckets, for I/Os and bytes, with the I/Os of one attachment that wait for tokens, first come, first served.
///
/// Invariants:
/// - A bucket is the moment up to which its rate is spent. An I/O may begin when no such moment lies more than `burst`
///   ahead; it then spends its share, also when that is more than a burst. So in any second a limit is exceeded by at
///   most `burst` and one I/O.
/// - While an I/O waits, no later one begins.
struct Throttle: Sendable {
    /// What may be spent ahead. Less than this is lost to a clock that comes late, more would show in a second.
    static let burst = Duration.milliseconds(40)

    private(set) var limits: VolumeLimits
    private var iopsSpent = Instant.zero
    private var bytesSpent = Instant.zero
    private var queue: [ClientIO] = []
    /// Where the queue begins in `queue`.
    private var head = 0

    init(_ limits: VolumeLimits) { self.limits = limits }

    var isUnlimited: Bool { limits == .none }
    var first: ClientIO? { head < queue.count ? queue[head] : nil }

    /// New limits are in force at once; what was spent under the old ones is forgotten.
    mutating func change(_ limits: VolumeLimits, _ now: Instant) {
        guard limits != self.limits else { return }
        self.limits = limits
        iopsSpent = now
        bytesSpent = now
    }

    mutating func append(_ io: ClientIO) { queue.append(io) }

    mutating func removeFirst() {
        head += 1
        if head == queue.count {
            queue.removeAll(keepingCapacity: true)
            head = 0
        } else if head >= 1024, head * 2 > queue.count {
            queue.removeFirst(head)
            head = 0
        }
    }

    mutating func removeAll() {
        queue = []
        head = 0
    }

    /// How long the next I/O has to wait, zero if it may begin.
    func wait(_ now: Instant) -> Duration {
        var wait = Duration.zero
        if limits.iops > 0 { wait = max(wait, iopsSpent - now - Throttle.burst) }
        if limits.kibibytesPerSecond > 0 { wait = max(wait, bytesSpent - now - Throttle.burst) }
        return wait
    }

    /// An I/O that moves so many bytes begins.
    mutating func spend(bytes: UInt32, _ now: Instant) {
        if limits.iops > 0 {
            iopsSpent = max(iopsSpent, now) + .nanoseconds(1_000_000_000 / Int64(limits.iops))
        }
        if limits.kibibytesPerSecond > 0 {
            let nanoseconds = UInt64(bytes) * 1_000_000_000 / (UInt64(limits.kibibytesPerSecond) << 10)
            bytesSpent = max(bytesSpent, now) + .nanoseconds(Int64(nanoseconds))
        }
    }
}

extension ClientCore {
    /// Lets the I/Os of a volume begin whose turn it is, and asks to be woken for the next.
    mutating func release(_ volume: VolumeID, _ now: Instant, _ actions: inout [ClientAction]) {
        while let known = attached[volume], !known.isDead, let io = known.throttle.first {
            let wait = known.throttle.wait(now)
            if wait > .zero { return askToBeWoken(after: wait, now, &actions) }
            attached[volume]?.throttle.removeFirst()
            guard let waiting = ios[io] else { preconditionFailure("\(io) ended while it waited") }
            attached[volume]?.throttle.spend(bytes: waiting.movedBytes, now)
            begin(io, now, &actions)
        }
    }

    mutating func releaseAll(_ now: Instant, _ actions: inout [ClientAction]) {
        for volume in attached.keys.sorted() where attached[volume]?.throttle.first != nil {
            release(volume, now, &actions)
        }
    }

    /// Not more often than each millisecond: what may be spent ahead makes up for it.
    private mutating func askToBeWoken(after wait: Duration, _ now: Instant, _ actions: inout [ClientAction]) {
        let wait = max(wait, .milliseconds(1))
        if let wakeAt, wakeAt > now, wakeAt <= now + wait { return }
        wakeAt = now + wait
        actions.append(.wake(after: wait))
    }
}
