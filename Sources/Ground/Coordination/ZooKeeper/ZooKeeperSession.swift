import CZooKeeper
import Glibc
import LinuxOS
import Logging
import Synchronization

/// A connection to a ZooKeeper ensemble: one session after another, for as long as it is not closed.
///
/// The library's threads only hand results over; nothing of ours runs on them. Every request is answered: the library
/// fails what is under way when the connection breaks.
final class ZooKeeperSession: Sendable {
    /// What the library is given to find us again, one for each session.
    private final class Context: Sendable {
        let number: UInt64
        let onEvent: @Sendable (UInt64, Int32, Int32, String) -> Void

        init(_ number: UInt64, _ onEvent: @escaping @Sendable (UInt64, Int32, Int32, String) -> Void) {
            self.number = number
            self.onEvent = onEvent
        }
    }

    // SAFETY: the handle is used under the lock only; closing takes it out first, so no call meets a closed handle.
    private struct State: @unchecked Sendable {
        var handle: OpaquePointer?
        /// Counts handles.
        var number: UInt64 = 0
        var isClosed = false
    }

    let location: ZooKeeperLocation
    private let timeout: Duration
    private let logger: Logger
    private let onEvent: @Sendable (SessionEvent) -> Void
    private let state = Mutex(State())
    private let (expired, expiredSink) = AsyncStream.makeStream(of: UInt64.self, bufferingPolicy: .bufferingNewest(1))

    /// - Parameter onEvent: called on the library's thread; must only hand over.
    init(
        _ location: ZooKeeperLocation, timeout: Duration, logger: Logger,
        onEvent: @escaping @Sendable (SessionEvent) -> Void
    ) {
        self.location = location
        self.timeout = timeout
        self.logger = logger
        self.onEvent = onEvent
        zoo_set_debug_level(ZooLogLevel(0))
    }

    /// Connects, and opens another session whenever one has expired, until cancelled; then ends the session, and with
    /// it its ephemeral nodes.
    func run() async {
        await open()
        for await number in expired {
            guard state.withLock({ $0.number == number }) else { continue }
            await close()
            await open()
        }
        state.withLock { $0.isClosed = true }
        await close()
    }

    private func open() async {
        while !Task.isCancelled {
            // Resolves names, which may block.
            let isOpen = try? await offPool { self.initialise() }
            if isOpen == true { return }
            logger.warning("no connection to ZooKeeper can be set up", metadata: ["errno": "\(errno)"])
            try? await Task.sleep(for: .seconds(1))
        }
    }

    private func initialise() -> Bool {
        state.withLock { state in
            state.number += 1
            let context = Unmanaged.passRetained(
                Context(state.number) { [weak self] in self?.arrived($0, type: $1, state: $2, path: $3) })
            let milliseconds = Int32(timeout / .milliseconds(1))
            state.handle = zookeeper_init(
                location.connectString,
                { _, type, state, path, context in
                    guard let context else { return }
                    let owner = Unmanaged<Context>.fromOpaque(context).takeUnretainedValue()
                    owner.onEvent(owner.number, type, state, path.map { String(cString: $0) } ?? "")
                }, milliseconds, nil, context.toOpaque(), 0)
            guard let handle = state.handle else {
                context.release()
                return false
            }
            if let user = location.user, let password = location.password {
                let credentials = "\(user):\(password)"
                zoo_add_auth(handle, "digest", credentials, Int32(credentials.utf8.count), { _, _ in }, nil)
            }
            return true
        }
    }

    /// Ends the session, if there is one. Everything under way is answered before this returns.
    private func close() async {
        let handle = state.withLock { state in
            defer { state.handle = nil }
            return state.handle.map { UInt(bitPattern: $0) }
        }
        guard let handle, let pointer = OpaquePointer(bitPattern: handle) else { return }
        let context = zoo_get_context(pointer).map { UInt(bitPattern: $0) }
        // Waits for the library's threads.
        _ = try? await offPool { zookeeper_close(OpaquePointer(bitPattern: handle)) }
        if let context, let raw = UnsafeRawPointer(bitPattern: context) {
            Unmanaged<Context>.fromOpaque(raw).release()
        }
    }

    private func arrived(_ number: UInt64, type: Int32, state connection: Int32, path: String) {
        guard type == ZOO_SESSION_EVENT else {
            if type != ZOO_NOTWATCHING_EVENT { onEvent(.changed(path)) }
            return
        }
        switch connection {
        case ZOO_CONNECTED_STATE:
            let event = state.withLock { state -> SessionEvent? in
                guard state.number == number, let handle = state.handle else { return nil }
                return .connected(
                    session: zoo_client_id(handle).pointee.client_id,
                    timeout: .milliseconds(zoo_recv_timeout(handle)))
            }
            if let event { onEvent(event) }
        case ZOO_EXPIRED_SESSION_STATE:
            onEvent(.expired)
            expiredSink.yield(number)
        case ZOO_AUTH_FAILED_STATE:
            logger.error("ZooKeeper refuses the credentials")
            onEvent(.expired)
            expiredSink.yield(number)
        default: onEvent(.disconnected)
        }
    }

    // MARK: Requests

    /// Asks the ensemble; the reply comes on the library's thread, or at once when there is no session.
    func send(_ request: NodeRequest, _ reply: @escaping @Sendable (NodeReply) -> Void) {
        let result: Int32 = state.withLock { state in
            guard let handle = state.handle, !state.isClosed else { return ZINVALIDSTATE.rawValue }
            return NodeCall.start(request, on: handle, isProtected: location.user != nil, reply)
        }
        if result != ZOK.rawValue { reply(.failed(NodeFailure(code: result), part: nil)) }
    }

    func ask(_ request: NodeRequest) async -> NodeReply {
        await withCheckedContinuation { continuation in send(request) { continuation.resume(returning: $0) } }
    }
}

extension NodeFailure {
    init(code: Int32) {
        switch ZOO_ERRORS(code) {
        case ZNONODE: self = .noNode
        case ZNODEEXISTS: self = .exists
        case ZBADVERSION: self = .badVersion
        case ZCONNECTIONLOSS, ZOPERATIONTIMEOUT, ZSESSIONMOVED: self = .connectionLoss
        case ZSESSIONEXPIRED, ZCLOSING, ZINVALIDSTATE: self = .sessionExpired
        case ZNOAUTH, ZAUTHFAILED: self = .notAllowed
        default: self = .other(code: code, text: zerror(code).map { String(cString: $0) } ?? "ZooKeeper error")
        }
    }
}
