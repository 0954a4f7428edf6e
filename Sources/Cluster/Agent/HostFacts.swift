import Glibc
import LinuxOS

/// What an agent or a master finds out about its host when nobody tells.
public enum HostFacts {
    static func name() -> String {
        var buffer = [CChar](repeating: 0, count: 256)
        guard gethostname(&buffer, buffer.count - 1) == 0 else { return "localhost" }
        return String(decoding: buffer.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    /// The address of this host from which others would be reached; the loopback address when there is no network.
    public static func address() -> String {
        let socket = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
        guard socket >= 0 else { return "127.0.0.1" }
        defer { close(socket) }
        // Connecting a datagram socket sends nothing; it only chooses a route. 192.0.2.1 is reserved for documentation.
        var remote = sockaddr_in()
        remote.sin_family = sa_family_t(AF_INET)
        remote.sin_port = UInt16(9).bigEndian
        inet_pton(AF_INET, "192.0.2.1", &remote.sin_addr)
        var local = sockaddr_in()
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let connected = withUnsafePointer(to: &remote) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(socket, $0, length) }
        }
        guard connected == 0 else { return "127.0.0.1" }
        let named = withUnsafeMutablePointer(to: &local) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(socket, $0, &length) }
        }
        guard named == 0 else { return "127.0.0.1" }
        let address = UInt32(bigEndian: local.sin_addr.s_addr)
        return [24, 16, 8, 0].map { String(address >> UInt32($0) & 0xFF) }.joined(separator: ".")
    }

    /// CPUs, memory and disk (MB) as Mesos offers them: what there is less a margin for the host itself.
    static func resources(workDirectory: String) -> [(name: String, amount: String)] {
        let mebibyte = 1 << 20
        let pages = sysconf(Int32(_SC_PHYS_PAGES)) * (sysconf(Int32(_SC_PAGESIZE)) / 1024)
        let memory = pages / 1024
        var disk = 10240
        var statistics = statvfs()
        var directory = workDirectory
        while !DurableFile.exists(directory), directory != "/" { directory = DurableFile.parent(of: directory) }
        if statvfs(directory, &statistics) == 0 {
            disk = Int(statistics.f_blocks) * Int(statistics.f_frsize) / mebibyte
        }
        return [
            ("cpus", String(max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN))))),
            ("mem", String(memory > 2048 ? memory - 1024 : memory / 2)),
            ("disk", String(disk > 10240 ? disk - 5120 : disk / 2)),
            ("ports", "[31000-32000]"),
        ]
    }
}
