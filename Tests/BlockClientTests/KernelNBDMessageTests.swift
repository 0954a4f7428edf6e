import BlockIO
import Glibc
import Testing

@testable import BlockClient

/// What is said to the kernel's NBD client and understood of its answers.
///
/// The expected bytes were printed by a C program that fills the same messages with the structures and macros of
/// Debian 12's linux/netlink.h, linux/genetlink.h and linux/nbd-netlink.h, on a little-endian machine.
@Suite struct KernelNBDMessageTests {
    private let connection = KernelNBD.Connection(
        size: 0x0102_0304_0506_0000, blockSize: 4096, serverFlags: 0x16d, deadConnectionTimeoutSeconds: 180,
        identifier: "holdfast/a.3", sockets: [10, 11])

    private func bytes(_ text: String) -> [UInt8] {
        text.split(whereSeparator: \.isWhitespace).compactMap { UInt8($0, radix: 16) }
    }

    @Test func connectIsWhatTheKernelsHeadersSay() {
        #expect(
            KernelNBD.connect(connection, family: 0x1c, sequence: 7)
                == bytes(
                    """
                    8c 00 00 00 1c 00 05 00 07 00 00 00 00 00 00 00
                    01 01 00 00 0c 00 02 00 00 00 06 05 04 03 02 01
                    0c 00 03 00 00 10 00 00 00 00 00 00 0c 00 05 00
                    6d 01 00 00 00 00 00 00 0c 00 06 00 00 00 00 00
                    00 00 00 00 0c 00 04 00 00 00 00 00 00 00 00 00
                    0c 00 08 00 b4 00 00 00 00 00 00 00 1c 00 07 80
                    0c 00 01 80 08 00 01 00 0a 00 00 00 0c 00 01 80
                    08 00 01 00 0b 00 00 00 11 00 0a 00 68 6f 6c 64
                    66 61 73 74 2f 61 2e 33 00 00 00 00
                    """))
    }

    @Test func reconfigureIsWhatTheKernelsHeadersSay() {
        #expect(
            KernelNBD.resize(3, to: 0x2_0000_0000, identifier: "holdfast/a.3", family: 0x1c, sequence: 8)
                == bytes(
                    """
                    3c 00 00 00 1c 00 05 00 08 00 00 00 00 00 00 00
                    03 01 00 00 08 00 01 00 03 00 00 00 0c 00 02 00
                    00 00 00 00 02 00 00 00 11 00 0a 00 68 6f 6c 64
                    66 61 73 74 2f 61 2e 33 00 00 00 00
                    """))
    }

    @Test func aReconnectionNamesDeviceSocketsAndIdentifier() throws {
        let message = KernelNBD.reconnect(3, connection, family: 0x1c, sequence: 9)
        #expect(message[16] == 3)
        let attributes = try NetlinkAttribute.list(Array(message[20...]))
        #expect(attributes.map(\.type) == [1, 2, 4, 8, 6, 7, 10])
        #expect(try attributes[0].number(UInt32.self) == 3)
        #expect(attributes[6].payload == Array("holdfast/a.3".utf8) + [0])
        let items = try NetlinkAttribute.list(attributes[5].payload)
        let sockets = try items.map { try NetlinkAttribute.list($0.payload)[0].number(UInt32.self) }
        #expect(sockets == [10, 11])
    }

    @Test func familiesDisconnectionsAndQuestions() {
        #expect(
            GenericNetlinkControl.resolve("nbd", sequence: 1)
                == bytes("1c 00 00 00 10 00 05 00 01 00 00 00 00 00 00 00 03 01 00 00 08 00 02 00 6e 62 64 00"))
        let header = "1c 00 00 00 1c 00 05 00 02 00 00 00 00 00 00 00"
        #expect(
            KernelNBD.disconnect(5, family: 0x1c, sequence: 2)
                == bytes(header + " 02 01 00 00 08 00 01 00 05 00 00 00"))
        #expect(
            KernelNBD.status(5, family: 0x1c, sequence: 2) == bytes(header + " 05 01 00 00 08 00 01 00 05 00 00 00"))
        #expect(KernelNBD.status(nil, family: 0x1c, sequence: 2).count == 20)
    }

    // MARK: Answers

    /// A message from the kernel: type, sequence number, body.
    private func message(_ type: UInt16, _ sequence: UInt32, _ body: [UInt8]) -> [UInt8] {
        let length = UInt32(16 + body.count)
        let header = little(length) + little(type) + little(UInt16(0)) + little(sequence) + little(UInt32(0))
        return header + body + [UInt8](repeating: 0, count: (4 - body.count % 4) % 4)
    }

    private func little(_ number: some FixedWidthInteger) -> [UInt8] {
        withUnsafeBytes(of: number.littleEndian) { Array($0) }
    }

    @Test func theAnswerToConnectIsItsIndexAndAnEnd() throws {
        let index = bytes("01 01 00 00 08 00 01 00 0b 00 00 00")
        let datagram = message(0x1c, 7, index) + message(2, 7, bytes("00 00 00 00") + [UInt8](repeating: 0, count: 16))
        let replies = try NetlinkReply.list(datagram, sequence: 7)
        let attributes = [NetlinkAttribute(1, [11, 0, 0, 0])]
        #expect(replies == [.message(command: 1, attributes), .ended(error: 0)])
        #expect(try KernelNBD.index(in: attributes) == 11)
        // What is meant for somebody else, and the kernel's own news, are no answers.
        #expect(try NetlinkReply.list(datagram, sequence: 8).isEmpty)
        #expect(try NetlinkReply.list(message(1, 7, []), sequence: 7).isEmpty)
        let refused = message(2, 7, bytes("f0 ff ff ff") + [UInt8](repeating: 0, count: 16))
        #expect(try NetlinkReply.list(refused, sequence: 7) == [.ended(error: EBUSY)])
    }

    @Test func theAnswerToStatusListsDevices() throws {
        // Two devices as populate_nbd_status writes them: nested without the flag, a byte padded to four.
        let list = bytes(
            """
            2c 00 09 00 14 00 01 00 08 00 01 00 00 00 00 00 05 00 02 00 01 00 00 00
            14 00 01 00 08 00 01 00 07 00 00 00 05 00 02 00 00 00 00 00
            """)
        let attributes = try NetlinkAttribute.list(list)
        let devices = try KernelNBD.devices(in: attributes)
        #expect(
            devices == [
                KernelNBD.DeviceStatus(index: 0, isConnected: true),
                KernelNBD.DeviceStatus(index: 7, isConnected: false),
            ])
        #expect(try KernelNBD.devices(in: NetlinkAttribute.list(bytes("04 00 09 00"))).isEmpty)
    }

    @Test(arguments: [
        "01", "0b 00 00 00 1c 00 00 00 07 00 00 00 00 00 00", "0f 00 00 00 1c 00 00 00 07 00 00 00 00 00 00 00",
        "20 00 00 00 1c 00 00 00 07 00 00 00 00 00 00 00", "ff ff ff ff 1c 00 00 00 07 00 00 00 00 00 00 00",
        // Ours by number, with a generic header, an error, and attributes cut short.
        "12 00 00 00 1c 00 00 00 07 00 00 00 00 00 00 00 01 01",
        "12 00 00 00 02 00 00 00 07 00 00 00 00 00 00 00 01 01",
        "16 00 00 00 1c 00 00 00 07 00 00 00 00 00 00 00 01 01 00 00 08 00",
        "18 00 00 00 1c 00 00 00 07 00 00 00 00 00 00 00 01 01 00 00 08 00 01 00",
        "18 00 00 00 1c 00 00 00 07 00 00 00 00 00 00 00 01 01 00 00 03 00 01 00",
        // Errors are negative, and none is the smallest number.
        "14 00 00 00 02 00 00 00 07 00 00 00 00 00 00 00 05 00 00 00",
        "14 00 00 00 02 00 00 00 07 00 00 00 00 00 00 00 00 00 00 80",
    ]) func brokenDatagramsAreRefused(_ text: String) {
        #expect(throws: BlockIOError.self) { try NetlinkReply.list(bytes(text), sequence: 7) }
    }

    @Test(arguments: [
        [NetlinkAttribute(1, [1])], [NetlinkAttribute(1, [1, 0, 0, 0, 0, 0, 0, 0])],
        [NetlinkAttribute(2, [1, 0, 0, 0])],
        [],
    ]) func answersWithoutTheirContentAreRefused(_ attributes: [NetlinkAttribute]) {
        #expect(throws: BlockIOError.self) { try KernelNBD.index(in: attributes) }
        #expect(throws: BlockIOError.self) { try KernelNBD.devices(in: attributes) }
        #expect(throws: BlockIOError.self) { try GenericNetlinkControl.familyNumber(in: attributes) }
    }

    @Test(arguments: [
        "0c 00 01 00 08 00 01 00 01 00 00 00", "0d 00 01 00 05 00 01 00 00 00 00 00 00", "08 00 01 00 09 00 01 00",
    ])
    func halfADeviceInAListIsRefused(_ item: String) {
        let list = [NetlinkAttribute(9, bytes(item))]
        #expect(throws: BlockIOError.self) { try KernelNBD.devices(in: list) }
    }

    @Test func whateverArrivesIsReadOrRefused() {
        var random = SystemRandomNumberGenerator()
        let valid = message(0x1c, 7, bytes("01 01 00 00 08 00 01 00 0b 00 00 00")) + message(2, 7, bytes("00 00 00 00"))
        for _ in 0..<20_000 {
            var datagram = valid
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                datagram[Int.random(in: 0..<datagram.count, using: &random)] = .random(in: 0...255, using: &random)
            }
            datagram.removeLast(Int.random(in: 0...datagram.count, using: &random))
            guard let replies = try? NetlinkReply.list(datagram, sequence: 7) else { continue }
            for case .message(_, let attributes) in replies {
                _ = try? KernelNBD.index(in: attributes)
                _ = try? KernelNBD.devices(in: attributes)
            }
        }
    }

    // MARK: This host's kernel

    /// Every kernel with generic netlink has the family of families.
    @Test func theKernelAnswers() throws {
        #expect(try NetlinkSocket().family("nlctrl") == GenericNetlinkControl.family)
        let error = #expect(throws: BlockIOError.self) { try NetlinkSocket().family("holdfast-none") }
        #expect(error?.code == .system(ENOENT))
    }
}
