import CBlockIO
import Glibc
public import Logging

/// Where a block store process listens: IPv4 and port, or the path of a unix socket.
public enum SocketAddress: Hashable, Sendable, CustomStringConvertible {
    case inet(host: String, port: UInt16)
    case unix(path: String)

    /// Reads `host:port` or `/path`. Nil when it is neither.
    public init?(_ text: String, defaultPort: UInt16? = nil) {
        if text.hasPrefix("/") {
            self = .unix(path: text)
            return
        }
        let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        guard let host = parts.first, !host.isEmpty else { return nil }
        if parts.count == 2 {
            guard let port = UInt16(parts[1]) else { return nil }
            self = .inet(host: String(host), port: port)
        } else {
            guard let defaultPort else { return nil }
            self = .inet(host: String(host), port: defaultPort)
        }
    }

    public var description: String {
        switch self {
        case .inet(let host, let port): "\(host):\(port)"
        case .unix(let path): path
        }
    }

    /// The same address with its host name replaced by its first IPv4 address. Blocks for as long as the resolver does.
    public func resolved() throws(BlockIOError) -> SocketAddress {
        guard case .inet(let host, let port) = self, SocketAddress.networkOrder(host) == nil else { return self }
        var hints = addrinfo()
        hints.ai_family = AF_INET
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var found: UnsafeMutablePointer<addrinfo>?
        let result = getaddrinfo(host, nil, &hints, &found)
        guard result == 0, let first = found else {
            throw BlockIOError(.invalid, "cannot resolve \(host): \(String(cString: gai_strerror(result)))")
        }
        defer { freeaddrinfo(found) }
        let address = first.pointee.ai_addr.withMemoryRebound(to: sockaddr_in.self, capacity: 1) { $0.pointee.sin_addr }
        let value = UInt32(bigEndian: address.s_addr)
        return .inet(host: "\(value >> 24).\(value >> 16 & 255).\(value >> 8 & 255).\(value & 255)", port: port)
    }

    /// Those of several managers' addresses that resolve; an error only when none does. Blocks.
    public static func resolveAny(_ addresses: [SocketAddress], logger: Logger) throws(BlockIOError) -> [SocketAddress]
    {
        var resolved: [SocketAddress] = []
        var failure: BlockIOError?
        for address in addresses {
            do throws(BlockIOError) {
                resolved.append(try address.resolved())
            } catch {
                logger.warning("address not resolved", metadata: ["address": "\(address)", "error": "\(error)"])
                failure = error
            }
        }
        if resolved.isEmpty, let failure { throw failure }
        return resolved
    }

    /// The IPv4 address of a dotted quad, in network byte order.
    static func networkOrder(_ host: String) -> UInt32? {
        var address = in_addr()
        return inet_pton(AF_INET, host, &address) == 1 ? address.s_addr : nil
    }
}

extension SocketAddress {
    /// A non-blocking listening socket. An existing unix socket file is replaced.
    /// - Returns: the descriptor and the address with the port that the kernel chose.
    public func listen(backlog: Int32 = 128) throws(BlockIOError) -> (descriptor: Int32, address: SocketAddress) {
        let descriptor = try makeSocket()
        var bound = self
        let result: Int32
        switch self {
        case .unix(let path):
            unlink(path)
            result = cbio_bind_unix(descriptor, path)
        case .inet(let host, let port):
            guard let address = SocketAddress.networkOrder(host) else {
                close(descriptor)
                throw BlockIOError(.invalid, "\(host) is not an IPv4 address")
            }
            _ = cbio_reuse_address(descriptor)
            result = cbio_bind_inet(descriptor, address, port)
            bound = .inet(host: host, port: UInt16(clamping: cbio_local_port(descriptor)))
        }
        guard result == 0, Glibc.listen(descriptor, backlog) == 0 else {
            let number = errno
            close(descriptor)
            throw .system(number, "listen on \(self)")
        }
        return (descriptor, bound)
    }

    /// A non-blocking socket whose connection is under way.
    func startConnecting() throws(BlockIOError) -> Int32 {
        let descriptor = try makeSocket()
        let result: Int32
        switch self {
        case .unix(let path): result = cbio_connect_unix(descriptor, path)
        case .inet(let host, let port):
            guard let address = SocketAddress.networkOrder(host) else {
                close(descriptor)
                throw BlockIOError(.invalid, "\(host) is not an IPv4 address")
            }
            result = cbio_connect_inet(descriptor, address, port)
        }
        if result != 0 && errno != EINPROGRESS {
            let number = errno
            close(descriptor)
            throw .system(number, "connect to \(self)")
        }
        return descriptor
    }

    private func makeSocket() throws(BlockIOError) -> Int32 {
        let family: Int32
        switch self {
        case .inet: family = AF_INET
        case .unix: family = AF_UNIX
        }
        let type = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
        let descriptor = socket(family, type, 0)
        guard descriptor >= 0 else { throw .system(errno, "socket") }
        return descriptor
    }
}
