public import Base

/// The value of a key, and the version that a compare-and-set must name to replace it.
public struct VersionedValue: Hashable, Sendable {
    public var bytes: [UInt8]
    /// Grows with every write of the key for as long as the key exists; never 0. Says nothing about other keys.
    public var version: UInt64

    public init(bytes: [UInt8], version: UInt64) {
        self.bytes = bytes
        self.version = version
    }
}

/// What a change demands of the key that it touches. A commit whose demands are not all met changes nothing.
public enum Expectation: Hashable, Sendable {
    case any
    /// The key does not exist. A delete that expects this is pointless but legal.
    case absent
    case version(UInt64)
}

/// One change of a commit. Deleting a missing key under `.any` is no error.
public enum StoreChange: Hashable, Sendable {
    case put(key: String, bytes: [UInt8], expected: Expectation)
    case delete(key: String, expected: Expectation)

    public var key: String {
        switch self {
        case .put(let key, _, _), .delete(let key, _): key
        }
    }

    public var expected: Expectation {
        switch self {
        case .put(_, _, let expected), .delete(_, let expected): expected
        }
    }
}

/// A leadership: the place where it was won and its number. Numbers of one place only grow, over restarts too.
public struct LeaderEpoch: Hashable, Sendable {
    public var path: String
    public var epoch: UInt64

    public init(path: String, epoch: UInt64) {
        self.path = path
        self.epoch = epoch
    }
}

/// What happened to a watched key.
public enum StoreEvent: Hashable, Sendable {
    case put(key: String, value: VersionedValue)
    case deleted(key: String)
}

/// Why the store did not do what it was asked.
public struct StoreError: CodedError {
    public enum Code: Hashable, Sendable {
        /// A change's expectation was not met. Nothing was changed.
        case conflict
        /// A higher epoch has been elected: the caller leads no longer. Nothing was changed.
        case fenced
        /// A key, a value, or a set of changes that no store accepts (see `MetadataLimits`).
        case invalid
        /// The store could not be reached or did not answer in time. A commit may or may not have happened.
        case unavailable
        /// What is stored is not readable.
        case corrupt
    }

    public var code: Code
    public var message: String
    public var cause: (any Error)?

    public init(_ code: Code, _ message: String, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }
}

/// Limits that hold for every engine, so that state written to one fits the others. ZooKeeper takes at most 1 MiB per
/// request.
public enum MetadataLimits {
    /// UTF-8 bytes.
    public static let keyLengthMax = 512
    public static let valueLengthMax = 1_000_000
    public static let changesMax = 1000
    /// Events that wait for a watcher; one that falls further behind loses its stream.
    public static let watchBacklogMax = 4096
}

/// Versioned keys with atomic compare-and-set: where masters, schedulers and the block manager keep what must survive
/// them.
///
/// Keys are paths by convention ("/master/registry"). A commit that returns is durable.
public protocol MetadataStore: Sendable {
    /// Nil when the key does not exist.
    func get(_ key: String) async throws(StoreError) -> VersionedValue?

    /// All keys that start with `prefix` (bytewise, "/" has no meaning), sorted by their bytes.
    func list(prefix: String) async throws(StoreError) -> [(key: String, value: VersionedValue)]

    /// Makes all changes or none. No two changes may touch the same key.
    ///
    /// - Parameter leader: when given, refused with `fenced` once a higher epoch has been elected at its path.
    /// - Returns: the new version of each change's key, 0 for a deleted one.
    @discardableResult
    func commit(_ changes: [StoreChange], as leader: LeaderEpoch?) async throws(StoreError) -> [UInt64]

    /// Changes, from the return of this call on, of keys that start with `prefix`. Writes of a key in quick succession
    /// may arrive as the last of them. The stream ends when the watcher falls behind by
    /// `MetadataLimits.watchBacklogMax` or the store is out of reach for long: watch again, then list.
    func watch(prefix: String) async throws(StoreError) -> AsyncStream<StoreEvent>
}

extension MetadataStore {
    @discardableResult
    public func commit(_ changes: [StoreChange]) async throws(StoreError) -> [UInt64] {
        try await commit(changes, as: nil)
    }
}

/// Refuses keys and changes that break `MetadataLimits`, before an engine sees them.
func validate(_ changes: [StoreChange]) throws(StoreError) {
    guard changes.count <= MetadataLimits.changesMax else {
        throw StoreError(.invalid, "A commit of \(changes.count) changes exceeds \(MetadataLimits.changesMax).")
    }
    var seen: Set<String> = []
    for change in changes {
        try validate(key: change.key)
        guard seen.insert(change.key).inserted else {
            throw StoreError(.invalid, "A commit changes \(change.key) twice.")
        }
        if case .put(let key, let bytes, _) = change, bytes.count > MetadataLimits.valueLengthMax {
            throw StoreError(.invalid, "The value of \(key) has \(bytes.count) bytes.")
        }
    }
}

func validate(key: String) throws(StoreError) {
    let bytes = key.utf8
    guard !bytes.isEmpty, bytes.count <= MetadataLimits.keyLengthMax, !bytes.contains(0) else {
        throw StoreError(
            .invalid,
            "A key must have 1 to \(MetadataLimits.keyLengthMax) bytes and no NUL, this one has \(bytes.count).")
    }
}
