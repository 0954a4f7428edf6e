import Base
import BlockIO
import BlockServer
import Glibc
import Logging
import Testing

/// A server without a manager: what it does with devices and strangers.
@Suite struct BlockServerServiceTests {
    let directory: String

    init() {
        var random = SystemRandomNumberGenerator()
        directory = "/tmp/holdfast-server-\((random.next() as UInt64).hex)"
        mkdir(directory, 0o700)
    }

    func service(_ device: String, size: UInt64? = 64 << 20) -> BlockServerService {
        var logger = Logger(label: "server-test")
        logger.logLevel = .critical
        var configuration = BlockServerService.Configuration(
            managers: [.inet(host: "127.0.0.1", port: 1)], listen: .inet(host: "127.0.0.1", port: 0), name: "n",
            protectionDomain: "pd", storagePool: "sp", devices: [device])
        configuration.deviceSize = size
        return BlockServerService(configuration, logger: logger)
    }

    /// Runs the service until `body` ends; answers its error.
    func run(_ service: BlockServerService, _ body: @escaping @Sendable (UInt16) async throws -> Void) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await service.run() }
            group.addTask {
                let deadline = Reactor.now + .seconds(10)
                while service.address == nil && Reactor.now < deadline { try await Task.sleep(for: .milliseconds(5)) }
                guard case .inet(_, let port) = service.address else {
                    throw BlockIOError(.invalid, "the server did not start")
                }
                try await body(port)
            }
            try await group.next()
            group.cancelAll()
            try await group.waitForAll()
        }
    }

    func overwrite(_ path: String, at offset: off_t, _ bytes: [UInt8]) {
        let file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
        _ = pwrite(file, bytes, bytes.count, offset)
        close(file)
    }

    func head(_ path: String) -> [UInt8] {
        let file = open(path, O_RDONLY | O_CLOEXEC)
        defer { close(file) }
        var bytes = [UInt8](repeating: 0, count: 256 << 10)
        let count = pread(file, &bytes, bytes.count, 0)
        return Array(bytes.prefix(max(0, count)))
    }

    @Test func refusesACorruptedLabelAndLeavesItAlone() async throws {
        defer { removeAll() }
        let device = directory + "/device"
        try await run(service(device)) { _ in }
        overwrite(device, at: 40, [1, 2, 3])
        overwrite(device, at: 64 << 10 | 40, [1, 2, 3])
        let before = head(device)
        await #expect(throws: BlockIOError.self) { try await run(service(device)) { _ in } }
        #expect(head(device) == before)
    }

    @Test func oneGoodCopyOfTheLabelIsEnough() async throws {
        defer { removeAll() }
        let device = directory + "/device"
        try await run(service(device)) { _ in }
        overwrite(device, at: 40, [1, 2, 3])
        try await run(service(device)) { _ in }
    }

    @Test func refusesAForeignDeviceAndLeavesItAlone() async throws {
        defer { removeAll() }
        let device = directory + "/device"
        overwrite(device, at: 0, [UInt8](repeating: 7, count: 1 << 20))
        let before = head(device)
        await #expect(throws: BlockIOError.self) { try await run(service(device)) { _ in } }
        #expect(head(device) == before)
        await #expect(throws: BlockIOError.self) { try await run(service(directory + "/none", size: nil)) { _ in } }
        #expect(access(directory + "/none", F_OK) != 0)
    }

    @Test func hangsUpOnRandomBytesAndServesOn() async throws {
        defer { removeAll() }
        let outcome = try await connections(200)
        #expect(outcome)
    }

    /// Whether the last of `count` connections that send garbage is closed by the server as the first was.
    func connections(_ count: Int) async throws -> Bool {
        try await run(service(directory + "/device")) { port in
            var random = SeededRandom(seed: 11)
            for round in 0..<count {
                let connection = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
                defer { close(connection) }
                var address = sockaddr_in()
                address.sin_family = sa_family_t(AF_INET)
                address.sin_port = port.bigEndian
                address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
                let connected = withUnsafePointer(to: &address) {
                    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                        connect(connection, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                    }
                }
                try #require(connected == 0)
                var patience = timeval(tv_sec: 10, tv_usec: 0)
                setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
                // Half begin like a real header.
                var bytes: [UInt8] = round % 2 == 0 ? [] : [0x46, 0x4c, 0x44, 0x48, 1, 1, 0, 0]
                for _ in 0..<Int.random(in: 80...300, using: &random) {
                    bytes.append(UInt8.random(in: 0...255, using: &random))
                }
                _ = send(connection, bytes, bytes.count, Int32(MSG_NOSIGNAL))
                var answer: UInt8 = 0
                let received = recv(connection, &answer, 1, 0)
                #expect(received == 0 || (received < 0 && errno == ECONNRESET))
            }
        }
        return true
    }

    private func removeAll() {
        for name in ["device", "none"] { unlink(directory + "/" + name) }
        rmdir(directory)
    }
}
