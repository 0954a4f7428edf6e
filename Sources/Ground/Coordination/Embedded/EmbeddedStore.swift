import Foundation
import GRDB
import Synchronization

/// The metadata store of one machine: a SQLite file, written ahead and synchronised in full at every commit.
///
/// Several stores, also in several processes, may open the same file and see each other's commits, but a watch only
/// sees the commits made through its own store.
public final class EmbeddedStore: MetadataStore {
    private let queue: DatabaseQueue
    private let watchers = Mutex(Watchers())

    private struct Watchers {
        var nextID = 0
        var byID: [Int: (prefix: String, continuation: AsyncStream<StoreEvent>.Continuation)] = [:]
    }

    /// Opens or creates the file at `path`; nil keeps everything in memory. Blocks while it does.
    public init(path: String?) throws(StoreError) {
        var configuration = Configuration()
        configuration.busyMode = .timeout(5)
        configuration.label = "holdfast.metadata"
        configuration.prepareDatabase { database in
            // A commit must survive power loss. WAL needs one fsync per commit where the rollback journal needs
            // several.
            try database.execute(sql: "PRAGMA journal_mode = WAL")
            try database.execute(sql: "PRAGMA synchronous = FULL")
        }
        do {
            queue =
                if let path {
                    try DatabaseQueue(path: path, configuration: configuration)
                } else {
                    try DatabaseQueue(configuration: configuration)
                }
            try queue.write { try EmbeddedStore.createTables($0) }
        } catch {
            throw EmbeddedStore.storeError(error, "The store \(path ?? "in memory") could not be opened")
        }
    }

    /// The layout, version 1. `revision` counts commits and is where versions come from, so a key that is deleted and
    /// made again never shows an earlier version.
    private static func createTables(_ database: Database) throws {
        let version = try Int.fetchOne(database, sql: "PRAGMA user_version") ?? 0
        guard version <= 1 else {
            throw StoreError(.corrupt, "The store has layout \(version), which this version does not know.")
        }
        guard version == 0 else { return }
        try database.execute(
            sql: """
                CREATE TABLE entry (key TEXT PRIMARY KEY NOT NULL, version INTEGER NOT NULL, bytes BLOB NOT NULL)
                    WITHOUT ROWID;
                CREATE TABLE election (path TEXT PRIMARY KEY NOT NULL, epoch INTEGER NOT NULL) WITHOUT ROWID;
                CREATE TABLE counter (revision INTEGER NOT NULL);
                INSERT INTO counter VALUES (0);
                PRAGMA user_version = 1;
                """)
    }

    public func get(_ key: String) async throws(StoreError) -> VersionedValue? {
        try validate(key: key)
        return try await perform("\(key) could not be read") { queue in
            try await queue.read { database in
                try Row.fetchOne(database, sql: "SELECT version, bytes FROM entry WHERE key = ?", arguments: [key])
                    .map { try EmbeddedStore.value($0) }
            }
        }
    }

    public func list(prefix: String) async throws(StoreError) -> [(key: String, value: VersionedValue)] {
        try await perform("Keys under \(prefix) could not be listed") { queue in
            try await queue.read { database in
                let rows = try Row.fetchAll(
                    database, sql: "SELECT key, version, bytes FROM entry WHERE key >= ? AND key < ? ORDER BY key",
                    arguments: [prefix, prefix + "\u{10FFFF}"])
                return try rows.map { (key: $0["key"] as String, value: try EmbeddedStore.value($0)) }
            }
        }
    }

    @discardableResult
    public func commit(_ changes: [StoreChange], as leader: LeaderEpoch?) async throws(StoreError) -> [UInt64] {
        try validate(changes)
        return try await perform("The commit failed") { queue in
            try await queue.writeWithoutTransaction { database in
                var versions: [UInt64] = []
                try database.inTransaction(.immediate) {
                    versions = try EmbeddedStore.apply(changes, as: leader, in: database)
                    return .commit
                }
                // Still on the database's own queue, so that watchers see commits in their order.
                self.notify(changes, versions)
                return versions
            }
        }
    }

    public func watch(prefix: String) async throws(StoreError) -> AsyncStream<StoreEvent> {
        let (stream, continuation) = AsyncStream<StoreEvent>.makeStream(
            bufferingPolicy: .bufferingOldest(MetadataLimits.watchBacklogMax))
        let id = watchers.withLock { watchers in
            watchers.nextID += 1
            watchers.byID[watchers.nextID] = (prefix, continuation)
            return watchers.nextID
        }
        continuation.afterEnd { [weak self] in
            self?.watchers.withLock { _ = $0.byID.removeValue(forKey: id) }
        }
        return stream
    }

    /// Makes the next epoch at `path`. From then on commits under an earlier one are fenced.
    func elect(at path: String) async throws(StoreError) -> LeaderEpoch {
        try validate(key: path)
        return try await perform("The election at \(path) failed") { queue in
            try await queue.write { database in
                try database.execute(
                    sql: """
                        INSERT INTO election VALUES (?, 1) ON CONFLICT (path) DO UPDATE SET epoch = epoch + 1
                        """, arguments: [path])
                let epoch = try EmbeddedStore.epoch(at: path, in: database)
                return LeaderEpoch(path: path, epoch: epoch)
            }
        }
    }
}

extension EmbeddedStore {
    private static func apply(
        _ changes: [StoreChange], as leader: LeaderEpoch?, in database: Database
    ) throws -> [UInt64] {
        if let leader {
            let present = try epoch(at: leader.path, in: database)
            guard present <= leader.epoch else {
                throw StoreError(.fenced, "Epoch \(leader.epoch) at \(leader.path) has ended; \(present) leads.")
            }
        }
        for change in changes { try check(change, in: database) }
        try database.execute(sql: "UPDATE counter SET revision = revision + 1")
        guard let revision = try Int64.fetchOne(database, sql: "SELECT revision FROM counter") else {
            throw StoreError(.corrupt, "The store has lost its revision.")
        }
        var versions: [UInt64] = []
        for change in changes {
            switch change {
            case .put(let key, let bytes, _):
                try database.execute(
                    sql: """
                        INSERT INTO entry VALUES (?, ?, ?)
                        ON CONFLICT (key) DO UPDATE SET version = excluded.version, bytes = excluded.bytes
                        """, arguments: [key, revision, blob(bytes)])
                versions.append(UInt64(revision))
            case .delete(let key, _):
                try database.execute(sql: "DELETE FROM entry WHERE key = ?", arguments: [key])
                versions.append(0)
            }
        }
        return versions
    }

    private static func check(_ change: StoreChange, in database: Database) throws {
        let present = try Int64.fetchOne(
            database, sql: "SELECT version FROM entry WHERE key = ?", arguments: [change.key])
        switch change.expected {
        case .any: return
        case .absent:
            guard present == nil else { throw StoreError(.conflict, "\(change.key) exists.") }
        case .version(let expected):
            guard let present else { throw StoreError(.conflict, "\(change.key) does not exist.") }
            guard UInt64(bitPattern: present) == expected else {
                throw StoreError(.conflict, "\(change.key) has version \(present), not \(expected).")
            }
        }
    }

    private static func epoch(at path: String, in database: Database) throws -> UInt64 {
        let epoch = try Int64.fetchOne(database, sql: "SELECT epoch FROM election WHERE path = ?", arguments: [path])
        return UInt64(epoch ?? 0)
    }

    private func notify(_ changes: [StoreChange], _ versions: [UInt64]) {
        watchers.withLock { watchers in
            for (change, version) in zip(changes, versions) {
                let event: StoreEvent =
                    switch change {
                    case .put(let key, let bytes, _):
                        .put(key: key, value: VersionedValue(bytes: bytes, version: version))
                    case .delete(let key, _): .deleted(key: key)
                    }
                for (id, watcher) in watchers.byID where change.key.utf8.starts(with: watcher.prefix.utf8) {
                    if case .dropped = watcher.continuation.yield(event) {
                        watchers.byID[id] = nil
                        watcher.continuation.finish()
                    }
                }
            }
        }
    }

    private static func value(_ row: Row) throws -> VersionedValue {
        let version: Int64 = row["version"]
        let bytes = try row.withUnsafeData(named: "bytes") { $0.map { Array($0) } ?? [] }
        return VersionedValue(bytes: bytes, version: UInt64(bitPattern: version))
    }

    private static func blob(_ bytes: [UInt8]) -> Data { Data(bytes) }

    private func perform<Result: Sendable>(
        _ context: String, _ body: (DatabaseQueue) async throws -> Result
    ) async throws(StoreError) -> Result {
        do {
            return try await body(queue)
        } catch {
            throw EmbeddedStore.storeError(error, context)
        }
    }

    static func storeError(_ error: any Error, _ context: String) -> StoreError {
        if let error = error as? StoreError { return error }
        switch (error as? DatabaseError)?.resultCode {
        case .SQLITE_CORRUPT?, .SQLITE_NOTADB?: return StoreError(.corrupt, context, cause: error)
        default: return StoreError(.unavailable, context, cause: error)
        }
    }
}
