import Base
import BlockCore
import Synchronization

/// The proofs of the volumes' latest changes of rights, for people who ask "who may write, since when, and how do you
/// know?".
///
/// Kept in memory by the gateway that carried out the change: at most `recordMax` per volume and `volumeMax` volumes,
/// the oldest of each forgotten first. What is in force is in the manager's state; this is its explanation.
final class FencingLedger: Sendable {
    static let recordMax = 64
    static let volumeMax = 4096

    struct Record: Sendable {
        /// What was asked: `map`, `unmap`, `preempt`.
        var change: String
        /// Milliseconds since 1970, when the proof was complete.
        var time: UInt64
        var proof: FencingProof
    }

    private struct Books {
        var records: [VolumeID: [Record]] = [:]
        var order: [VolumeID] = []
    }

    private let books = Mutex(Books())

    func add(_ record: Record) {
        books.withLock { books in
            let volume = record.proof.volume
            if books.records[volume] == nil {
                if books.order.count >= Self.volumeMax { books.records[books.order.removeFirst()] = nil }
                books.order.append(volume)
            }
            books.records[volume, default: []].append(record)
            if books.records[volume, default: []].count > Self.recordMax { books.records[volume]?.removeFirst() }
        }
    }

    /// Oldest first.
    func records(of volume: VolumeID) -> [Record] { books.withLock { $0.records[volume] ?? [] } }
}

extension FencingLedger.Record {
    /// - Parameter state: gives the servers' names.
    func json(_ state: SystemState) -> JSONValue {
        [
            "change": .string(change),
            "attachEpoch": .integer(Int64(clamping: proof.attachEpoch)),
            "timeMilliseconds": .integer(Int64(clamping: time)),
            "elapsedSeconds": .number(proof.elapsed.inSeconds),
            "servers": .array(
                proof.entries.map { entry in
                    let server = state.servers[entry.sds]
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
