import Base
import Foundation
import HTTPKit
import Logging
import Synchronization
import TestKit
import Testing
import VolumeDriver

@testable import ScaleIODriver

private let clientA = "d503826900000000"
private let clientB = "d503826900000001"

@Suite struct ScaleIODriverTests {
    /// Runs `body` with a driver of a fake Gateway on a port of its own.
    private func withDriver(
        _ body: @escaping @Sendable (ScaleIODriver, FakeGateway) async throws -> Void,
        configure: (inout ScaleIOConfiguration) -> Void = { _ in }
    ) async throws {
        let gateway = FakeGateway()
        let logger = Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() })
        let (ports, port) = AsyncStream<Int>.makeStream(bufferingPolicy: .bufferingOldest(1))
        let server = HTTPServer(
            name: "gateway", address: .tcp(host: "127.0.0.1", port: 0), router: gateway.router(), logger: logger,
            onServerRunning: { port.yield($0) })
        var configuration = ScaleIOConfiguration(
            endpoints: [try #require(ScaleIOEndpoint("http://127.0.0.1/api"))], userName: "admin", password: "secret")
        configuration.storagePoolName = "hdd"
        configuration.protectionDomainName = "pd1"
        configuration.callDeadline = .seconds(10)
        configure(&configuration)
        let template = configuration
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await server.run() }
            group.addTask {
                var configuration = template
                for await port in ports {
                    // The last one serves; those before it are up to the test.
                    configuration.endpoints[configuration.endpoints.count - 1].port = port
                    break
                }
                try await body(ScaleIODriver(configuration: configuration, logger: logger), gateway)
            }
            try await group.next()
            group.cancelAll()
        }
    }

    @Test func volumesGrowInWholeSteps() async throws {
        try await withDriver { driver, gateway in
            let created = try await driver.create(VolumeRequest(name: "data", size: .gibibytes(8)))
            // The answer of the first try is lost; asking again does no harm.
            gateway.state.withLock { $0.lostAnswers = 1 }
            #expect(try await driver.resize(id: created.id, to: .gibibytes(17)).size == .gibibytes(24))
            #expect(try await driver.resize(id: created.id, to: .gibibytes(9)).size == .gibibytes(24))
            await #expect(throws: VolumeDriverError.self) {
                try await driver.resize(id: created.id, to: ByteSize(bytes: (1 << 50) + 1))
            }
            await #expect(throws: VolumeDriverError.self) {
                try await driver.resize(id: "c047cb29000000ff", to: .gibibytes(9))
            }
        }
    }

    @Test func createListAttachDetachRemove() async throws {
        try await withDriver { driver, _ in
            let created = try await driver.create(VolumeRequest(name: "data", size: .gibibytes(9)))
            #expect(created.size == .gibibytes(16))
            #expect(created.type == "hdd")
            #expect(created.availabilityZone == "pd1")
            #expect(try await driver.volumes() == [created])
            #expect(try await driver.volume(named: "data") == created)
            let instance = try await driver.resolveInstance(metadata: "guid-a")
            #expect(instance == clientA)
            let attached = try await driver.attach(id: created.id, to: instance, preempt: false)
            #expect(attached.isAttached(to: clientA))
            #expect(attached.attachmentGeneration(of: clientA) != nil)
            #expect(try await driver.attach(id: created.id, to: instance, preempt: false) == attached)
            let mapped = await #expect(throws: VolumeDriverError.self) { try await driver.remove(id: created.id) }
            #expect(mapped?.code == .heldElsewhere)
            try await driver.detach(id: created.id, from: instance)
            try await driver.detach(id: created.id, from: instance)
            try await driver.remove(id: created.id)
            let gone = await #expect(throws: VolumeDriverError.self) { try await driver.volume(named: "data") }
            #expect(gone?.code == .notFound)
        }
    }

    @Test(arguments: [true, false]) func preemption(isAtomic: Bool) async throws {
        try await withDriver { driver, gateway in
            gateway.state.withLock { $0.knowsPreempt = isAtomic }
            let id = try await driver.create(VolumeRequest(name: "data")).id
            let before = try await driver.attach(id: id, to: clientA, preempt: false)
            let refused = await #expect(throws: VolumeDriverError.self) {
                try await driver.attach(id: id, to: clientB, preempt: false)
            }
            #expect(refused?.code == .heldElsewhere)
            let after = try await driver.attach(id: id, to: clientB, preempt: true)
            #expect(after.attachments.map(\.instanceID) == [clientB])
            #expect(after.attachmentGeneration(of: clientB) != before.attachmentGeneration(of: clientA))
        }
    }

    @Test func aLostRaceForThePreemptedVolumeIsRunAgain() async throws {
        try await withDriver { driver, gateway in
            let id = try await driver.create(VolumeRequest(name: "data")).id
            _ = try await driver.attach(id: id, to: clientA, preempt: false)
            gateway.state.withLock {
                $0.knowsPreempt = false
                $0.thief = clientA
            }
            let after = try await driver.attach(id: id, to: clientB, preempt: true)
            #expect(after.attachments.map(\.instanceID) == [clientB])
        }
    }

    @Test func aRepeatedPreemptionCountsAsDone() async throws {
        try await withDriver { driver, gateway in
            let id = try await driver.create(VolumeRequest(name: "data")).id
            _ = try await driver.attach(id: id, to: clientA, preempt: false)
            gateway.state.withLock { $0.losesAnswer = true }
            let after = try await driver.attach(id: id, to: clientB, preempt: true)
            #expect(after.attachments.map(\.instanceID) == [clientB])
            // The next one still is a single call.
            let again = try await driver.attach(id: id, to: clientA, preempt: true)
            #expect(again.attachments.map(\.instanceID) == [clientA])
            #expect(gateway.state.withLock { $0.unmaps } == 0)
        }
    }

    @Test func aDeadTokenAndABusyManagerAreOvercome() async throws {
        try await withDriver { driver, gateway in
            _ = try await driver.create(VolumeRequest(name: "data"))
            gateway.state.withLock { $0.tokens = [] }
            #expect(try await driver.volumes().count == 1)
            #expect(gateway.state.withLock { $0.logins } == 2)
            gateway.state.withLock { $0.busyCalls = 2 }
            #expect(try await driver.volumes().count == 1)
        }
    }

    /// One gateway is down, one lets connect and says nothing.
    @Test func otherGatewaysAreAsked() async throws {
        let silent = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(silent) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = in_addr_t(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let isListening = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(silent, $0, length) == 0 && listen(silent, 8) == 0 && getsockname(silent, $0, &length) == 0
            }
        }
        try #require(isListening)
        var endpoints: [ScaleIOEndpoint] = []
        for port in [try freePort(), Int(UInt16(bigEndian: address.sin_port)), 80] {
            endpoints.append(try #require(ScaleIOEndpoint("http://127.0.0.1:\(port)")))
        }
        let three = endpoints
        try await withDriver(
            { driver, gateway in
                let id = try await driver.create(VolumeRequest(name: "data")).id
                let attached = try await driver.attach(id: id, to: clientA, preempt: false)
                #expect(attached.isAttached(to: clientA))
            },
            configure: {
                $0.endpoints = three
                // The patience with a gateway at work would use up the whole call.
                $0.callDeadline = .seconds(20)
                $0.readPatience = .seconds(60)
                $0.changePatience = .seconds(60)
                $0.silencePatience = .milliseconds(300)
            })
    }

    /// The manager does what it is asked and dies before it says so; whoever is asked again tells that it is done.
    @Test func changesWhoseAnswersWereLostEndWell() async throws {
        try await withDriver { driver, gateway in
            func loseNext() { gateway.state.withLock { $0.lostAnswers = 1 } }
            loseNext()
            let volume = try await driver.create(VolumeRequest(name: "data", size: .gibibytes(16)))
            #expect(try await driver.volumes() == [volume])
            loseNext()
            let attached = try await driver.attach(id: volume.id, to: clientA, preempt: false)
            #expect(attached.isAttached(to: clientA))
            loseNext()
            #expect(
                try await driver.attach(id: volume.id, to: clientB, preempt: true).attachments.map(\.instanceID)
                    == [clientB])
            loseNext()
            try await driver.detach(id: volume.id, from: clientB)
            #expect(try await driver.volume(id: volume.id).attachments.isEmpty)
            loseNext()
            try await driver.remove(id: volume.id)
            #expect(try await driver.volumes().isEmpty)
            // Without a lost answer, gone is gone and taken is taken.
            let gone = await #expect(throws: VolumeDriverError.self) { try await driver.remove(id: volume.id) }
            #expect(gone?.code == .notFound)
        }
    }

    /// What somebody else made under the name meanwhile is not taken for ours.
    @Test func aForeignVolumeOfTheNameIsNotOurs() async throws {
        try await withDriver { driver, gateway in
            _ = try await driver.create(VolumeRequest(name: "data", size: .gibibytes(8)))
            gateway.state.withLock { $0.lostAnswers = 1 }
            let error = await #expect(throws: VolumeDriverError.self) {
                try await driver.create(VolumeRequest(name: "data", size: .gibibytes(16)))
            }
            #expect(error?.code == .alreadyExists)
        }
    }

    @Test func aGatewayWithoutALeaderIsAskedAgain() async throws {
        try await withDriver { driver, gateway in
            gateway.state.withLock { $0.leaderlessCalls = 3 }
            let volumes = try await driver.volumes()
            #expect(volumes.isEmpty)
            #expect(gateway.state.withLock { $0.leaderlessCalls } == 0)
        }
    }

    @Test func wrongCredentialsAndPoolsAreSaid() async throws {
        try await withDriver(
            { driver, _ in
                let error = await #expect(throws: VolumeDriverError.self) { try await driver.volumes() }
                #expect(error?.code == .unauthorized)
            }, configure: { $0.password = "wrong" })
        try await withDriver(
            { driver, _ in
                let error = await #expect(throws: VolumeDriverError.self) {
                    try await driver.create(VolumeRequest(name: "x"))
                }
                #expect(error?.code == .invalid)
            }, configure: { $0.storagePoolName = "nope" })
    }

    @Test func aNameInUseIsSaid() async throws {
        try await withDriver { driver, _ in
            _ = try await driver.create(VolumeRequest(name: "data"))
            let error = await #expect(throws: VolumeDriverError.self) {
                try await driver.create(VolumeRequest(name: "data"))
            }
            #expect(error?.code == .alreadyExists)
        }
    }

    @Test func devicesAreFoundByTheirLinks() async throws {
        let directory = NSTemporaryDirectory() + "holdfast-links-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        try "x".write(toFile: directory + "/device", atomically: true, encoding: .utf8)
        for (name, target) in [
            ("emc-vol-5d2d1a0000000001-C047CB2900000003", "device"), ("emc-vol-1-2", directory + "/gone"),
            ("other", directory + "/device"),
        ] { try FileManager.default.createSymbolicLink(atPath: directory + "/" + name, withDestinationPath: target) }
        try await withDriver(
            { driver, _ in
                let devices = try await driver.localDevices()
                #expect(devices == ["c047cb2900000003": directory + "/device"])
                let device = try await driver.waitForDevice(id: "c047cb2900000003", deadline: .seconds(1))
                #expect(device == directory + "/device")
                let late = await #expect(throws: VolumeDriverError.self) {
                    try await driver.waitForDevice(id: "2", deadline: .milliseconds(30))
                }
                #expect(late?.code == .timedOut)
            }, configure: { $0.deviceDirectory = directory })
    }

    @Test func longNamesStayDifferent() {
        let short = String(repeating: "a", count: 31)
        #expect(ScaleIODriver.platformName(short) == short)
        let first = ScaleIODriver.platformName(short + "b")
        let second = ScaleIODriver.platformName(short + "c")
        #expect(first.count == 31)
        #expect(second.count == 31)
        #expect(first != second)
    }

    @Test func endpoints() {
        #expect(ScaleIOEndpoint("https://gw/api")?.description == "https://gw:443/api")
        #expect(ScaleIOEndpoint("http://gw:8081")?.description == "http://gw:8081/api")
        for wrong in ["gw", "ftp://gw", "http://", "http://gw:99999", "http://:80/api"] {
            #expect(ScaleIOEndpoint(wrong) == nil)
        }
    }
}
