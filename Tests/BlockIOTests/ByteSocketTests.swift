import Base
import BlockIO
import Glibc
import Synchronization
import TestKit
import Testing

/// What arrives on a connected socket of a reactor.
@Suite struct ByteSocketTests {
    /// Takes one payload, pauses, and afterwards counts bytes.
    private final class Receiver: ByteSocketHandler, @unchecked Sendable {
        // SAFETY: used on the reactor's thread, except for `seen`, which is behind a mutex.
        private let reactor: Reactor
        private let payloadBytes: Int
        private var listener: Listener?
        private var socket: ByteSocket?
        let seen = Mutex((isFilled: false, isIntact: false, later: 0))

        init(_ reactor: Reactor, payloadBytes: Int) {
            self.reactor = reactor
            self.payloadBytes = payloadBytes
        }

        func listen(_ descriptor: Int32, at address: SocketAddress) throws {
            listener = try Listener(descriptor, address: address, on: reactor) { [unowned self] connection, peer in
                socket = try? ByteSocket.adopt(connection, peer: peer, on: reactor, handler: self)
            }
        }

        func resume() { socket?.resumeReading() }

        func stop() {
            listener?.close()
            socket?.close(reason: "the test ends")
        }

        func bytesArrived(on socket: ByteSocket) {
            guard seen.withLock({ $0.isFilled }) else { return socket.fill(reactor.buffers.take(payloadBytes)) }
            seen.withLock { $0.later += socket.available.count }
            socket.consume(socket.available.count)
        }

        func filled(_ buffer: IOBuffer, on socket: ByteSocket) {
            let isIntact = (0..<payloadBytes).allSatisfy { buffer.bytes[$0] == UInt8(truncatingIfNeeded: $0 / 7) }
            seen.withLock { ($0.isFilled, $0.isIntact) = (true, isIntact) }
            socket.pauseReading()
        }

        func closed(_ socket: ByteSocket, reason: String) {}
    }

    /// A large payload raises what it takes to be woken; the few bytes of the next header must come through all the same.
    @Test(arguments: [1000, 100_000, 1 << 20]) func fewBytesArriveAfterALargePayload(payloadBytes: Int) async throws {
        let reactor = try Reactor(name: "socket-test")
        let receiver = Receiver(reactor, payloadBytes: payloadBytes)
        let (descriptor, address) = try SocketAddress.inet(host: "127.0.0.1", port: 0).listen()
        reactor.perform { #expect(throws: Never.self) { try receiver.listen(descriptor, at: address) } }
        reactor.start()
        defer {
            reactor.perform { receiver.stop() }
            reactor.stop()
        }
        let sender = try Sender(to: address)
        sender.send((0..<payloadBytes).map { UInt8(truncatingIfNeeded: $0 / 7) })
        try await eventually("the payload") { receiver.seen.withLock { $0.isFilled } }
        #expect(receiver.seen.withLock { $0.isIntact })
        sender.send([1, 2, 3])
        reactor.perform { receiver.resume() }
        try await eventually("what follows") { receiver.seen.withLock { $0.later == 3 } }
    }

    /// A plain blocking socket.
    private final class Sender {
        private let descriptor: Int32

        init(to address: SocketAddress) throws {
            guard case .inet(_, let port) = address else { throw BlockIOError(.invalid, "not TCP") }
            descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
            var place = sockaddr_in()
            place.sin_family = sa_family_t(AF_INET)
            place.sin_port = port.bigEndian
            place.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
            let result = withUnsafePointer(to: &place) { pointer in
                pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
            guard result == 0 else { throw BlockIOError.system(errno, "connect") }
        }

        deinit { close(descriptor) }

        func send(_ bytes: [UInt8]) {
            var sent = 0
            while sent < bytes.count {
                let count = bytes[sent...].withUnsafeBytes { Glibc.send(descriptor, $0.baseAddress, $0.count, 0) }
                guard count > 0 else { break }
                sent += count
            }
            #expect(sent == bytes.count)
        }
    }
}
