/// Copies all keys of one store into an empty one and compares what arrived; for moving a cluster while nothing of it
/// runs.
///
/// - Returns: how many keys were copied.
/// - Throws: `conflict` when the target is not empty or the source changed meanwhile.
public func copyStore(
    from source: any MetadataStore, to target: any MetadataStore
) async throws(StoreError) -> Int {
    let entries = try await source.list(prefix: "")
    guard try await target.list(prefix: "").isEmpty else {
        throw StoreError(.conflict, "The target is not empty; nothing was copied.")
    }
    var batch: [StoreChange] = []
    var size = 0
    for (key, value) in entries {
        // Commits that every engine takes.
        if !batch.isEmpty, size + value.bytes.count > MetadataLimits.valueLengthMax / 2 || batch.count == 100 {
            try await target.commit(batch)
            batch = []
            size = 0
        }
        batch.append(.put(key: key, bytes: value.bytes, expected: .absent))
        size += value.bytes.count
    }
    try await target.commit(batch)
    let arrived = try await target.list(prefix: "")
    let now = try await source.list(prefix: "")
    guard arrived.map(\.key) == entries.map(\.key), arrived.map(\.value.bytes) == entries.map(\.value.bytes) else {
        throw StoreError(.corrupt, "The target does not hold what was copied.")
    }
    guard now.map(\.value) == entries.map(\.value) else {
        throw StoreError(.conflict, "The source changed while it was copied: something of the cluster still runs.")
    }
    return entries.count
}
