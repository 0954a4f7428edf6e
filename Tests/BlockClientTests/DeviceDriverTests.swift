import Base
import BlockCore
import BlockIO
import BlockManager
import Glibc
import Testing

@testable import BlockClient

/// The drivers of block devices on the kernel of this host.
@Suite(.serialized, .timeLimit(.minutes(3))) struct DeviceDriverTests {
    private typealias Driver = BlockClientService.DeviceDriver

    private static func has(_ driver: BlockClientService.DeviceDriver) -> Bool {
        geteuid() == 0 && (try? DriverProbes.host.ask(for: driver)) != nil
    }

    /// A filesystem on the volume's device, its growth, and the device's end under an open file.
    private func exercise(_ driver: BlockClientService.DeviceDriver, devices: String) async throws {
        let store = StoreClusterTests()
        try await store.withCluster(servers: 2) { cluster in
            let volume = try await cluster.makeVolume("v", units: 256)
            let link = try await store.attach(volume, cluster, by: driver)
            let target = await store.run("readlink", link).output
            #expect(target.hasPrefix(devices), "\(target)")
            #expect(await store.run("blockdev", "--getsize64", link).output == "\(256 << 20)\n")
            let direct = await store.run(
                "fio", "--name=v", "--filename=\(link)", "--ioengine=libaio", "--direct=1", "--rw=randwrite", "--bs=4k",
                "--iodepth=32", "--size=4m", "--verify=crc32c", "--verify_state_save=0", "--do_verify=1")
            #expect(direct.status == 0, "\(direct.output)")
            #expect(await store.run("mkfs.ext4", "-q", link).status == 0)
            let mountPoint = "\(cluster.directory.path)/fs"
            mkdir(mountPoint, 0o700)
            try #require(await store.run("mount", link, mountPoint).status == 0)
            let files = await store.run(
                "fio", "--name=v", "--directory=\(mountPoint)", "--rw=randwrite", "--bs=4k", "--size=2m", "--fsync=32",
                "--verify=crc32c", "--verify_state_save=0", "--do_verify=1")
            #expect(files.status == 0, "\(files.output)")
            #expect(await store.run("fstrim", mountPoint).status == 0)
            #expect(await store.run("umount", mountPoint).status == 0)
            #expect(await store.run("e2fsck", "-fn", link).status == 0)
            _ = try await cluster.manager.submit(.resizeVolume(volume, sizeUnits: 320))
            // ublk learnt that in Linux 6.16.
            let canGrow = driver != .ublk || (try? UblkControlDevice().features().contains(.updateSize)) == true
            if canGrow {
                #expect(
                    await cluster.until { await store.run("blockdev", "--getsize64", link).output == "\(320 << 20)\n" })
            }
            // Withdrawn while it is open.
            let device = String(target.prefix { $0 != "\n" })
            let file = open(device, O_RDWR | 0o40000 | O_CLOEXEC)
            try #require(file >= 0)
            defer { close(file) }
            let buffer = IOBuffer(zeros: 4096)
            #expect(pwrite(file, buffer.base, 4096, 0) == 4096)
            let client = try await cluster.client("c1")
            _ = try await cluster.manager.submit(.unmap(volume, client))
            #expect(await cluster.until { pwrite(file, buffer.base, 4096, 0) == -1 })
            #expect(await cluster.until { await store.run("readlink", link).status != 0 })
        }
    }

    @Test(.enabled(if: DeviceDriverTests.has(.ublk), "this kernel has no ublk_drv, or an older one than 6.5"))
    func ublkCarriesAVolume() async throws { try await exercise(.ublk, devices: "/dev/ublkb") }

    @Test(.enabled(if: DeviceDriverTests.has(.nbd), "this kernel has no NBD client"))
    func theKernelsNBDClientCarriesAVolume() async throws { try await exercise(.nbd, devices: "/dev/nbd") }

    @Test(.enabled(if: DeviceDriverTests.has(.fuse), "there is no FUSE here, or no loop device"))
    func fuseCarriesAVolume() async throws { try await exercise(.fuse, devices: "/dev/loop") }

    private func configuration(_ directory: TemporaryDirectory) throws -> BlockClientService.Configuration {
        var configuration = BlockClientService.Configuration(
            managers: [.inet(host: "127.0.0.1", port: 1)], guid: "G", name: "n", ip: "127.0.0.1")
        configuration.frontEnds = .device
        configuration.workDirectory = directory.path
        configuration.deviceDirectory = directory.path + "/by-id"
        return configuration
    }

    @Test(
        .enabled(if: !DeviceDriverTests.has(.ublk) || !DeviceDriverTests.has(.nbd), "this kernel has every driver"))
    func aClientDoesNotStartWithADriverThatIsNamedAndMissing() async throws {
        for driver in [Driver.ublk, .nbd] where !DeviceDriverTests.has(driver) {
            let directory = TemporaryDirectory()
            var configuration = try configuration(directory)
            configuration.deviceDriver = driver
            let service = BlockClientService(configuration, logger: quietLogger())
            let error = await #expect(throws: BlockIOError.self) { try await service.run() }
            #expect(error?.message.hasPrefix("this host has no driver \(driver.rawValue): ") == true, "\(error as Any)")
        }
    }

    @Test(.enabled(if: DeviceDriverTests.has(.fuse), "there is no FUSE here, or no loop device"))
    func twoClientsDoNotShareAWorkDirectory() async throws {
        let directory = TemporaryDirectory()
        var configuration = try configuration(directory)
        configuration.deviceDriver = .fuse
        let first = configuration
        let service = Task { try await BlockClientService(first, logger: quietLogger()).run() }
        let deadline = Reactor.now + .seconds(30)
        while access(directory.path + "/keeper.sock", F_OK) != 0 && Reactor.now < deadline {
            try await Task.sleep(for: .milliseconds(10))
        }
        configuration.predecessorPatience = .milliseconds(100)
        let second = BlockClientService(configuration, logger: quietLogger())
        let error = await #expect(throws: BlockIOError.self) { try await second.run() }
        #expect(error?.message.hasPrefix("another client works in \(directory.path)") == true, "\(error as Any)")
        #expect(runTool("mountpoint", [directory.path + "/fuse"]).status == 0)
        // One that ends is waited for.
        service.cancel()
        _ = await service.result
        let lock = try DirectoryLock(directory.path, patience: .seconds(10))
        withExtendedLifetime(lock) {}
    }
}
