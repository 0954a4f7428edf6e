import BlockIO
import Testing

@testable import BlockClient

/// The structures that are shared with ublk_drv.
///
/// The expected bytes and numbers were printed by a C program that fills the structures of Debian 12's
/// linux/ublk_cmd.h (Linux 6.1), on a little-endian machine; the numbers of commands by its _IOR and _IOWR. Positions
/// in the channel's file and what came after 6.1 follow the header of Linux 6.16, in which the structures have the same
/// layout.
@Suite struct UblkProtocolTests {
    private func bytes(_ text: String) -> [UInt8] {
        text.split(whereSeparator: \.isWhitespace).compactMap { UInt8($0, radix: 16) }
    }

    @Test func controlCommands() {
        let command = Ublk.ControlCommand(
            device: 0x0102_0304, length: 0x0506, address: 0x1112_1314_1516_1718, data: 0x2122_2324_2526_2728)
        #expect(
            command.bytes
                == bytes(
                    """
                    04 03 02 01 ff ff 06 05 18 17 16 15 14 13 12 11
                    28 27 26 25 24 23 22 21 00 00 00 00 00 00 00 00
                    """))
        // The length of the path took the place of the second word of data in Linux 6.2.
        #expect(Ublk.ControlCommand(device: 0, pathLength: 0x0708).bytes[24..<26] == [8, 7])
        let numbers: [(Ublk.ControlOperation, UInt32)] = [
            (.addDevice, 0xc020_7504), (.deleteDevice, 0xc020_7505), (.startDevice, 0xc020_7506),
            (.stopDevice, 0xc020_7507), (.setParameters, 0xc020_7508), (.startUserRecovery, 0xc020_7510),
            (.endUserRecovery, 0xc020_7511), (.getDeviceInfo2, 0x8020_7512), (.getFeatures, 0x8020_7513),
            (.deleteDeviceAsync, 0x8020_7514), (.updateSize, 0xc020_7515),
        ]
        for (operation, number) in numbers { #expect(operation.rawValue == number) }
    }

    @Test func deviceInfo() throws {
        var info = Ublk.DeviceInfo(token: 0x1112_1314_1516_1718)
        info.state = 2
        info.device = 0x0102_0304
        info.server = 0x0506_0708
        // The program set the same features by name but for IOCTL_ENCODE and USER_COPY, which are newer: 0x9a.
        info.features = Ublk.Features(rawValue: 0x9a)
        let expected = bytes(
            """
            01 00 80 00 02 00 00 00 00 00 10 00 04 03 02 01
            08 07 06 05 00 00 00 00 9a 00 00 00 00 00 00 00
            18 17 16 15 14 13 12 11 00 00 00 00 00 00 00 00
            00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
            """)
        #expect(info.bytes == expected)
        #expect(try Ublk.DeviceInfo(expected) == info)
        // A later kernel may tell more, and owners where zeros were.
        var longer = expected + [1, 2, 3]
        longer[40] = 7
        #expect(try Ublk.DeviceInfo(longer) == info)
        for count in 0..<64 { #expect(throws: BlockIOError.self) { try Ublk.DeviceInfo(Array(expected[..<count])) } }
        // USER_RECOVERY, USER_RECOVERY_REISSUE, CMD_IOCTL_ENCODE, USER_COPY.
        #expect(Ublk.DeviceInfo(token: 1).features.rawValue == 0xd8)
    }

    @Test func parameters() {
        var parameters = Ublk.Parameters(
            size: 0x0002_0304_0506_0708 * 512, blockSize: 4096, isReadOnly: true, hasVolatileCache: false)
        let expected = bytes(
            """
            40 00 00 00 03 00 00 00 01 00 00 00 0c 0c 14 0c
            00 08 00 00 00 00 00 00 08 07 06 05 04 03 02 00
            00 00 00 00 00 00 00 00 00 00 00 00 00 10 00 00
            00 00 20 00 00 00 20 00 01 00 00 00 00 00 00 00
            """)
        #expect(parameters.bytes == expected)
        parameters.isReadOnly = false
        parameters.hasVolatileCache = true
        #expect(parameters.bytes[8] == 4)
    }

    @Test func commandsToAChannel() {
        let (first, second) = Ublk.ioCommand(tag: 0x0304, result: -5)
        let memory = withUnsafeBytes(of: first) { Array($0) } + withUnsafeBytes(of: second) { Array($0) }
        // The program named queue 0x0102; ours is 0 always.
        #expect(memory == bytes("00 00 04 03 fb ff ff ff 00 00 00 00 00 00 00 00"))
        #expect(Ublk.IOOperation.fetch.rawValue == 0xc010_7520)
        #expect(Ublk.IOOperation.commitAndFetch.rawValue == 0xc010_7521)
    }

    @Test func descriptors() {
        let memory = bytes(
            """
            01 20 00 00 04 03 02 01 18 17 16 15 14 13 12 11
            28 27 26 25 24 23 22 21
            """)
        let descriptor = memory.withUnsafeBytes { Ublk.Descriptor($0) }
        // WRITE with FUA.
        #expect(descriptor.operation == 1 && descriptor.flags == 0x20)
        #expect(descriptor.sectors == 0x0102_0304 && descriptor.start == 0x1112_1314_1516_1718)
        #expect(Ublk.Descriptor.encodedSize == memory.count)
        #expect(Ublk.descriptorBytes(depth: 128) == 4096 && Ublk.descriptorBytes(depth: 171) == 8192)
        // UBLKSRV_IO_BUF_OFFSET, and 25 bits for the bytes of each tag.
        #expect(Ublk.position(tag: 0) == 0x8000_0000 && Ublk.position(tag: 3) == 0x8600_0000)
        #expect(Ublk.transferMax <= 1 << 25)
    }
}
