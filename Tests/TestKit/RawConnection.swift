import Glibc
public import HTTPKit
public import LinuxOS

/// A bare stream connection of a test, for what no proper client sends. Nothing in it blocks a thread.
public final class RawConnection: Sendable {
    private let socket: Descriptor

    /// - Parameter receiveBuffer: the kernel's buffer on this side in bytes; a small one makes a slow reader.
    public init(_ address: HTTPAddress, receiveBuffer: Int32? = nil) throws(LinuxError) {
        let family =
            switch address {
            case .tcp: AF_INET
            case .unix: AF_UNIX
            }
        let raw = Glibc.socket(family, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard raw >= 0 else { throw LinuxError(errno: errno, "No socket could be made") }
        socket = Descriptor(owning: raw)
        if var size = receiveBuffer {
            setsockopt(raw, SOL_SOCKET, SO_RCVBUF, &size, socklen_t(MemoryLayout<Int32>.size))
        }
        let status =
            switch address {
            case .tcp(_, let port): RawConnection.connect(raw, loopbackPort: UInt16(truncatingIfNeeded: port))
            case .unix(let path): RawConnection.connect(raw, path: path)
            }
        guard status == 0 else { throw LinuxError(errno: errno, "\(address) could not be reached") }
    }

    fileprivate init(accepted: Descriptor) { socket = accepted }

    private static func connect(_ raw: Int32, loopbackPort port: UInt16) -> Int32 {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(raw, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
    }

    private static func connect(_ raw: Int32, path: String) -> Int32 {
        withUnixAddress(path) { Glibc.connect(raw, $0, $1) }
    }

    /// Sends everything. Answers false when the peer has hung up.
    @discardableResult
    public func send(_ bytes: [UInt8]) async throws -> Bool {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes {
                Glibc.send(socket.raw, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL | MSG_DONTWAIT))
            }
            if count > 0 {
                rest.removeFirst(count)
                continue
            }
            switch errno {
            case EINTR: continue
            case EAGAIN: try await waitFor(POLLOUT, "room to send")
            case EPIPE, ECONNRESET: return false
            case let number: throw LinuxError(errno: number, "Sending failed")
            }
        }
        return true
    }

    @discardableResult
    public func send(_ text: String) async throws -> Bool { try await send(Array(text.utf8)) }

    /// Says that nothing more will be sent.
    public func finishSending() { shutdown(socket.raw, Int32(SHUT_WR)) }

    /// What has arrived; empty when nothing has, nil when the peer has hung up.
    public func receive() throws(LinuxError) -> [UInt8]? {
        var chunk = [UInt8](repeating: 0, count: 65536)
        let count = recv(socket.raw, &chunk, chunk.count, Int32(MSG_DONTWAIT))
        if count > 0 { return Array(chunk[..<count]) }
        if count == 0 { return nil }
        switch errno {
        case EAGAIN, EINTR: return []
        case ECONNRESET: return nil
        case let number: throw LinuxError(errno: number, "Receiving failed")
        }
    }

    /// Everything up to the peer's hanging up.
    public func receiveAll() async throws -> [UInt8] {
        var bytes: [UInt8] = []
        while let chunk = try receive() {
            bytes += chunk
            if chunk.isEmpty { try await waitFor(POLLIN, "the peer's hanging up") }
        }
        return bytes
    }

    /// What arrives until it is at least `count` bytes; less when the peer hangs up before.
    public func receive(atLeast count: Int) async throws -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < count, let chunk = try receive() {
            bytes += chunk
            if chunk.isEmpty { try await waitFor(POLLIN, "\(count) bytes") }
        }
        return bytes
    }

    private func waitFor(_ event: Int32, _ what: String) async throws {
        let raw = socket.raw
        try await eventually(what, every: .milliseconds(2)) {
            var entry = pollfd(fd: raw, events: Int16(event), revents: 0)
            return poll(&entry, 1, 0) > 0
        }
    }
}

/// The listening end of a unix socket, for servers that behave badly.
public final class RawListener: Sendable {
    private let socket: Descriptor
    public let address: HTTPAddress

    public init(path: String) throws(LinuxError) {
        let flags = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        let raw = Glibc.socket(AF_UNIX, flags, 0)
        guard raw >= 0 else { throw LinuxError(errno: errno, "No socket could be made") }
        socket = Descriptor(owning: raw)
        address = .unix(path: path)
        guard withUnixAddress(path, { bind(raw, $0, $1) }) == 0, listen(raw, 128) == 0 else {
            throw LinuxError(errno: errno, "\(path) could not be listened at")
        }
    }

    public func accept() async throws -> RawConnection {
        let raw = socket.raw
        return try await eventually("a connection", every: .milliseconds(2)) {
            let accepted = Glibc.accept(raw, nil, nil)
            return accepted >= 0 ? RawConnection(accepted: Descriptor(owning: accepted)) : nil
        }
    }
}

private func withUnixAddress(_ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8.prefix($0.count - 1)) }
    return withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
    }
}
