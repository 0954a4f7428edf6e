import Base
import Coordination
import TestKit
import Testing

/// What every metadata store must do.
@Suite(.timeLimit(.minutes(2))) struct StoreConformanceTests {
    @Test(arguments: Engine.allCases)
    func readsWhatWasCommitted(_ engine: Engine) async throws {
        let (backend, resources) = try await engine.open()
        defer { withExtendedLifetime(resources) {} }
        let store = backend.store
        #expect(try await store.get("/a") == nil)
        let versions = try await store.commit([
            .put(key: "/a", bytes: [1, 2], expected: .absent), .put(key: "/b", bytes: [], expected: .any),
        ])
        #expect(try await store.get("/a") == VersionedValue(bytes: [1, 2], version: versions[0]))
        #expect(try await store.get("/b") == VersionedValue(bytes: [], version: versions[1]))
        #expect(versions.allSatisfy { $0 > 0 })
    }

    @Test(arguments: Engine.allCases)
    func aConflictChangesNothing(_ engine: Engine) async throws {
        let (backend, resources) = try await engine.open()
        defer { withExtendedLifetime(resources) {} }
        let store = backend.store
        let first = try await store.commit([.put(key: "/a", bytes: [1], expected: .absent)])[0]
        let second = try await store.commit([.put(key: "/a", bytes: [2], expected: .version(first))])[0]
        #expect(second > first)
        let refused: [StoreChange] = [
            .put(key: "/a", bytes: [3], expected: .version(first)),
            .put(key: "/a", bytes: [3], expected: .absent),
            .put(key: "/missing", bytes: [3], expected: .version(1)),
            .delete(key: "/a", expected: .version(first)),
        ]
        for change in refused {
            await expectFailure(.conflict) {
                try await store.commit([.put(key: "/other", bytes: [9], expected: .any), change])
            }
        }
        #expect(try await store.get("/a")?.bytes == [2])
        #expect(try await store.get("/other") == nil)
        #expect(try await store.commit([.delete(key: "/a", expected: .version(second))]) == [0])
        #expect(try await store.get("/a") == nil)
    }

    @Test(arguments: Engine.allCases)
    func listsAPrefixInOrder(_ engine: Engine) async throws {
        let (backend, resources) = try await engine.open()
        defer { withExtendedLifetime(resources) {} }
        let store = backend.store
        let keys = ["/x/ä", "/x/b", "/x/a/1", "/x/a", "/y", "/x", "/w/z"]
        try await store.commit(keys.map { .put(key: $0, bytes: Array($0.utf8), expected: .absent) })
        let listed = try await store.list(prefix: "/x/")
        #expect(listed.map(\.key) == ["/x/a", "/x/a/1", "/x/b", "/x/ä"])
        #expect(listed.map(\.value.bytes) == listed.map { Array($0.key.utf8) })
        #expect(try await store.list(prefix: "/nothing").isEmpty)
        #expect(try await store.list(prefix: "").count == keys.count)
    }

    @Test(arguments: Engine.allCases)
    func refusesWhatNoEngineAccepts(_ engine: Engine) async throws {
        let (backend, resources) = try await engine.open()
        defer { withExtendedLifetime(resources) {} }
        let store = backend.store
        let long = String(repeating: "k", count: MetadataLimits.keyLengthMax + 1)
        let big = [UInt8](repeating: 0, count: MetadataLimits.valueLengthMax + 1)
        let refused: [[StoreChange]] = [
            [.put(key: "", bytes: [], expected: .any)],
            [.put(key: long, bytes: [], expected: .any)],
            [.put(key: "/a\0b", bytes: [], expected: .any)],
            [.put(key: "/a", bytes: big, expected: .any)],
            [.put(key: "/a", bytes: [], expected: .any), .delete(key: "/a", expected: .any)],
            (0...MetadataLimits.changesMax).map { .put(key: "/\($0)", bytes: [], expected: .any) },
        ]
        for changes in refused {
            await expectFailure(.invalid) { try await store.commit(changes) }
        }
        await expectFailure(.invalid) { _ = try await store.get("") }
        #expect(try await store.list(prefix: "").isEmpty)
    }

    @Test(arguments: Engine.allCases)
    func concurrentIncrementsAllCount(_ engine: Engine) async throws {
        let (backend, resources) = try await engine.open()
        defer { withExtendedLifetime(resources) {} }
        let store = backend.store
        try await store.commit([.put(key: "/n", bytes: [0], expected: .absent)])
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<8 {
                group.addTask {
                    for _ in 0..<5 { try await increment("/n", in: store) }
                }
            }
            try await group.waitForAll()
        }
        #expect(try await store.get("/n")?.bytes == [40])
    }

    @Test(arguments: Engine.allCases)
    func aStoreIsCopiedAsAWholeIntoAnEmptyOne(_ engine: Engine) async throws {
        let (backend, resources) = try await engine.open()
        defer { withExtendedLifetime(resources) {} }
        let source = try CoordinationBackend.open("memory:").store
        let keys = (0..<250).map { "/k/\($0) ä%/x" }
        for key in keys {
            let bytes = [UInt8](repeating: 7, count: key.hasPrefix("/k/1") ? 20_000 : 1)
            try await source.commit([.put(key: key, bytes: bytes, expected: .absent)])
        }
        #expect(try await copyStore(from: source, to: backend.store) == 250)
        let copied = try await backend.store.list(prefix: "/k/")
        #expect(copied.map(\.key) == (try await source.list(prefix: "")).map(\.key))
        await expectFailure(.conflict) { _ = try await copyStore(from: source, to: backend.store) }
    }

    @Test(arguments: Engine.allCases)
    func watchersMayLeaveWhileTheyAreTold(_ engine: Engine) async throws {
        let (backend, resources) = try await engine.open()
        defer { withExtendedLifetime(resources) {} }
        let store = backend.store
        try await cancelReaders(rounds: 40) {
            try await store.watch(prefix: "/")
        } whileTold: {
            try await store.commit([.put(key: "/a", bytes: [1], expected: .any)])
        }
    }

    @Test(arguments: Engine.allCases)
    func watchersMissNoLastState(_ engine: Engine) async throws {
        let (backend, resources) = try await engine.open()
        defer { withExtendedLifetime(resources) {} }
        let store = backend.store
        try await store.commit([.put(key: "/w/old", bytes: [9], expected: .any)])
        let events = try await store.watch(prefix: "/w/")
        try await store.commit([.put(key: "/elsewhere", bytes: [1], expected: .any)])
        for value in UInt8(1)...50 { try await store.commit([.put(key: "/w/a", bytes: [value], expected: .any)]) }
        let last = try await store.commit([.put(key: "/w/a", bytes: [51], expected: .any)])[0]
        try await store.commit([.delete(key: "/w/old", expected: .any)])
        var version: UInt64 = 0
        for await event in events {
            switch event {
            case .put(let key, let value):
                #expect(key == "/w/a")
                #expect(value.version > version)
                version = value.version
            case .deleted(let key): #expect(key == "/w/old")
            }
            // Events come in commit order, so the deletion, if it comes behind the last write, is the end.
            if event == .deleted(key: "/w/old"), version == last { break }
        }
        #expect(version == last)
    }
}

private func increment(_ key: String, in store: any MetadataStore) async throws {
    while try await !tryIncrement(key, in: store) {}
}

private func tryIncrement(_ key: String, in store: any MetadataStore) async throws -> Bool {
    guard let present = try await store.get(key) else { throw StoreError(.corrupt, "\(key) is gone") }
    do {
        try await store.commit([.put(key: key, bytes: [present.bytes[0] + 1], expected: .version(present.version))])
        return true
    } catch {
        guard error.code == .conflict else { throw error }
        return false
    }
}

/// Expects `body` to throw a `StoreError` with `code`.
func expectFailure(
    _ code: StoreError.Code, sourceLocation: SourceLocation = #_sourceLocation, _ body: () async throws -> Void
) async {
    do {
        try await body()
        Issue.record("expected \(code)", sourceLocation: sourceLocation)
    } catch {
        #expect((error as? StoreError)?.code == code, "\(error)", sourceLocation: sourceLocation)
    }
}
