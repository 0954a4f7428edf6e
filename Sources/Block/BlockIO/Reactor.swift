public import Base
import CBlockIO
import Glibc
import Synchronization

/// What a reactor calls when a descriptor is ready.
public protocol ReadyHandler: AnyObject {
    /// Called on the reactor's thread with epoll's event bits.
    func ready(_ events: UInt32)
}

/// What has something left to do at the end of a round: to send what was queued meanwhile.
public protocol RoundHandler: AnyObject {
    /// Called once on the reactor's thread for each `Reactor.atEndOfRound`.
    func roundEnds()
}

/// One thread with an epoll loop: the only place where the connections and cores of a block role live.
///
/// Everything that belongs to it is called on its thread and needs no lock. Other threads hand work over with
/// `perform`.
public final class Reactor: @unchecked Sendable {
    // SAFETY: `mailbox` is behind a mutex; every other mutable member is touched only on the reactor's own thread
    // (checked by `assertOnThread` where it is called from outside).
    private struct Mailbox {
        var jobs: [@Sendable () -> Void] = []
        var isStopped = false
        var isStarted = false
        var isDone = false
    }
    private struct Watch {
        unowned(unsafe) var handler: any ReadyHandler
        var keep: Unmanaged<AnyObject>
        var generation: UInt32
    }
    private struct Alarm {
        var at: Instant
        var id: UInt64
    }

    public let name: String
    private let epoll: Int32
    private let doorbell: Int32
    private let mailbox = Mutex(Mailbox())
    private var watches: [Watch?] = []
    private var generation: UInt32 = 0
    private var alarms: [Alarm] = []
    private var alarmBodies: [UInt64: () -> Void] = [:]
    private var nextAlarm: UInt64 = 1
    /// To be called at the end of this round; the second one is spare storage.
    private var roundHandlers: [any RoundHandler] = []
    private var endingHandlers: [any RoundHandler] = []
    /// Handlers unwatched in this round: one of them may be running.
    private var released: [Unmanaged<AnyObject>] = []
    private var thread = pthread_t()
    /// Memory for what this reactor's connections and devices transfer.
    public let buffers = BufferPool()
    /// The reactor's io_uring, when it has one (`openDiskRing`).
    public private(set) var diskRing: DiskRing?

    /// A reactor that is not running yet: call `start`.
    public init(name: String) throws(BlockIOError) {
        self.name = name
        epoll = epoll_create1(Int32(EPOLL_CLOEXEC))
        guard epoll >= 0 else { throw .system(errno, "epoll_create1") }
        doorbell = eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))
        guard doorbell >= 0 else { throw .system(errno, "eventfd") }
        var event = epoll_event()
        event.events = EPOLLIN.rawValue
        event.data.u64 = UInt64(UInt32(bitPattern: doorbell))
        guard epoll_ctl(epoll, EPOLL_CTL_ADD, doorbell, &event) == 0 else { throw .system(errno, "epoll_ctl") }
    }

    deinit {
        close(doorbell)
        close(epoll)
    }

    /// Gives the reactor an io_uring; to be called before `start`.
    /// - Returns: false when this kernel, or the sandbox of this process, has none.
    public func openDiskRing() -> Bool {
        precondition(mailbox.withLock { !$0.isStarted }, "a ring is opened before the reactor starts")
        diskRing = DiskRing(buffers)
        return diskRing != nil
    }

    /// Starts the thread. It keeps the reactor alive until `stop`.
    public func start() {
        mailbox.withLock {
            precondition(!$0.isStarted, "a reactor starts once")
            $0.isStarted = true
        }
        startThread(name: name) { self.run() }
    }

    /// Ends the loop after the work already handed over. Returns at once; `waitUntilStopped` waits.
    public func stop() {
        mailbox.withLock { $0.isStopped = true }
        ring()
    }

    /// Whether the thread has ended (or never started).
    public var isDone: Bool { mailbox.withLock { $0.isDone || !$0.isStarted } }

    /// Runs `body` on the reactor's thread, in order of the calls of each caller.
    /// - Returns: false when the reactor has stopped: `body` will not run.
    @discardableResult
    public func perform(_ body: @escaping @Sendable () -> Void) -> Bool {
        let (isTaken, wasEmpty) = mailbox.withLock { mailbox in
            guard !mailbox.isStopped else { return (false, false) }
            mailbox.jobs.append(body)
            return (true, mailbox.jobs.count == 1)
        }
        if wasEmpty { ring() }
        return isTaken
    }

    private func ring() {
        var one: UInt64 = 1
        _ = write(doorbell, &one, 8)
    }

    /// A monotonic clock that goes on while the host is suspended: leases run out then too.
    public static var now: Instant {
        var time = timespec()
        clock_gettime(CLOCK_BOOTTIME, &time)
        return Instant(nanoseconds: UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec))
    }
    public var now: Instant { Reactor.now }

    /// Whether the caller runs on this reactor's thread.
    public var isCurrent: Bool { pthread_equal(thread, pthread_self()) != 0 }

    // MARK: On the reactor's thread

    /// Calls `handler` when `descriptor` has one of `events` (level triggered). Keeps the handler until `unwatch`.
    public func watch(_ descriptor: Int32, _ events: UInt32, _ handler: any ReadyHandler) throws(BlockIOError) {
        generation &+= 1
        while watches.count <= Int(descriptor) { watches.append(nil) }
        precondition(watches[Int(descriptor)] == nil, "descriptor watched twice")
        var event = epoll_event()
        event.events = events
        event.data.u64 = UInt64(generation) << 32 | UInt64(UInt32(bitPattern: descriptor))
        guard epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event) == 0 else { throw .system(errno, "epoll_ctl add") }
        watches[Int(descriptor)] = Watch(
            handler: handler, keep: Unmanaged.passRetained(handler as AnyObject), generation: generation)
    }

    /// Changes the events of a watched descriptor.
    public func rewatch(_ descriptor: Int32, _ events: UInt32) {
        guard let watch = watches[Int(descriptor)] else { preconditionFailure("descriptor not watched") }
        var event = epoll_event()
        event.events = events
        event.data.u64 = UInt64(watch.generation) << 32 | UInt64(UInt32(bitPattern: descriptor))
        _ = epoll_ctl(epoll, EPOLL_CTL_MOD, descriptor, &event)
    }

    /// Forgets a descriptor; to be called before it is closed.
    public func unwatch(_ descriptor: Int32) {
        guard Int(descriptor) < watches.count, let watch = watches[Int(descriptor)] else { return }
        _ = epoll_ctl(epoll, EPOLL_CTL_DEL, descriptor, nil)
        watches[Int(descriptor)] = nil
        // The handler may be running just now: let go of it after this round.
        released.append(watch.keep)
    }

    /// Calls `handler` once the current round of events is handled.
    public func atEndOfRound(_ handler: any RoundHandler) { roundHandlers.append(handler) }

    /// Runs `body` after `delay`; answers an id for `cancel`.
    @discardableResult
    public func after(_ delay: Duration, _ body: @escaping () -> Void) -> UInt64 { at(now + delay, body) }

    /// Runs `body` at `instant` or as soon as possible afterwards.
    @discardableResult
    public func at(_ instant: Instant, _ body: @escaping () -> Void) -> UInt64 {
        let id = nextAlarm
        nextAlarm += 1
        alarmBodies[id] = body
        alarms.append(Alarm(at: instant, id: id))
        siftUp(alarms.count - 1)
        return id
    }

    public func cancel(_ id: UInt64) { alarmBodies[id] = nil }

    /// Runs `body` every `interval` until the reactor stops or `body` answers false.
    public func every(_ interval: Duration, _ body: @escaping () -> Bool) {
        after(interval) { [weak self] in
            guard body(), let self else { return }
            self.every(interval, body)
        }
    }

    // MARK: The loop

    private func run() {
        thread = pthread_self()
        if let diskRing {
            do throws(BlockIOError) {
                guard diskRing.enable() else { throw .system(errno, "enable io_uring") }
                try watch(diskRing.descriptor, EPOLLIN.rawValue, diskRing)
            } catch { preconditionFailure("\(error)") }
        }
        every(.seconds(5)) { [buffers] in
            buffers.trim()
            return true
        }
        var events = [epoll_event](repeating: epoll_event(), count: 128)
        var isRunning = true
        while isRunning {
            let count = epoll_wait(epoll, &events, Int32(events.count), waitMilliseconds())
            if count < 0 && errno != EINTR { preconditionFailure("epoll_wait: errno \(errno)") }
            for index in 0..<max(0, Int(count)) {
                let data = events[index].data.u64
                let descriptor = Int(UInt32(truncatingIfNeeded: data))
                if descriptor == Int(doorbell) {
                    var value: UInt64 = 0
                    _ = read(doorbell, &value, 8)
                    continue
                }
                guard descriptor < watches.count, let watch = watches[descriptor],
                    watch.generation == UInt32(truncatingIfNeeded: data >> 32)
                else { continue }
                watch.handler.ready(events[index].events)
            }
            // Completions interrupt the wait without an event of their own.
            diskRing?.reap()
            let (jobs, stopped) = mailbox.withLock { mailbox -> ([@Sendable () -> Void], Bool) in
                guard !mailbox.jobs.isEmpty else { return ([], mailbox.isStopped) }
                let jobs = mailbox.jobs
                mailbox.jobs = []
                return (jobs, mailbox.isStopped)
            }
            for job in jobs { job() }
            fireAlarms()
            endRound()
            isRunning = !stopped
        }
        finish()
    }

    /// Sends first, since the other side of a replicated write has the longer way, then starts what the disk has to do.
    private func endRound() {
        while !roundHandlers.isEmpty {
            swap(&roundHandlers, &endingHandlers)
            for handler in endingHandlers { handler.roundEnds() }
            endingHandlers.removeAll(keepingCapacity: true)
        }
        if let diskRing, !diskRing.submit() { after(.milliseconds(1)) {} }
        if !released.isEmpty {
            for keep in released { keep.release() }
            released.removeAll(keepingCapacity: true)
        }
    }

    private func finish() {
        // The memory of unfinished reads must stay for as long as the kernel may write to it.
        if let diskRing, !diskRing.drain() { _ = Unmanaged.passRetained(diskRing) }
        for watch in watches { watch?.keep.release() }
        watches = []
        alarmBodies = [:]
        diskRing = nil
        mailbox.withLock { $0.isDone = true }
    }

    private func waitMilliseconds() -> Int32 {
        while let first = alarms.first, alarmBodies[first.id] == nil { dropFirstAlarm() }
        guard let first = alarms.first else { return 1000 }
        let nanoseconds = (first.at - now).wholeNanoseconds
        return nanoseconds <= 0 ? 0 : Int32(min(1000, (nanoseconds + 999_999) / 1_000_000))
    }

    private func fireAlarms() {
        guard !alarms.isEmpty else { return }
        let now = now
        while let first = alarms.first, first.at <= now {
            dropFirstAlarm()
            alarmBodies.removeValue(forKey: first.id)?()
        }
    }

    private func dropFirstAlarm() {
        alarms.swapAt(0, alarms.count - 1)
        alarms.removeLast()
        var parent = 0
        while true {
            var least = parent
            for child in [2 * parent + 1, 2 * parent + 2]
            where child < alarms.count && alarms[child].at < alarms[least].at {
                least = child
            }
            if least == parent { return }
            alarms.swapAt(parent, least)
            parent = least
        }
    }

    private func siftUp(_ start: Int) {
        var child = start
        while child > 0, alarms[child].at < alarms[(child - 1) / 2].at {
            alarms.swapAt(child, (child - 1) / 2)
            child = (child - 1) / 2
        }
    }
}

private final class ThreadBody {
    let body: () -> Void
    init(_ body: @escaping () -> Void) { self.body = body }
}

/// Of each thread, in bytes. A process that keeps its memory resident has the whole of it there; glibc would take 8 MiB.
let threadStackBytes = 512 << 10

/// Starts a detached thread of its own for work that blocks: disk calls, mounts, reactors. `name` shows in `ps -L`
/// (15 characters).
public func startThread(name: String, _ body: @escaping @Sendable () -> Void) {
    var thread = pthread_t()
    let named = ThreadBody {
        cbio_name_thread(name)
        body()
    }
    var attributes = pthread_attr_t()
    var result = pthread_attr_init(&attributes)
    precondition(result == 0, "pthread_attr_init: error \(result)")
    defer { pthread_attr_destroy(&attributes) }
    result = pthread_attr_setstacksize(&attributes, threadStackBytes)
    precondition(result == 0, "pthread_attr_setstacksize: error \(result)")
    result = pthread_create(
        &thread, &attributes,
        { argument in
            if let argument { Unmanaged<ThreadBody>.fromOpaque(argument).takeRetainedValue().body() }
            return nil
        }, Unmanaged.passRetained(named).toOpaque())
    precondition(result == 0, "pthread_create: error \(result)")
    pthread_detach(thread)
}
