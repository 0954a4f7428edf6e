import Base
import BlockClient
import BlockIO
import Glibc
import HTTPKit
import Testing

import class TestKit.RawConnection

/// An NBD client that knows the protocol and asks for the impossible.
@Suite(.serialized, .timeLimit(.minutes(2))) struct NBDBadRequestTests {
    private static let write: UInt16 = 1

    private struct Request {
        var type: UInt16
        var offset: UInt64 = 0
        var length: UInt32 = 4096
        var error: UInt32
    }

    /// Connected and through the negotiation.
    private func connect(_ setup: NBDServerTests.Setup) async throws -> RawConnection {
        let connection = try RawConnection(.unix(path: setup.path))
        #expect(try await connection.receive(atLeast: 18).count == 18)
        // Fixed newstyle without zeroes, then the export's name.
        let option = big(UInt64(0x4948_4156_454f_5054)) + big(UInt32(1)) + big(UInt32(3)) + Array("vol".utf8)
        try await connection.send(big(UInt32(3)) + option)
        #expect(try await connection.receive(atLeast: 10).count == 10)
        return connection
    }

    private func big(_ number: some FixedWidthInteger) -> [UInt8] {
        withUnsafeBytes(of: number.bigEndian) { Array($0) }
    }

    private func encode(_ request: Request, cookie: UInt64) -> [UInt8] {
        big(UInt32(0x2560_9513)) + big(UInt16(0)) + big(request.type) + big(cookie) + big(request.offset)
            + big(request.length)
    }

    @Test func impossibleRequestsGetErrorsAndTheConnectionStays() async throws {
        let setup = try NBDServerTests.Setup(size: 1 << 20)
        defer { setup.finish() }
        let connection = try await connect(setup)
        let size: UInt64 = 1 << 20
        let requests = [
            Request(type: 0, length: 0, error: 22), Request(type: 0, offset: 1, error: 22),
            Request(type: 0, length: 1000, error: 22), Request(type: 0, offset: size, error: 22),
            Request(type: 0, offset: .max - 4095, error: 22),
            Request(type: 0, offset: .max - 4095, length: 8192, error: 22),
            Request(type: 0, length: 2 << 20, error: 22), Request(type: 0, length: .max, error: 75),
            Request(type: 1, length: 0, error: 22), Request(type: 1, offset: size, error: 28),
            Request(type: 1, offset: 5, error: 22), Request(type: 4, length: .max - 4095, error: 28),
            Request(type: 4, offset: .max - 4095, length: .max - 4095, error: 28),
            Request(type: 6, length: 0, error: 22),
            Request(type: 5, error: 22), Request(type: 7, error: 22), Request(type: .max, error: 22),
            Request(type: 3, offset: .max, length: .max, error: 0), Request(type: 1, error: 0),
        ]
        for (index, request) in requests.enumerated() {
            let payload = request.type == NBDBadRequestTests.write ? Int(request.length) : 0
            try await connection.send(encode(request, cookie: UInt64(index)) + [UInt8](repeating: 7, count: payload))
            let reply = try await connection.receive(atLeast: 16)
            #expect(reply == big(UInt32(0x6744_6698)) + big(request.error) + big(UInt64(index)), "\(request)")
        }
        // And a proper request is answered on the same connection.
        try await connection.send(encode(Request(type: 0, error: 0), cookie: 99))
        let reply = try await connection.receive(atLeast: 16 + 4096)
        #expect(
            reply == big(UInt32(0x6744_6698)) + big(UInt32(0)) + big(UInt64(99)) + [UInt8](repeating: 7, count: 4096))
    }

    /// Options about meta contexts that are wrong, out of order, or about others'.
    @Test func contextsAreRefusedOrLeftOut() async throws {
        let setup = try NBDServerTests.Setup(size: 1 << 20)
        defer { setup.finish() }
        let connection = try RawConnection(.unix(path: setup.path))
        #expect(try await connection.receive(atLeast: 18).count == 18)
        try await connection.send(big(UInt32(3)))
        func text(_ text: String) -> [UInt8] { big(UInt32(text.utf8.count)) + Array(text.utf8) }
        func ask(_ option: UInt32, _ data: [UInt8]) async throws {
            try await connection.send(
                big(UInt64(0x4948_4156_454f_5054)) + big(option) + big(UInt32(data.count)) + data)
        }
        func reply(_ option: UInt32, _ type: UInt32, _ data: [UInt8] = []) -> [UInt8] {
            big(UInt64(0x0003_e889_0455_65a9)) + big(option) + big(type) + big(UInt32(data.count)) + data
        }
        let (acknowledge, context) = (UInt32(1), UInt32(4))
        let (invalid, unknown) = (UInt32(0x8000_0003), UInt32(0x8000_0006))
        let good = text("vol") + big(UInt32(1)) + text("base:allocation")
        var expected: [[UInt8]] = []
        try await ask(10, good)
        expected.append(reply(10, invalid))
        try await ask(8, [])
        expected.append(reply(8, acknowledge))
        for data in [[], [1], text("vol"), text("vol") + big(UInt32(2)) + text("x"), big(UInt32.max), good + [0]] {
            try await ask(10, data)
            expected.append(reply(10, invalid))
        }
        try await ask(10, text("other") + big(UInt32(1)) + text("base:allocation"))
        expected.append(reply(10, unknown))
        try await ask(10, text("vol") + big(UInt32(2)) + text("qemu:dirty-bitmap:x") + text("base:"))
        expected.append(reply(10, acknowledge))
        try await ask(9, text("vol") + big(UInt32(1)) + text("base:"))
        expected += [reply(9, context, big(UInt32(0)) + Array("base:allocation".utf8)), reply(9, acknowledge)]
        try await ask(10, text("") + big(UInt32(1)) + text("base:allocation"))
        expected += [reply(10, context, big(UInt32(1)) + Array("base:allocation".utf8)), reply(10, acknowledge)]
        let all = Array(expected.joined())
        #expect(try await connection.receive(atLeast: all.count) == all)
    }

    @Test func brokenFramesEndTheConnectionOnly() async throws {
        let setup = try NBDServerTests.Setup(size: 1 << 20)
        defer { setup.finish() }
        let tooLong = encode(Request(type: NBDBadRequestTests.write, length: .max, error: 0), cookie: 1)
        for bytes in [[UInt8](repeating: 0, count: 28), tooLong] {
            let connection = try await connect(setup)
            try await connection.send(bytes)
            #expect(try await connection.receiveAll().isEmpty)
        }
        var random = SeededRandom(seed: 42)
        for _ in 0..<200 {
            let connection = try await connect(setup)
            for _ in 0..<Int.random(in: 1...10, using: &random) {
                let request = Request(
                    type: UInt16.random(in: 0...8, using: &random),
                    offset: UInt64.random(in: 0...UInt64.max, using: &random),
                    length: UInt32.random(in: 0...UInt32.max, using: &random), error: 0)
                guard try await connection.send(encode(request, cookie: 1)) else { break }
            }
            connection.finishSending()
            _ = try await connection.receiveAll()
        }
        #expect(runTool("nbdinfo", ["--size", setup.uri]).output.hasPrefix("1048576"))
    }
}
