import Glibc
public import LinuxOS
import Synchronization

/// Answers a TCP port of 127.0.0.1 that nobody has, and that stays the caller's between one listener and the next: it
/// is answered once in this process, and the kernel gives it to no outgoing connection.
public func freePort() throws(LinuxError) -> Int {
    // Below the ports of outgoing connections (net.ipv4.ip_local_port_range) and those that agents offer.
    for _ in 0..<1000 {
        let port = Int.random(in: 20000..<31000)
        let isNew = given.withLock { $0.insert(port).inserted }
        if isNew, isFree(port) { return port }
    }
    throw LinuxError(errno: EADDRINUSE, "No free port was found")
}

private let given = Mutex<Set<Int>>([])

private func isFree(_ port: Int) -> Bool {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(descriptor) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = UInt16(port).bigEndian
    address.sin_addr.s_addr = in_addr_t(0x7F00_0001).bigEndian
    return withUnsafePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
        }
    }
}
