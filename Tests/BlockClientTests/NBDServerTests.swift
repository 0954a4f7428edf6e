import Base
import BlockClient
import BlockIO
import Foundation
import Glibc
import Testing

@Suite(.serialized) struct NBDServerTests {
    final class Setup: @unchecked Sendable {
        // SAFETY: `server` and `device` are used on the reactor's thread only.
        let directory = TemporaryDirectory()
        let reactor: Reactor
        let device: MemoryDevice
        var server: NBDServer?
        var path: String { directory.path + "/v.sock" }
        var uri: String { "nbd+unix:///vol?socket=\(path)" }

        init(size: Int = 16 << 20) throws {
            reactor = try Reactor(name: "nbd-test")
            device = MemoryDevice(size: size)
            reactor.start()
            let opened = reactor.sync { [self] in
                server = try? NBDServer(
                    device: device, exportName: "vol", at: .unix(path: path), on: reactor, logger: quietLogger())
                return server != nil
            }
            #expect(opened == true)
        }

        deinit {
            reactor.stop()
        }

        func finish() { _ = reactor.sync { self.server?.close() } }
    }

    @Test func negotiatesAndDescribesItself() throws {
        let setup = try Setup()
        defer { setup.finish() }
        let info = runTool("nbdinfo", [setup.uri])
        #expect(info.status == 0, "\(info.output)")
        #expect(info.output.contains("export-size: 16777216"))
        #expect(info.output.contains("can_multi_conn: true"))
        #expect(info.output.contains("is_read_only: false"))
        let list = runTool("nbdinfo", ["--list", "nbd+unix:///?socket=\(setup.path)"])
        #expect(list.output.contains("export=\"vol\""), "\(list.output)")
        let unknown = runTool("nbdinfo", ["nbd+unix:///other?socket=\(setup.path)"])
        #expect(unknown.status != 0)
    }

    @Test func copiesThereAndBackByEveryClient() throws {
        let setup = try Setup()
        defer { setup.finish() }
        let source = setup.directory.path + "/source"
        let back = setup.directory.path + "/back"
        runTool("dd", ["if=/dev/urandom", "of=\(source)", "bs=1M", "count=16"])
        #expect(runTool("nbdcopy", [source, setup.uri]).status == 0)
        #expect(runTool("nbdcopy", [setup.uri, back]).status == 0)
        #expect(runTool("cmp", [source, back]).status == 0)
        // QEMU negotiates structured replies; compare reads the whole device through them.
        let compare = runTool("qemu-img", ["compare", "-f", "raw", "-F", "raw", source, setup.uri])
        #expect(compare.status == 0, "\(compare.output)")
        let zero = runTool(
            "qemu-io", ["-f", "raw", "-c", "write -z 4096 8192", "-c", "read -P 0 4096 8192", setup.uri])
        #expect(zero.status == 0 && !zero.output.contains("failed"), "\(zero.output)")
    }

    @Test func showsHolesToThoseWhoAsk() throws {
        let setup = try Setup()
        defer { setup.finish() }
        let info = runTool("nbdinfo", [setup.uri])
        #expect(info.output.contains("base:allocation"), "\(info.output)")
        #expect(info.output.contains("can_df: true"), "\(info.output)")
        let written = runTool(
            "qemu-io", ["-f", "raw", "-c", "write -P 7 4194304 65536", "-c", "write -P 8 8388608 4096", setup.uri])
        #expect(written.status == 0, "\(written.output)")
        let map = runTool("nbdinfo", ["--map", setup.uri])
        let extents = map.output.split(separator: "\n").map {
            $0.split(separator: " ").prefix(3).joined(separator: " ")
        }
        #expect(
            extents == [
                "0 4194304 3", "4194304 65536 0", "4259840 4128768 3", "8388608 4096 0", "8392704 8384512 3",
            ])
        let seen = runTool("qemu-img", ["map", "-f", "raw", "--output=json", setup.uri])
        #expect(seen.output.components(separatedBy: "\"zero\": true").count == 4, "\(seen.output)")
        // A copy takes only what is there.
        let back = setup.directory.path + "/back"
        #expect(runTool("nbdcopy", [setup.uri, back]).status == 0)
        let blocks = Int(runTool("stat", ["-c", "%b", back]).output.prefix { $0 != "\n" }) ?? .max
        #expect(blocks * 512 <= 1 << 20, "\(blocks) sectors")
        #expect(runTool("qemu-img", ["compare", "-f", "raw", "-F", "raw", back, setup.uri]).status == 0)
        _ = setup.reactor.sync { setup.device.failure = EIO }
        #expect(runTool("nbdinfo", ["--map", setup.uri]).status != 0)
    }

    @Test func verifiesUnderDepthWithFio() throws {
        let setup = try Setup()
        defer { setup.finish() }
        let fio = runTool(
            "fio",
            [
                "--name=v", "--ioengine=nbd", "--uri=\(setup.uri)", "--rw=randwrite", "--bs=4k", "--iodepth=32",
                "--size=16m", "--verify=crc32c", "--verify_state_save=0", "--do_verify=1", "--minimal",
            ])
        #expect(fio.status == 0, "\(fio.output)")
    }

    @Test func answersErrorsOfTheDeviceAndOfTheClient() throws {
        let setup = try Setup()
        defer { setup.finish() }
        let past = runTool("qemu-io", ["-f", "raw", "-c", "read 4095 1", setup.uri])
        #expect(past.status == 0, "QEMU rounds to the advertised block size: \(past.output)")
        _ = setup.reactor.sync { setup.device.failure = EIO }
        let failed = runTool("qemu-io", ["-f", "raw", "-c", "write 0 4096", setup.uri])
        #expect(failed.output.contains("Input/output error"), "\(failed.output)")
    }

    @Test func survivesRandomBytes() throws {
        let setup = try Setup(size: 1 << 20)
        defer { setup.finish() }
        var random = SeededRandom(seed: 7)
        for round in 0..<200 {
            let connection = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
            defer { close(connection) }
            var address = sockaddr_un()
            address.sun_family = sa_family_t(AF_UNIX)
            withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: setup.path.utf8) }
            let length = socklen_t(MemoryLayout<sockaddr_un>.size)
            let connected = withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(connection, $0, length) }
            }
            try #require(connected == 0)
            // A third of the rounds gets into the options phase, a third into transmission.
            var bytes: [UInt8] = []
            if round % 3 > 0 { bytes += [0, 0, 0, 3] }
            if round % 3 > 1 {
                bytes += Array("IHAVEOPT".utf8) + [0, 0, 0, 1, 0, 0, 0, 0]
                bytes += [0x25, 0x60, 0x95, 0x13]
            }
            for _ in 0..<Int.random(in: 1...300, using: &random) {
                bytes.append(UInt8.random(in: 0...255, using: &random))
            }
            _ = send(connection, bytes, bytes.count, Int32(MSG_NOSIGNAL))
        }
        #expect(runTool("nbdinfo", ["--size", setup.uri]).output.hasPrefix("1048576"))
    }
}
