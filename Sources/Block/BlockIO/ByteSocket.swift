import CBlockIO
import Glibc

/// What a socket tells its owner, on the reactor's thread.
public protocol ByteSocketHandler: AnyObject {
    /// Bytes are in `socket.available`: take the whole units with `consume` and `fill`. What stays is shown again with
    /// more.
    func bytesArrived(on socket: ByteSocket)
    /// The buffer given to `fill` has all its bytes.
    func filled(_ buffer: IOBuffer, on socket: ByteSocket)
    /// The connection that `ByteSocket.connect` began is there.
    func connected(_ socket: ByteSocket)
    /// The connection is gone; nothing comes after this.
    func closed(_ socket: ByteSocket, reason: String)
}

extension ByteSocketHandler {
    public func connected(_ socket: ByteSocket) {}
}

/// A connected stream socket on a reactor: reads into one small buffer or straight into a request's buffer, queues what
/// is to be sent and sends it once per round of the reactor.
///
/// Bounds: input is read only as fast as the handler consumes it (`pauseReading`); output above `outputLimit` bytes
/// closes the connection (a peer that does not read is not allowed to grow our memory).
public final class ByteSocket: ReadyHandler, RoundHandler {
    private enum State { case connecting, open, closed }
    private struct Output {
        /// Nil once it is sent.
        var buffer: IOBuffer?
        var start: Int
        var end: Int
    }
    /// While more than the first is missing of a buffer that is being filled, the kernel tells of no less than that, up to
    /// the second: waking up for every segment of a large payload costs more than receiving it.
    private static let lowWater = (worthwhile: 64 << 10, most: 256 << 10)
    /// Parts that one system call sends.
    private static let partsMax = 64

    public let reactor: Reactor
    public private(set) var descriptor: Int32
    public weak var handler: (any ByteSocketHandler)?
    /// For log lines: the address of the other side.
    public let peer: String
    /// Bytes that may wait to be sent.
    public var outputLimit = 256 << 20

    private var state: State
    private let input: UnsafeMutableRawPointer
    private let inputCapacity: Int
    private var inputStart = 0
    private var inputEnd = 0
    private var filling: IOBuffer?
    private var filledCount = 0
    private var isPaused = false
    private var isDelivering = false
    private var output: [Output] = []
    private var outputHead = 0
    public private(set) var outputBytes = 0
    /// Collects small pieces; all that it holds is part of `output`.
    private var scratch: IOBuffer?
    private let parts = UnsafeMutablePointer<iovec>.allocate(capacity: ByteSocket.partsMax)
    private var isFlushScheduled = false
    private var watched: UInt32 = 0
    /// What SO_RCVLOWAT is set to; nil where it says nothing about readiness (sockets that are not TCP).
    private var readyBytes: Int32?

    private init(_ reactor: Reactor, descriptor: Int32, peer: String, state: State, inputCapacity: Int) {
        self.reactor = reactor
        self.descriptor = descriptor
        self.peer = peer
        self.state = state
        self.inputCapacity = inputCapacity
        input = .allocate(byteCount: inputCapacity, alignment: 64)
    }

    deinit {
        input.deallocate()
        parts.deallocate()
        if state != .closed { Glibc.close(descriptor) }
    }

    /// Takes over an accepted, non-blocking socket.
    public static func adopt(
        _ descriptor: Int32, peer: String, on reactor: Reactor, handler: any ByteSocketHandler,
        inputCapacity: Int = 128 << 10
    ) throws(BlockIOError) -> ByteSocket {
        let socket = ByteSocket(reactor, descriptor: descriptor, peer: peer, state: .open, inputCapacity: inputCapacity)
        socket.handler = handler
        socket.setTCPOptions()
        socket.watched = EPOLLIN.rawValue
        try reactor.watch(descriptor, socket.watched, socket)
        return socket
    }

    /// Begins to connect; `connected` or `closed` tells how it ended. Give up with `close` when it takes too long.
    public static func connect(
        to address: SocketAddress, on reactor: Reactor, handler: any ByteSocketHandler, inputCapacity: Int = 128 << 10
    ) throws(BlockIOError) -> ByteSocket {
        let descriptor = try address.startConnecting()
        let socket = ByteSocket(
            reactor, descriptor: descriptor, peer: address.description, state: .connecting, inputCapacity: inputCapacity
        )
        socket.handler = handler
        socket.setTCPOptions()
        socket.watched = EPOLLOUT.rawValue
        try reactor.watch(descriptor, socket.watched, socket)
        return socket
    }

    private func setTCPOptions() {
        if cbio_set_tcp_options(descriptor, 5000) == 0 { readyBytes = 1 }
    }

    public var isOpen: Bool { state == .open }

    // MARK: Input

    /// What has arrived and is not consumed. Valid until the handler returns.
    public var available: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: input + inputStart, count: inputEnd - inputStart)
    }

    /// Drops the first `count` bytes of `available`.
    public func consume(_ count: Int) {
        precondition(count <= inputEnd - inputStart, "consumed more than there is")
        inputStart += count
    }

    /// Has the next `buffer.count` bytes of the stream put into `buffer`; `filled` comes when they are there.
    public func fill(_ buffer: IOBuffer) {
        precondition(filling == nil && buffer.count > 0, "one buffer at a time")
        let ready = min(buffer.count, inputEnd - inputStart)
        buffer.base.copyMemory(from: input + inputStart, byteCount: ready)
        inputStart += ready
        filling = buffer
        filledCount = ready
        deliver()
    }

    /// Reads no more until `resumeReading`: the way to bound what one connection has in flight.
    public func pauseReading() {
        isPaused = true
        rewatch()
    }

    public func resumeReading() {
        guard isPaused else { return }
        isPaused = false
        rewatch()
        guard !isDelivering else { return }
        deliver()
    }

    /// Hands over what is complete, until the handler takes no more.
    private func deliver() {
        guard !isDelivering else { return }
        isDelivering = true
        defer { isDelivering = false }
        while state == .open && !isPaused {
            if let buffer = filling {
                guard filledCount == buffer.count else { return }
                filling = nil
                handler?.filled(buffer, on: self)
            } else {
                let before = inputEnd - inputStart
                guard before > 0 else { return }
                handler?.bytesArrived(on: self)
                if filling == nil && inputEnd - inputStart == before { return }
            }
        }
    }

    private func readInput() {
        defer { awaitInput() }
        while state == .open && !isPaused {
            makeRoom()
            var wanted = inputCapacity - inputEnd
            guard wanted > 0 || filling != nil else { return close(reason: "a unit larger than the input buffer") }
            let received: Int
            if let buffer = filling {
                // What follows the buffer's bytes comes along.
                let missing = buffer.count - filledCount
                parts[0] = iovec(iov_base: buffer.base + filledCount, iov_len: missing)
                parts[1] = iovec(iov_base: input + inputEnd, iov_len: wanted)
                wanted += missing
                received = readv(descriptor, parts, 2)
                if received > 0 {
                    filledCount += min(missing, received)
                    inputEnd += max(0, received - missing)
                }
            } else {
                received = recv(descriptor, input + inputEnd, wanted, 0)
                if received > 0 { inputEnd += received }
            }
            if received > 0 {
                deliver()
                if received < wanted { return }
            } else if received == 0 {
                return close(reason: "closed by the other side")
            } else if errno == EINTR {
                continue
            } else if errno == EAGAIN {
                return
            } else {
                return close(reason: String(cString: strerror(errno)))
            }
        }
    }

    /// Says for how many bytes it is worth to be called again.
    private func awaitInput() {
        guard let readyBytes, state == .open else { return }
        let missing = filling.map { $0.count - filledCount } ?? 1
        var wanted = Int32(missing >= ByteSocket.lowWater.worthwhile ? min(missing, ByteSocket.lowWater.most) : 1)
        guard wanted != readyBytes else { return }
        let size = socklen_t(MemoryLayout<Int32>.size)
        guard setsockopt(descriptor, SOL_SOCKET, SO_RCVLOWAT, &wanted, size) == 0 else {
            return close(reason: String(cString: strerror(errno)))
        }
        self.readyBytes = wanted
    }

    /// Moves what is not consumed to the beginning of the input buffer.
    private func makeRoom() {
        if inputStart == inputEnd {
            inputStart = 0
            inputEnd = 0
        } else if inputStart > 0 {
            memmove(input, input + inputStart, inputEnd - inputStart)
            inputEnd -= inputStart
            inputStart = 0
        }
    }

    // MARK: Output

    /// Queues a copy of `bytes`.
    public func send(_ bytes: UnsafeRawBufferPointer) {
        guard state != .closed, let source = bytes.baseAddress, !bytes.isEmpty else { return }
        // Small pieces share a buffer, so that a round's headers go out in few parts.
        if let current = scratch, current.capacity - current.count >= bytes.count {
            let start = current.count
            (current.base + start).copyMemory(from: source, byteCount: bytes.count)
            current.count += bytes.count
            if output.count > outputHead, output[output.count - 1].buffer === current,
                output[output.count - 1].end == start
            {
                output[output.count - 1].end = current.count
            } else {
                output.append(Output(buffer: current, start: start, end: current.count))
            }
        } else {
            let fresh = reactor.buffers.take(max(16 << 10, bytes.count))
            fresh.base.copyMemory(from: source, byteCount: bytes.count)
            fresh.count = bytes.count
            output.append(Output(buffer: fresh, start: 0, end: bytes.count))
            scratch = fresh
        }
        queued(bytes.count)
    }

    /// Queues `buffer` itself, bytes `range` of it; it must not change until it is sent.
    public func send(_ buffer: IOBuffer, _ range: Range<Int>? = nil) {
        let range = range ?? 0..<buffer.count
        guard state != .closed, !range.isEmpty else { return }
        output.append(Output(buffer: buffer, start: range.lowerBound, end: range.upperBound))
        queued(range.count)
    }

    public func send(_ bytes: [UInt8]) { bytes.withUnsafeBytes { send($0) } }

    private func queued(_ count: Int) {
        outputBytes += count
        if outputBytes > outputLimit { return close(reason: "the other side does not read") }
        guard !isFlushScheduled, state == .open else { return }
        isFlushScheduled = true
        reactor.atEndOfRound(self)
    }

    public func roundEnds() {
        isFlushScheduled = false
        flush()
    }

    /// Sends what the kernel takes; the rest when it can.
    private func flush() {
        while state == .open && outputHead < output.count {
            let count = min(ByteSocket.partsMax, output.count - outputHead)
            var total = 0
            for index in 0..<count {
                let part = output[outputHead + index]
                guard let buffer = part.buffer else { preconditionFailure("a part sent twice") }
                parts[index] = iovec(iov_base: buffer.base + part.start, iov_len: part.end - part.start)
                total += part.end - part.start
            }
            var message = msghdr()
            message.msg_iov = parts
            message.msg_iovlen = count
            let sent = sendmsg(descriptor, &message, Int32(MSG_NOSIGNAL))
            if sent < 0 {
                if errno == EINTR { continue }
                if errno == EAGAIN { break }
                return close(reason: String(cString: strerror(errno)))
            }
            drop(sent)
            if sent < total { break }
        }
        if outputHead == output.count {
            output.removeAll(keepingCapacity: true)
            outputHead = 0
            if let scratch, scratch.capacity <= 64 << 10 { scratch.count = 0 } else { scratch = nil }
        } else if outputHead > 256 {
            output.removeFirst(outputHead)
            outputHead = 0
        }
        rewatch()
    }

    private func drop(_ sent: Int) {
        outputBytes -= sent
        var left = sent
        while left > 0 {
            let size = output[outputHead].end - output[outputHead].start
            if left < size {
                output[outputHead].start += left
                return
            }
            left -= size
            reactor.buffers.giveBack(&output[outputHead].buffer)
            outputHead += 1
        }
    }

    // MARK: State

    private func rewatch() {
        guard state == .open else { return }
        var wanted: UInt32 = isPaused ? 0 : EPOLLIN.rawValue
        if outputHead < output.count && !isFlushScheduled { wanted |= EPOLLOUT.rawValue }
        guard wanted != watched else { return }
        watched = wanted
        reactor.rewatch(descriptor, wanted)
    }

    public func ready(_ events: UInt32) {
        switch state {
        case .closed: return
        case .connecting:
            let error = cbio_socket_error(descriptor)
            guard error == 0 else { return close(reason: String(cString: strerror(error))) }
            state = .open
            handler?.connected(self)
            if state == .open { flush() }
        case .open:
            if events & EPOLLIN.rawValue != 0 {
                readInput()
            } else if events & (EPOLLHUP.rawValue | EPOLLERR.rawValue) != 0 {
                let error = cbio_socket_error(descriptor)
                close(reason: error == 0 ? "closed by the other side" : String(cString: strerror(error)))
            }
            if state == .open && events & EPOLLOUT.rawValue != 0 { flush() }
        }
    }

    /// Sends what the kernel takes of what is queued, then closes: for a last word to a peer that reads.
    public func closeAfterSending(reason: String) {
        if state == .open { flush() }
        close(reason: reason)
    }

    /// Closes at once and tells the handler, unless it was closed before. What is queued is lost.
    public func close(reason: String) {
        guard state != .closed else { return }
        state = .closed
        reactor.unwatch(descriptor)
        Glibc.close(descriptor)
        descriptor = -1
        output = []
        outputHead = 0
        outputBytes = 0
        scratch = nil
        filling = nil
        handler?.closed(self, reason: reason)
    }
}

/// Accepts connections on a listening socket.
public final class Listener: ReadyHandler {
    private let descriptor: Int32
    private let reactor: Reactor
    private let accepted: (Int32, String) -> Void
    private var isClosed = false
    private let path: String?

    /// Takes over a listening descriptor (`SocketAddress.listen`); `accepted` gets each connection, non-blocking.
    public init(
        _ descriptor: Int32, address: SocketAddress, on reactor: Reactor, accepted: @escaping (Int32, String) -> Void
    ) throws(BlockIOError) {
        self.descriptor = descriptor
        self.reactor = reactor
        self.accepted = accepted
        if case .unix(let path) = address { self.path = path } else { path = nil }
        try reactor.watch(descriptor, EPOLLIN.rawValue, self)
    }

    public func ready(_ events: UInt32) {
        while !isClosed {
            var address: UInt32 = 0
            var port: UInt16 = 0
            let connection = cbio_accept(descriptor, &address, &port)
            guard connection >= 0 else {
                // Out of descriptors: the peer waits in the backlog; the level trigger would spin, so pause.
                if errno == EMFILE || errno == ENFILE {
                    reactor.rewatch(descriptor, 0)
                    reactor.after(.milliseconds(100)) { [weak self] in
                        guard let self, !self.isClosed else { return }
                        self.reactor.rewatch(self.descriptor, EPOLLIN.rawValue)
                    }
                }
                return
            }
            let peer =
                address == 0
                ? "local" : "\(address >> 24).\(address >> 16 & 255).\(address >> 8 & 255).\(address & 255):\(port)"
            accepted(connection, peer)
        }
    }

    public func close() {
        guard !isClosed else { return }
        isClosed = true
        reactor.unwatch(descriptor)
        Glibc.close(descriptor)
        if let path { unlink(path) }
    }
}
