import Base
import HTTPKit
import MasterLocator
import Synchronization
import TestKit
import Testing

@Suite struct MasterLocatorTests {
    private static func addresses(_ text: String) throws -> [String] {
        guard case .addresses(let addresses) = try MasterLocation(parsing: text) else { return [] }
        return addresses.map(\.description)
    }

    @Test func addressesAndFilesOfThemAreUnderstood() throws {
        #expect(try Self.addresses("m1:5050") == ["m1:5050"])
        #expect(try Self.addresses("m1:5050,10.0.0.2:6060,m3") == ["m1:5050", "10.0.0.2:6060", "m3:5050"])
        let directory = try TemporaryDirectory()
        let file = directory.file("master")
        try writeFile(file, "  m1:5050,m2:5051 \n")
        #expect(try Self.addresses("file://\(file)") == ["m1:5050", "m2:5051"])
    }

    @Test(arguments: [
        "", "m1:", "m1:x", "m1:70000", ":5050", "m1:5050,", "/run/master", "unix:///run/master", "file:///no/such/file",
        "zk://",
    ])
    func whatNamesNoMasterIsRefused(_ text: String) {
        #expect(throws: MasterLocationError.self) { try MasterLocation(parsing: text) }
    }

    @Test func aPlaceIsReadFromMasterInfo() throws {
        let whole = try JSONValue(
            parsing: """
                {"address":{"hostname":"one","ip":"10.0.0.1","port":5051},"hostname":"one","id":"a","ip":16777226,
                 "pid":"master@10.0.0.9:5059","port":5050}
                """)
        #expect(MasterPlace(info: whole) == MasterPlace(address: .tcp(host: "10.0.0.1", port: 5051), masterID: "a"))
        #expect(
            MasterPlace(info: ["pid": "master@10.0.0.9:5059"])
                == MasterPlace(address: .tcp(host: "10.0.0.9", port: 5059)))
        #expect(
            MasterPlace(info: ["hostname": "one", "port": 6000]) == MasterPlace(address: .tcp(host: "one", port: 6000)))
        #expect(MasterPlace(info: ["id": "a"]) == nil)
        #expect(MasterPlace(info: ["hostname": "one", "port": 0]) == nil)
        #expect(MasterPlace(info: .null) == nil)
    }

    @Test func addressesAreTriedInTurn() async {
        let locator = MasterLocator(.addresses([.tcp(host: "a", port: 1), .tcp(host: "b", port: 2)]))
        var seen: [String] = []
        for _ in 0..<3 { if let place = await locator.next() { seen.append(place.address.description) } }
        #expect(seen == ["a:1", "b:2", "a:1"])
    }

    @Test func theElectedLeaderIsAwaitedAndItsMoveNoticed() async throws {
        let (stream, continuation) = AsyncStream<JSONValue?>.makeStream()
        let locator = MasterLocator(.elected { stream })
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { await locator.run() }
            let found = Mutex<[MasterPlace]>([])
            group.addTask {
                while let place = await locator.next() {
                    found.withLock { $0.append(place) }
                    await locator.untilMoved(from: place)
                }
            }
            let first: JSONValue = ["hostname": "a", "port": 1, "id": "x"]
            continuation.yield(nil)
            continuation.yield(first)
            try await eventually("the leader is found") { found.withLock { $0.map(\.masterID) } == ["x"] }
            // The same place, started anew.
            continuation.yield(["hostname": "a", "port": 1, "id": "y"])
            try await eventually("its new start is noticed") { found.withLock { $0.map(\.masterID) } == ["x", "y"] }
            continuation.yield(nil)
            continuation.yield(["hostname": "b", "port": 1, "id": "z"])
            try await eventually("the next is found") {
                found.withLock { $0.last?.address } == .tcp(host: "b", port: 1)
            }
            group.cancelAll()
            try await group.waitForAll()
        }
    }

    @Test func readersMayLeaveWhileTheyAreTold() async throws {
        let (stream, continuation) = AsyncStream<JSONValue?>.makeStream(bufferingPolicy: .bufferingNewest(1))
        let locator = MasterLocator(.elected { stream })
        let place: JSONValue = ["hostname": "a", "port": 1, "id": "x"]
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { await locator.run() }
            try await cancelReaders(rounds: 1000) {
                locator.leaders()
            } whileTold: {
                continuation.yield(place)
                continuation.yield(nil)
            }
            group.cancelAll()
            try await group.waitForAll()
        }
    }

    @Test func waitingForALeaderEndsWithTheTask() async {
        let locator = MasterLocator(.elected { AsyncStream { $0.yield(nil) } })
        let place = await withTaskGroup(of: MasterPlace?.self) { group in
            group.addTask { await locator.next() }
            group.cancelAll()
            return await group.next() ?? nil
        }
        #expect(place == nil)
    }
}
