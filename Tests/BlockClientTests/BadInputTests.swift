import Base
import BlockClient
import BlockCore
import BlockIO
import BlockManager
import Glibc
import HTTPKit
import Testing

import class TestKit.RawConnection

/// Strangers on every socket of a running store: they may get errors, but its data and its clients do not notice.
@Suite(.serialized, .timeLimit(.minutes(4))) struct BadInputTests {
    private var random = SeededRandom(seed: 41)

    private func tool(_ name: String, _ arguments: String...) async -> (status: Int32, output: String) {
        await withCheckedContinuation { continuation in
            startThread(name: name) { continuation.resume(returning: runTool(name, arguments)) }
        }
    }

    @Test mutating func nothingIsLostToWellFormedNonsense() async throws {
        let cluster = try StoreCluster()
        do {
            try await harass(cluster)
        } catch {
            await cluster.stop()
            throw error
        }
        await cluster.stop()
    }

    private mutating func harass(_ cluster: StoreCluster) async throws {
        #expect(await cluster.startManager())
        for number in 1...3 { #expect(await cluster.startServer(number)) }
        let manager = cluster.manager
        #expect(
            await cluster.until {
                (try? await manager.state().servers.values.count { $0.status == .up }) == 3
            })
        await cluster.startClient("c1")
        let volume = try await cluster.makeVolume("v")
        let uri = try await cluster.map(volume, to: "c1")
        let written = await tool("qemu-io", "-f", "raw", "-c", "write -P 0xA5 0 8M", uri)
        #expect(written.status == 0 && !written.output.contains("failed"), "\(written.output)")

        let control = cluster.directory.path + "/c1.sock"
        try await harassClient(.unix(path: control))
        for port in await cluster.dataPorts { try await harassServer(.tcp(host: "127.0.0.1", port: port), volume) }
        guard case .inet(_, let port) = cluster.manager.address else { return }
        try await harassManager(.tcp(host: "127.0.0.1", port: Int(port)))

        let read = await tool("qemu-io", "-f", "raw", "-c", "read -P 0xA5 0 8M", uri)
        #expect(read.status == 0 && !read.output.contains("failed"), "\(read.output)")
        // Newcomers are served as ever.
        #expect(await cluster.startServer(4))
        #expect(
            await cluster.until {
                (try? await manager.state().servers.values.contains { $0.name == "node4" && $0.status == .up }) ?? false
            })
        await cluster.startClient("c2")
        let other = try await cluster.makeVolume("w")
        let second = try await cluster.map(other, to: "c2")
        let fresh = await tool("qemu-io", "-f", "raw", "-c", "write -P 1 0 1M", "-c", "read -P 1 0 1M", second)
        #expect(fresh.status == 0 && !fresh.output.contains("failed"), "\(fresh.output)")
    }

    // MARK: The client's control socket

    private mutating func harassClient(_ address: HTTPAddress) async throws {
        for line in ["", "{", "[]", "{}", "null", "{\"command\":5}", "{\"command\":\"explode\"}", "\u{0}"] {
            let connection = try RawConnection(address)
            try await connection.send(line + "\n")
            connection.finishSending()
            let answer = try JSONValue(parsing: try await connection.receive(atLeast: 10))
            #expect(answer["error"]?.string?.isEmpty == false, "\(line): \(answer.text)")
        }
        let endless = try RawConnection(address)
        try await endless.send([UInt8](repeating: UInt8(ascii: "x"), count: 100 << 10))
        #expect(try await endless.receiveAll().isEmpty)
        for _ in 0..<100 {
            let connection = try RawConnection(address)
            try await connection.send(garbage(200))
            connection.finishSending()
            _ = try await connection.receiveAll()
        }
        let proper = try RawConnection(address)
        try await proper.send("{\"command\":\"query_guid\"}\n")
        let answer = try JSONValue(parsing: try await proper.receive(atLeast: 10))
        #expect(answer["guid"]?.string?.isEmpty == false, "\(answer.text)")
    }

    // MARK: A server's data port

    private mutating func harassServer(_ address: HTTPAddress, _ volume: VolumeID) async throws {
        for round in 0..<60 {
            let connection = try RawConnection(address)
            let session = UInt64.random(in: 1...9, using: &random)
            if round % 4 > 0 {
                var hello = DataHeader(opcode: .hello)
                // Nobody's id: the ids of the living are as good as their passwords.
                hello.volume = UInt64.random(in: 1...1000, using: &random)
                hello.offset = UInt32(round % 4)
                hello.session = session
                try await connection.send(hello.encoded())
            }
            for number in 1...40 {
                var header = nonsense(volume)
                header.session = pick([session, session, session, 0, .max])
                header.request = pick([UInt64(number), UInt64(number), 0, .max])
                let payload = [UInt8](repeating: 0xEE, count: header.payloadLength)
                guard try await connection.send(header.encoded() + payload) else { break }
            }
            connection.finishSending()
            _ = try await connection.receiveAll()
        }
        for round in 0..<50 {
            let connection = try RawConnection(address)
            var bytes = garbage(300)
            if round % 2 == 0 { bytes = Array(nonsense(volume).encoded().dropLast(round)) }
            try await connection.send(bytes)
            connection.finishSending()
            _ = try await connection.receiveAll()
        }
    }

    private mutating func nonsense(_ volume: VolumeID) -> DataHeader {
        var header = DataHeader(opcode: pick(Opcode.allCases.filter { $0 != .hello }))
        header.status = pick(DataStatus.allCases)
        header.volume = pick([volume.rawValue, volume.rawValue, 0, .max, 7])
        header.unit = pick([0, 1, 63, 64, .max])
        header.offset = pick([0, 4096, 1, 1 << 20, .max - 4095, .max])
        header.length = pick([0, 1, 4096, 8192, 1 << 20])
        header.flags = pick([[], [], .payload, .payload, .zeros, [.zeros, .payload], .reply, [.reply, .payload]])
        header.combEpoch = pick([0, 1, 2, 3, 4, 1000, .max])
        header.attachEpoch = pick([0, 1, 2, .max])
        return header
    }

    // MARK: The manager's port

    private mutating func harassManager(_ address: HTTPAddress) async throws {
        for round in 0..<150 {
            let connection = try RawConnection(address)
            var frames: [[UInt8]] = []
            if round % 5 > 0 { frames.append(ControlFrame.encode(introduction(round))) }
            for _ in 0..<10 { frames.append(ControlFrame.encode(message())) }
            // Every third connection's frames are damaged, under checksums that fit.
            if round % 3 == 0 { frames = frames.map { damaged($0) } }
            if round % 7 == 0 { frames.append(garbage(100)) }
            for frame in frames {
                guard try await connection.send(frame) else { break }
            }
            connection.finishSending()
            _ = try await connection.receiveAll()
        }
        // A length that promises much, and a frame that does not end.
        for bytes: [UInt8] in [[0xFF, 0xFF, 0xFF, 0xFF], [0, 0, 0, 0], [5, 0, 0, 0], [0, 0, 16, 0, 1, 2, 3]] {
            let connection = try RawConnection(address)
            try await connection.send(bytes)
            connection.finishSending()
            // Nothing but the greeting.
            #expect(ControlFrame.encode(MessageFromManager.keepAlive).starts(with: try await connection.receiveAll()))
        }
    }

    private mutating func introduction(_ round: Int) -> MessageToManager {
        let name = pick(["", "x", "node1", String(repeating: "n", count: 5000)])
        let number = UInt64.random(in: 0...3, using: &random)
        if round % 2 == 0 {
            return .clientHello(ClientHello(guid: name, name: name, ip: name, incarnation: number))
        }
        let devices = (0..<Int.random(in: 0...3, using: &random)).map { _ in
            DeviceOffer(
                id: DeviceID(rawValue: pick([0, 1, 2, .max])), poolName: pick(["", "p", "hdd"]), path: name,
                capacityUnits: pick([0, 1, .max]), mountCounter: pick([0, 1, .max]))
        }
        return .serverHello(
            ServerHello(
                system: pick([nil, nil, SystemID(rawValue: 3)]), sds: SdsID(rawValue: number), name: name,
                domainName: pick(["", "other", name]), address: pick(["", "127.0.0.1:1", "nonsense"]),
                incarnation: number, devices: devices))
    }

    private mutating func message() -> MessageToManager {
        let number: UInt64 = pick([0, 1, 2, 100, .max])
        let key = CombKey(pool: StoragePoolID(rawValue: number), index: pick([0, 1, 63, .max]))
        let place = CopyPlace(sds: SdsID(rawValue: number), device: DeviceID(rawValue: number))
        let usage = DeviceUsage(device: DeviceID(rawValue: number), usedUnits: .max)
        return pick([
            .keepAlive([usage, usage]), .acknowledge(revision: number), .requestMap,
            .removeSecondary(key, epoch: number, secondary: place), .rebuildDone(key, epoch: number, target: place),
            .rebuildFailed(key, epoch: number, target: place), .deviceFailed(DeviceID(rawValue: number)),
            .nodeEmpty(TreeID(rawValue: number), node: key.index, revision: number),
        ])
    }

    private mutating func damaged(_ frame: [UInt8]) -> [UInt8] {
        var body = Array(frame[8...])
        body[Int.random(in: body.indices, using: &random)] = UInt8.random(in: 0...255, using: &random)
        let checksum = CRC32C.checksum(body)
        return Array(frame[..<4]) + (0..<4).map { UInt8(truncatingIfNeeded: checksum >> ($0 * 8)) } + body
    }

    private mutating func pick<Value>(_ values: [Value]) -> Value {
        values[Int.random(in: values.indices, using: &random)]
    }

    private mutating func garbage(_ countMax: Int) -> [UInt8] {
        (0..<Int.random(in: 1...countMax, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
    }
}
