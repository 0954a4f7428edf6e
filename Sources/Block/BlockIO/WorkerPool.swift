import Glibc

/// Threads that run jobs which block: disk calls, mounts, name look-ups. Jobs start in the order of submission.
///
/// Unbounded by itself: whoever submits bounds what it has under way.
public final class WorkerPool: @unchecked Sendable {
    // SAFETY: `jobs`, `head` and `isStopped` are touched only with `lock` held.
    private let lock: UnsafeMutablePointer<pthread_mutex_t>
    private let bell: UnsafeMutablePointer<pthread_cond_t>
    /// Nil before `head`: what was begun is its thread's alone, and with it the memory that it works on.
    private var jobs: [(@Sendable () -> Void)?] = []
    private var head = 0
    private var isStopped = false

    /// Starts `threads` threads; one of them makes a serial queue.
    public init(name: String, threads: Int) {
        lock = .allocate(capacity: 1)
        bell = .allocate(capacity: 1)
        pthread_mutex_init(lock, nil)
        pthread_cond_init(bell, nil)
        for _ in 0..<threads { startThread(name: name) { self.work() } }
    }

    deinit {
        pthread_mutex_destroy(lock)
        pthread_cond_destroy(bell)
        lock.deallocate()
        bell.deallocate()
    }

    public func submit(_ job: @escaping @Sendable () -> Void) {
        pthread_mutex_lock(lock)
        jobs.append(job)
        pthread_cond_signal(bell)
        pthread_mutex_unlock(lock)
    }

    /// Ends the threads once the jobs already submitted are done.
    public func stop() {
        pthread_mutex_lock(lock)
        isStopped = true
        pthread_cond_broadcast(bell)
        pthread_mutex_unlock(lock)
    }

    private func work() {
        while let job = next() { job() }
    }

    private func next() -> (@Sendable () -> Void)? {
        pthread_mutex_lock(lock)
        defer { pthread_mutex_unlock(lock) }
        while head == jobs.count {
            if isStopped { return nil }
            pthread_cond_wait(bell, lock)
        }
        guard let job = jobs[head].take() else { preconditionFailure("a job was begun twice") }
        head += 1
        if head == jobs.count {
            jobs.removeAll(keepingCapacity: true)
            head = 0
        } else if head >= 1024 {
            jobs.removeFirst(head)
            head = 0
        }
        return job
    }
}
