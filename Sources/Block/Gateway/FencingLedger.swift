import Base
import BlockCore
import Coordination

/// The proofs of the volumes' latest changes of rights, for people who ask "who may write, since when, and how do you
/// know?".
///
/// At most `recordMax` per volume, the oldest forgotten first, as one document per volume in the store: the next leader
/// goes on with it. What is in force is in the manager's state; this is its explanation, and may lack what a leader
/// that died had no time to write.
actor FencingLedger {
    static let recordMax = 64
    /// Volumes kept in memory when there is no store.
    static let volumeMax = 4096
    private static let keyPrefix = "/block-gateway/fencing/"

    struct Record: Sendable {
        /// What was asked: `map`, `unmap`, `preempt`.
        var change: String
        /// Milliseconds since 1970, when the proof was complete.
        var time: UInt64
        var proof: FencingProof
    }

    private let store: (any MetadataStore)?
    private var records: [VolumeID: [JSONValue]] = [:]
    private var order: [VolumeID] = []

    init(store: (any MetadataStore)?) { self.store = store }

    /// - Parameter record: as `Record.json` writes it.
    func add(_ record: JSONValue, of volume: VolumeID) async throws(StoreError) {
        guard let store else {
            if records[volume] == nil {
                if order.count >= Self.volumeMax { records[order.removeFirst()] = nil }
                order.append(volume)
            }
            records[volume] = ((records[volume] ?? []) + [record]).suffix(Self.recordMax)
            return
        }
        let key = Self.keyPrefix + volume.description
        // Two changes of one volume may end at the same time; whoever is refused reads again.
        for _ in 0..<4 {
            let stored = try await store.get(key)
            let all = JSONValue.array((Self.records(stored) + [record]).suffix(Self.recordMax))
            do throws(StoreError) {
                let expected = stored.map { Expectation.version($0.version) } ?? .absent
                try await store.commit([.put(key: key, bytes: all.bytes, expected: expected)])
                return
            } catch {
                guard error.code == .conflict else { throw error }
            }
        }
    }

    func forget(_ volume: VolumeID) async throws(StoreError) {
        records[volume] = nil
        order.removeAll { $0 == volume }
        try await store?.commit([.delete(key: Self.keyPrefix + volume.description, expected: .any)])
    }

    /// Oldest first.
    func records(of volume: VolumeID) async throws(StoreError) -> [JSONValue] {
        guard let store else { return records[volume] ?? [] }
        return Self.records(try await store.get(Self.keyPrefix + volume.description))
    }

    private static func records(_ stored: VersionedValue?) -> [JSONValue] {
        stored.flatMap { try? JSONValue(parsing: $0.bytes) }?.array ?? []
    }
}

extension FencingLedger.Record {
    /// - Parameter state: gives the servers' names; nil when it cannot be had any more.
    func json(_ state: SystemState?) -> JSONValue {
        [
            "change": .string(change),
            "attachEpoch": .integer(Int64(clamping: proof.attachEpoch)),
            "timeMilliseconds": .integer(Int64(clamping: time)),
            "elapsedSeconds": .number(proof.elapsed.inSeconds),
            "servers": .array(
                proof.entries.map { entry in
                    let server = state?.servers[entry.sds]
                    var json: JSONValue = [
                        "sdsId": .string(entry.sds.description),
                        "sdsName": .optional(server?.name),
                        "sdsAddress": .optional(server?.address),
                    ]
                    switch entry.evidence {
                    case .acknowledged(let revision):
                        json["evidence"] = "acknowledged"
                        json["revision"] = .integer(Int64(clamping: revision))
                    case .removed(let revision):
                        json["evidence"] = "removed"
                        json["revision"] = .integer(Int64(clamping: revision))
                    case .holdsNothing: json["evidence"] = "holdsNothing"
                    }
                    return json
                }),
        ]
    }
}
