import Base
import Foundation
import Logging
import Synchronization
import Testing
import VolumeDriver

@testable import VolumeService

/// One host with its kernel, whose volume service can be restarted.
struct TestHost {
    let platform: FakePlatform
    let host: FakeHost
    let instance: String
    let directory: String

    init(_ platform: FakePlatform, _ instance: String) throws {
        self.platform = platform
        self.instance = instance
        host = FakeHost(platform: platform, instance: instance)
        directory = NSTemporaryDirectory() + "holdfast-volumes-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
    }

    /// A new process of the service: it knows only what the ledger and the kernel tell.
    func start(_ change: (inout VolumeSettings) -> Void = { _ in }) async throws -> VolumeManager {
        host.state.withLock { $0.callsUntilCrash = nil }
        var settings = VolumeSettings()
        settings.mountDirectory = "/volumes"
        settings.attachTimeout = .seconds(5)
        settings.releaseTimeout = .milliseconds(200)
        change(&settings)
        let manager = VolumeManager(
            driver: platform.driver(instance: instance), host: host, settings: settings,
            ledgerPath: directory + "/mounts.json",
            logger: Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() }))
        try await manager.repair()
        return manager
    }

    func remove() { try? FileManager.default.removeItem(atPath: directory) }
}

@Suite struct VolumeManagerTests {
    @Test func manyVolumesAtOnceDoNotCrowdTheLedger() async throws {
        let platform = FakePlatform()
        let node = try TestHost(platform, "sdc1")
        defer { node.remove() }
        let manager = try await node.start()
        try await withThrowingTaskGroup(of: Void.self) { group in
            for number in 0..<200 {
                group.addTask { _ = try await manager.mount("data\(number)", holder: "a") }
            }
            try await group.waitForAll()
        }
        // All of them are in the ledger, not only in memory.
        let later = try await node.start()
        for number in 0..<200 { #expect(await later.entry("data\(number)")?.stage == .mounted) }
    }

    @Test func filesystemsGrowWhereTheyAreMounted() async throws {
        let platform = FakePlatform()
        let (here, there) = (try TestHost(platform, "sdc1"), try TestHost(platform, "sdc2"))
        defer {
            here.remove()
            there.remove()
        }
        let (first, second) = (try await here.start(), try await there.start())
        func used() -> ByteSize? { platform.state.withLock { $0.devices.values.first?.used } }
        _ = try await first.mount("data", holder: "a")
        #expect(try await first.resize("data", to: .gibibytes(32)).size == .gibibytes(32))
        #expect(used() == .gibibytes(32))
        // Asked for on another host, done where it is mounted.
        #expect(try await second.resize("data", to: .gibibytes(40)).size == .gibibytes(40))
        #expect(used() == .gibibytes(32))
        await second.sweep()
        #expect(used() == .gibibytes(32))
        await first.sweep()
        #expect(used() == .gibibytes(40))
        // Enlarged while nobody had it mounted.
        try await first.unmount("data", holder: "a")
        _ = try await second.resize("data", to: .gibibytes(48))
        #expect(try await second.resize("data", to: .gibibytes(8)).size == .gibibytes(48))
        _ = try await first.mount("data", holder: "b")
        await first.sweep()
        #expect(used() == .gibibytes(48))
        await #expect(throws: VolumeDriverError.self) { try await first.resize("none", to: .gibibytes(8)) }
    }

    @Test func mountCreatesFormatsOnceAndCountsHolders() async throws {
        let platform = FakePlatform()
        let node = try TestHost(platform, "sdc1")
        defer { node.remove() }
        let manager = try await node.start()
        #expect(try await manager.mount("data", holder: "a") == "/volumes/data/data")
        #expect(try await manager.mount("data", holder: "b") == "/volumes/data/data")
        #expect(try await manager.mount("data", holder: "b") == "/volumes/data/data")
        #expect(node.host.mountPoints() == ["/volumes/data"])
        #expect(await manager.path(of: "data") == "/volumes/data/data")
        try await manager.unmount("data", holder: "a")
        try await manager.unmount("data", holder: "a")
        #expect(node.host.mountPoints() == ["/volumes/data"])
        #expect(platform.holder("data") == "sdc1")
        try await manager.unmount("data", holder: "b")
        #expect(node.host.mountPoints().isEmpty)
        #expect(platform.holder("data") == nil)
        #expect(await manager.path(of: "data") == nil)
        _ = try await manager.mount("data", holder: "c")
        #expect(platform.state.withLock { $0.devices.values.map(\.formats) } == [1])
    }

    @Test func callersWithoutIDsAreCounted() async throws {
        let node = try TestHost(FakePlatform(), "sdc1")
        defer { node.remove() }
        let manager = try await node.start()
        _ = try await manager.mount("data", holder: nil)
        _ = try await manager.mount("data", holder: nil)
        try await manager.unmount("data", holder: nil)
        #expect(node.host.mountPoints() == ["/volumes/data"])
        try await manager.unmount("data", holder: nil)
        #expect(node.host.mountPoints().isEmpty)
    }

    @Test func mountTakesAVolumeFromItsHolderOnlyWithPreemption() async throws {
        let platform = FakePlatform()
        let first = try TestHost(platform, "sdc1")
        let second = try TestHost(platform, "sdc2")
        defer {
            first.remove()
            second.remove()
        }
        let old = try await first.start()
        _ = try await old.mount("data", holder: "a")
        let polite = try await second.start { $0.preempts = false }
        await #expect(throws: VolumeDriverError.self) { try await polite.mount("data", holder: "x") }
        #expect(platform.holder("data") == "sdc1")
        #expect(await polite.entry("data") == nil)
        let new = try await second.start()
        _ = try await new.mount("data", holder: "b")
        #expect(platform.holder("data") == "sdc2")
        #expect(platform.state.withLock { $0.devices.values.map(\.formats) } == [1])

        // The old host notices, cleans up, and does not take the volume back.
        await old.sweep()
        #expect(first.host.mountPoints().isEmpty)
        #expect(platform.holder("data") == "sdc2")
        try await old.unmount("data", holder: "a")
        #expect(platform.holder("data") == "sdc2")
    }

    @Test func aMountWhoseAttachmentWasLostMeanwhileIsMadeAnew() async throws {
        let platform = FakePlatform()
        let first = try TestHost(platform, "sdc1")
        let second = try TestHost(platform, "sdc2")
        defer {
            first.remove()
            second.remove()
        }
        let old = try await first.start()
        let new = try await second.start()
        _ = try await old.mount("data", holder: "a")
        let stale = await old.entry("data")?.device
        _ = try await new.mount("data", holder: "b")
        // No sweep in between: Mount itself has to find out.
        _ = try await old.mount("data", holder: "c")
        #expect(platform.holder("data") == "sdc1")
        #expect(first.host.mountPoints() == ["/volumes/data"])
        #expect(await old.entry("data")?.device != stale)
        // The zombie's late unmount does not take the volume from the new holder.
        try await old.unmount("data", holder: "a")
        #expect(first.host.mountPoints() == ["/volumes/data"])
        try await old.unmount("data", holder: "c")
        #expect(first.host.mountPoints().isEmpty)
    }

    /// After a restart of the host the device's name may be another volume's, busy or hanging. The ledger's entry has to go
    /// all the same, or the host could not take the volume back.
    @Test func aDeviceNameThatPassedToAnotherVolumeHoldsNothingUp() async throws {
        let platform = FakePlatform()
        let first = try TestHost(platform, "sdc1")
        let second = try TestHost(platform, "sdc2")
        defer {
            first.remove()
            second.remove()
        }
        _ = try await first.start().mount("data", holder: "a")
        let device = try await #require(first.start().entry("data")?.device)
        _ = try await second.start().mount("data", holder: "b")
        first.host.state.withLock { state in
            state.mounts = []
            state.foreignDevices = [device]
            state.usedElsewhere = [device]
        }
        let restarted = try await first.start()
        await restarted.sweep()
        #expect(await restarted.entry("data") == nil)
        #expect(platform.holder("data") == "sdc2")
    }

    @Test func aForeignDeviceIsNeverFormatted() async throws {
        let platform = FakePlatform()
        let node = try TestHost(platform, "sdc1")
        defer { node.remove() }
        let manager = try await node.start()
        try await manager.create("data", options: [:])
        platform.state.withLock { state in
            for id in state.devices.keys { state.devices[id]?.contents = .foreign("data of an unknown kind") }
        }
        let error = await #expect(throws: VolumeDriverError.self) { try await manager.mount("data", holder: "a") }
        #expect(error?.code == .foreignData)
        #expect(platform.state.withLock { $0.devices.values.map(\.formats) } == [0])
        #expect(platform.holder("data") == nil)
        _ = try await manager.mount("data", holder: "a", overwriteFilesystem: true)
        #expect(platform.state.withLock { $0.devices.values.map(\.formats) } == [1])
    }

    @Test func theLedgerSurvivesAKillAndHoldersKeepTheirCount() async throws {
        let platform = FakePlatform()
        let node = try TestHost(platform, "sdc1")
        defer { node.remove() }
        let before = try await node.start()
        _ = try await before.mount("data", holder: "a")
        _ = try await before.mount("data", holder: "b")
        let after = try await node.start()
        #expect(await after.path(of: "data") == "/volumes/data/data")
        try await after.unmount("data", holder: "a")
        #expect(node.host.mountPoints() == ["/volumes/data"])
        let third = try await node.start()
        try await third.unmount("data", holder: "b")
        #expect(node.host.mountPoints().isEmpty)
        #expect(platform.holder("data") == nil)
    }

    @Test func afterPowerLossTheVolumeIsReleasedUnlessItIsMountedAgain() async throws {
        let platform = FakePlatform()
        let node = try TestHost(platform, "sdc1")
        defer { node.remove() }
        _ = try await (try await node.start()).mount("data", holder: "a")
        node.host.state.withLock { $0.mounts = [] }
        let after = try await node.start()
        #expect(await after.path(of: "data") == nil)
        #expect(platform.holder("data") == "sdc1")
        platform.state.withLock { $0.isReachable = false }
        await after.sweep()
        #expect(await after.entry("data") != nil)
        platform.state.withLock { $0.isReachable = true }
        await after.sweep()
        #expect(platform.holder("data") == nil)
        #expect(await after.entry("data") == nil)
    }

    @Test func mountsThatTheLedgerDoesNotKnowAreAdopted() async throws {
        let platform = FakePlatform()
        let node = try TestHost(platform, "sdc1")
        defer { node.remove() }
        _ = try await (try await node.start()).mount("data", holder: "a")
        try "nonsense".write(toFile: node.directory + "/mounts.json", atomically: true, encoding: .utf8)
        let after = try await node.start()
        #expect(FileManager.default.fileExists(atPath: node.directory + "/mounts.json.unreadable"))
        #expect(await after.path(of: "data") == "/volumes/data/data")
        await after.sweep()
        #expect(node.host.mountPoints() == ["/volumes/data"])
        // The id is unknown, but somebody's it is.
        try await after.unmount("data", holder: "a")
        #expect(node.host.mountPoints().isEmpty)
        #expect(platform.holder("data") == nil)
    }

    @Test func aDeviceInUseByAContainerIsNotDetached() async throws {
        let platform = FakePlatform()
        let node = try TestHost(platform, "sdc1")
        defer { node.remove() }
        let manager = try await node.start()
        _ = try await manager.mount("data", holder: "a")
        let device = try #require(await manager.entry("data")?.device)
        node.host.state.withLock { _ = $0.usedElsewhere.insert(device) }
        let error = await #expect(throws: VolumeDriverError.self) { try await manager.unmount("data", holder: "a") }
        #expect(error?.code == .busy)
        #expect(platform.holder("data") == "sdc1")
        node.host.state.withLock { _ = $0.usedElsewhere.remove(device) }
        await manager.sweep()
        #expect(platform.holder("data") == nil)
        #expect(await manager.entry("data") == nil)
    }

    /// A kill between any two steps, a new process, and the caller's repetition: everything converges.
    @Test(arguments: 0..<8) func aKillAtAnyStepOfAMountConverges(step: Int) async throws {
        let platform = FakePlatform()
        let node = try TestHost(platform, "sdc1")
        defer { node.remove() }
        let dying = try await node.start()
        node.host.state.withLock { $0.callsUntilCrash = step }
        _ = try? await dying.mount("data", holder: "a")
        let after = try await node.start()
        _ = try await after.mount("data", holder: "b")
        try await after.unmount("data", holder: "a")
        try await after.unmount("data", holder: "b")
        await after.sweep()
        #expect(node.host.mountPoints().isEmpty)
        #expect(platform.holder("data") == nil)
        #expect(await after.entry("data") == nil)
        #expect(platform.state.withLock { $0.devices.values.map(\.formats) } == [1])
    }

    @Test(arguments: 0..<4) func aKillAtAnyStepOfAnUnmountConverges(step: Int) async throws {
        let platform = FakePlatform()
        let node = try TestHost(platform, "sdc1")
        defer { node.remove() }
        let dying = try await node.start()
        _ = try await dying.mount("data", holder: "a")
        node.host.state.withLock { $0.callsUntilCrash = step }
        try? await dying.unmount("data", holder: "a")
        let after = try await node.start()
        await after.sweep()
        #expect(node.host.mountPoints().isEmpty)
        #expect(platform.holder("data") == nil)
        #expect(await after.entry("data") == nil)
    }

    /// Any interleaving of mounts, unmounts, restarts and thefts: the holders are what the callers think, and at the
    /// end all is free.
    @Test(arguments: [1, 2, 3, 4, 5, 6, 7, 8] as [UInt64]) func randomWalk(seed: UInt64) async throws {
        var rng = SeededRandom(seed: seed)
        let platform = FakePlatform()
        let node = try TestHost(platform, "sdc1")
        let thief = try TestHost(platform, "sdc2")
        defer {
            node.remove()
            thief.remove()
        }
        var manager = try await node.start()
        let other = try await thief.start()
        var holders: Set<String> = []
        for index in 0..<60 {
            switch Int.random(in: 0..<8, using: &rng) {
            case 0...2:
                _ = try await manager.mount("data", holder: "h\(index)")
                holders.insert("h\(index)")
            case 3...5:
                guard let holder = holders.sorted().randomElement(using: &rng) else { continue }
                try await manager.unmount("data", holder: holder)
                holders.remove(holder)
            case 6:
                manager = try await node.start()
            default:
                guard holders.isEmpty else { continue }
                _ = try await other.mount("data", holder: "thief")
                try await other.unmount("data", holder: "thief")
            }
            #expect(Set(await manager.entry("data")?.holders ?? []) == holders)
            #expect(node.host.mountPoints().isEmpty == holders.isEmpty)
        }
        for holder in holders.sorted() { try await manager.unmount("data", holder: holder) }
        #expect(platform.holder("data") == nil)
        #expect(platform.state.withLock { $0.devices.values.allSatisfy { $0.formats == 1 } })
    }

    @Test(arguments: ["", ".", "..", "a/b", "a\u{0}b"]) func namesThatAreNoDirectoriesAreRefused(name: String)
        async throws
    {
        let node = try TestHost(FakePlatform(), "sdc1")
        defer { node.remove() }
        let manager = try await node.start()
        await #expect(throws: VolumeDriverError.self) { try await manager.mount(name, holder: "a") }
    }

    @Test func concurrentCallsOnOneVolumeTakeTurns() async throws {
        let platform = FakePlatform()
        let node = try TestHost(platform, "sdc1")
        defer { node.remove() }
        let manager = try await node.start()
        try await withThrowingTaskGroup(of: Void.self) { group in
            for index in 0..<20 {
                group.addTask { _ = try await manager.mount("data", holder: "h\(index)") }
            }
            try await group.waitForAll()
        }
        #expect(await manager.entry("data")?.holders.count == 20)
        #expect(node.host.mountPoints() == ["/volumes/data"])
        try await withThrowingTaskGroup(of: Void.self) { group in
            for index in 0..<20 {
                group.addTask { try await manager.unmount("data", holder: "h\(index)") }
            }
            try await group.waitForAll()
        }
        #expect(node.host.mountPoints().isEmpty)
        #expect(platform.holder("data") == nil)
    }
}
