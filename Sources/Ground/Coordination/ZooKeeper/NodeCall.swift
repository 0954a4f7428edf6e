import CZooKeeper
import Synchronization

/// Puts requests to the library and takes its completions. Completions come on the library's thread, once for each
/// call that it has accepted.
enum NodeCall {
    typealias Reply = @Sendable (NodeReply) -> Void

    /// What a completion needs; released by it.
    private final class Waiting: Sendable {
        let reply: Reply
        init(_ reply: @escaping Reply) { self.reply = reply }

        static func retain(_ reply: @escaping Reply) -> UnsafeRawPointer {
            UnsafeRawPointer(Unmanaged.passRetained(Waiting(reply)).toOpaque())
        }

        static func take(_ pointer: UnsafeRawPointer?) -> Reply {
            guard let pointer else { preconditionFailure("a completion without its context") }
            return Unmanaged<Waiting>.fromOpaque(pointer).takeRetainedValue().reply
        }
    }

    /// Collects the parts of a request that is several calls.
    private final class Gathering<Part: Sendable>: Sendable {
        private let parts: Mutex<(left: Int, values: [Part?], failure: NodeFailure?)>
        private let done: @Sendable ([Part?], NodeFailure?) -> Void

        init(_ count: Int, _ done: @escaping @Sendable ([Part?], NodeFailure?) -> Void) {
            parts = Mutex((count, Array(repeating: nil, count: count), nil))
            self.done = done
        }

        func take(_ index: Int, _ part: Part?, _ failure: NodeFailure?) {
            let finished = parts.withLock { parts in
                parts.values[index] = part
                if let failure, failure != .noNode { parts.failure = parts.failure ?? failure }
                parts.left -= 1
                return parts.left == 0 ? parts : nil
            }
            if let finished { done(finished.values, finished.failure) }
        }
    }

    /// - Returns: ZOK, or why `reply` will not be called.
    static func start(
        _ request: NodeRequest, on handle: OpaquePointer, isProtected: Bool, _ reply: @escaping Reply
    ) -> Int32 {
        // What is advertised may be read by all; the rest is for those with the credentials.
        let own = isProtected ? czk_acl_creator : czk_acl_open
        let readable = isProtected ? czk_acl_creator_and_readers : czk_acl_open
        switch request {
        case .create(let path):
            return create(handle, path, [], readable, 0) { reply($0.isCreated ? .done : $0) }
        case .createEphemeral(let path, let bytes, let isSequential):
            let mode = isSequential ? ZOO_EPHEMERAL_SEQUENTIAL : ZOO_EPHEMERAL
            return create(handle, path, bytes, readable, mode, reply)
        case .get(let path, let watch, let isFresh):
            let result = isFresh ? synchronise(handle, path) : ZOK.rawValue
            return result == ZOK.rawValue ? get(handle, path, watch, reply) : result
        case .children(let path, let watch, let isFresh):
            let result = isFresh ? synchronise(handle, path) : ZOK.rawValue
            return result == ZOK.rawValue ? children(handle, path, watch, reply) : result
        case .delete(let path): return delete(handle, path, reply)
        case .versions(let paths):
            let gathering = Gathering<Int32>(paths.count) { versions, failure in
                reply(failure.map { .failed($0, part: nil) } ?? .versions(versions))
            }
            return each(paths, reply, empty: .versions([])) { index, path in
                exists(handle, path) { gathering.take(index, $0, $1) }
            } refused: {
                gathering.take($0, nil, $1)
            }
        case .values(let paths):
            let gathering = Gathering<NodeValue>(paths.count) { values, failure in
                reply(failure.map { .failed($0, part: nil) } ?? .values(values))
            }
            return each(paths, reply, empty: .values([])) { index, path in
                get(handle, path, false) { answer in
                    switch answer {
                    case .value(let value): gathering.take(index, value, nil)
                    case .failed(let failure, _): gathering.take(index, nil, failure)
                    default: preconditionFailure("\(answer) answers no get")
                    }
                }
            } refused: {
                gathering.take($0, nil, $1)
            }
        case .multi(let changes): return multi(handle, changes, own, reply)
        }
    }

    /// One call for each path, all at once; answers those that the library refuses.
    private static func each(
        _ paths: [String], _ reply: @escaping Reply, empty: NodeReply, _ call: (Int, String) -> Int32,
        refused: (Int, NodeFailure) -> Void
    ) -> Int32 {
        if paths.isEmpty { reply(empty) }
        for (index, path) in paths.enumerated() {
            let result = call(index, path)
            if result != ZOK.rawValue { refused(index, NodeFailure(code: result)) }
        }
        return ZOK.rawValue
    }

    // MARK: Calls

    /// Releases what a refused call would have given to its completion.
    private static func start(_ reply: @escaping Reply, _ call: (UnsafeRawPointer) -> Int32) -> Int32 {
        let waiting = Waiting.retain(reply)
        let result = call(waiting)
        if result != ZOK.rawValue { _ = Waiting.take(waiting) }
        return result
    }

    private static func create(
        _ handle: OpaquePointer, _ path: String, _ bytes: [UInt8], _ acl: czk_acl, _ mode: Int32,
        _ reply: @escaping Reply
    ) -> Int32 {
        start(reply) { waiting in
            bytes.withUnsafeBytes { bytes in
                czk_create(
                    handle, path, bytes.baseAddress, Int32(bytes.count), acl, mode,
                    { code, made, waiting in
                        let reply = Waiting.take(waiting)
                        guard code == ZOK.rawValue, let made else {
                            return reply(.failed(NodeFailure(code: code), part: nil))
                        }
                        reply(.created(String(cString: made)))
                    }, waiting)
            }
        }
    }

    /// Makes the server that we are connected to catch up before it answers what is asked next.
    private static func synchronise(_ handle: OpaquePointer, _ path: String) -> Int32 {
        start({ _ in }) { zoo_async(handle, path, { _, _, waiting in _ = Waiting.take(waiting) }, $0) }
    }

    private static func get(
        _ handle: OpaquePointer, _ path: String, _ watch: Bool, _ reply: @escaping Reply
    ) -> Int32 {
        start(reply) { waiting in
            zoo_aget(
                handle, path, watch ? 1 : 0,
                { code, bytes, count, stat, waiting in
                    let reply = Waiting.take(waiting)
                    guard code == ZOK.rawValue, let stat = stat?.pointee else {
                        return reply(.failed(NodeFailure(code: code), part: nil))
                    }
                    let buffer = UnsafeRawBufferPointer(start: bytes, count: max(0, Int(count)))
                    reply(
                        .value(
                            NodeValue(bytes: Array(buffer), version: stat.version, owner: stat.ephemeralOwner)))
                }, waiting)
        }
    }

    private static func children(
        _ handle: OpaquePointer, _ path: String, _ watch: Bool, _ reply: @escaping Reply
    ) -> Int32 {
        start(reply) { waiting in
            zoo_aget_children(
                handle, path, watch ? 1 : 0,
                { code, names, waiting in
                    let reply = Waiting.take(waiting)
                    guard code == ZOK.rawValue, let names = names?.pointee else {
                        return reply(.failed(NodeFailure(code: code), part: nil))
                    }
                    reply(
                        .children((0..<Int(names.count)).compactMap { names.data[$0].map { String(cString: $0) } }))
                }, waiting)
        }
    }

    private static func delete(_ handle: OpaquePointer, _ path: String, _ reply: @escaping Reply) -> Int32 {
        start(reply) { waiting in
            zoo_adelete(
                handle, path, -1,
                { code, waiting in
                    Waiting.take(waiting)(
                        code == ZOK.rawValue ? .done : .failed(NodeFailure(code: code), part: nil))
                }, waiting)
        }
    }

    private static func exists(
        _ handle: OpaquePointer, _ path: String, _ done: @escaping @Sendable (Int32?, NodeFailure?) -> Void
    ) -> Int32 {
        let reply: Reply = { answer in
            switch answer {
            case .versions(let versions): done(versions[0], nil)
            case .failed(let failure, _): done(nil, failure)
            default: preconditionFailure("\(answer) answers no exists")
            }
        }
        return start(reply) { waiting in
            zoo_aexists(
                handle, path, 0,
                { code, stat, waiting in
                    let reply = Waiting.take(waiting)
                    guard code == ZOK.rawValue, let stat = stat?.pointee else {
                        return reply(.failed(NodeFailure(code: code), part: nil))
                    }
                    reply(.versions([stat.version]))
                }, waiting)
        }
    }

    private static func multi(
        _ handle: OpaquePointer, _ changes: [NodeChange], _ acl: czk_acl, _ reply: @escaping Reply
    ) -> Int32 {
        // The library copies paths and values before it returns.
        var storage: [UnsafeMutableRawPointer] = []
        defer { for pointer in storage { pointer.deallocate() } }
        func copy(_ bytes: [UInt8]) -> UnsafeMutableRawPointer {
            let pointer = UnsafeMutableRawPointer.allocate(byteCount: max(1, bytes.count), alignment: 1)
            pointer.copyMemory(from: bytes, byteCount: bytes.count)
            storage.append(pointer)
            return pointer
        }
        let parts = changes.map { change -> czk_op in
            var part = czk_op()
            part.path = UnsafePointer(copy(Array(change.path.utf8) + [0]).assumingMemoryBound(to: CChar.self))
            part.acl = acl
            switch change {
            case .check(_, let version):
                part.kind = czk_check
                part.version = version
            case .create(_, let bytes):
                part.kind = czk_make
                part.bytes = UnsafeRawPointer(copy(bytes))
                part.length = Int32(bytes.count)
            case .set(_, let bytes, let version):
                part.kind = czk_set
                part.bytes = UnsafeRawPointer(copy(bytes))
                part.length = Int32(bytes.count)
                part.version = version ?? -1
            case .delete(_, let version):
                part.kind = czk_delete
                part.version = version
            }
            return part
        }
        return start(reply) { waiting in
            czk_multi(
                handle, parts, Int32(parts.count),
                { code, errors, versions, count, waiting in
                    let reply = Waiting.take(waiting)
                    guard code != ZOK.rawValue else {
                        let versions = UnsafeBufferPointer(start: versions, count: Int(count))
                        return reply(.versions(versions.map { Optional($0) }))
                    }
                    let errors = UnsafeBufferPointer(start: errors, count: Int(count))
                    reply(.failed(NodeFailure(code: code), part: errors.firstIndex { $0 == code }))
                }, waiting)
        }
    }
}

extension NodeReply {
    fileprivate var isCreated: Bool {
        if case .created = self { true } else { false }
    }
}
