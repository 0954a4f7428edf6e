import CLinux
import Synchronization

/// How a process ended.
public enum ExitStatus: Hashable, Sendable, CustomStringConvertible {
    case exited(Int32)
    case signaled(Int32)
    /// It ended, but was not our child: the kernel tells its status only to the parent.
    case unknown

    public var isSuccess: Bool { self == .exited(0) }

    public var description: String {
        switch self {
        case .exited(let code): "exited with status \(code)"
        case .signaled(let signal): "killed by signal \(signal)"
        case .unknown: "ended"
        }
    }
}

/// An exit that may already have happened, and those who wait for it.
final class ExitFuture: Sendable {
    private struct State {
        var status: ExitStatus?
        var nextID = 0
        var waiters: [Int: CheckedContinuation<ExitStatus, any Error>] = [:]
    }

    private let state = Mutex(State())

    var status: ExitStatus? { state.withLock { $0.status } }

    func fulfil(_ status: ExitStatus) {
        let waiters = state.withLock { state in
            guard state.status == nil else { return [CheckedContinuation<ExitStatus, any Error>]() }
            state.status = status
            defer { state.waiters = [:] }
            return Array(state.waiters.values)
        }
        for waiter in waiters { waiter.resume(returning: status) }
    }

    func wait() async throws -> ExitStatus {
        let id = state.withLock { state in
            state.nextID += 1
            return state.nextID
        }
        return try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                let status: ExitStatus?? = state.withLock { state in
                    if let status = state.status { return status }
                    if Task.isCancelled { return .some(nil) }
                    state.waiters[id] = continuation
                    return nil
                }
                switch status {
                case .some(.some(let status)): continuation.resume(returning: status)
                case .some(.none): continuation.resume(throwing: CancellationError())
                case .none: break
                }
            }
        } onCancel: {
            state.withLock { $0.waiters.removeValue(forKey: id) }?.resume(throwing: CancellationError())
        }
    }
}

/// One thread that watches all processes through their pidfds, reaps children as they exit, and tells who waits.
final class ExitWatcher: Sendable {
    static let shared = ExitWatcher()

    private let epoll: Int32
    private let watched = Mutex<[Int32: (pidfd: Descriptor, future: ExitFuture)]>([:])

    private init() {
        epoll = clinux_epoll_create()
        precondition(epoll >= 0, "epoll_create1 failed with \(-epoll)")
        do {
            try startThread(name: "hf-exits") { [self] in run() }
        } catch {
            fatalError("The thread that reaps children could not be started: \(error)")
        }
    }

    /// Fulfils `future` when the process behind `pidfd` has ended, reaping it if it is our child.
    func watch(_ pidfd: Descriptor, _ future: ExitFuture) throws(LinuxError) {
        watched.withLock { $0[pidfd.raw] = (pidfd, future) }
        let result = clinux_epoll_add(epoll, pidfd.raw)
        guard result == 0 else {
            watched.withLock { _ = $0.removeValue(forKey: pidfd.raw) }
            throw LinuxError(errno: -result, "A process could not be watched")
        }
    }

    private func run() {
        var ready = [Int32](repeating: 0, count: 64)
        while true {
            let count = clinux_epoll_wait(epoll, &ready, Int32(ready.count))
            for raw in ready.prefix(max(0, Int(count))) { ended(raw) }
        }
    }

    private func ended(_ raw: Int32) {
        var code: Int32 = 0
        let status: ExitStatus
        switch clinux_wait_pidfd(raw, &code) {
        case 0: return
        case 1: status = .exited(code)
        case 2: status = .signaled(code)
        default: status = .unknown
        }
        _ = clinux_epoll_remove(epoll, raw)
        let entry = watched.withLock { $0.removeValue(forKey: raw) }
        entry?.future.fulfil(status)
    }
}
