import Glibc
public import LinuxOS

/// A port that nobody has; another process may take it before it is used, which ends the test with an error.
/// Answers a TCP port of 127.0.0.1.
public func freePort() throws(LinuxError) -> Int {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(descriptor) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = in_addr_t(0x7F00_0001).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let isBound = withUnsafeMutablePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
            bind(descriptor, pointer, length) == 0 && getsockname(descriptor, pointer, &length) == 0
        }
    }
    guard isBound else { throw LinuxError(errno: errno, "No free port was found") }
    return Int(UInt16(bigEndian: address.sin_port))
}
